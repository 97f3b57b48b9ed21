//! Our own client, on the cluster's own keys: it follows leaders and says what surely was not done.
//!
//! Invariant: `Refused` is recorded only where the client promises that nothing was done.
//!
//! Not here: its watch (watchers.rs).

use std::sync::Arc;
use std::time::Duration;

use kvsvr::api::{self, ControlOp, KeyValue, Kv, KvError};
use kvsvr::client::{Client, ClientConfig};
use sim::history::Outcome;
use sim::history::kv::{Compare, KvCall, KvContents, KvReply, Pair, Write};
use world::net::TcpNet;

use crate::clients::Way;
use crate::etcd::text;
use crate::zones::{Addresses, NODES};

/// How long one call may take.
const DEADLINE: Duration = Duration::from_millis(2_500);

/// See the module.
pub struct Native(pub Arc<Client>);

/// A client to which the zone at place `nearest` is the nearest.
pub fn connect(addresses: &[Addresses], nearest: usize) -> Arc<Client> {
    let endpoint = |zone: usize| (NODES[zone].parse().expect("a node's name"), addresses[zone].peers.clone());
    let endpoints = (0..addresses.len()).map(|step| endpoint((nearest + step) % addresses.len())).collect();
    let config = ClientConfig { deadline: DEADLINE, ..ClientConfig::new(endpoints, 2) };
    Arc::new(Client::new(Arc::new(TcpNet), config))
}

impl Way for Native {
    const PREFIX: &'static str = "test/";
    const REMOVES: bool = false;

    async fn make(&mut self, call: &KvCall) -> Outcome<KvReply> {
        match ask(&self.0, call).await {
            Ok(reply) => Outcome::Done(reply),
            Err(KvError::Refused(reason) | KvError::Unavailable(reason)) => Outcome::Refused(reason),
            Err(KvError::Unknown(_)) => Outcome::Unknown,
        }
    }

    async fn scan(&mut self, prefix: &str) -> Option<(i64, KvContents)> {
        let page = self.0.range(prefix.as_bytes()).await.ok()?;
        Some((page.revision, page.pairs.iter().map(|pair| (text(&pair.key), pair_of(pair))).collect()))
    }
}

async fn ask(client: &Client, call: &KvCall) -> Result<KvReply, KvError> {
    match call {
        KvCall::Put { key, value } => {
            let revision = client.put(key.as_bytes(), value.as_bytes()).await?;
            Ok(KvReply::Put { revision })
        }
        KvCall::Get { key } => {
            let page = client.range(key.as_bytes()).await?;
            let pair = page.pairs.iter().find(|pair| pair.key == key.as_bytes()).map(pair_of);
            Ok(KvReply::Get { revision: page.revision, pair })
        }
        KvCall::Delete { .. } => Err(KvError::Refused("made as a transaction".to_owned())),
        KvCall::Txn { compares, writes } => {
            let compares = compares.iter().map(compare_of).collect();
            let outcome = client.txn(compares, writes.iter().map(write_of).collect()).await?;
            let found = outcome.found.iter().map(|pair| pair.as_ref().map(pair_of)).collect();
            Ok(KvReply::Txn { revision: outcome.revision, succeeded: outcome.succeeded, found })
        }
    }
}

fn compare_of(compare: &Compare) -> api::Compare {
    match compare.clone() {
        Compare::Absent(key) => api::Compare::Absent(key.into()),
        Compare::ModRevision(key, revision) => api::Compare::ModRevision(key.into(), revision),
        Compare::Value(key, value) => api::Compare::Value(key.into(), value.into()),
    }
}

fn write_of(write: &Write) -> ControlOp {
    match write.clone() {
        Write::Put(key, value) => ControlOp::Put(key.into(), value.into()),
        Write::Delete(key) => ControlOp::Delete(key.into()),
    }
}

/// A pair as the oracles want it.
pub fn pair_of(pair: &KeyValue) -> Pair {
    Pair {
        value: text(&pair.value),
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
    }
}
