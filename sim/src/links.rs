//! Which links are cut, one-way or both, and which hold back what is sent: reasons added up, so
//! that two faults on one link do not heal each other.
//!
//! Invariant: a link works when no reason against it is left; what turmoil is told is always the
//! sum of all reasons.
//!
//! Not here: when reasons come and go (nemesis.rs).

use std::collections::{BTreeMap, BTreeSet};

/// Why nothing passes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A fault of the network.
    Fault,
    /// One of the two has no power.
    Power,
}

/// How a link is, seen from its first host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    forth: bool,
    back: bool,
    held: bool,
}

/// Links of a run.
#[derive(Default)]
pub struct Links {
    cut: BTreeMap<(String, String), BTreeSet<Reason>>,
    held: BTreeSet<(String, String)>,
    told: BTreeMap<(String, String), State>,
    version: u64,
}

fn ordered(one: &str, other: &str) -> (String, String) {
    let (one, other) = if one < other { (one, other) } else { (other, one) };
    (one.to_owned(), other.to_owned())
}

impl Links {
    /// Another number after every change of what is cut.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether messages pass between the two, both ways and at once.
    #[must_use]
    pub fn works(&self, one: &str, other: &str) -> bool {
        !self.is_cut(one, other) && !self.is_cut(other, one) && !self.held.contains(&ordered(one, other))
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let reasons = self.cut.get(&(from.to_owned(), to.to_owned()));
        reasons.is_some_and(|reasons| !reasons.is_empty())
    }

    /// Cuts one direction.
    pub fn cut(&mut self, from: &str, to: &str, reason: Reason) {
        if from != to {
            self.version += 1;
            self.cut.entry((from.to_owned(), to.to_owned())).or_default().insert(reason);
        }
    }

    /// Takes a reason back.
    pub fn mend(&mut self, from: &str, to: &str, reason: Reason) {
        if let Some(reasons) = self.cut.get_mut(&(from.to_owned(), to.to_owned())) {
            self.version += 1;
            reasons.remove(&reason);
        }
    }

    /// Holds back what is sent, both ways.
    pub fn hold(&mut self, one: &str, other: &str) {
        if one != other {
            self.held.insert(ordered(one, other));
        }
    }

    /// Lets go what was held back.
    pub fn release(&mut self, one: &str, other: &str) {
        self.held.remove(&ordered(one, other));
    }

    /// Whether every link works.
    #[must_use]
    pub fn all_work(&self) -> bool {
        self.held.is_empty() && self.cut.values().all(BTreeSet::is_empty)
    }

    /// Whether nothing passes between `host` and any of `others`, in either direction.
    #[must_use]
    pub fn alone(&self, host: &str, others: &[String]) -> bool {
        others.iter().all(|other| self.is_cut(host, other) && self.is_cut(other, host))
    }

    /// Tells the simulation what changed; answers how many links did.
    pub fn tell(&mut self, sim: &turmoil::Sim<'_>) -> usize {
        let mut pairs: BTreeSet<(String, String)> =
            self.cut.keys().map(|(from, to)| ordered(from, to)).collect();
        pairs.extend(self.held.iter().cloned());
        pairs.extend(self.told.keys().cloned());
        let mut changed = 0;
        for (one, other) in pairs {
            let key = (one.clone(), other.clone());
            let now = State {
                forth: self.is_cut(&one, &other),
                back: self.is_cut(&other, &one),
                held: self.held.contains(&key),
            };
            let before = self.told.insert(key, now).unwrap_or_default();
            if before != now {
                changed += 1;
                tell_one(sim, (one.as_str(), other.as_str()), before, now);
            }
        }
        changed
    }
}

fn tell_one(sim: &turmoil::Sim<'_>, (one, other): (&str, &str), before: State, now: State) {
    if before.held {
        sim.release(one, other);
    }
    sim.repair(one, other);
    match (now.forth, now.back) {
        (true, true) => sim.partition(one, other),
        (true, false) => sim.partition_oneway(one, other),
        (false, true) => sim.partition_oneway(other, one),
        (false, false) if now.held => sim.hold(one, other),
        (false, false) => {}
    }
}
