//! Which nodes there are, and who holds a file.
//!
//! ```text
//!   file of home a1:  turn 0 -> a1, b1, c1     turn 1 -> a1, c1, b1     turn 2 -> a1, b2, c2  ...
//! ```
//! The home is first; then one node of each other zone, in the order in which they take over.
//! Turns alternate the zone that takes over first and go round the nodes of a zone, so when a
//! zone is lost its files spread evenly over the nodes of both others.
//!
//! Invariant: a file's holders stand in three different zones.
//!
//! Not here: how many files a node has (the dealer decides), and addresses.

use serde::Serialize;
use world::{NodeId, ZoneId};

use super::limits::{FILE_RECORDS_DEFAULT, FILE_RECORDS_MAX, ZONES};

/// What the files are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Access nodes in each of the zones a, b and c.
    pub nodes_per_zone: u8,
    /// Records of one file at most.
    pub file_records_max: u32,
}

impl Default for Layout {
    fn default() -> Layout {
        Layout { nodes_per_zone: 1, file_records_max: FILE_RECORDS_DEFAULT }
    }
}

impl Layout {
    /// What is wrong with it, if anything.
    ///
    /// # Errors
    /// A sentence with its cure.
    pub fn validate(self) -> Result<Layout, String> {
        if self.nodes_per_zone == 0 {
            return Err("a zone has at least 1 node: raise the number of nodes per zone".to_owned());
        }
        if !(1..=FILE_RECORDS_MAX).contains(&self.file_records_max) {
            let found = self.file_records_max;
            return Err(format!("{found} records per file: use 1 to {FILE_RECORDS_MAX}"));
        }
        Ok(self)
    }

    /// All nodes, zone by zone.
    #[must_use]
    pub fn nodes(self) -> Vec<NodeId> {
        let numbers = 1..=self.nodes_per_zone;
        (0..ZONES).flat_map(|zone| numbers.clone().map(move |number| node(zone, number))).collect()
    }

    /// The holders of a file made for `home`, on this turn.
    #[must_use]
    pub fn holders(self, home: NodeId, turn: usize) -> Vec<NodeId> {
        let (first, second) = match turn % 2 {
            0 => (1, 2),
            _ => (2, 1),
        };
        let round = turn / 2 % usize::from(self.nodes_per_zone);
        let number = u8::try_from(round + 1).expect("a zone has at most 255 nodes");
        let zone = |steps: u8| (home.zone().index() + steps) % ZONES;
        let holders = vec![home, node(zone(first), number), node(zone(second), number)];
        assert!(holders[1].zone() != home.zone() && holders[2].zone() != home.zone());
        assert!(holders[1].zone() != holders[2].zone(), "three zones hold a file");
        holders
    }
}

fn node(zone: u8, number: u8) -> NodeId {
    let zone = ZoneId::from_index(zone).expect("there are three zones of 26");
    NodeId::new(zone, number).expect("numbers begin at 1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_files_of_a_lost_zone_spread_evenly() {
        let layout = Layout { nodes_per_zone: 3, file_records_max: 1 };
        let nodes = layout.nodes();
        assert_eq!(nodes.len(), 9);
        let mut taken: BTreeMap<NodeId, u32> = BTreeMap::new();
        for turn in 0..12 {
            let holders = layout.holders(nodes[0], turn);
            assert_eq!(holders[0].to_string(), "a1");
            *taken.entry(holders[1]).or_default() += 1;
        }
        assert_eq!(taken.len(), 6, "{taken:?}");
        assert!(taken.values().all(|files| *files == 2), "{taken:?}");
    }

    #[test]
    fn a_layout_that_cannot_be_says_why() {
        let none = Layout { nodes_per_zone: 0, ..Layout::default() };
        assert!(none.validate().expect_err("no nodes").contains("at least 1 node"));
        let empty = Layout { file_records_max: 0, ..Layout::default() };
        assert!(empty.validate().expect_err("no records").contains("0 records per file"));
    }
}
