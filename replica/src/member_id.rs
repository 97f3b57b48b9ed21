//! Who a Raft member is: a node, and which disk that node had when it became one.
//!
//! ```text
//!   raft id u64 = node u16 | disk u48          disk: drawn at random once, when the disk is first used
//!   shown as    c1-3f2a91c0de77
//! ```
//!
//! What a member has promised (its votes, the entries it acknowledged) lies on its disk. A node that
//! comes back with another disk has promised nothing, so it is another member, under a number that
//! was never used before: nobody has to remember which numbers are taken, and a wiped disk cannot
//! come back under its old one.
//!
//! Invariant: the node stands in the high bits. Leaders of one term are ordered by Raft id, fencing
//! tokens by (term, node); both orders agree.
//!
//! Not here: where a disk keeps its number ([`crate::identity`]).

use std::fmt;

use world::NodeId;
use world::rng::{EntropyError, secret_bytes};

const DISK_BITS: u32 = 48;
const DISK_MASK: u64 = (1 << DISK_BITS) - 1;

/// The number of a disk: 48 bits, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskNo(u64);

/// One node with one disk: what votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId {
    /// The place.
    pub node: NodeId,
    /// The disk that stood there when the member joined.
    pub disk: DiskNo,
}

impl DiskNo {
    /// A number nobody has.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn draw() -> Result<DiskNo, EntropyError> {
        loop {
            let [a, b, c, d, e, f, ..] = secret_bytes()?;
            if let Some(disk) = DiskNo::new(u64::from_be_bytes([0, 0, a, b, c, d, e, f])) {
                return Ok(disk);
            }
        }
    }

    /// The disk with this number; `None` when it is 0 or has more than 48 bits.
    #[must_use]
    pub fn new(number: u64) -> Option<DiskNo> {
        (number != 0 && number <= DISK_MASK).then_some(DiskNo(number))
    }

    /// Reads what `Display` shows.
    #[must_use]
    pub fn parse(text: &str) -> Option<DiskNo> {
        let disk = DiskNo::new(u64::from_str_radix(text, 16).ok()?)?;
        (disk.to_string() == text).then_some(disk)
    }
}

impl MemberId {
    /// The Raft number.
    #[must_use]
    pub fn raft_id(self) -> u64 {
        u64::from(self.node.as_u16()) << DISK_BITS | self.disk.0
    }

    /// The member behind a Raft number; `None` for a number no member has.
    #[must_use]
    pub fn from_raft_id(raft_id: u64) -> Option<MemberId> {
        let node = u16::try_from(raft_id >> DISK_BITS).ok().and_then(NodeId::from_u16)?;
        let disk = DiskNo::new(raft_id & DISK_MASK)?;
        Some(MemberId { node, disk })
    }
}

impl fmt::Display for DiskNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.node, self.disk)
    }
}

/// A Raft number for people, whether a member has it or not.
#[must_use]
pub(crate) fn shown(raft_id: u64) -> String {
    MemberId::from_raft_id(raft_id).map_or_else(|| format!("{raft_id:#x}"), |member| member.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: &str, disk: u64) -> MemberId {
        MemberId { node: node.parse().expect("a node name"), disk: DiskNo::new(disk).expect("48 bits") }
    }

    #[test]
    fn the_raft_number_is_frozen_and_reads_back() {
        let b2 = member("b2", 0x3f2a_91c0_de77);
        assert_eq!(b2.raft_id(), 0x0102_3f2a_91c0_de77);
        assert_eq!(MemberId::from_raft_id(b2.raft_id()), Some(b2));
        assert_eq!(b2.to_string(), "b2-3f2a91c0de77");
        for none in [0, 1, 0x0102, 0x0102_0000_0000_0000, u64::MAX] {
            assert_eq!(MemberId::from_raft_id(none), None, "{none:#x}");
        }
    }

    #[test]
    fn members_are_ordered_by_node_first_whatever_their_disks() {
        assert!(member("a1", DISK_MASK) < member("b1", 1));
        assert!(member("a1", DISK_MASK).raft_id() < member("b1", 1).raft_id());
    }

    #[test]
    fn two_draws_differ_and_read_back_as_text() {
        let (one, other) = (DiskNo::draw().expect("chance"), DiskNo::draw().expect("chance"));
        assert_ne!(one, other);
        assert_eq!(DiskNo::parse(&one.to_string()), Some(one));
        for text in ["", "0", "000000000000", "3F2A91C0DE77", "+f2a91c0de77", "3f2a91c0de7700"] {
            assert_eq!(DiskNo::parse(text), None, "{text:?} was taken for a disk");
        }
    }
}
