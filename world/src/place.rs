//! Names of places: zones, nodes, Raft groups, and the epoch that fences an old claim to one.
//!
//! A zone is a letter (`a`, `b`, `c`), a node is its zone and a number (`b2`). Both are persisted
//! (in claims, seals, Raft logs) as the numbers below, which are therefore frozen.
//!
//! Invariant: a node id names a place, not a disk: who must know the disk (Raft, claims) adds its own
//! number to it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The largest node number within a zone.
pub const NODE_NUMBER_MAX: u8 = u8::MAX;

/// One of the data centre's zones: 0 is `a`, 25 is `z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ZoneId(u8);

/// One machine: a zone and a number from 1 within it. As a `u16`: zone index in the high byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(u16);

/// One Raft group. The KV's control group is 0; its data groups and the queue's partitions follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GroupId(pub u32);

/// Counts the operations on a zone. A decision made under an older epoch is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected {expected}")]
pub struct PlaceError {
    text: String,
    what: &'static str,
    expected: &'static str,
}

impl ZoneId {
    /// The zone with this index: 0 is `a`. `None` past `z`.
    #[must_use]
    pub fn from_index(index: u8) -> Option<ZoneId> {
        (index < 26).then_some(ZoneId(index))
    }

    /// 0 for `a`, 1 for `b`, and so on.
    #[must_use]
    pub fn index(self) -> u8 {
        self.0
    }

    /// The zone's letter.
    #[must_use]
    pub fn letter(self) -> char {
        char::from(b'a' + self.0)
    }
}

impl NodeId {
    /// The node with this number (from 1) in `zone`; `None` when the number is 0.
    #[must_use]
    pub fn new(zone: ZoneId, number: u8) -> Option<NodeId> {
        (number > 0).then_some(NodeId(u16::from(zone.0) << 8 | u16::from(number)))
    }

    /// The zone the node stands in.
    #[must_use]
    pub fn zone(self) -> ZoneId {
        ZoneId((self.0 >> 8) as u8)
    }

    /// The node's number within its zone, from 1.
    #[must_use]
    pub fn number(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// The persisted form.
    #[must_use]
    pub fn as_u16(self) -> u16 {
        self.0
    }

    /// Reads the persisted form; `None` for a value no node has.
    #[must_use]
    pub fn from_u16(raw: u16) -> Option<NodeId> {
        let zone = ZoneId::from_index((raw >> 8) as u8)?;
        NodeId::new(zone, (raw & 0xff) as u8)
    }
}

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Epoch {
        assert!(self.0 < u64::MAX, "an epoch counter cannot run out in practice");
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.zone(), self.number())
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.0)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for ZoneId {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<ZoneId, PlaceError> {
        match text.as_bytes() {
            [letter @ b'a'..=b'z'] => Ok(ZoneId(letter - b'a')),
            _ => Err(PlaceError { text: text.to_owned(), what: "zone", expected: "one letter from a to z" }),
        }
    }
}

impl FromStr for NodeId {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<NodeId, PlaceError> {
        let parse = || -> Option<NodeId> {
            let (letter, digits) = text.split_at_checked(1)?;
            let canonical = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
            if !canonical {
                return None;
            }
            NodeId::new(letter.parse().ok()?, digits.parse().ok()?)
        };
        parse().ok_or_else(|| PlaceError {
            text: text.to_owned(),
            what: "node",
            expected: "a zone letter and a number from 1 to 255, like a1",
        })
    }
}

macro_rules! text_form {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = PlaceError;
            fn try_from(text: String) -> Result<Self, PlaceError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(place: $type) -> String {
                place.to_string()
            }
        }
    };
}
text_form!(ZoneId);
text_form!(NodeId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_name_reads_back() {
        for text in ["a1", "b2", "z255"] {
            let node: NodeId = text.parse().expect("a node name");
            assert_eq!(node.to_string(), text);
            assert_eq!(NodeId::from_u16(node.as_u16()), Some(node));
        }
    }

    #[test]
    fn what_is_not_a_node_is_refused() {
        for text in ["", "a", "a0", "a01", "A1", "1a", "a256", "a1b", "é1", "a+1"] {
            assert!(text.parse::<NodeId>().is_err(), "{text:?} was taken for a node");
        }
        assert_eq!(NodeId::from_u16(0x0000), None);
        assert_eq!(NodeId::from_u16(0x1a01), None);
    }

    #[test]
    fn the_persisted_numbers_are_frozen() {
        let b2: NodeId = "b2".parse().expect("a node name");
        assert_eq!(b2.as_u16(), 0x0102);
        assert_eq!(b2.zone().index(), 1);
    }
}
