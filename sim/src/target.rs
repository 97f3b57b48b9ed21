//! What a fault is aimed at: a zone, one node, or one of the parties outside the zones.
//!
//! ```text
//!   a          a whole zone          crowd      the users
//!   b2         one node              operator   whoever types commands
//!                                    bank       the payment back end
//! ```
//! Invariant: every target has one spelling, and the spelling reads back as the target.
//!
//! Not here: groups of the consensus (they are numbers in the actions that need them).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

/// One end of a link, or the place something happens at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Target {
    /// All nodes of a zone.
    Zone(ZoneId),
    /// One node.
    Node(NodeId),
    /// The users.
    Crowd,
    /// Whoever types commands.
    Operator,
    /// The payment back end.
    Bank,
}

/// A text that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a place: write a zone (a), a node (b2), crowd, operator or bank")]
pub struct TargetError(String);

impl Target {
    /// Whether `node` stands in this target.
    #[must_use]
    pub fn covers(self, node: NodeId) -> bool {
        match self {
            Target::Zone(zone) => node.zone() == zone,
            Target::Node(own) => own == node,
            Target::Crowd | Target::Operator | Target::Bank => false,
        }
    }

    /// Whether the two have a node or party in common.
    #[must_use]
    pub fn overlaps(self, other: Target) -> bool {
        match (self, other) {
            (Target::Zone(_), Target::Node(node)) => self.covers(node),
            (Target::Node(node), Target::Zone(_)) => other.covers(node),
            _ => self == other,
        }
    }

    /// The zone it stands in; `None` for the parties outside.
    #[must_use]
    pub fn zone(self) -> Option<ZoneId> {
        match self {
            Target::Zone(zone) => Some(zone),
            Target::Node(node) => Some(node.zone()),
            Target::Crowd | Target::Operator | Target::Bank => None,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Zone(zone) => write!(f, "{zone}"),
            Target::Node(node) => write!(f, "{node}"),
            Target::Crowd => f.write_str("crowd"),
            Target::Operator => f.write_str("operator"),
            Target::Bank => f.write_str("bank"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Target, TargetError> {
        match text {
            "crowd" => return Ok(Target::Crowd),
            "operator" => return Ok(Target::Operator),
            "bank" => return Ok(Target::Bank),
            _ => {}
        }
        let zone = text.parse().map(Target::Zone);
        zone.or_else(|_| text.parse().map(Target::Node)).map_err(|_| TargetError(text.to_owned()))
    }
}

impl TryFrom<String> for Target {
    type Error = TargetError;

    fn try_from(text: String) -> Result<Target, TargetError> {
        text.parse()
    }
}

impl From<Target> for String {
    fn from(target: Target) -> String {
        target.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        text.parse().expect("a target")
    }

    #[test]
    fn every_spelling_reads_back() {
        for text in ["a", "c", "b2", "crowd", "operator", "bank"] {
            assert_eq!(target(text).to_string(), text);
        }
    }

    #[test]
    fn what_names_nothing_is_refused_with_the_cure() {
        let error = "zone-b".parse::<Target>().expect_err("no such place").to_string();
        assert!(error.contains("zone-b") && error.contains("write a zone (a)"), "{error}");
    }

    #[test]
    fn a_zone_overlaps_its_nodes_and_nothing_else() {
        assert!(target("b").overlaps(target("b1")) && target("b1").overlaps(target("b")));
        assert!(!target("b").overlaps(target("a1")) && !target("b").overlaps(target("crowd")));
    }
}
