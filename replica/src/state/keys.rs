//! Keys of the state engine.
//!
//! ```text
//!   group u32 be | 0 u32       | kind u8       about the group (8 + 1 bytes)
//!   group u32 be | generation  | machine key   the state, generation >= 1
//!
//!   kind 1  head        pb::StateHead          with every apply: generation, applied, now, logged
//!   kind 2  membership  pb::StoredMembership   when it changes
//!   kind 3  snapshot    pb::LogId              the last snapshot that was reported
//! ```
//!
//! Invariant: exactly one generation is in force, the one the head names; every other one is
//! unfinished or given up, and is deleted at start. Numbers are frozen.
//!
//! Not here: the machine's own keys.

use bytes::Bytes;
use world::GroupId;

use crate::machine::prefix_end;

/// The generation of a group that never received a snapshot.
pub(super) const GENERATION_FIRST: u32 = 1;

/// A value about the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Head = 1,
    Membership = 2,
    Snapshot = 3,
}

/// The key of a value about the group.
pub(super) fn about(group: GroupId, kind: Kind) -> Bytes {
    let mut key = range(group, 0).to_vec();
    key.push(kind as u8);
    key.into()
}

/// The prefix of everything the machine wrote in this generation.
pub(super) fn state(group: GroupId, generation: u32) -> Bytes {
    assert!(generation >= GENERATION_FIRST, "generation 0 holds what is about the group");
    Bytes::copy_from_slice(&range(group, generation))
}

/// The ranges of every generation but `current`.
pub(super) fn other_generations(group: GroupId, current: u32) -> [(Bytes, Bytes); 2] {
    let below = (state(group, GENERATION_FIRST), state(group, current));
    let above = (prefix_end(&below.1), prefix_end(&group.0.to_be_bytes()));
    [below, above]
}

/// Bytes of group and generation before a machine's key.
pub(super) const PREFIX_LEN: usize = 8;

fn range(group: GroupId, generation: u32) -> [u8; PREFIX_LEN] {
    (u64::from(group.0) << 32 | u64::from(generation)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_frozen_and_apart() {
        let group = GroupId(0x0102);
        assert_eq!(about(group, Kind::Head).as_ref(), [0, 0, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(about(group, Kind::Membership).as_ref(), [0, 0, 1, 2, 0, 0, 0, 0, 2]);
        assert_eq!(about(group, Kind::Snapshot).as_ref(), [0, 0, 1, 2, 0, 0, 0, 0, 3]);
        assert_eq!(state(group, 7).as_ref(), [0, 0, 1, 2, 0, 0, 0, 7]);
    }

    #[test]
    fn other_generations_leave_out_the_current_one_and_other_groups() {
        let group = GroupId(9);
        let [below, above] = other_generations(group, 3);
        let inside =
            |key: &[u8]| [&below, &above].iter().any(|(from, to)| from.as_ref() <= key && key < to.as_ref());
        let key = |group, generation| [state(group, generation).as_ref(), b"\xffk"].concat();
        assert!(inside(&key(group, 1)) && inside(&key(group, 2)));
        assert!(inside(&key(group, 4)) && inside(&key(group, u32::MAX)));
        assert!(!inside(&key(group, 3)));
        assert!(!inside(&key(GroupId(10), 1)) && !inside(&key(GroupId(8), u32::MAX)));
        assert!(!inside(&about(group, Kind::Head)));
    }
}
