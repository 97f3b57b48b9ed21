//! What is done to nodes that run: their clocks and leaderships; and what people type.
//!
//! Invariant: as in `nemesis`.
//!
//! Not here: ending nodes (nemesis.rs), links and disks.

use std::sync::Arc;

use world::NodeId;

use super::Nemesis;
use crate::host::node::{Push, Site};
use crate::host::orders::Typed;
use crate::schedule::Action;

impl Nemesis {
    fn sites_of(&self, nodes: &[NodeId]) -> Vec<Arc<Site>> {
        nodes.iter().filter_map(|node| self.sites.get(node).map(Arc::clone)).collect()
    }

    /// Answers whether it happened; `None` when there is no player for it.
    pub(super) fn act_on_nodes(&mut self, action: &Action) -> Option<bool> {
        Some(match action {
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
                    let typed = Typed { line: types.clone(), expect: *expect, until_done: false };
                    // Nobody at the keyboard means that the run has no operator.
                    let _ = self.orders.send(typed);
                }
                *times > 0
            }
            _ => return None,
        })
    }
}
