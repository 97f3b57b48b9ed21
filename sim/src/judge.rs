//! The verdicts on a run.
//!
//! Invariant: a run that did not come to its end gets no verdict about the end: what could not be
//! looked at is not called good.
//!
//! Not here: the oracles themselves.

use std::collections::BTreeMap;

use deploy::demo::verdicts::{Evidence, about_money};
use serde::{Deserialize, Serialize};

use crate::knobs::{Knobs, Scenario};
use crate::stage::Stage;

/// Whether one invariant held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `I1` to `I10`, or what else was looked at.
    pub id: String,
    /// Whether it held.
    pub held: bool,
    /// The numbers that show it, or the first thing that does not fit.
    pub detail: String,
}

fn verdict(id: &str, held: bool, detail: impl Into<String>) -> Verdict {
    Verdict { id: id.to_owned(), held, detail: detail.into() }
}

/// Looks at everything.
#[must_use]
pub fn judge(stage: &Stage, knobs: &Knobs, stuck: Option<String>, broke: Option<String>) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    let whole = broke.is_none();
    verdicts.push(match broke {
        Some(what) => verdict("hosts", false, what),
        None => verdict("hosts", true, "no host panicked or gave up"),
    });
    if whole {
        verdicts.push(match stuck {
            Some(what) => verdict("I10", false, format!("after the faults the run still waits for: {what}")),
            None => verdict("I10", true, "one leader a group, the same state on all replicas, and all work done"),
        });
    }
    if knobs.scenario == Scenario::Event {
        verdicts.extend(money(stage));
    }
    verdicts
}

fn money(stage: &Stage) -> Vec<Verdict> {
    let (closing, memory) = (stage.board.closing.lock(), stage.board.memory.lock());
    let (Some(closing), Some(memory)) = (&*closing, &*memory) else { return Vec::new() };
    let evidence = Evidence {
        manifest: &stage.manifest,
        event: &closing.event,
        zones: &closing.zones,
        nodes: &closing.issued,
        partitions: stage.cluster.queue.partitions,
        before: &closing.before,
        after: &closing.after,
        books: &closing.books,
        memory,
        traces: &[],
        zone_failed: None,
        killed_at: None,
        seconds: 0.0,
    };
    let verdicts = about_money(&evidence);
    verdicts.into_iter().map(|v| verdict(&v.id, v.held, v.detail)).collect()
}

/// Faults of many runs, added up.
#[must_use]
pub fn add_up<'s>(counts: impl Iterator<Item = &'s BTreeMap<String, u64>>) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (name, count) in counts.flatten() {
        *sum.entry(name.clone()).or_default() += count;
    }
    sum
}
