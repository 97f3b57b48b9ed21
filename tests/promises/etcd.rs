//! The etcd API through the `etcd-client` crate, which others wrote: one zone's endpoint and no other.
//!
//! Invariant: an error means that it is not known what happened, unless the call only read.
//!
//! Not here: watches and leases (watchers.rs, leases.rs).

use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, Error, GetOptions, KeyValue, ResponseHeader, Txn, TxnOp, TxnOpResponse,
};
use sim::history::Outcome;
use sim::history::kv::{Compare, KvCall, KvContents, KvReply, Pair, Write};
use tokio::time::timeout;

use crate::clients::Way;

/// How long a client waits for an answer.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(2_500);

/// See the module.
pub struct Etcd(pub Client);

/// A client of one endpoint, which dials again by itself.
pub async fn connect(endpoint: &str) -> Client {
    let options = ConnectOptions::new()
        .with_connect_timeout(Duration::from_millis(500))
        .with_keep_alive(Duration::from_millis(500), Duration::from_millis(700))
        .with_keep_alive_while_idle(true);
    Client::connect([endpoint], Some(options)).await.expect("nothing is dialled yet")
}

impl Way for Etcd {
    const PREFIX: &'static str = "e/";
    const REMOVES: bool = true;

    async fn make(&mut self, call: &KvCall) -> Outcome<KvReply> {
        match timeout(ANSWER_WITHIN, ask(&mut self.0, call)).await {
            Ok(Ok(reply)) => Outcome::Done(reply),
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        }
    }

    async fn scan(&mut self, prefix: &str) -> Option<(i64, KvContents)> {
        let answer = timeout(ANSWER_WITHIN, self.0.get(prefix, Some(GetOptions::new().with_prefix()))).await;
        let answer = answer.ok()?.ok()?;
        let pairs = answer.kvs().iter().map(|pair| (text(pair.key()), pair_of(pair))).collect();
        Some((revision(answer.header()), pairs))
    }
}

async fn ask(client: &mut Client, call: &KvCall) -> Result<KvReply, Error> {
    Ok(match call {
        KvCall::Put { key, value } => {
            let answer = client.put(key.as_str(), value.as_str(), None).await?;
            KvReply::Put { revision: revision(answer.header()) }
        }
        KvCall::Get { key } => {
            let answer = client.get(key.as_str(), None).await?;
            let pair = answer.kvs().first().map(pair_of);
            KvReply::Get { revision: revision(answer.header()), pair }
        }
        KvCall::Delete { key } => {
            let answer = client.delete(key.as_str(), None).await?;
            KvReply::Delete { revision: revision(answer.header()), deleted: answer.deleted() > 0 }
        }
        KvCall::Txn { compares, writes } => {
            let reads: Vec<TxnOp> =
                compares.iter().map(|compare| TxnOp::get(key_of(compare), None)).collect();
            let txn = Txn::new()
                .when(compares.iter().map(compare_of).collect::<Vec<_>>())
                .and_then(writes.iter().map(write_of).collect::<Vec<_>>())
                .or_else(reads);
            let answer = client.txn(txn).await?;
            let found = answer.op_responses().into_iter().filter_map(|response| match response {
                TxnOpResponse::Get(read) => Some(read.kvs().first().map(pair_of)),
                _ => None,
            });
            let (revision, succeeded) = (revision(answer.header()), answer.succeeded());
            KvReply::Txn { revision, succeeded, found: found.collect() }
        }
    })
}

fn key_of(compare: &Compare) -> &str {
    match compare {
        Compare::Absent(key) | Compare::ModRevision(key, _) | Compare::Value(key, _) => key,
    }
}

fn compare_of(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::{Compare as Theirs, CompareOp::Equal};
    match compare {
        Compare::Absent(key) => Theirs::create_revision(key.as_str(), Equal, 0),
        Compare::ModRevision(key, revision) => Theirs::mod_revision(key.as_str(), Equal, *revision),
        Compare::Value(key, value) => Theirs::value(key.as_str(), Equal, value.as_str()),
    }
}

fn write_of(write: &Write) -> TxnOp {
    match write {
        Write::Put(key, value) => TxnOp::put(key.as_str(), value.as_str(), None),
        Write::Delete(key) => TxnOp::delete(key.as_str(), None),
    }
}

/// The revision of an answer.
pub fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

/// Bytes of ours.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A pair as the oracles want it.
pub fn pair_of(pair: &KeyValue) -> Pair {
    Pair {
        value: text(pair.value()),
        create_revision: pair.create_revision(),
        mod_revision: pair.mod_revision(),
        version: pair.version(),
    }
}
