//! Clients of the control group that record every call: puts, reads, removals and transactions on
//! a few shared keys.
//!
//! Invariant: an operation is recorded before it leaves and once its outcome is certain; every
//! written value is unique in the run, so a read says which write it saw. A client whose device fails
//! drops what is under way, which stays unknown, and forgets what it has read.
//!
//! Not here: judging the history (oracle/).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::demo::trouble::Luck;
use kvsvr::api::{self, ControlOp, KeyValue, Kv, KvError};
use rand::RngExt;
use world::NodeId;
use world::rng::Stream;

use super::calls::{Calls, Removals};
use crate::board::Board;
use crate::history::Outcome;
use crate::history::kv::{Compare, KvCall, KvContents, KvReply, Pair, Write};

/// Where these clients write; nothing else does.
pub const PREFIX: &str = "sim/";
/// Pause before a final scan that found nobody is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// One client.
pub struct KvClient {
    /// Its number.
    pub number: u32,
    /// The one node it asks; `None` when it follows leaders.
    pub asks: Option<NodeId>,
    /// Keys that are shared.
    pub keys: u32,
    /// Pauses between operations: from, to.
    pub think_ms: (u64, u64),
    /// The KV, through a client of its own.
    pub kv: Arc<dyn Kv>,
    /// Its choices.
    pub chance: Stream,
    /// Whether its device fails.
    pub luck: Luck,
    /// Where it records.
    pub board: Arc<Board>,
}

impl KvClient {
    /// Works until it is sent home.
    pub async fn run(mut self) {
        let mut calls = Calls::new(PREFIX, self.number.to_string(), self.keys, Removals::Conditional);
        while !self.board.going_home() {
            let call = calls.next(&mut self.chance);
            let id = self.board.kv.lock().0.invoke(self.board.moment(), self.number, self.asks, call.clone());
            let outcome = tokio::select! {
                biased;
                () = self.luck.runs_out() => {
                    self.board.happened("clients-failed");
                    calls.forget();
                    Outcome::Unknown
                }
                answer = make(&*self.kv, &call) => outcome_of(answer),
            };
            calls.saw(&call, &outcome);
            tracing::info!(target: "sim::kv", client = self.number, op = id.0, ?call, ?outcome);
            self.board.kv.lock().0.finish(self.board.moment(), id, outcome);
            let think_ms = self.chance.random_range(self.think_ms.0..=self.think_ms.1);
            tokio::time::sleep(Duration::from_millis(think_ms)).await;
        }
    }
}

async fn make(kv: &dyn Kv, call: &KvCall) -> Result<KvReply, KvError> {
    match call {
        KvCall::Put { key, value } => {
            let revision = kv.put(key.as_bytes(), value.as_bytes()).await?;
            Ok(KvReply::Put { revision })
        }
        KvCall::Get { key } => {
            let page = kv.range(key.as_bytes()).await?;
            let pair = page.pairs.iter().find(|pair| pair.key == key.as_bytes()).map(pair_of);
            Ok(KvReply::Get { revision: page.revision, pair })
        }
        // The client has no plain removal: it is a transaction without conditions.
        KvCall::Delete { .. } => Err(KvError::Refused("made as a transaction".to_owned())),
        KvCall::Txn { compares, writes } => {
            let compares = compares.iter().map(compare_of).collect();
            let outcome = kv.txn(compares, writes.iter().map(write_of).collect()).await?;
            let found = outcome.found.iter().map(|pair| pair.as_ref().map(pair_of)).collect();
            Ok(KvReply::Txn { revision: outcome.revision, succeeded: outcome.succeeded, found })
        }
    }
}

/// Reads what is there when everybody has gone home. Repeats until somebody answers.
pub async fn final_scan(kv: &dyn Kv, board: &Board) {
    loop {
        if let Ok(page) = kv.range(PREFIX.as_bytes()).await {
            let pairs = page.pairs.iter();
            let contents: KvContents = pairs.map(|pair| (text(&pair.key), pair_of(pair))).collect();
            tracing::info!(target: "sim::kv", revision = page.revision, ?contents, "final scan");
            board.kv.lock().1 = Some(contents);
            return;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

fn outcome_of(answer: Result<KvReply, KvError>) -> Outcome<KvReply> {
    match answer {
        Ok(reply) => Outcome::Done(reply),
        Err(KvError::Refused(reason) | KvError::Unavailable(reason)) => Outcome::Refused(reason),
        Err(KvError::Unknown(_)) => Outcome::Unknown,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pair_of(pair: &KeyValue) -> Pair {
    Pair {
        value: text(&pair.value),
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
    }
}

fn compare_of(compare: &Compare) -> api::Compare {
    let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
    match compare {
        Compare::Absent(key) => api::Compare::Absent(bytes(key)),
        Compare::ModRevision(key, revision) => api::Compare::ModRevision(bytes(key), *revision),
        Compare::Value(key, value) => api::Compare::Value(bytes(key), bytes(value)),
    }
}

fn write_of(write: &Write) -> ControlOp {
    let bytes = |text: &String| Bytes::copy_from_slice(text.as_bytes());
    match write {
        Write::Put(key, value) => ControlOp::Put(bytes(key), bytes(value)),
        Write::Delete(key) => ControlOp::Delete(bytes(key)),
    }
}
