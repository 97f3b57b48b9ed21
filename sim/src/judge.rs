//! The verdicts on a run: what its hosts, clients, people and books show, put before the oracles.
//!
//! Invariant: a run that did not come to its end gets no verdict about the end: what could not be
//! looked at is not called good. What is missing is said under I10.
//!
//! Not here: the oracles themselves.

use std::collections::{BTreeMap, BTreeSet};

use queue::partition::PartitionConfig;

use crate::agree;
use crate::board::Board;
use crate::evidence;
use crate::history::access::AccessHistory;
use crate::history::queue::QueueHistory;
use crate::knobs::{Knobs, Scenario};
use crate::oracle::i2_claims::ControlWrite;
use crate::oracle::i5_balance::Reconcile;
use crate::oracle::i9_island::{self, Outages, Requests};
use crate::oracle::{
    Findings, Verdict, bank, commands, i2_claims, i3_issue_once, i4_opens_kept, i5_balance, i6_only_the_plan,
    i7_nothing_lost, i8_leases, i8_linearizable, i8_revisions, i8_watch, i10_convergence, ingests, limits,
    queue_counts, queue_delivery, seals,
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
    /// Whoever was looking for it saw that this is broken.
    Caught(Box<Verdict>),
}

/// Looks at everything.
#[must_use]
pub fn judge(stage: &Stage, knobs: &Knobs, ending: &Ending, outages: &Outages) -> Vec<Verdict> {
    let mut verdicts = vec![hosts(ending)];
    match ending {
        Ending::Broke(_) => return verdicts,
        Ending::Caught(verdict) => {
            verdicts.push(Verdict::clone(verdict));
            return verdicts;
        }
        Ending::Complete | Ending::Stuck(_) => {}
    }
    verdicts.push(converged(stage, knobs, ending));
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
    let files = stage.board.ingests.lock();
    verdicts.extend(files.1.as_ref().map(|contents| ingests::check(&files.0, contents)));
    verdicts.push(i8_revisions::check(&kv.0, kv.1.as_ref()));
    verdicts.push(i8_linearizable::check(&kv.0));
    // A client of one node is denied whenever another leads: that says nothing about rejoining.
    let mut requests = Requests::of(&kv.0, &queue.0, &AccessHistory::default());
    requests.unanswered.clear();
    verdicts.push(i9_island::check(outages, &requests, REJOIN_MS).or_nothing_to_see());
    verdicts.extend(etcd(stage, outages));
    verdicts.push(commands::check(&stage.board.operator.lock()).or_nothing_to_see());
    verdicts
}

/// Whether every host went on to the end.
#[must_use]
pub fn hosts(ending: &Ending) -> Verdict {
    let mut findings = Findings::new("hosts", "no host panics, no client gives up");
    match ending {
        Ending::Broke(what) => findings.violation(None, what.clone()),
        Ending::Complete | Ending::Stuck(_) | Ending::Caught(_) => findings.checked(),
    }
    findings.verdict(|_| "no host panicked, no client gave up".to_owned())
}

/// What the run still waits for, or whether the cluster is whole: nobody waits in vain for the latter.
fn converged(stage: &Stage, knobs: &Knobs, ending: &Ending) -> Verdict {
    if let Ending::Stuck(what) = ending {
        let mut findings = Findings::new("I10", "the cluster heals");
        findings.violation(None, format!("after the faults the run still waits for: {what}"));
        return findings.verdict(|_| unreachable!("something is wrong"));
    }
    let now_ms = u64::try_from(stage.sim.elapsed().as_millis()).unwrap_or(u64::MAX);
    i10_convergence::check(&agree::healed(stage, now_ms.saturating_sub(knobs.safety_ms), true))
}

/// What etcd's clients saw.
fn etcd(stage: &Stage, outages: &Outages) -> Vec<Verdict> {
    let board = &stage.board;
    let etcd = board.etcd.lock();
    let nothing = (QueueHistory::default(), AccessHistory::default());
    // Every zone serves etcd's clients, whoever leads: one that has rejoined does, too.
    let requests = Requests::of(&etcd.0, &nothing.0, &nothing.1);
    vec![
        i7_nothing_lost::check(&etcd.0, etcd.1.as_ref(), &nothing.0, None),
        i8_revisions::check(&etcd.0, etcd.1.as_ref()),
        i8_linearizable::check(&etcd.0),
        i8_watch::check(&etcd.0, &board.watchers.lock()),
        i8_leases::check(&board.leases.lock()).or_nothing_to_see(),
        i9_island::check(outages, &requests, REJOIN_MS).or_nothing_to_see(),
    ]
}

/// What the event came to: I1 to I6, the seals, the limits, the bank.
fn money(stage: &Stage) -> Vec<Verdict> {
    let board = &stage.board;
    let (closing, memory) = (board.closing.lock(), board.memory.lock());
    let (Some(closing), Some(memory)) = (&*closing, &*memory) else { return Vec::new() };
    let build = closing.event.event.as_ref().map(|event| event.build);
    let (manifest, plan) = (stage.manifest(build), evidence::plan_of(&stage.plans, build));
    let (issues, made_up) = (board.issues.lock(), board.made_up.lock());
    let (books, crowd) = (evidence::books(&closing.books), evidence::crowd(memory));
    let reconciles: Vec<Reconcile> = closing
        .reconciled
        .iter()
        .zip([&closing.before, &closing.after])
        .map(|(at, report)| evidence::reconcile(*at, report, &made_up))
        .collect();
    let readings = board.accounts.lock();
    let barred: BTreeSet<u16> = board.revoked.lock().iter().map(|key| key.0).collect();
    let instant_from = (!manifest.instant.min_fen.is_zero()).then_some(manifest.instant.min_fen);
    vec![
        plan.minted.clone(),
        i2_claims::check(&board.control.lock(), &evidence::with_incarnations(&issues, &board.boots.lock())),
        i3_issue_once::check(&issues, &evidence::opened(&closing.books, &made_up)),
        seals::check(&issues),
        i4_opens_kept::check(&crowd, &books, true),
        i5_balance::check(&plan.budgets, &readings, &reconciles),
        i5_balance::paid(readings.last(), &evidence::credited(&closing.books)),
        i6_only_the_plan::check(&plan.packets, &books, &barred, &crowd),
        limits::check(&books, plan.claims_per_user),
        bank::check(&closing.bank, &closing.books.rows, instant_from).or_nothing_to_see(),
    ]
}

/// What is seen to be broken before a run has come to its end; only what no later moment can excuse.
#[must_use]
pub fn so_far(board: &Board) -> Option<Verdict> {
    let (kv, issues) = (board.kv.lock(), board.issues.lock());
    let verdicts = [
        i3_issue_once::check(&issues, &[]),
        seals::check(&issues),
        // What was issued under a claim may be known before the claim is.
        i2_claims::check(&board.control.lock(), &[]),
        i5_balance::sums(&board.accounts.lock()),
        i8_revisions::check(&kv.0, None),
        i8_revisions::check(&board.etcd.lock().0, None),
    ];
    verdicts.into_iter().find(|verdict| verdict.violation_count > 0)
}

/// What those who keep account of the run have yet to hear of.
#[must_use]
pub fn still_unseen(board: &Board) -> Option<String> {
    let closing = board.closing.lock();
    let claims = closing.as_ref().map_or(0, |closing| closing.event.claims.len());
    let control = board.control.lock();
    let seen: BTreeSet<(u16, u32)> = control
        .iter()
        .filter_map(|(_, write)| match write {
            ControlWrite::Claim { slot, file, .. } => Some((*slot, *file)),
            _ => None,
        })
        .collect();
    (seen.len() < claims).then(|| format!("the watch to tell of {claims} claims: it told of {}", seen.len()))
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
