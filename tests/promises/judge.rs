//! Whether everything that was promised held.
//!
//! Invariant: a run in which too little happened does not pass.
//!
//! Not here: the oracles (crate `sim`).

use sim::history::Outcome;
use sim::oracle::{Verdict, i8_leases, i8_linearizable, i8_revisions, i8_watch};

use crate::record::{Record, Side};
use crate::second_opinion::{self, Opinions};

/// What came of a run.
pub struct Judgement {
    /// The oracles'.
    pub verdicts: Vec<(&'static str, Verdict)>,
    /// Another checker's beside ours.
    pub opinions: Opinions,
    /// Calls that were answered.
    pub answered: usize,
    /// Calls of which nothing is known.
    pub unknown: usize,
}

impl Judgement {
    /// Whether everything held.
    pub fn held(&self) -> bool {
        self.verdicts.iter().all(|(_, verdict)| verdict.held)
            && self.opinions.wrong == 0
            && self.opinions.split.is_empty()
    }

    /// For people.
    pub fn say(&self) -> String {
        let verdicts = self.verdicts.iter().map(|(side, verdict)| {
            let held = if verdict.held { "held" } else { "BROKEN" };
            format!("  {held:<6} {side:<6} {}: {}", verdict.property, verdict.detail)
        });
        let mut lines: Vec<String> = verdicts.collect();
        lines.push(format!("  two checkers: {:?}", self.opinions));
        lines.push(format!("  {} calls answered, {} unknown", self.answered, self.unknown));
        lines.join("\n")
    }
}

/// Judges a run.
pub fn judge(record: &Record) -> Judgement {
    let mut verdicts = Vec::new();
    let (mut answered, mut unknown) = (0, 0);
    let mut opinions = Opinions::default();
    for (name, side) in [("etcd", &record.etcd), ("native", &record.native)] {
        let Side { history, watchers, scan, .. } = side;
        let history = history.lock().expect("nobody panicked");
        verdicts.push((name, i8_linearizable::check(&history)));
        verdicts.push((name, i8_revisions::check(&history, scan.lock().expect("nobody panicked").as_ref())));
        verdicts.push((name, i8_watch::check(&history, &watchers.lock().expect("nobody panicked"))));
        answered += history.ops().iter().filter(|op| op.reply().is_some()).count();
        unknown += history.ops().iter().filter(|op| op.outcome == Outcome::Unknown).count();
        let asked = second_opinion::ask(&history);
        opinions.right += asked.right;
        opinions.wrong += asked.wrong;
        opinions.split.extend(asked.split);
    }
    verdicts.push(("etcd", i8_leases::check(&record.leases.lock().expect("nobody panicked"))));
    Judgement { verdicts, opinions, answered, unknown }
}
