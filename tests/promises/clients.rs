//! Clients that work on a few shared keys and record every call, whatever API they speak.
//!
//! Keys change every few seconds, so that the search for an order has an end; faults fall into the life of
//! each set. Some keys no transaction touches: those a second checker can judge (second_opinion.rs).
//!
//! Invariant: a call is recorded before it leaves; every written value is unique in the run.
//!
//! Not here: the APIs (etcd.rs, native.rs).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use sim::history::Outcome;
use sim::history::kv::{Compare, KvCall, KvContents, KvReply, Pair, Write};
use world::rng::Stream;

use crate::record::{Record, Side};

/// Keys of one set that transactions join.
const JOINT_KEYS: u32 = 3;
/// Keys of one set that none touches.
const SOLO_KEYS: u32 = 2;
/// How long a set of keys lives.
const SET_MS: u64 = 5_000;
/// Pause between two calls: from, to.
const THINK_MS: (u64, u64) = (5, 60);
/// Pause before a call that failed at the end is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// How often.
const TRIES_MAX: u32 = 150;

/// An API, as one client speaks it.
pub trait Way: Send {
    /// Below this prefix the clients of this API write, and nobody else does.
    const PREFIX: &'static str;
    /// Whether it has a removal that says whether there was anything to remove.
    const REMOVES: bool;

    /// Makes a call, within a few seconds.
    fn make(&mut self, call: &KvCall) -> impl Future<Output = Outcome<KvReply>> + Send;

    /// Everything below a prefix at one revision.
    fn scan(&mut self, prefix: &str) -> impl Future<Output = Option<(i64, KvContents)>> + Send;
}

/// One client.
pub struct Client<W> {
    /// Its number.
    pub number: u32,
    /// How it asks.
    pub way: W,
    /// Its choices.
    pub chance: Stream,
    /// Where it records.
    pub record: Arc<Record>,
    /// Under which heading.
    pub side: fn(&Record) -> &Side,
}

impl<W: Way> Client<W> {
    /// Works until it is sent home.
    pub async fn run(mut self) {
        let mut seen: BTreeMap<String, Option<Pair>> = BTreeMap::new();
        let mut serial = 0;
        while !self.record.going_home() {
            serial += 1;
            if self.chance.random_ratio(1, 10) {
                self.range().await;
            } else {
                let call = self.next_call(serial, &seen);
                let outcome = self.call(call.clone()).await;
                if let (KvCall::Get { key }, Outcome::Done(KvReply::Get { pair, .. })) = (&call, &outcome) {
                    seen.insert(key.clone(), pair.clone());
                }
            }
            let think_ms = self.chance.random_range(THINK_MS.0..=THINK_MS.1);
            tokio::time::sleep(Duration::from_millis(think_ms)).await;
        }
    }

    fn set(&self) -> String {
        format!("{}{:04}/", W::PREFIX, self.record.began_ms() / SET_MS)
    }

    fn next_call(&mut self, serial: u64, seen: &BTreeMap<String, Option<Pair>>) -> KvCall {
        let set = self.set();
        let value = |part: &str| format!("{}.{serial}{part}", self.number);
        if self.chance.random_ratio(1, 3) {
            let key = format!("{set}s{}", self.chance.random_range(0..SOLO_KEYS));
            return match self.chance.random_range(0..10) {
                0..5 => KvCall::Get { key },
                5 if W::REMOVES => KvCall::Delete { key },
                _ => KvCall::Put { key, value: value("") },
            };
        }
        let mut key = || format!("{set}{}", self.chance.random_range(0..JOINT_KEYS));
        let (one, other) = (key(), key());
        let known = seen.get(&one).cloned().flatten();
        match (self.chance.random_range(0..100), known) {
            (0..30, _) => KvCall::Put { key: one, value: value("") },
            (30..60, _) => KvCall::Get { key: one },
            (60..70, _) if W::REMOVES => KvCall::Delete { key: one },
            // A transaction that removes what is not there leaves the revision as it is.
            (60..70, Some(pair)) => KvCall::Txn {
                compares: vec![Compare::ModRevision(one.clone(), pair.mod_revision)],
                writes: vec![Write::Delete(one)],
            },
            (kind, known) => {
                let compare = match known {
                    Some(pair) if kind % 2 == 0 => Compare::ModRevision(one.clone(), pair.mod_revision),
                    Some(pair) => Compare::Value(one.clone(), pair.value),
                    None => Compare::Absent(one.clone()),
                };
                let mut writes = vec![Write::Put(one.clone(), value("x"))];
                if other != one {
                    let second = Write::Put(other.clone(), value("y"));
                    writes.push(if kind % 3 == 0 { Write::Delete(other) } else { second });
                }
                KvCall::Txn { compares: vec![compare], writes }
            }
        }
    }

    async fn call(&mut self, call: KvCall) -> Outcome<KvReply> {
        let side = (self.side)(&self.record);
        let id = self.record.invoke(side, self.number, call.clone());
        let outcome = self.way.make(&call).await;
        self.record.finish(side, id, outcome.clone());
        outcome
    }

    /// All keys of the set at one revision: as many reads as there are keys, which say the same revision.
    async fn range(&mut self) {
        let (set, side) = (self.set(), (self.side)(&self.record));
        let joint = (0..JOINT_KEYS).map(|key| format!("{set}{key}"));
        let keys: Vec<String> = joint.chain((0..SOLO_KEYS).map(|key| format!("{set}s{key}"))).collect();
        let reads: Vec<_> = (1..)
            .zip(&keys)
            .map(|(part, key)| {
                self.record.invoke(side, self.number * 1_000 + part, KvCall::Get { key: key.clone() })
            })
            .collect();
        let found = self.way.scan(&set).await;
        for (id, key) in reads.into_iter().zip(&keys) {
            let outcome = match &found {
                None => Outcome::Unknown,
                Some((revision, pairs)) => {
                    Outcome::Done(KvReply::Get { revision: *revision, pair: pairs.get(key).cloned() })
                }
            };
            self.record.finish(side, id, outcome);
        }
    }

    /// Writes until it is acknowledged, now that everything works again; answers the revision.
    ///
    /// # Errors
    /// What the last try came to.
    pub async fn probe(&mut self) -> Result<i64, String> {
        let mut last = String::new();
        for serial in 0..TRIES_MAX {
            let key = format!("{}probe/{}", W::PREFIX, self.number);
            let outcome = self.call(KvCall::Put { key, value: format!("{}.{serial}", self.number) }).await;
            match outcome {
                Outcome::Done(reply) => return Ok(reply.revision()),
                other => last = format!("{other:?}"),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        Err(last)
    }

    /// Reads what is there when everybody has gone home.
    pub async fn final_scan(&mut self) -> Result<(), String> {
        for _ in 0..TRIES_MAX {
            if let Some((_, contents)) = self.way.scan(W::PREFIX).await {
                *(self.side)(&self.record).scan.lock().expect("nobody panicked") = Some(contents);
                return Ok(());
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        Err("nobody answered a scan".to_owned())
    }
}
