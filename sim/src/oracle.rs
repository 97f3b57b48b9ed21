//! Oracles: what must hold of a run, judged from what was recorded of it.
//!
//! One property per file. Each file says what its evidence is, who records it, and what it cannot
//! see. An oracle is a function from evidence to a [`Verdict`]; it never asks the system anything.
//!
//! Invariant: an oracle that saw nothing does not say that all is well: [`Verdict::held`] is false
//! when nothing was checked, unless the caller says that there was nothing to see.
//!
//! Not here: collecting the evidence.

use serde::{Deserialize, Serialize};

use crate::history::Moment;

pub mod bank;
pub mod commands;
pub mod i10_convergence;
pub mod i1_minting;
pub mod i2_claims;
pub mod i3_issue_once;
pub mod i4_opens_kept;
pub mod i5_balance;
pub mod i6_only_the_plan;
pub mod i7_nothing_lost;
pub mod i8_leases;
pub mod i8_linearizable;
pub mod i8_revisions;
pub mod i8_watch;
pub mod i9_island;
pub mod ingests;
pub mod limits;
pub mod linearizer;
pub mod model;
pub mod queue_counts;
pub mod queue_delivery;
pub mod seals;

#[cfg(test)]
pub mod testing;

/// Violations that are kept word for word; the others are counted.
const VIOLATIONS_KEPT: usize = 10;

/// Something that must not have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// When it could first be seen, if that is known.
    pub at_ms: Option<u64>,
    /// What was seen, in one sentence.
    pub what: String,
}

/// What an oracle says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The invariant, like `I4`.
    pub id: String,
    /// The property, in a few words.
    pub property: String,
    /// Whether it held. An oracle that gave up or saw nothing does not hold.
    pub held: bool,
    /// One sentence: what was checked, or the first thing that was wrong.
    pub detail: String,
    /// How many facts were checked.
    pub checked: u64,
    /// How many violations there are.
    pub violation_count: u64,
    /// The first of them.
    pub violations: Vec<Violation>,
}

/// Collects what an oracle finds.
#[derive(Clone, Debug)]
pub struct Findings {
    id: &'static str,
    property: &'static str,
    checked: u64,
    count: u64,
    violations: Vec<Violation>,
    undecided: Option<String>,
}

impl Findings {
    /// Nothing found yet.
    #[must_use]
    pub fn new(id: &'static str, property: &'static str) -> Findings {
        Findings { id, property, checked: 0, count: 0, violations: Vec::new(), undecided: None }
    }

    /// One more fact was looked at.
    pub fn checked(&mut self) {
        self.checked += 1;
    }

    /// Looks at one fact: `right`, or the sentence says what is wrong with it.
    pub fn must(&mut self, right: bool, at: Option<Moment>, what: impl FnOnce() -> String) {
        self.checked += 1;
        if !right {
            self.violation(at, what());
        }
    }

    /// Something that must not have been.
    pub fn violation(&mut self, at: Option<Moment>, what: String) {
        self.count += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(Violation { at_ms: at.map(|at| at.at_ms), what });
        }
    }

    /// The oracle gives up, and says why.
    pub fn give_up(&mut self, why: String) {
        self.undecided.get_or_insert(why);
    }

    /// The verdict. `seen` says what was checked, for when all is well.
    #[must_use]
    pub fn verdict(self, seen: impl FnOnce(u64) -> String) -> Verdict {
        let detail = match (self.violations.first(), &self.undecided) {
            (Some(first), _) if self.count > 1 => format!("{} (and {} more)", first.what, self.count - 1),
            (Some(first), _) => first.what.clone(),
            (None, Some(why)) => format!("undecided: {why}"),
            (None, None) if self.checked == 0 => "nothing was there to be checked".to_owned(),
            (None, None) => seen(self.checked),
        };
        Verdict {
            id: self.id.to_owned(),
            property: self.property.to_owned(),
            held: self.count == 0 && self.undecided.is_none() && self.checked > 0,
            detail,
            checked: self.checked,
            violation_count: self.count,
            violations: self.violations,
        }
    }
}

impl Verdict {
    /// The verdict, where seeing nothing is fine: an oracle of something this run did not do.
    #[must_use]
    pub fn or_nothing_to_see(mut self) -> Verdict {
        let nothing = self.checked == 0 && self.violation_count == 0;
        self.held |= nothing && !self.detail.starts_with("undecided");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oracle_that_saw_nothing_does_not_hold() {
        let verdict = Findings::new("I0", "nothing").verdict(|_| unreachable!("nothing was seen"));
        assert!(!verdict.held);
        assert_eq!(verdict.detail, "nothing was there to be checked");
        assert!(verdict.or_nothing_to_see().held);
    }

    #[test]
    fn an_oracle_that_gave_up_does_not_hold() {
        let mut findings = Findings::new("I0", "nothing");
        findings.checked();
        findings.give_up("too long".to_owned());
        let verdict = findings.verdict(|_| "all well".to_owned());
        assert!(!verdict.held && !verdict.clone().or_nothing_to_see().held);
        assert_eq!(verdict.detail, "undecided: too long");
    }

    #[test]
    fn violations_past_the_first_few_are_counted() {
        let mut findings = Findings::new("I0", "nothing");
        for number in 0..25 {
            findings.must(false, None, || format!("wrong {number}"));
        }
        let verdict = findings.verdict(|_| "all well".to_owned());
        assert_eq!((verdict.violation_count, verdict.violations.len()), (25, VIOLATIONS_KEPT));
        assert_eq!(verdict.detail, "wrong 0 (and 24 more)");
        assert!(!verdict.or_nothing_to_see().held);
    }
}
