//! Clients of etcd's API that record every call: puts, reads, ranges, removals and transactions on a
//! few shared keys, each through one zone's endpoint and no other.
//!
//! Invariant: as in `kv`: a call is recorded before it leaves; every written value is unique in the run.
//! An error means that it is not known what happened, unless the call only read.
//!
//! Not here: watches and leases (watch.rs, lease.rs), and judging.

pub mod lease;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvsvr::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::request_op::Request as Wanted;
use kvsvr::wire::etcdserverpb::response_op::Response as Got;
use kvsvr::wire::etcdserverpb::{
    self as pb, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp, ResponseHeader,
    TxnRequest, TxnResponse,
};
use kvsvr::wire::mvccpb;
use rand::RngExt;
use tonic::Status;
use tonic::transport::Channel;
use world::NodeId;
use world::rng::Stream;

use super::calls::{Calls, Removals};
use crate::board::Board;
use crate::history::kv::{Compare, KvCall, KvContents, KvReply, Pair, Write};
use crate::history::{OpId, Outcome};
use crate::oracle::i10_convergence::Probe;

/// Where these clients write; nothing else does.
pub const PREFIX: &str = "e/";
/// How long a client waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(2_500);
/// Pause before a probe or a scan is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// How often a zone is probed before it is said not to serve.
const PROBES_MAX: u32 = 40;

/// One client.
pub struct EtcdClient {
    /// Its number.
    pub number: u32,
    /// Whom it asks.
    pub node: NodeId,
    /// The way there.
    pub channel: Channel,
    /// Keys that are shared.
    pub keys: u32,
    /// Its choices.
    pub chance: Stream,
    /// Where it records.
    pub board: Arc<Board>,
}

impl EtcdClient {
    /// Works until it is sent home, and then probes its zone.
    pub async fn run(mut self) {
        let mut calls = Calls::new(PREFIX, format!("e{}", self.number), self.keys, Removals::Plain);
        while !self.board.going_home() {
            if self.chance.random_ratio(1, 8) {
                self.range().await;
            } else {
                let call = calls.next(&mut self.chance);
                let outcome = self.record(call.clone()).await;
                calls.saw(&call, &outcome);
            }
            let think_ms = self.chance.random_range(80..900);
            tokio::time::sleep(Duration::from_millis(think_ms)).await;
        }
        self.probe().await;
    }

    /// Whether the zone serves when everything works again.
    async fn probe(&self) {
        let mut failure = Some("nothing".to_owned());
        for number in 0..PROBES_MAX {
            let call = KvCall::Put {
                key: format!("{PREFIX}{}", self.node),
                value: format!("probe.{}.{number}", self.number),
            };
            match self.record(call).await {
                Outcome::Done(_) => {
                    failure = None;
                    break;
                }
                Outcome::Refused(reason) => failure = Some(reason),
                Outcome::Unknown => failure = Some("no answer".to_owned()),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
        let probe = Probe { zone: self.node.zone(), what: "a put through etcd's API".to_owned(), failure };
        self.board.probes.lock().push(probe);
    }

    async fn record(&self, call: KvCall) -> Outcome<KvReply> {
        let id = self.invoke(self.number, call.clone());
        let outcome = match tokio::time::timeout(ANSWER_WITHIN, make(self.channel.clone(), &call)).await {
            Ok(Ok(reply)) => Outcome::Done(reply),
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        };
        tracing::info!(target: "sim::etcd", client = self.number, node = %self.node, op = id.0, ?call, ?outcome);
        self.finish(id, outcome.clone());
        outcome
    }

    fn invoke(&self, client: u32, call: KvCall) -> OpId {
        self.board.etcd.lock().0.invoke(self.board.moment(), client, Some(self.node), call)
    }

    fn finish(&self, id: OpId, outcome: Outcome<KvReply>) {
        self.board.etcd.lock().0.finish(self.board.moment(), id, outcome);
    }

    /// All keys at one revision: as many reads as there are keys, which say the same revision.
    async fn range(&self) {
        let keys: Vec<String> = (0..self.keys).map(|key| format!("{PREFIX}{key}")).collect();
        let reads: Vec<OpId> = (1..)
            .zip(&keys)
            .map(|(part, key)| self.invoke(self.number * 1_000 + part, KvCall::Get { key: key.clone() }))
            .collect();
        let answer = tokio::time::timeout(ANSWER_WITHIN, scan(self.channel.clone(), PREFIX)).await;
        let found = answer.ok().and_then(Result::ok);
        tracing::info!(target: "sim::etcd", client = self.number, node = %self.node, ?found, "range");
        for (id, key) in reads.into_iter().zip(&keys) {
            let outcome = match &found {
                None => Outcome::Unknown,
                Some((revision, pairs)) => {
                    Outcome::Done(KvReply::Get { revision: *revision, pair: pairs.get(key).cloned() })
                }
            };
            self.finish(id, outcome);
        }
    }
}

/// Reads what is there when everybody has gone home, through whoever answers first.
pub async fn final_scan(channels: &[Channel], board: &Board) {
    for channel in channels.iter().cycle() {
        let answer = tokio::time::timeout(ANSWER_WITHIN, scan(channel.clone(), PREFIX)).await;
        if let Ok(Ok((revision, contents))) = answer {
            tracing::info!(target: "sim::etcd", revision, ?contents, "final scan");
            board.etcd.lock().1 = Some(contents);
            return;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Everything below a prefix, at one revision.
async fn scan(channel: Channel, prefix: &str) -> Result<(i64, KvContents), Status> {
    let range_end = after(prefix);
    let request = RangeRequest { key: bytes(prefix), range_end, ..RangeRequest::default() };
    let response = KvClient::new(channel).range(request).await?.into_inner();
    let pairs = response.kvs.iter().map(|pair| (text(&pair.key), pair_of(pair))).collect();
    Ok((revision(&response.header), pairs))
}

async fn make(channel: Channel, call: &KvCall) -> Result<KvReply, Status> {
    let mut kv = KvClient::new(channel);
    Ok(match call {
        KvCall::Put { key, value } => {
            let request = PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() };
            KvReply::Put { revision: revision(&kv.put(request).await?.into_inner().header) }
        }
        KvCall::Get { key } => {
            let response = kv.range(one(key)).await?.into_inner();
            KvReply::Get { revision: revision(&response.header), pair: found(&response) }
        }
        KvCall::Delete { key } => {
            let request = DeleteRangeRequest { key: bytes(key), ..DeleteRangeRequest::default() };
            let response = kv.delete_range(request).await?.into_inner();
            KvReply::Delete { revision: revision(&response.header), deleted: response.deleted > 0 }
        }
        KvCall::Txn { compares, writes } => {
            let op = |request| RequestOp { request: Some(request) };
            let reads = compares.iter().map(|compare| op(Wanted::RequestRange(one(key_of(compare)))));
            let request = TxnRequest {
                compare: compares.iter().map(compare_of).collect(),
                success: writes.iter().map(|write| op(write_of(write))).collect(),
                failure: reads.collect(),
            };
            txn_reply(kv.txn(request).await?.into_inner())
        }
    })
}

fn txn_reply(response: TxnResponse) -> KvReply {
    let reads = response.responses.iter().filter_map(|response| match &response.response {
        Some(Got::ResponseRange(range)) => Some(found(range)),
        _ => None,
    });
    let revision = revision(&response.header);
    KvReply::Txn { revision, succeeded: response.succeeded, found: reads.collect() }
}

fn found(response: &RangeResponse) -> Option<Pair> {
    response.kvs.first().map(pair_of)
}

fn one(key: &str) -> RangeRequest {
    RangeRequest { key: bytes(key), ..RangeRequest::default() }
}

fn key_of(compare: &Compare) -> &str {
    match compare {
        Compare::Absent(key) | Compare::ModRevision(key, _) | Compare::Value(key, _) => key,
    }
}

fn compare_of(compare: &Compare) -> pb::Compare {
    let (target, union) = match compare {
        Compare::Absent(_) => (CompareTarget::Create, TargetUnion::CreateRevision(0)),
        Compare::ModRevision(_, revision) => (CompareTarget::Mod, TargetUnion::ModRevision(*revision)),
        Compare::Value(_, value) => (CompareTarget::Value, TargetUnion::Value(bytes(value))),
    };
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: target as i32,
        key: bytes(key_of(compare)),
        target_union: Some(union),
        ..pb::Compare::default()
    }
}

fn write_of(write: &Write) -> Wanted {
    match write {
        Write::Put(key, value) => {
            Wanted::RequestPut(PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() })
        }
        Write::Delete(key) => Wanted::RequestDeleteRange(DeleteRangeRequest {
            key: bytes(key),
            ..DeleteRangeRequest::default()
        }),
    }
}

fn revision(header: &Option<ResponseHeader>) -> i64 {
    header.as_ref().map_or(0, |header| header.revision)
}

/// The end of a prefix's range.
fn after(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix of something") += 1;
    end.into()
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn pair_of(pair: &mvccpb::KeyValue) -> Pair {
    Pair {
        value: text(&pair.value),
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
    }
}
