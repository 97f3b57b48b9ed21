//! Drills: what operators rehearse, written as files.
//!
//! ```text
//!   deploy/drills/zone-kill.toml --parse--> Drill --resolve--> Schedule
//!                                                                 |  (played)
//!   terminal, HTML <-- Story <-- lanes, verdicts, commands <------'
//! ```
//! A drill says what fails when, what the operator types, and what must hold. Times may be given by
//! slot: `slot 3 + 2 s`.
//!
//! Invariant: a drill that parses can be played: its schedule has no problem.
//!
//! Not here: reading files and playing; a drill is text in and data out.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

use crate::schedule::{Action, Scene, Schedule, Step};

pub mod html;
pub mod lanes;
mod parse;
pub mod story;
mod svg;
pub mod terminal;
pub mod when;

pub use parse::{DrillError, parse};
use when::{Slots, When};

/// Ids of all invariants a drill may ask for.
pub const INVARIANTS: [&str; 15] =
    ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "IN", "QC", "QD", "PB", "OP"];
/// Zones of every drill.
const ZONES: u8 = 3;

/// A step as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its line in the file.
    pub line: usize,
    /// When, as written.
    pub when: When,
    /// What.
    pub action: Action,
}

/// The cluster and event a drill runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Nodes in each of the three zones.
    pub nodes_per_zone: u8,
    /// Groups of the consensus.
    pub groups: u32,
    /// Users.
    pub users: u32,
    /// When each slot starts and how long it is.
    pub slots: Slots,
    /// From the end of the last slot to the end of all faults.
    pub heal_ms: u64,
}

/// A drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drill {
    /// One line.
    pub title: String,
    /// What it rehearses, and what to look at.
    pub about: String,
    /// Where all chance comes from, unless the command names another.
    pub seed: u64,
    /// Ids of the invariants that must hold.
    pub must_hold: BTreeSet<String>,
    /// What it runs on.
    pub setting: Setting,
    /// What happens.
    pub steps: Vec<Written>,
}

impl Drill {
    /// What the schedule is played on.
    #[must_use]
    pub fn scene(&self) -> Scene {
        let zones = (0..ZONES).filter_map(ZoneId::from_index);
        let numbers = 1..=self.setting.nodes_per_zone;
        let nodes =
            zones.flat_map(|zone| numbers.clone().filter_map(move |number| NodeId::new(zone, number)));
        Scene {
            nodes: nodes.collect(),
            groups: self.setting.groups,
            ends_ms: self.setting.slots.end_ms() + self.setting.heal_ms,
            slots_ms: self.setting.slots.starts_ms(),
        }
    }

    /// The steps in order of time, ended by `heal-all` if the file does not say when.
    #[must_use]
    pub fn resolve(&self) -> Schedule {
        let at_ms = |when: &When| when.at_ms(&self.setting.slots).expect("a parsed drill has its slots");
        let step = |written: &Written| Step { at_ms: at_ms(&written.when), action: written.action.clone() };
        let mut steps: Vec<Step> = self.steps.iter().map(step).collect();
        steps.sort_by_key(|step| step.at_ms);
        if !steps.iter().any(|step| step.action == Action::HealAll) {
            steps.push(Step { at_ms: self.scene().ends_ms, action: Action::HealAll });
        }
        Schedule { steps }
    }
}

#[cfg(test)]
#[path = "drill/golden_test.rs"]
mod golden;
#[cfg(test)]
#[path = "drill/shipped_test.rs"]
mod shipped;
