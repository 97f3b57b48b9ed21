//! One node's way to the store, for tests: late, lossy, counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kvsvr::api::{
    Compare, ControlOp, DataKey, IngestOutcome, KeyValue, Kv, KvError, RangePage, TxnOutcome, Unit,
    UnitOutcome,
};
use kvsvr::testing::LocalKv;
use ticket::control::{CLAIM_PREFIX, EVENT_KEY};

use crate::testkit::eventually;

/// One node's way to the store: delays and loses answers by a seed, and counts the node's ticks.
pub(super) struct Way {
    pub(super) kv: Arc<LocalKv>,
    pub(super) state: AtomicU64,
    pub(super) lossy: bool,
    pub(super) takes_claims: AtomicBool,
    pub(super) ticks: AtomicUsize,
}

impl Way {
    pub(super) fn new(kv: &Arc<LocalKv>, seed: u64, lossy: bool) -> Arc<Way> {
        let state = AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Arc::new(Way {
            kv: Arc::clone(kv),
            state,
            lossy,
            takes_claims: AtomicBool::new(true),
            ticks: AtomicUsize::new(0),
        })
    }

    /// The next draw below `bound` (a linear congruence is chance enough here).
    pub(super) fn draw(&self, bound: u64) -> u64 {
        let next = |state: u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        let state = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).expect("some");
        (state >> 33) % bound
    }

    pub(super) async fn hop(&self) {
        if self.lossy {
            tokio::time::sleep(Duration::from_micros(self.draw(800))).await;
        }
    }

    /// Waits until the node has looked at the store a few times more.
    pub(super) async fn ticks_more(&self) {
        let until = self.ticks.load(Ordering::SeqCst) + 4;
        eventually("a node ticks", || until <= self.ticks.load(Ordering::SeqCst)).await;
    }
}

#[async_trait]
impl Kv for Way {
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, KvError> {
        if key == EVENT_KEY.as_bytes() {
            self.ticks.fetch_add(1, Ordering::SeqCst);
        }
        self.hop().await;
        self.kv.get(key).await
    }

    async fn range(&self, prefix: &[u8]) -> Result<RangePage, KvError> {
        self.hop().await;
        self.kv.range(prefix).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<ControlOp>) -> Result<TxnOutcome, KvError> {
        self.hop().await;
        let claims = |write: &ControlOp| matches!(write, ControlOp::Put(key, _) if key.starts_with(CLAIM_PREFIX.as_bytes()));
        if !self.takes_claims.load(Ordering::SeqCst) && writes.iter().any(claims) {
            return Err(KvError::Unavailable("no claims here".into()));
        }
        if self.lossy && self.draw(4) == 0 {
            return Err(KvError::Unavailable("lost on its way there".into()));
        }
        let outcome = self.kv.txn(compares, writes).await;
        self.hop().await;
        if self.lossy && self.draw(4) == 0 {
            return Err(KvError::Unknown("lost on its way back".into()));
        }
        outcome
    }

    async fn write(&self, units: Vec<Unit>) -> Vec<Result<UnitOutcome, KvError>> {
        self.kv.write(units).await
    }

    async fn ingest(&self, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError> {
        self.kv.ingest(pairs).await
    }

    async fn read(&self, keys: Vec<DataKey>) -> Result<Vec<Option<Bytes>>, KvError> {
        self.kv.read(keys).await
    }

    fn data_groups(&self) -> u32 {
        self.kv.data_groups()
    }

    async fn scan(
        &self,
        group: u32,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, KvError> {
        self.kv.scan(group, prefix, after, limit).await
    }
}
