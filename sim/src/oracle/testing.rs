//! Histories for the tests of oracles: a KV and a queue that are right by construction, clients whose
//! calls overlap, answers that get lost, and ways to spoil a history.
//!
//! Invariant: what [`kv_history`] makes is linearizable whatever the seed: each operation takes effect
//! at one point between its call and its return.
//!
//! Not here: anything that is shipped; compiled for tests only.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::seq::IndexedRandom;
use world::rng::{Seed, Stream};

use crate::history::kv::{Compare, KvCall, KvHistory, KvReply, Pair, Write};
use crate::history::{Moments, OpId, Outcome};

/// The KV as it must be.
#[derive(Clone, Debug, Default)]
pub struct TrueKv {
    /// What it holds.
    pub pairs: BTreeMap<String, Pair>,
    /// Its revision.
    pub revision: i64,
    /// Every change: revision, key, pair (`None`: removed).
    pub changes: Vec<(i64, String, Option<Pair>)>,
}

impl TrueKv {
    fn write(&mut self, write: &Write) {
        let (key, pair) = match write {
            Write::Delete(key) => (key, None),
            Write::Put(key, value) => {
                let old = self.pairs.get(key);
                let pair = Pair {
                    value: value.clone(),
                    create_revision: old.map_or(self.revision, |old| old.create_revision),
                    mod_revision: self.revision,
                    version: old.map_or(1, |old| old.version + 1),
                };
                (key, Some(pair))
            }
        };
        match &pair {
            Some(pair) => drop(self.pairs.insert(key.clone(), pair.clone())),
            None => drop(self.pairs.remove(key)),
        }
        self.changes.push((self.revision, key.clone(), pair));
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.pairs.contains_key(key),
            Compare::ModRevision(key, revision) => {
                self.pairs.get(key).is_some_and(|pair| pair.mod_revision == *revision)
            }
            Compare::Value(key, value) => self.pairs.get(key).is_some_and(|pair| pair.value == *value),
        }
    }

    /// Does what was asked.
    pub fn run(&mut self, call: &KvCall) -> KvReply {
        match call {
            KvCall::Put { key, value } => {
                self.revision += 1;
                self.write(&Write::Put(key.clone(), value.clone()));
                KvReply::Put { revision: self.revision }
            }
            KvCall::Get { key } => {
                KvReply::Get { revision: self.revision, pair: self.pairs.get(key).cloned() }
            }
            KvCall::Delete { key } => {
                let deleted = self.pairs.contains_key(key);
                if deleted {
                    self.revision += 1;
                    self.write(&Write::Delete(key.clone()));
                }
                KvReply::Delete { revision: self.revision, deleted }
            }
            KvCall::Txn { compares, writes } => {
                let succeeded = compares.iter().all(|compare| self.holds(compare));
                let mut found = Vec::new();
                if succeeded {
                    self.revision += 1;
                    writes.iter().for_each(|write| self.write(write));
                } else {
                    found = compares
                        .iter()
                        .map(|compare| {
                            let (Compare::Absent(key)
                            | Compare::ModRevision(key, _)
                            | Compare::Value(key, _)) = compare;
                            self.pairs.get(key).cloned()
                        })
                        .collect();
                }
                KvReply::Txn { revision: self.revision, succeeded, found }
            }
        }
    }
}

/// How a history is made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Clients at the same time.
    pub clients: u32,
    /// Operations.
    pub ops: u32,
    /// Keys.
    pub keys: u32,
    /// Answers that are lost, percent; half of those operations never happen.
    pub unknown: u32,
}

/// A call under way: nothing yet, or its reply.
struct UnderWay {
    id: OpId,
    call: KvCall,
    reply: Option<KvReply>,
    lost: bool,
    never: bool,
}

fn call(chance: &mut Stream, keys: u32, serial: u64, kv: &TrueKv) -> KvCall {
    let key = |chance: &mut Stream| format!("k{}", chance.random_range(0..keys));
    let value = format!("v{serial}");
    match chance.random_range(0..10) {
        0..3 => KvCall::Put { key: key(chance), value },
        3..6 => KvCall::Get { key: key(chance) },
        6 => KvCall::Delete { key: key(chance) },
        _ => {
            let at = key(chance);
            let compare = match (chance.random_range(0..3), kv.pairs.get(&at)) {
                (0, Some(pair)) => Compare::ModRevision(at.clone(), pair.mod_revision),
                (1, Some(pair)) => Compare::Value(at.clone(), pair.value.clone()),
                _ => Compare::Absent(at.clone()),
            };
            let mut writes = vec![Write::Put(at.clone(), value.clone())];
            let other = key(chance);
            if chance.random_ratio(1, 4) && other != at {
                writes.push(Write::Put(other, format!("{value}b")));
            }
            KvCall::Txn { compares: vec![compare], writes }
        }
    }
}

/// A linearizable history, and the KV at its end.
#[must_use]
pub fn kv_history(seed: u64, shape: Shape) -> (KvHistory, TrueKv) {
    let mut chance = Seed::from_number(seed).stream(1);
    let (mut moments, mut history, mut kv) = (Moments::default(), KvHistory::default(), TrueKv::default());
    let mut busy: BTreeMap<u32, UnderWay> = BTreeMap::new();
    let mut forgotten: Vec<KvCall> = Vec::new();
    let (mut begun, mut at_ms) = (0, 0);
    while begun < shape.ops || !busy.is_empty() {
        at_ms += chance.random_range(0..3);
        // What nobody waits for any more may still happen.
        if chance.random_ratio(1, 6) && !forgotten.is_empty() {
            let at = chance.random_range(0..forgotten.len());
            kv.run(&forgotten.swap_remove(at));
        }
        let client = chance.random_range(0..shape.clients);
        match busy.remove(&client) {
            None if begun < shape.ops => {
                let call = call(&mut chance, shape.keys, u64::from(begun), &kv);
                begun += 1;
                let id = history.invoke(moments.next(at_ms), client, None, call.clone());
                let lost = chance.random_ratio(shape.unknown, 100);
                let never = lost && chance.random_ratio(1, 2);
                busy.insert(client, UnderWay { id, call, reply: None, lost, never });
            }
            None => {}
            Some(UnderWay { id, call, lost: true, never, reply: None }) => {
                history.finish(moments.next(at_ms), id, Outcome::Unknown);
                if !never {
                    forgotten.push(call);
                }
            }
            Some(mut op) => match op.reply.take() {
                None => {
                    op.reply = Some(kv.run(&op.call));
                    busy.insert(client, op);
                }
                Some(reply) => history.finish(moments.next(at_ms), op.id, Outcome::Done(reply)),
            },
        }
    }
    (history, kv)
}

/// A history with one answer that is not what it was: another value or revision, or an absence.
/// `None` if there is nothing to spoil.
#[must_use]
pub fn spoil_a_read(history: &KvHistory, seed: u64) -> Option<KvHistory> {
    let mut chance = Seed::from_number(seed).stream(2);
    let mut ops = history.ops().to_vec();
    let reads: Vec<usize> = (0..ops.len())
        .filter(|at| matches!(ops[*at].outcome, Outcome::Done(KvReply::Get { pair: Some(_), .. })))
        .collect();
    let at = *reads.choose(&mut chance)?;
    let KvCall::Get { key } = ops[at].call.clone() else { return None };
    // A value of the same key that was already overwritten when the read began, or not yet written.
    let others: Vec<Pair> = ops
        .iter()
        .filter_map(|op| match (&op.call, &op.outcome) {
            (KvCall::Put { key: own, value }, Outcome::Done(KvReply::Put { revision })) if *own == key => {
                Some(Pair { value: value.clone(), create_revision: 1, mod_revision: *revision, version: 1 })
            }
            _ => None,
        })
        .collect();
    let Outcome::Done(KvReply::Get { pair, .. }) = &mut ops[at].outcome else { return None };
    let old = pair.clone()?;
    let others: Vec<&Pair> = others.iter().filter(|other| other.value != old.value).collect();
    *pair = others.choose(&mut chance).map(|other| (*other).clone());
    Some(KvHistory::from(ops))
}

/// The same history as somebody saw it who is told no revisions.
#[must_use]
pub fn without_revisions(history: &KvHistory) -> KvHistory {
    let mut ops = history.ops().to_vec();
    let blank = |pair: &mut Pair| (pair.create_revision, pair.mod_revision, pair.version) = (0, 0, 0);
    for op in &mut ops {
        let Outcome::Done(reply) = &mut op.outcome else { continue };
        match reply {
            KvReply::Put { revision } | KvReply::Delete { revision, .. } => *revision = 0,
            KvReply::Get { revision, pair } => {
                *revision = 0;
                pair.iter_mut().for_each(blank);
            }
            KvReply::Txn { revision, found, .. } => {
                *revision = 0;
                found.iter_mut().flatten().for_each(blank);
            }
        }
    }
    KvHistory::from(ops)
}
