//! I8: the KV is linearizable: its operations have one order that agrees with every answer and with
//! real time.
//!
//! Evidence: the history of the control group's clients. Keys that no transaction joins are judged
//! apart. Where the server says a revision, the order must also be that of revisions.
//!
//! ```text
//!   put, get, delete, txn of one cluster of keys --> spans --> linearizer
//! ```
//! An unknown write may have happened, may happen later, or never. One whose value somebody was shown
//! happened, and before that.
//!
//! Invariant: an answer without a revision (0) is judged by values alone; an unknown write's revision
//! is learned from whoever sees its value.
//!
//! Limits: the search is cut off after so many steps and then says so; `i8_revisions` judges the same
//! history in near-linear time by what the server says of revisions.

use std::collections::{BTreeMap, BTreeSet};

use super::linearizer::{Answer, Span, search};
use super::model::Model;
use super::{Findings, Verdict};
use crate::history::kv::{Compare, KvCall, KvHistory, KvOp, KvReply, Pair, Write};

/// Steps of one search.
const STEPS_MAX: u64 = 2_000_000;

/// What is known of a key in a state.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    value: String,
    /// `None`: written by somebody who was not told.
    mod_revision: Option<i64>,
}

/// The keys of one cluster, and the latest revision somebody was told.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State {
    cells: BTreeMap<String, Cell>,
    revision: i64,
}

/// A call and its answer; `None`: unknown.
#[derive(Clone, Debug)]
pub struct Deed {
    /// Its place among the operations of its cluster.
    at: usize,
    call: KvCall,
    reply: Option<KvReply>,
}

/// The keys of one cluster.
pub struct KvModel;

/// Judges a history.
#[must_use]
pub fn check(history: &KvHistory) -> Verdict {
    check_within(history, STEPS_MAX)
}

/// As [`check`], with another bound on the steps of each search.
#[must_use]
pub fn check_within(history: &KvHistory, steps_max: u64) -> Verdict {
    let mut findings = Findings::new("I8", "the KV is linearizable");
    let clusters = clusters(history);
    let count = clusters.len();
    let mut judged = 0usize;
    for ops in clusters {
        judged += ops.len();
        let spans = Shown::to(&ops).spans(&ops);
        let answer = search(&KvModel, &spans, steps_max);
        findings.checked();
        match answer {
            Answer::Yes => {}
            Answer::No { most, stuck } => {
                let op = ops[spans[stuck].op.at];
                findings.violation(op.returned, no_order(op, most, spans.len()));
            }
            Answer::GaveUp(steps) => {
                findings.give_up(format!("no order of {} operations found in {steps} steps", spans.len()));
            }
        }
    }
    findings.verdict(|_| format!("{judged} operations on {count} clusters of keys have an order"))
}

fn no_order(op: &KvOp, most: usize, of: usize) -> String {
    let between = op.returned.map_or(String::new(), |returned| format!(" to {} ms", returned.at_ms));
    format!(
        "no order of operations explains {:?} answered with {:?} to client {} (from {}{between}); \
         {most} of {of} operations fit before it",
        op.call, op.outcome, op.client, op.invoked.at_ms
    )
}

fn keys(call: &KvCall) -> Vec<&str> {
    match call {
        KvCall::Put { key, .. } | KvCall::Get { key } | KvCall::Delete { key } => vec![key],
        KvCall::Txn { compares, writes } => {
            let compared = compares.iter().map(key_of);
            let written = writes.iter().map(|write| match write {
                Write::Put(key, _) | Write::Delete(key) => key.as_str(),
            });
            compared.chain(written).collect()
        }
    }
}

/// Operations by cluster: keys that one transaction names are in one. What was refused and reads
/// without an answer say nothing and are left out.
fn clusters(history: &KvHistory) -> Vec<Vec<&KvOp>> {
    let mut parent: BTreeMap<&str, &str> = BTreeMap::new();
    fn root<'a>(parent: &BTreeMap<&'a str, &'a str>, key: &'a str) -> &'a str {
        let mut at = key;
        while let Some(up) = parent.get(at).filter(|up| **up != at) {
            at = up;
        }
        at
    }
    for op in history.ops() {
        let keys = keys(&op.call);
        for key in &keys {
            parent.entry(key).or_insert(key);
            let (one, other) = (root(&parent, keys[0]), root(&parent, key));
            parent.insert(one, other);
        }
    }
    let mut clusters: BTreeMap<&str, Vec<&KvOp>> = BTreeMap::new();
    for op in history.ops() {
        let silent = op.reply().is_none() && matches!(op.call, KvCall::Get { .. });
        let Some(key) = keys(&op.call).first().copied() else { continue };
        if op.may_have_happened() && !silent {
            clusters.entry(root(&parent, key)).or_default().push(op);
        }
    }
    clusters.into_values().collect()
}

/// What is known of a write from whoever was shown its value.
#[derive(Clone, Copy, Debug)]
struct Sight {
    /// 0: nobody was told.
    revision: i64,
    /// Number of the first moment at which somebody had seen it.
    by: u64,
    /// The least hint of those who saw it.
    hint: u64,
}

/// What clients were shown of each other's writes, by key and value.
struct Shown<'a> {
    values: BTreeMap<(&'a str, &'a str), Sight>,
    /// Values that two operations wrote: who was seen is not certain.
    ambiguous: BTreeSet<(&'a str, &'a str)>,
    /// Values that a condition names, whether it held or not.
    named: BTreeSet<(&'a str, &'a str)>,
}

/// Where an operation belongs among others: writes before reads of their revision; without a
/// revision, what ended first.
fn hint(op: &KvOp, reply: &KvReply) -> u64 {
    match reply.revision() {
        0 => op.over(),
        revision => revision.unsigned_abs() * 2 + u64::from(!reply.wrote(&op.call)),
    }
}

impl<'a> Shown<'a> {
    fn to(ops: &[&'a KvOp]) -> Shown<'a> {
        let mut shown = Shown { values: BTreeMap::new(), ambiguous: BTreeSet::new(), named: BTreeSet::new() };
        let mut written = BTreeSet::new();
        for op in ops {
            for write in puts(&op.call) {
                if !written.insert(write) {
                    shown.ambiguous.insert(write);
                }
            }
            if let KvCall::Txn { compares, .. } = &op.call {
                shown.named.extend(compares.iter().filter_map(|compare| match compare {
                    Compare::Value(key, value) => Some((key.as_str(), value.as_str())),
                    Compare::Absent(_) | Compare::ModRevision(..) => None,
                }));
            }
            let Some(reply) = op.reply() else { continue };
            for (key, value, revision) in sights(&op.call, reply) {
                let new = Sight { revision, by: op.over(), hint: hint(op, reply) };
                let seen = shown.values.entry((key, value)).or_insert(new);
                seen.revision = seen.revision.max(new.revision);
                seen.by = seen.by.min(new.by);
                seen.hint = seen.hint.min(new.hint);
            }
        }
        shown
    }

    /// What is known of an unknown write that somebody saw.
    fn of(&self, op: &KvOp) -> Option<Sight> {
        let seen = puts(&op.call).into_iter().filter(|write| !self.ambiguous.contains(write));
        let seen = seen.filter_map(|write| self.values.get(&write)).copied();
        let all = seen.reduce(|one, other| Sight {
            revision: one.revision.max(other.revision),
            by: one.by.min(other.by),
            hint: one.hint.min(other.hint),
        })?;
        // Seen before it was asked for: then it explains nothing, and no order will be found.
        (op.invoked.number < all.by).then_some(all)
    }

    /// Values that nobody ever saw or named are all the same.
    fn forget_values(&self, call: &mut KvCall) {
        let forget = |key: &str, value: &mut String| {
            let write = (key, value.as_str());
            if !self.values.contains_key(&write) && !self.named.contains(&write) {
                value.clear();
            }
        };
        match call {
            KvCall::Put { key, value } => forget(key, value),
            KvCall::Txn { writes, .. } => {
                for write in writes {
                    if let Write::Put(key, value) = write {
                        forget(key, value);
                    }
                }
            }
            KvCall::Get { .. } | KvCall::Delete { .. } => {}
        }
    }

    /// The operations in time. An unknown write that somebody saw is certain, over by then, and has
    /// the revision that was shown.
    fn spans(&self, ops: &[&KvOp]) -> Vec<Span<Deed>> {
        let mut spans = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let mut call = op.call.clone();
            if op.reply().is_none() {
                self.forget_values(&mut call);
            }
            let (reply, end, hint) = match (op.reply(), self.of(op)) {
                (Some(reply), _) => (Some(reply.clone()), Some(op.over()), hint(op, reply)),
                (None, None) => (None, None, 0),
                (None, Some(Sight { revision, by, hint: seen })) => {
                    let reply = match &call {
                        KvCall::Txn { .. } => KvReply::Txn { revision, succeeded: true, found: Vec::new() },
                        _ => KvReply::Put { revision },
                    };
                    let hint = if revision == 0 { seen - 1 } else { hint(op, &reply) };
                    (Some(reply), Some(by), hint)
                }
            };
            spans.push(Span { call: op.invoked.number, end, hint, op: Deed { at, call, reply } });
        }
        spans
    }
}

/// Keys and values that an answer shows, with their revision if it is told.
fn sights<'a>(call: &'a KvCall, reply: &'a KvReply) -> Vec<(&'a str, &'a str, i64)> {
    let shown = |(key, pair): (&'a str, &'a Pair)| (key, pair.value.as_str(), pair.mod_revision);
    match (call, reply) {
        (KvCall::Get { key }, KvReply::Get { pair: Some(pair), .. }) => vec![shown((key, pair))],
        (KvCall::Txn { compares, .. }, KvReply::Txn { succeeded: true, .. }) => compares
            .iter()
            .filter_map(|compare| match compare {
                Compare::Value(key, value) => Some((key.as_str(), value.as_str(), 0)),
                Compare::Absent(_) | Compare::ModRevision(..) => None,
            })
            .collect(),
        (KvCall::Txn { compares, .. }, KvReply::Txn { found, .. }) => {
            let found = compares.iter().map(key_of).zip(found);
            found.filter_map(|(key, pair)| Some(shown((key, pair.as_ref()?)))).collect()
        }
        _ => Vec::new(),
    }
}

/// The keys and values an operation sets, if it is carried out.
fn puts(call: &KvCall) -> Vec<(&str, &str)> {
    match call {
        KvCall::Put { key, value } => vec![(key, value)],
        KvCall::Get { .. } | KvCall::Delete { .. } => Vec::new(),
        KvCall::Txn { writes, .. } => writes
            .iter()
            .filter_map(|write| match write {
                Write::Put(key, value) => Some((key.as_str(), value.as_str())),
                Write::Delete(_) => None,
            })
            .collect(),
    }
}

fn key_of(compare: &Compare) -> &str {
    match compare {
        Compare::Absent(key) | Compare::ModRevision(key, _) | Compare::Value(key, _) => key,
    }
}

impl State {
    /// Somebody was told `revision` in order: after a write a higher one than before, after a read
    /// at least the same. 0 tells nothing.
    fn told(&mut self, revision: i64, wrote: bool) -> bool {
        let right = revision == 0 || revision > self.revision || (!wrote && revision == self.revision);
        self.revision = self.revision.max(revision);
        right
    }

    /// Somebody was shown the key. An unknown write's revision is learned from it.
    fn shown(&mut self, key: &str, pair: Option<&Pair>) -> bool {
        match (self.cells.get_mut(key), pair) {
            (None, None) => true,
            (Some(cell), Some(pair)) if cell.value == pair.value => {
                let told = (pair.mod_revision != 0).then_some(pair.mod_revision);
                let same = cell.mod_revision.is_none() || told.is_none() || cell.mod_revision == told;
                cell.mod_revision = cell.mod_revision.or(told);
                same
            }
            _ => false,
        }
    }

    /// Whether the condition holds; `None` when it depends on a revision nobody was told.
    fn holds(&self, compare: &Compare) -> Option<bool> {
        match compare {
            Compare::Absent(key) => Some(!self.cells.contains_key(key)),
            Compare::Value(key, value) => Some(self.cells.get(key).is_some_and(|cell| cell.value == *value)),
            Compare::ModRevision(key, revision) => match self.cells.get(key) {
                None => Some(false),
                Some(cell) => cell.mod_revision.map(|own| own == *revision),
            },
        }
    }

    /// Takes for granted that the conditions held.
    fn held(&mut self, compares: &[Compare]) {
        for compare in compares {
            if let Compare::ModRevision(key, revision) = compare
                && let Some(cell) = self.cells.get_mut(key)
            {
                cell.mod_revision = Some(*revision);
            }
        }
    }

    fn write(&mut self, write: &Write, revision: Option<i64>) {
        let mod_revision = revision.filter(|revision| *revision != 0);
        match write {
            Write::Put(key, value) => {
                self.cells.insert(key.clone(), Cell { value: value.clone(), mod_revision });
            }
            Write::Delete(key) => {
                self.cells.remove(key);
            }
        }
    }

    fn txn(mut self, compares: &[Compare], writes: &[Write], reply: Option<&KvReply>) -> Option<State> {
        let fails = |state: &State| compares.iter().any(|compare| state.holds(compare) == Some(false));
        let surely = |state: &State| compares.iter().all(|compare| state.holds(compare) == Some(true));
        let (revision, succeeded) = match reply {
            Some(KvReply::Txn { revision, succeeded, found }) => {
                if !succeeded && found.len() == compares.len() {
                    let mut each = compares.iter().zip(found);
                    let shown = each.all(|(compare, pair)| self.shown(key_of(compare), pair.as_ref()));
                    if !shown {
                        return None;
                    }
                }
                (Some(*revision), *succeeded)
            }
            Some(_) => return None,
            None => (None, true),
        };
        if succeeded && fails(&self) || !succeeded && surely(&self) {
            return None;
        }
        if succeeded {
            self.held(compares);
        }
        if let Some(revision) = revision
            && !self.told(revision, succeeded && !writes.is_empty())
        {
            return None;
        }
        if succeeded {
            for write in writes {
                self.write(write, revision);
            }
        }
        Some(self)
    }
}

impl Model for KvModel {
    type State = State;
    type Op = Deed;

    fn start(&self) -> State {
        State::default()
    }

    fn step(&self, state: &State, deed: &Deed) -> Vec<State> {
        let mut next = state.clone();
        let right = match (&deed.call, &deed.reply) {
            (KvCall::Put { key, value }, Some(KvReply::Put { revision })) => {
                next.write(&Write::Put(key.clone(), value.clone()), Some(*revision));
                next.told(*revision, true)
            }
            (KvCall::Put { key, value }, None) => {
                next.write(&Write::Put(key.clone(), value.clone()), None);
                true
            }
            (KvCall::Get { key }, Some(KvReply::Get { revision, pair })) => {
                next.shown(key, pair.as_ref()) && next.told(*revision, false)
            }
            (KvCall::Delete { key }, Some(KvReply::Delete { revision, deleted })) => {
                next.cells.remove(key).is_some() == *deleted && next.told(*revision, *deleted)
            }
            (KvCall::Delete { key }, None) => next.cells.remove(key).is_some(),
            (KvCall::Txn { compares, writes }, reply) => {
                return next.txn(compares, writes, reply.as_ref()).into_iter().collect();
            }
            _ => false,
        };
        if right { vec![next] } else { Vec::new() }
    }

    fn too_late(&self, state: &State, deed: &Deed) -> bool {
        deed.reply.as_ref().is_some_and(|reply| {
            let (told, wrote) = (reply.revision(), reply.wrote(&deed.call));
            told != 0 && (told < state.revision || told == state.revision && wrote)
        })
    }
}

#[cfg(test)]
#[path = "i8_linearizable_test.rs"]
mod tests;
