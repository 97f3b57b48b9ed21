//! The KV over the network: finds each group's leader, asks again while that is safe, and says
//! plainly when it does not know.
//!
//! ```text
//!   ask the node last known to lead --answer--> done
//!       | not the leader, it is b1      -> ask b1
//!       | no connection, nobody leads   -> ask the next node; pause after a full round
//!       | a write that may have arrived -> Unknown, at once
//!       | deadline                      -> Unavailable when surely not done, else Unknown
//! ```
//! Invariant: a write is sent a second time only when the first one surely was not done. So no
//! write of one call happens twice, and none is called failed that may have happened.
//!
//! Not here: repeating a write whose outcome is unknown. Only the caller knows whether that is
//! harmless.

mod attempt;
#[cfg(all(test, feature = "server"))]
mod client_test;
mod ingest;
mod stream;
mod watch;

pub use stream::KvStream;
pub use watch::{WatchBatch, WatchEnd, WatchEvent, Watcher};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use prost::Message;
use world::NodeId;
use world::net::Net;

use self::attempt::{Effect, Router};
use crate::api::{
    Compare, ControlOp, DataKey, IngestOutcome, KeyValue, Kv, KvError, RangePage, TxnOutcome, Unit,
    UnitOutcome,
};
use crate::limits::{
    BATCH_GET_KEYS_MAX, CALL_DEADLINE, SCAN_PAGE_BYTES_MAX, SCAN_PAIRS_MAX, WRITE_UNITS_MAX,
};
use crate::peers::Peers;
use crate::route::data_group;
use crate::translate::{self, malformed};
use crate::wire::etcdserverpb::RangeRequest;
use crate::wire::native::{BatchGetRequest, ScanRequest, Unit as WireUnit, WriteRequest};

// How leaders are remembered: the system group, then the data groups.
const SYSTEM_GROUP: u32 = 0;

/// What a client must know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Every node of the KV and its peer address (`host:port`), the nearest first.
    pub endpoints: Vec<(NodeId, String)>,
    /// How many data groups the cluster has. Fixed for its life.
    pub data_groups: u32,
    /// How long one call may take in all.
    pub deadline: Duration,
}

impl ClientConfig {
    /// With the usual deadline.
    #[must_use]
    pub fn new(endpoints: Vec<(NodeId, String)>, data_groups: u32) -> ClientConfig {
        ClientConfig { endpoints, data_groups, deadline: CALL_DEADLINE }
    }
}

/// Trait [`Kv`] over the native service.
pub struct Client {
    router: Router,
    data_groups: u32,
}

impl Client {
    /// A client that dials when first used.
    ///
    /// # Panics
    /// When there is no endpoint or no data group: a configuration without them is refused earlier.
    #[must_use]
    pub fn new(net: Arc<dyn Net>, config: ClientConfig) -> Client {
        assert!(!config.endpoints.is_empty(), "a client knows at least one node");
        assert!(config.data_groups > 0, "a cluster has at least one data group");
        let order = config.endpoints.iter().map(|(node, _)| *node).collect();
        let peers = Arc::new(Peers::new(net, config.endpoints));
        Client { router: Router::new(peers, order, config.deadline), data_groups: config.data_groups }
    }

    /// Watches the control records whose key begins with `prefix`: from revision `from` on (`None`:
    /// from now on), at whatever member answers, the nearest first.
    #[must_use]
    pub fn watch(&self, prefix: &[u8], from: Option<i64>) -> Watcher {
        let range = translate::prefix_request(prefix);
        let (peers, order) = self.router.members();
        Watcher::new(peers, order, (range.key, range.range_end), from)
    }

    async fn control_range(&self, request: RangeRequest) -> Result<RangePage, KvError> {
        let response = self.router.call(SYSTEM_GROUP, Effect::Read, |mut client, patience| {
            let request = attempt::with_deadline(request.clone(), patience);
            async move { client.control_range(request).await }
        });
        translate::range_page(response.await?).map_err(KvError::Unavailable)
    }

    // One proposal, unless the units exceed what one may carry.
    async fn write_group(&self, group: u32, units: Vec<WireUnit>) -> Vec<Result<UnitOutcome, KvError>> {
        let mut outcomes = Vec::with_capacity(units.len());
        let mut rest = units.into_iter().peekable();
        while rest.peek().is_some() {
            let mut batch = Vec::new();
            let mut batch_bytes = 0;
            while let Some(unit) = rest.next_if(|unit| {
                let fits =
                    batch_bytes + unit.encoded_len() <= SCAN_PAGE_BYTES_MAX && batch.len() < WRITE_UNITS_MAX;
                batch.is_empty() || fits
            }) {
                batch_bytes += unit.encoded_len();
                batch.push(unit);
            }
            outcomes.extend(self.write_batch(group, batch).await);
        }
        outcomes
    }

    async fn write_batch(&self, group: u32, units: Vec<WireUnit>) -> Vec<Result<UnitOutcome, KvError>> {
        let count = units.len();
        let request = WriteRequest { group, units };
        let response = self.router.call(group + 1, Effect::Write, |mut client, patience| {
            let request = attempt::with_deadline(request.clone(), patience);
            async move { client.write(request).await }
        });
        match response.await {
            Ok(response) if response.replies.len() == count => {
                response.replies.into_iter().map(translate::unit_outcome).collect()
            }
            Ok(_) => vec![Err(KvError::Unknown(malformed("another number of outcomes than units"))); count],
            Err(error) => vec![Err(error); count],
        }
    }

    async fn read_group(&self, group: u32, keys: Vec<Bytes>) -> Result<Vec<Option<Bytes>>, KvError> {
        let mut values: Vec<Option<Bytes>> = Vec::with_capacity(keys.len());
        // A server may answer fewer than asked when they are large; every answer brings at least one.
        while values.len() < keys.len() {
            let rest = &keys[values.len()..];
            let asked = rest.len().min(BATCH_GET_KEYS_MAX);
            let request = BatchGetRequest { group, keys: rest[..asked].to_vec() };
            let response = self.router.call(group + 1, Effect::Read, |mut client, patience| {
                let request = attempt::with_deadline(request.clone(), patience);
                async move { client.batch_get(request).await }
            });
            let page = response.await?.values;
            if page.is_empty() || page.len() > asked {
                return Err(KvError::Unavailable(malformed("another number of values than keys")));
            }
            values.extend(page.into_iter().map(|value| value.value));
        }
        assert!(values.len() == keys.len(), "every key is answered");
        Ok(values)
    }

    // Numbers of the items, by the group of their partition.
    fn by_group<'p>(&self, partitions: impl Iterator<Item = &'p Bytes>) -> BTreeMap<u32, Vec<usize>> {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (number, partition) in partitions.enumerate() {
            groups.entry(data_group(partition, self.data_groups)).or_default().push(number);
        }
        groups
    }
}

#[async_trait]
impl Kv for Client {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, KvError> {
        let page = self.control_range(translate::get_request(key)).await?;
        Ok(page.pairs.into_iter().next())
    }

    async fn range(&self, prefix: &[u8]) -> Result<RangePage, KvError> {
        self.control_range(translate::prefix_request(prefix)).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<ControlOp>) -> Result<TxnOutcome, KvError> {
        let request = translate::txn_request(&compares, &writes);
        let effect = if writes.is_empty() { Effect::Read } else { Effect::Write };
        let response = self.router.call(SYSTEM_GROUP, effect, |mut client, patience| {
            let request = attempt::with_deadline(request.clone(), patience);
            async move { client.control_txn(request).await }
        });
        translate::txn_outcome(response.await?).map_err(KvError::Unknown)
    }

    async fn write(&self, units: Vec<Unit>) -> Vec<Result<UnitOutcome, KvError>> {
        let groups = self.by_group(units.iter().map(|unit| &unit.partition));
        let calls = groups.into_iter().map(|(group, numbers)| {
            let wire = numbers.iter().map(|number| translate::unit_to_wire(&units[*number])).collect();
            async move { (numbers, self.write_group(group, wire).await) }
        });
        let mut outcomes: Vec<Option<Result<UnitOutcome, KvError>>> = vec![None; units.len()];
        for (numbers, answers) in join_all(calls).await {
            assert!(numbers.len() == answers.len(), "every unit of a group is answered");
            for (number, answer) in numbers.into_iter().zip(answers) {
                outcomes[number] = Some(answer);
            }
        }
        outcomes.into_iter().map(|outcome| outcome.expect("every unit is in one group")).collect()
    }

    async fn ingest(&self, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError> {
        self.ingest_all(pairs).await
    }

    async fn read(&self, keys: Vec<DataKey>) -> Result<Vec<Option<Bytes>>, KvError> {
        let groups = self.by_group(keys.iter().map(|key| &key.partition));
        let calls = groups.into_iter().map(|(group, numbers)| {
            let asked = numbers.iter().map(|number| keys[*number].key.clone()).collect();
            async move { (numbers, self.read_group(group, asked).await) }
        });
        let mut values: Vec<Option<Bytes>> = vec![None; keys.len()];
        for (numbers, answers) in join_all(calls).await {
            for (number, answer) in numbers.into_iter().zip(answers?) {
                values[number] = answer;
            }
        }
        Ok(values)
    }

    fn data_groups(&self) -> u32 {
        self.data_groups
    }

    async fn scan(
        &self,
        group: u32,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        if group >= self.data_groups {
            return Err(KvError::Refused(format!("there is no data group {group}")));
        }
        let limit = u32::try_from(limit.min(SCAN_PAIRS_MAX)).expect("a page's limit is small");
        let prefix = Bytes::copy_from_slice(prefix);
        let request = ScanRequest { group, prefix, after: after.map(Bytes::copy_from_slice), limit };
        let response = self.router.call(group + 1, Effect::Read, |mut client, patience| {
            let request = attempt::with_deadline(request.clone(), patience);
            async move { client.scan(request).await }
        });
        Ok(response.await?.pairs.into_iter().map(|pair| (pair.key, pair.value)).collect())
    }
}
