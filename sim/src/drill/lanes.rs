//! How each zone was over time, from the steps that were carried out.
//!
//! ```text
//!   zone a  up ......................................................
//!   zone b  up ......| down .............| degraded | up ............
//!   zone c  up ...............| island ......| up ...................
//! ```
//! A zone is down when none of its nodes runs, an island when it reaches no other zone in at least one
//! direction, degraded when anything else is wrong with it.
//!
//! Invariant: the spells of a zone follow each other without a gap from 0 to the end.
//!
//! Not here: what the system made of it (leaders, claims).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

use crate::schedule::{Action, Scene, Schedule};
use crate::target::Target;

/// How a zone is, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Nothing is wrong with it.
    Up,
    /// Something is: a node down, a link down, a slow disk, a wrong clock.
    Degraded,
    /// It reaches no other zone, or no other zone reaches it.
    Island,
    /// None of its nodes runs.
    Down,
}

/// A zone was so for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spell {
    /// The zone.
    pub zone: ZoneId,
    /// From when on.
    pub from_ms: u64,
    /// Until when.
    pub to_ms: u64,
    /// How it was.
    pub condition: Condition,
}

/// The spells of all zones until `end_ms`, zone by zone.
#[must_use]
pub fn lanes(schedule: &Schedule, scene: &Scene, end_ms: u64) -> Vec<Spell> {
    let mut state = State { scene, down: BTreeSet::new(), cuts: BTreeSet::new(), ailments: BTreeMap::new() };
    let mut moments: BTreeMap<u64, Vec<(usize, bool)>> = BTreeMap::new();
    for (number, step) in schedule.steps.iter().enumerate() {
        moments.entry(step.at_ms).or_default().push((number, true));
        if let Some(lasts) = lasts_ms(&step.action) {
            moments.entry(step.at_ms + lasts).or_default().push((number, false));
        }
    }
    let mut spells: BTreeMap<ZoneId, Vec<Spell>> = BTreeMap::new();
    for zone in scene.zones() {
        spells.entry(zone).or_default().push(Spell {
            zone,
            from_ms: 0,
            to_ms: end_ms,
            condition: Condition::Up,
        });
    }
    for (at, events) in moments.range(..end_ms) {
        for (number, begins) in events {
            if *begins {
                state.apply(*number, &schedule.steps[*number].action);
            } else {
                state.ailments.remove(number);
            }
        }
        for (zone, spells) in &mut spells {
            turn(spells, *at, state.condition(*zone));
        }
    }
    spells.into_values().flatten().collect()
}

/// The zone is so from `at` on.
fn turn(spells: &mut Vec<Spell>, at: u64, condition: Condition) {
    let last = spells.last_mut().expect("a zone begins with a spell");
    if last.condition == condition {
        return;
    }
    let next = Spell { from_ms: at, condition, ..*last };
    last.to_ms = at;
    if last.from_ms == at {
        spells.pop();
    }
    match spells.last_mut() {
        Some(last) if last.condition == condition => last.to_ms = next.to_ms,
        _ => spells.push(next),
    }
}

/// How long a fault lasts that ends by itself.
fn lasts_ms(action: &Action) -> Option<u64> {
    match *action {
        Action::Pause { for_ms, .. }
        | Action::LoseMessages { for_ms, .. }
        | Action::StopSettlers { for_ms, .. } => Some(for_ms),
        Action::Flap { down_ms, up_ms, times, .. } => Some((down_ms + up_ms) * u64::from(times)),
        _ => None,
    }
}

/// What is wrong with zones, apart from nodes that are down and links that are cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    Disk,
    Clock,
    Process,
}

struct State<'a> {
    scene: &'a Scene,
    down: BTreeSet<NodeId>,
    /// Nothing passes from the first to the second.
    cuts: BTreeSet<(ZoneId, ZoneId)>,
    /// By the number of the step that brought them.
    ailments: BTreeMap<usize, (Kind, BTreeSet<ZoneId>)>,
}

fn zones_of(places: &[Target]) -> BTreeSet<ZoneId> {
    places.iter().filter_map(|place| place.zone()).collect()
}

fn zones_of_nodes(nodes: &[NodeId]) -> BTreeSet<ZoneId> {
    nodes.iter().map(|node| node.zone()).collect()
}

impl State<'_> {
    fn ail(&mut self, number: usize, kind: Kind, zones: BTreeSet<ZoneId>) {
        self.ailments.insert(number, (kind, zones));
    }

    fn cured(&mut self, kind: Kind, zones: &BTreeSet<ZoneId>) {
        self.ailments.retain(|_, (own, there)| *own != kind || there.is_disjoint(zones));
    }

    fn cut(&mut self, from: &[Target], to: &[Target]) {
        // A link of a single node or of the users is not the zone's.
        let zone = |place: &Target| match place {
            Target::Zone(zone) => Some(*zone),
            Target::Node(node) if self.scene.nodes_of(node.zone()).len() == 1 => Some(node.zone()),
            _ => None,
        };
        let (from, to): (Vec<_>, Vec<_>) =
            (from.iter().filter_map(zone).collect(), to.iter().filter_map(zone).collect());
        self.cuts.extend(from.iter().flat_map(|one| to.iter().map(move |other| (*one, *other))));
    }

    fn apply(&mut self, number: usize, action: &Action) {
        match action {
            Action::Crash { nodes } | Action::PowerCut { nodes, .. } | Action::FailSync { nodes } => {
                self.down.extend(nodes);
            }
            Action::Restart { nodes } => self.down.retain(|node| !nodes.contains(node)),
            Action::ReplaceNode { node } => drop(self.down.remove(node)),
            Action::ZoneDown { zone, .. } => self.down.extend(self.scene.nodes_of(*zone)),
            Action::ZoneUp { zone } => self.down.retain(|node| node.zone() != *zone),
            Action::Island { zone, .. } => {
                let others: Vec<ZoneId> =
                    self.scene.zones().into_iter().filter(|other| other != zone).collect();
                self.cuts.extend(others.iter().flat_map(|other| [(*zone, *other), (*other, *zone)]));
            }
            Action::Partition { between, and } => {
                self.cut(between, and);
                self.cut(and, between);
            }
            Action::OneWay { from, to } => self.cut(from, to),
            Action::Heal { places } => {
                let zones = if places.is_empty() {
                    self.scene.zones().into_iter().collect()
                } else {
                    zones_of(places)
                };
                self.cuts.retain(|(one, other)| !zones.contains(one) && !zones.contains(other));
                self.cured(Kind::Network, &zones);
            }
            Action::Release { between, and } => {
                self.cured(Kind::Network, &zones_of(&[between.as_slice(), and].concat()));
            }
            Action::Flap { between, and, .. }
            | Action::Hold { between, and }
            | Action::Latency { between, and, .. }
            | Action::LoseMessages { between, and, .. } => {
                self.ail(number, Kind::Network, zones_of(&[between.as_slice(), and].concat()));
            }
            Action::SlowDisk { nodes, .. } | Action::FullDisk { nodes } => {
                self.ail(number, Kind::Disk, zones_of_nodes(nodes));
            }
            Action::MendDisk { nodes } => self.cured(Kind::Disk, &zones_of_nodes(nodes)),
            Action::ClockOffset { nodes, .. }
            | Action::ClockDrift { nodes, .. }
            | Action::ClockJump { nodes, .. } => self.ail(number, Kind::Clock, zones_of_nodes(nodes)),
            Action::MendClock { nodes } => self.cured(Kind::Clock, &zones_of_nodes(nodes)),
            Action::Pause { nodes, .. } | Action::StopSettlers { nodes, .. } => {
                self.ail(number, Kind::Process, zones_of_nodes(nodes));
            }
            Action::HealAll => {
                self.down.clear();
                self.cuts.clear();
                self.ailments.clear();
            }
            _ => {}
        }
    }

    fn condition(&self, zone: ZoneId) -> Condition {
        let nodes = self.scene.nodes_of(zone);
        if nodes.iter().all(|node| self.down.contains(node)) {
            return Condition::Down;
        }
        let others: Vec<ZoneId> = self.scene.zones().into_iter().filter(|other| *other != zone).collect();
        let out = others.iter().all(|other| self.cuts.contains(&(zone, *other)));
        let into = others.iter().all(|other| self.cuts.contains(&(*other, zone)));
        if !others.is_empty() && (out || into) {
            return Condition::Island;
        }
        let linked = self.cuts.iter().any(|(one, other)| *one == zone || *other == zone);
        let ails = self.ailments.values().any(|(_, zones)| zones.contains(&zone));
        let missing = nodes.iter().any(|node| self.down.contains(node));
        if linked || ails || missing { Condition::Degraded } else { Condition::Up }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::derive::derive;
    use crate::schedule::{Class, Step, Tail};

    fn scene() -> Scene {
        Scene {
            nodes: ["a1", "b1", "c1"].map(|node| node.parse().expect("a node")).to_vec(),
            groups: 2,
            ends_ms: 900,
            slots_ms: vec![],
        }
    }

    fn zone(text: &str) -> ZoneId {
        text.parse().expect("a zone")
    }

    fn check(steps: Vec<(u64, Action)>, expected: &str) {
        let steps = steps.into_iter().map(|(at_ms, action)| Step { at_ms, action }).collect();
        let shown: Vec<String> = lanes(&Schedule { steps }, &scene(), 1_000)
            .iter()
            .map(|spell| format!("{} {}-{} {:?}", spell.zone, spell.from_ms, spell.to_ms, spell.condition))
            .collect();
        assert_eq!(shown.join(", "), expected);
    }

    #[test]
    fn a_lost_zone_is_down_until_it_returns() {
        check(
            vec![
                (100, Action::ZoneDown { zone: zone("b"), tail: Tail::Lost }),
                (300, Action::ZoneUp { zone: zone("b") }),
            ],
            "a 0-1000 Up, b 0-100 Up, b 100-300 Down, b 300-1000 Up, c 0-1000 Up",
        );
    }

    #[test]
    fn two_links_down_make_an_island_and_one_does_not() {
        let link = |other: &str| Action::Partition {
            between: vec![Target::Zone(zone("b"))],
            and: vec![Target::Zone(zone(other))],
        };
        check(
            vec![(100, link("a")), (200, link("c")), (400, Action::HealAll)],
            "a 0-100 Up, a 100-400 Degraded, a 400-1000 Up, \
             b 0-100 Up, b 100-200 Degraded, b 200-400 Island, b 400-1000 Up, \
             c 0-200 Up, c 200-400 Degraded, c 400-1000 Up",
        );
    }

    #[test]
    fn what_ends_by_itself_does() {
        let nodes = vec!["c1".parse().expect("a node")];
        check(
            vec![(50, Action::Pause { nodes, for_ms: 25 })],
            "a 0-1000 Up, b 0-1000 Up, c 0-50 Up, c 50-75 Degraded, c 75-1000 Up",
        );
    }

    #[test]
    fn spells_follow_each_other_whatever_happens() {
        let scene = Scene { ends_ms: 40_000, ..scene() };
        for seed in 0..300 {
            let schedule = derive(seed, &scene, 1_000, &Class::ALL).schedule;
            let spells = lanes(&schedule, &scene, 50_000);
            for own in scene.zones() {
                let mut at = 0;
                for spell in spells.iter().filter(|spell| spell.zone == own) {
                    assert!(spell.from_ms == at && spell.from_ms < spell.to_ms, "seed {seed}: {spells:?}");
                    at = spell.to_ms;
                }
                assert_eq!(at, 50_000, "seed {seed}");
                let last = spells.iter().rfind(|spell| spell.zone == own).map(|spell| spell.condition);
                assert_eq!(last, Some(Condition::Up), "seed {seed}: not healed at the end");
            }
        }
    }
}
