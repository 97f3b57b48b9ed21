//! Keys of the log engine.
//!
//! ```text
//!   group u32 be | kind u8 | index u64 be          13 bytes
//!
//!   kind 1  vote        index 0   pb::Vote          rewritten
//!   kind 2  committed   index 0   pb::LogId         rewritten, not waited for
//!   kind 3  purged      index 0   pb::LogId         rewritten with each purge
//!   kind 4  entry       its own   pb::Entry         written once, purged from the front,
//!                                                   truncated from the back
//!   kind 5  promise     index 0   pb::Promise       written once, before the group is formed
//! ```
//!
//! Invariant: big-endian, so that the order of keys is the order of entries. Numbers are frozen.
//!
//! Not here: the values (`codec`).

use world::GroupId;

/// Length of every key.
pub(super) const KEY_LEN: usize = 13;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Vote = 1,
    Committed = 2,
    Purged = 3,
    Entry = 4,
    Promise = 5,
}

/// The key of a value of which a group has one.
pub(super) fn single(group: GroupId, kind: Kind) -> [u8; KEY_LEN] {
    assert!(kind != Kind::Entry, "entries have an index");
    encode(group, kind, 0)
}

/// The key of the entry at `index`.
pub(super) fn entry(group: GroupId, index: u64) -> [u8; KEY_LEN] {
    encode(group, Kind::Entry, index)
}

/// The first key after every entry of the group.
pub(super) fn entries_end(group: GroupId) -> [u8; KEY_LEN] {
    let mut key = encode(group, Kind::Entry, 0);
    key[4] += 1;
    key
}

/// The index in an entry's key.
pub(super) fn entry_index(key: &[u8]) -> Option<u64> {
    let key: &[u8; KEY_LEN] = key.try_into().ok()?;
    (key[4] == Kind::Entry as u8)
        .then(|| u64::from_be_bytes(key[5..].try_into().expect("13 bytes less 5 are 8")))
}

fn encode(group: GroupId, kind: Kind, index: u64) -> [u8; KEY_LEN] {
    let mut key = [0u8; KEY_LEN];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4] = kind as u8;
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_frozen_and_ordered() {
        let group = GroupId(0x0102_0304);
        assert_eq!(entry(group, 0x05), [1, 2, 3, 4, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(single(group, Kind::Vote), [1, 2, 3, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(single(group, Kind::Committed)[4], 2);
        assert_eq!(single(group, Kind::Purged)[4], 3);
        assert_eq!(single(group, Kind::Promise)[4], 5);
        assert!(entries_end(group) <= single(group, Kind::Promise));
        assert!(entry(group, 255) < entry(group, 256));
        assert!(entry(group, u64::MAX) < entries_end(group));
        assert!(entries_end(group) < single(GroupId(group.0 + 1), Kind::Vote));
    }

    #[test]
    fn an_index_is_read_from_entry_keys_only() {
        assert_eq!(entry_index(&entry(GroupId(1), 77)), Some(77));
        assert_eq!(entry_index(&single(GroupId(1), Kind::Vote)), None);
        assert_eq!(entry_index(b"short"), None);
    }
}
