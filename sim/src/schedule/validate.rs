//! Whether a schedule can be played, and leaves what must survive: every problem with its cure.
//!
//! ```text
//!   walk the steps with: who is down, whose disk is harmed, who was replaced
//! ```
//! Invariant: a schedule without a problem never harms the disks of two zones, and ends with every
//! fault over. So what an oracle then finds missing is a fault of the system, not of the schedule.
//!
//! Not here: the text the steps came from; the drill parser turns a step's number into a line.

use std::collections::BTreeSet;

use world::{NodeId, ZoneId};

use super::{Action, Scene, Schedule, say::list};
use crate::target::Target;

/// What is wrong with a schedule, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The step's place in the schedule, from 0; `None` when it is about the whole.
    pub step: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub cure: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.step {
            Some(step) => write!(f, "step {}: {}: {}", step + 1, self.what, self.cure),
            None => write!(f, "{}: {}", self.what, self.cure),
        }
    }
}

/// Every problem of `schedule` on `scene`; none means it can be played.
#[must_use]
pub fn validate(schedule: &Schedule, scene: &Scene) -> Vec<Problem> {
    let mut walk = Walk::new(scene);
    let mut before = 0;
    for (number, step) in schedule.steps.iter().enumerate() {
        walk.step = Some(number);
        if step.at_ms < before {
            walk.wrong(
                format!("it happens at {} ms, before the step above it at {before} ms", step.at_ms),
                "put the steps in order of time",
            );
        }
        if step.at_ms > scene.ends_ms {
            walk.wrong(
                format!(
                    "it happens at {} ms, after the end of all faults at {} ms",
                    step.at_ms, scene.ends_ms
                ),
                "let it happen earlier, or make the run longer",
            );
        }
        if walk.healed {
            walk.wrong("it comes after heal-all".to_owned(), "make heal-all the last step");
        }
        before = before.max(step.at_ms);
        walk.numbers(&step.action);
        walk.act(&step.action);
    }
    walk.step = None;
    if !walk.healed {
        walk.wrong("the faults do not end".to_owned(), "end with a step whose action is \"heal-all\"");
    }
    walk.problems
}

struct Walk<'a> {
    scene: &'a Scene,
    step: Option<usize>,
    nodes: BTreeSet<NodeId>,
    down: BTreeSet<NodeId>,
    /// Nodes whose disks cannot be relied on any more.
    harmed: BTreeSet<NodeId>,
    healed: bool,
    problems: Vec<Problem>,
}

impl<'a> Walk<'a> {
    fn new(scene: &'a Scene) -> Walk<'a> {
        Walk {
            scene,
            step: None,
            nodes: scene.nodes.iter().copied().collect(),
            down: BTreeSet::new(),
            harmed: BTreeSet::new(),
            healed: false,
            problems: Vec::new(),
        }
    }

    fn wrong(&mut self, what: String, cure: &str) {
        self.problems.push(Problem { step: self.step, what, cure: cure.to_owned() });
    }

    fn known(&mut self, nodes: &[NodeId]) {
        if nodes.is_empty() {
            self.wrong("no node is named".to_owned(), "write nodes = [\"b1\"] or the like");
        }
        let mut seen = BTreeSet::new();
        for node in nodes {
            if !self.nodes.contains(node) {
                let known: Vec<NodeId> = self.nodes.iter().copied().collect();
                self.wrong(format!("there is no node {node}"), &format!("name one of {}", list(&known)));
            }
            if !seen.insert(node) {
                self.wrong(format!("{node} is named twice"), "name each node once");
            }
        }
    }

    fn running(&mut self, nodes: &[NodeId]) {
        self.known(nodes);
        for node in nodes.iter().filter(|node| self.down.contains(node)).copied().collect::<Vec<_>>() {
            self.wrong(
                format!("{node} is down at that moment"),
                "start it before, or take it out of the step",
            );
        }
    }

    fn stopped(&mut self, nodes: &[NodeId]) {
        self.known(nodes);
        let up: Vec<NodeId> = nodes.iter().filter(|node| !self.down.contains(node)).copied().collect();
        for node in up {
            self.wrong(format!("{node} is running at that moment"), "crash it or cut its power before");
        }
    }

    fn zone(&mut self, zone: ZoneId) -> Vec<NodeId> {
        let nodes: Vec<NodeId> = self.nodes.iter().copied().filter(|node| node.zone() == zone).collect();
        if nodes.is_empty() {
            let zones = list(&self.scene.zones());
            self.wrong(format!("there is no zone {zone}"), &format!("name one of {zones}"));
        }
        nodes
    }

    fn sides(&mut self, one: &[Target], other: &[Target]) {
        for side in [one, other] {
            if side.is_empty() {
                self.wrong(
                    "one side of the link is empty".to_owned(),
                    "name at least one place on each side",
                );
            }
            self.places(side);
        }
        let shared = one.iter().find(|place| other.iter().any(|there| place.overlaps(*there)));
        if let Some(place) = shared {
            self.wrong(format!("{place} is on both sides of the link"), "name each place on one side only");
        }
    }

    fn places(&mut self, places: &[Target]) {
        for place in places {
            match *place {
                Target::Zone(zone) => drop(self.zone(zone)),
                Target::Node(node) => self.known(&[node]),
                Target::Crowd | Target::Operator | Target::Bank => {}
            }
        }
    }

    /// What is done to these disks may cost what is on them.
    fn harm(&mut self, nodes: &[NodeId]) {
        self.harmed.extend(nodes);
        let zones: BTreeSet<ZoneId> = self.harmed.iter().map(|node| node.zone()).collect();
        if zones.len() > 1 {
            let zones: Vec<ZoneId> = zones.into_iter().collect();
            self.wrong(
                format!("the disks of zones {} would be lost or damaged", list(&zones)),
                "harm disks of one zone only: what was acknowledged survives only while the disks of two zones do",
            );
        }
    }

    fn numbers(&mut self, action: &Action) {
        let (percent, duration) = match *action {
            Action::LoseMessages { percent, for_ms, .. }
            | Action::RepeatMessages { percent, for_ms }
            | Action::BankFault { percent, for_ms, .. } => (Some(percent), Some(for_ms)),
            Action::CrashCrowd { percent } => (Some(percent), None),
            Action::Pause { for_ms, .. }
            | Action::Burst { for_ms, .. }
            | Action::StopSettlers { for_ms, .. } => (None, Some(for_ms)),
            Action::Flap { down_ms, up_ms, .. } => (None, Some(down_ms.min(up_ms))),
            _ => (None, None),
        };
        if percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            self.wrong(format!("{} percent", percent.unwrap_or_default()), "write 1 to 100");
        }
        if duration == Some(0) {
            self.wrong("it lasts no time".to_owned(), "write at least 1 ms");
        }
        let times = match *action {
            Action::Flap { times, .. } | Action::Operator { times, .. } => times,
            Action::Burst { factor, .. } => factor,
            Action::BitRot { bits, .. } => bits,
            _ => 1,
        };
        if times == 0 {
            self.wrong("it happens no times".to_owned(), "write at least 1");
        }
        if let Action::Latency { min_ms, max_ms, .. } | Action::SlowDisk { min_ms, max_ms, .. } = *action
            && min_ms > max_ms
        {
            self.wrong(format!("the least, {min_ms} ms, is more than the most, {max_ms} ms"), "swap them");
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            // A node whose sync failed must stop.
            Action::Crash { nodes } | Action::PowerCut { nodes, .. } | Action::FailSync { nodes } => {
                self.running(nodes);
                self.down.extend(nodes);
            }
            Action::Restart { nodes } => {
                self.stopped(nodes);
                self.down.retain(|node| !nodes.contains(node));
            }
            Action::ZoneDown { zone, .. } => {
                let nodes = self.zone(*zone);
                if !nodes.is_empty() && nodes.iter().all(|node| self.down.contains(node)) {
                    self.wrong(format!("zone {zone} is down already"), "take the step out");
                }
                self.down.extend(nodes);
            }
            Action::ZoneUp { zone } => {
                let nodes = self.zone(*zone);
                if !nodes.is_empty() && nodes.iter().all(|node| !self.down.contains(node)) {
                    self.wrong(format!("every node of zone {zone} runs already"), "take the step out");
                }
                self.down.retain(|node| !nodes.contains(node));
            }
            Action::Island { zone, .. } => drop(self.zone(*zone)),
            Action::Partition { between, and }
            | Action::Flap { between, and, .. }
            | Action::Hold { between, and }
            | Action::Release { between, and }
            | Action::Latency { between, and, .. }
            | Action::LoseMessages { between, and, .. } => self.sides(between, and),
            Action::OneWay { from, to } => self.sides(from, to),
            Action::Heal { places } => self.places(places),
            Action::HealAll => {
                self.healed = true;
                self.down.clear();
            }
            _ => self.act_at_nodes(action),
        }
    }

    fn act_at_nodes(&mut self, action: &Action) {
        match action {
            Action::Pause { nodes, .. }
            | Action::FullDisk { nodes }
            | Action::Snapshot { nodes }
            | Action::StopSettlers { nodes, .. } => self.running(nodes),
            Action::SlowDisk { nodes, .. }
            | Action::MendDisk { nodes }
            | Action::ClockOffset { nodes, .. }
            | Action::ClockDrift { nodes, .. }
            | Action::ClockJump { nodes, .. }
            | Action::MendClock { nodes } => self.known(nodes),
            Action::BitRot { nodes, .. } | Action::MisdirectWrite { nodes, .. } => {
                self.known(nodes);
                self.harm(nodes);
            }
            Action::DamageFile { node, .. } => {
                self.stopped(&[*node]);
                self.harm(&[*node]);
            }
            Action::LoseDisk { nodes } => {
                self.stopped(nodes);
                self.harm(nodes);
            }
            Action::SwapDisks { one, other } => self.stopped(&[*one, *other]),
            Action::Elect { node, group } => {
                self.running(&[*node]);
                self.group(group.unwrap_or(0));
            }
            Action::TransferLeader { group, to } => {
                self.running(&[*to]);
                self.group(*group);
            }
            Action::ReplaceNode { node } => self.replace(*node),
            Action::DamageTicketFile { node, .. } => self.known(&[*node]),
            Action::OldController { zone, .. } => drop(self.zone(*zone)),
            Action::Operator { types, .. } if types.trim().is_empty() => {
                self.wrong(
                    "the operator types nothing".to_owned(),
                    "write types = \"zone failover b\" or the like",
                );
            }
            _ => {}
        }
    }

    fn group(&mut self, group: u32) {
        let groups = self.scene.groups;
        if group >= groups {
            self.wrong(format!("there is no group {group}"), &format!("name one below {groups}"));
        }
    }

    fn replace(&mut self, node: NodeId) {
        self.known(&[node]);
        if !self.harmed.contains(&node) {
            self.wrong(
                format!("the disk of {node} is well"),
                "put a lose-disk step, or one that damages it, before",
            );
        }
        self.down.remove(&node);
    }
}

#[cfg(test)]
#[path = "validate_test.rs"]
mod tests;
