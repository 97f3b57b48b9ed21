//! What is done to nodes that run: their disks, clocks, leaderships; and what people type.
//!
//! Invariant: as in `nemesis`.
//!
//! Not here: ending nodes and cutting links (nemesis.rs).

use std::sync::Arc;

use rand::RngExt;
use replica::engine::sim::Faults;
use world::NodeId;

use super::Nemesis;
use crate::host::node::{Push, Site};
use crate::host::orders::Typed;
use crate::schedule::{Action, Store};

impl Nemesis {
    fn sites_of(&self, nodes: &[NodeId]) -> Vec<Arc<Site>> {
        nodes.iter().filter_map(|node| self.sites.get(node).map(Arc::clone)).collect()
    }

    /// Answers whether it happened; `None` when there is no player for it.
    pub(super) fn act_on_nodes(&mut self, action: &Action) -> Option<bool> {
        Some(match action {
            Action::SlowDisk { nodes, max_ms, .. } => {
                self.sites_of(nodes).iter().for_each(|site| site.storage.slow_down(*max_ms));
                true
            }
            Action::FullDisk { nodes } => {
                self.sites_of(nodes).iter().for_each(|site| site.disk.set_full(true));
                true
            }
            Action::MendDisk { nodes } => {
                self.sites_of(nodes).iter().for_each(|site| mend_disk(site));
                true
            }
            Action::FailSync { nodes } => {
                for site in self.sites_of(nodes) {
                    let faults = Faults { fail_next_sync: true, ..Default::default() };
                    site.storage.log.set_faults(faults);
                }
                true
            }
            Action::BitRot { nodes, store: Store::Files, bits } => {
                let mut flipped = 0;
                for site in self.sites_of(nodes) {
                    for _ in 0..*bits {
                        let draw = &mut |n: usize| self.chance.random_range(0..n);
                        flipped += usize::from(site.disk.rot("/tickets/", draw).is_some());
                    }
                }
                flipped > 0
            }
            Action::ClockOffset { nodes, by_ms } | Action::ClockJump { nodes, by_ms } => {
                self.sites_of(nodes).iter().for_each(|site| site.clock.jump(*by_ms));
                true
            }
            Action::ClockDrift { nodes, ppm } => {
                self.sites_of(nodes).iter().for_each(|site| site.clock.drift(*ppm));
                true
            }
            Action::MendClock { nodes } => {
                self.sites_of(nodes).iter().for_each(|site| site.clock.set_right());
                true
            }
            Action::Elect { node, group } => {
                self.push(*node, Push::Elect(group.and_then(|number| self.group(number))))
            }
            Action::TransferLeader { group, to } => {
                let leading = self.group(*group).and_then(|group| Some((group, self.leader_of(group)?)));
                leading.is_some_and(|(group, leader)| {
                    leader != *to && self.push(leader, Push::Transfer(group, *to))
                })
            }
            Action::Snapshot { nodes } => {
                nodes.iter().filter(|node| self.push(**node, Push::Snapshot)).count() > 0
            }
            Action::Operator { types, times, expect } => {
                for _ in 0..*times {
                    // Nobody at the keyboard means that the run has no operator.
                    let _ = self.orders.send(Typed { line: types.clone(), expect: *expect });
                }
                *times > 0
            }
            _ => return None,
        })
    }
}

/// Makes a disk fast and gives it space.
pub(super) fn mend_disk(site: &Site) {
    site.storage.slow_down(0);
    site.storage.log.set_faults(Faults::default());
    site.disk.set_full(false);
}
