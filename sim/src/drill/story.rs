//! What came of a run, as it is told on the terminal and in the report.
//!
//! Invariant: a story is ok only if it has verdicts and every one of them held.
//!
//! Not here: how it looks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

use super::lanes::{Spell, lanes};
use crate::history::Outcome;
use crate::history::operator::OperatorHistory;
use crate::oracle::Verdict;
use crate::schedule::{Scene, Schedule};

/// Who a line of the timeline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// A slot begins or ends.
    Event,
    /// A fault begins or ends.
    Fault,
    /// Somebody typed a command.
    Operator,
    /// The cluster did something by itself.
    System,
    /// Something that must not have been.
    Violation,
}

/// A line of the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When.
    pub at_ms: u64,
    /// Whose doing.
    pub who: Who,
    /// What.
    pub what: String,
}

/// A slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Band {
    /// Its name.
    pub name: String,
    /// Its start.
    pub from_ms: u64,
    /// Its end.
    pub to_ms: u64,
}

/// A zone's files were the others' for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shift {
    /// The zone that was failed over.
    pub zone: ZoneId,
    /// From the command on.
    pub from_ms: u64,
    /// Until it was restored, or the end.
    pub to_ms: u64,
}

/// A file was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// When.
    pub at_ms: u64,
    /// By whom.
    pub node: NodeId,
    /// Where the file is at home.
    pub home: ZoneId,
    /// Of which slot.
    pub slot: u16,
    /// Which file.
    pub file: u32,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Story {
    /// What was rehearsed, in one line.
    pub title: String,
    /// What it rehearses, and what to look at.
    pub about: String,
    /// The seed.
    pub seed: u64,
    /// Simulated length.
    pub end_ms: u64,
    /// The zones, in order.
    pub zones: Vec<ZoneId>,
    /// The slots.
    pub slots: Vec<Band>,
    /// How the zones were.
    pub spells: Vec<Spell>,
    /// Failovers.
    pub shifts: Vec<Shift>,
    /// Claims.
    pub claims: Vec<Claim>,
    /// What happened, in order of time.
    pub timeline: Vec<Entry>,
    /// What the oracles say.
    pub verdicts: Vec<Verdict>,
    /// How often each fault really happened.
    pub faults: BTreeMap<String, u64>,
    /// The command that plays it again.
    pub replay: String,
}

impl Story {
    /// The story of a schedule, before anything else is known of the run.
    #[must_use]
    pub fn new(
        title: &str,
        about: &str,
        seed: u64,
        scene: &Scene,
        schedule: &Schedule,
        end_ms: u64,
    ) -> Story {
        let mut story = Story {
            title: title.to_owned(),
            about: about.to_owned(),
            seed,
            end_ms,
            zones: scene.zones(),
            slots: Vec::new(),
            spells: lanes(schedule, scene, end_ms),
            shifts: Vec::new(),
            claims: Vec::new(),
            timeline: Vec::new(),
            verdicts: Vec::new(),
            faults: BTreeMap::new(),
            replay: String::new(),
        };
        for step in &schedule.steps {
            // Commands are told by what came of them.
            if !matches!(step.action, crate::schedule::Action::Operator { .. }) {
                story.tell(step.at_ms, Who::Fault, step.action.to_string());
            }
        }
        story
    }

    /// One more line of the timeline.
    pub fn tell(&mut self, at_ms: u64, who: Who, what: String) {
        let place = self.timeline.partition_point(|entry| entry.at_ms <= at_ms);
        self.timeline.insert(place, Entry { at_ms, who, what });
    }

    /// The slots.
    pub fn slots(&mut self, slots: Vec<Band>) {
        for slot in &slots {
            self.tell(slot.from_ms, Who::Event, format!("slot {} begins", slot.name));
        }
        if let Some(last) = slots.last() {
            self.tell(last.to_ms, Who::Event, format!("slot {} ends; it was the last", last.name));
        }
        self.slots = slots;
    }

    /// The commands and what came of them, failovers among them.
    pub fn commands(&mut self, commands: &OperatorHistory) {
        let mut open: BTreeMap<ZoneId, u64> = BTreeMap::new();
        for op in commands.ops() {
            let line = &op.call.line;
            let (at_ms, came) = match (&op.outcome, op.returned) {
                (Outcome::Done(reply), Some(returned)) => {
                    if reply.changed {
                        self.shift(line, returned.at_ms, &mut open);
                    }
                    (op.invoked.at_ms, reply.said.clone())
                }
                (Outcome::Refused(reason), _) => (op.invoked.at_ms, format!("turned down: {reason}")),
                _ => (op.invoked.at_ms, "no certain outcome".to_owned()),
            };
            self.tell(at_ms, Who::Operator, format!("`{line}`: {came}"));
        }
        for (zone, from_ms) in open {
            self.shifts.push(Shift { zone, from_ms, to_ms: self.end_ms });
        }
        self.shifts.sort_by_key(|shift| (shift.zone, shift.from_ms));
    }

    fn shift(&mut self, line: &str, at_ms: u64, open: &mut BTreeMap<ZoneId, u64>) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["zone", verb, zone, ..] = words[..] else { return };
        let Ok(zone) = zone.parse::<ZoneId>() else { return };
        match (verb, open.get(&zone).copied()) {
            ("failover", None) => drop(open.insert(zone, at_ms)),
            ("restore", Some(from_ms)) => {
                open.remove(&zone);
                self.shifts.push(Shift { zone, from_ms, to_ms: at_ms });
            }
            _ => {}
        }
    }

    /// What the oracles say. Violations with a time are told in the timeline too.
    pub fn verdicts(&mut self, verdicts: Vec<Verdict>) {
        for verdict in &verdicts {
            for violation in &verdict.violations {
                if let Some(at_ms) = violation.at_ms {
                    self.tell(at_ms, Who::Violation, format!("{}: {}", verdict.id, violation.what));
                }
            }
        }
        self.verdicts = verdicts;
    }

    /// Whether everything held that was judged, and something was.
    #[must_use]
    pub fn ok(&self) -> bool {
        !self.verdicts.is_empty() && self.verdicts.iter().all(|verdict| verdict.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::golden::sample;

    #[test]
    fn a_story_without_verdicts_is_not_ok() {
        let mut story = sample(false);
        assert!(story.ok());
        story.verdicts.clear();
        assert!(!story.ok());
        assert!(!sample(true).ok());
    }

    #[test]
    fn the_timeline_is_in_order_and_a_failover_lasts_until_the_restore() {
        let story = sample(true);
        assert!(story.timeline.is_sorted_by_key(|entry| entry.at_ms));
        let [shift] = story.shifts[..] else { panic!("one failover: {:?}", story.shifts) };
        assert_eq!((shift.from_ms, shift.to_ms), (31_050, 44_050));
    }

    #[test]
    fn a_story_reads_back_from_json() {
        let story = sample(true);
        let json = serde_json::to_string(&story).expect("plain data");
        assert_eq!(serde_json::from_str::<Story>(&json).expect("what was written"), story);
    }
}
