//! The verdicts on a run: what its hosts, clients, people and books show, put before the oracles.
//!
//! Invariant: a run that did not come to its end gets no verdict about the end: what could not be
//! looked at is not called good. What is missing is said under I10.
//!
//! Not here: the oracles themselves.

use std::collections::BTreeMap;

use deploy::demo::verdicts::{Evidence, about_money};
use queue::partition::PartitionConfig;

use crate::history::access::AccessHistory;
use crate::knobs::{Knobs, Scenario};
use crate::oracle::i9_island::{self, Isolation, Requests};
use crate::oracle::{
    Findings, Verdict, bank, commands, i7_nothing_lost, i8_linearizable, i8_revisions, queue_counts,
    queue_delivery,
};
use crate::stage::Stage;

/// Within this time a zone that can be reached again serves again.
const REJOIN_MS: u64 = 10_000;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All phases were gone through.
    Complete,
    /// This was waited for too long.
    Stuck(String),
    /// A host failed or panicked, and said this.
    Broke(String),
}

/// Looks at everything.
#[must_use]
pub fn judge(stage: &Stage, knobs: &Knobs, ending: &Ending, isolations: &[Isolation]) -> Vec<Verdict> {
    let mut verdicts = vec![hosts(ending)];
    if let Ending::Broke(_) = ending {
        return verdicts;
    }
    verdicts.push(converged(ending));
    if knobs.scenario == Scenario::Event {
        verdicts.extend(money(stage));
    }
    let (kv, queue) = (stage.board.kv.lock(), stage.board.queue.lock());
    let kept = i7_nothing_lost::check(&kv.0, kv.1.as_ref(), &queue.0, queue.1.as_ref());
    verdicts.push(if kv.1.is_some() { kept } else { kept.or_nothing_to_see() });
    if let Some(contents) = &queue.1 {
        let attempts_max = PartitionConfig::default().attempts_max;
        verdicts.push(queue_delivery::check(&queue.0, contents, attempts_max, true));
        verdicts.push(queue_counts::check(&stage.board.readings.lock(), &queue.0, contents));
    }
    verdicts.push(i8_revisions::check(&kv.0, kv.1.as_ref()));
    verdicts.push(i8_linearizable::check(&kv.0));
    // A client of one node is denied whenever another leads: that says nothing about rejoining.
    let mut requests = Requests::of(&kv.0, &queue.0, &AccessHistory::default());
    requests.unanswered.clear();
    verdicts.push(i9_island::check(isolations, &requests, REJOIN_MS).or_nothing_to_see());
    verdicts.push(commands::check(&stage.board.operator.lock()).or_nothing_to_see());
    verdicts
}

/// Whether every host went on to the end.
#[must_use]
pub fn hosts(ending: &Ending) -> Verdict {
    let mut findings = Findings::new("hosts", "no host panics, no client gives up");
    match ending {
        Ending::Broke(what) => findings.violation(None, what.clone()),
        Ending::Complete | Ending::Stuck(_) => findings.checked(),
    }
    findings.verdict(|_| "no host panicked, no client gave up".to_owned())
}

fn converged(ending: &Ending) -> Verdict {
    let mut findings = Findings::new("I10", "without faults everything heals and serves");
    match ending {
        Ending::Stuck(what) => {
            findings.violation(None, format!("after the faults the run still waits for: {what}"));
        }
        Ending::Complete | Ending::Broke(_) => findings.checked(),
    }
    findings.verdict(|_| "one leader a group, equal state on all replicas, all work done".to_owned())
}

/// I1 to I6, as the demo judges them.
fn money(stage: &Stage) -> Vec<Verdict> {
    let (closing, memory) = (stage.board.closing.lock(), stage.board.memory.lock());
    let (Some(closing), Some(memory)) = (&*closing, &*memory) else { return Vec::new() };
    let manifest = stage.manifest(closing.event.event.as_ref().map(|event| event.build));
    let evidence = Evidence {
        manifest,
        event: &closing.event,
        zones: &closing.zones,
        nodes: &closing.issued,
        before: &closing.before,
        after: &closing.after,
        books: &closing.books,
        memory,
        traces: &[],
        zone_failed: None,
        killed_at: None,
        seconds: 0.0,
    };
    let verdicts = about_money(&evidence).into_iter();
    let mut verdicts: Vec<Verdict> = verdicts.map(|verdict| of_demo(&verdict)).collect();
    let instant_from = (!manifest.instant.min_fen.is_zero()).then_some(manifest.instant.min_fen);
    verdicts.push(bank::check(&closing.bank, &closing.books.rows, instant_from).or_nothing_to_see());
    verdicts
}

fn of_demo(verdict: &deploy::demo::report::Verdict) -> Verdict {
    let (id, property) = match verdict.id.as_str() {
        "I1" => ("I1", "minted amounts and counts equal the budget"),
        "I2" => ("I2", "each file is claimed once"),
        "I3" => ("I3", "each record is issued once"),
        "I4" => ("I4", "every acknowledged open is credited once, or explained"),
        "I5" => ("I5", "every fen is accounted for"),
        _ => ("I6", "no credit outside the plan"),
    };
    let mut findings = Findings::new(id, property);
    findings.must(verdict.held, None, || verdict.detail.clone());
    findings.verdict(|_| verdict.detail.clone())
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
