//! Watchers that go from zone to zone and go on where they were.
//!
//! Invariant: what arrives is recorded as it came, message by message. A watcher goes home when it has been
//! sent everything up to the last write of all, and not before.
//!
//! Not here: judging.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use etcd_client::{Client, Event, EventType, WatchOptions, WatchResponse, WatchStream};
use kvsvr::client::WatchEvent;
use rand::RngExt;
use sim::history::kv::{Change, WatchItem};
use tokio::time::{Instant, timeout, timeout_at};
use world::rng::Stream;

use crate::clients::Way;
use crate::etcd::{self, Etcd};
use crate::native::{self, Native};
use crate::record::{Record, Side};
use crate::zones::Addresses;

/// How long a watcher stays at one zone: from, to.
const STAYS_MS: (u64, u64) = (500, 5_000);
/// Pause before another zone is asked.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a watcher waits for the next message before it looks whether it has all.
const LOOK_EVERY: Duration = Duration::from_millis(500);

fn has_all(side: &Side, covered: i64) -> bool {
    let last = side.last.load(Ordering::SeqCst);
    last > 0 && last <= covered
}

/// Watches through the etcd API.
pub struct EtcdWatcher {
    /// Its place among the watchers.
    place: usize,
    clients: Vec<Client>,
    chance: Stream,
    record: Arc<Record>,
    covered: i64,
}

impl EtcdWatcher {
    /// One that can ask every zone.
    pub async fn new(addresses: &[Addresses], chance: Stream, record: Arc<Record>) -> EtcdWatcher {
        let place = record.new_watcher(&record.etcd, Etcd::PREFIX, true);
        let mut clients = Vec::new();
        for address in addresses {
            clients.push(etcd::connect(&address.etcd).await);
        }
        EtcdWatcher { place, clients, chance, record, covered: 0 }
    }

    /// Watches until it has everything.
    pub async fn run(mut self) {
        while !has_all(&self.record.etcd, self.covered) {
            let stays_ms = self.chance.random_range(STAYS_MS.0..=STAYS_MS.1);
            let until = Instant::now() + Duration::from_millis(stays_ms);
            let zone = self.chance.random_range(0..self.clients.len());
            if self.covered > 0 {
                let revision = self.covered + 1;
                self.note(|at| WatchItem::Resumed { at, revision });
            }
            // How a watch breaks off is of no interest: it goes on elsewhere.
            let _ = self.watch(zone, until).await;
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn note(&self, item: impl FnOnce(sim::history::Moment) -> WatchItem) {
        self.record.watched(&self.record.etcd, self.place, item);
    }

    async fn watch(&mut self, zone: usize, until: Instant) -> Option<()> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(self.covered + 1)
            .with_progress_notify()
            .with_prev_key();
        let opening = self.clients[zone].watch(Etcd::PREFIX, Some(options));
        let mut stream: WatchStream = timeout_at(until, opening).await.ok()?.ok()?;
        while !has_all(&self.record.etcd, self.covered) {
            let response = timeout_at(until, stream.message()).await.ok()?.ok()??;
            assert_eq!(response.compact_revision(), 0, "nothing is compacted here");
            if response.canceled() {
                return None;
            }
            self.take(&response);
        }
        Some(())
    }

    fn take(&mut self, response: &WatchResponse) {
        if response.created() && response.events().is_empty() {
            return;
        }
        if response.events().is_empty() {
            let revision = etcd::revision(response.header());
            self.note(|at| WatchItem::Progress { at, revision });
            self.covered = revision.max(self.covered);
            return;
        }
        let events: Vec<Change> = response.events().iter().filter_map(change).collect();
        let newest = events.iter().map(|event| event.revision).max();
        self.note(|at| WatchItem::Events { at, events });
        self.covered = newest.unwrap_or(0).max(self.covered);
    }
}

fn change(event: &Event) -> Option<Change> {
    let pair = event.kv()?;
    Some(Change {
        key: etcd::text(pair.key()),
        revision: pair.mod_revision(),
        pair: (event.event_type() == EventType::Put).then(|| etcd::pair_of(pair)),
        before: event.prev_kv().map(etcd::pair_of),
    })
}

/// Watches through our own client, which goes on at other zones by itself.
pub async fn native(addresses: Vec<Addresses>, nearest: usize, record: Arc<Record>) {
    let side = &record.native;
    let place = record.new_watcher(side, Native::PREFIX, false);
    let mut watcher = native::connect(&addresses, nearest).watch(Native::PREFIX.as_bytes(), Some(1));
    let mut covered = 0;
    while !has_all(side, covered) {
        // It may have been sent everything before it is known what everything is.
        let Ok(batch) = timeout(LOOK_EVERY, watcher.next()).await else { continue };
        let batch = batch.expect("nothing is compacted here");
        let newest = batch.events.iter().map(WatchEvent::revision).max().unwrap_or(0);
        let events = batch.events.into_iter().map(native_change).collect();
        record.watched(side, place, |at| WatchItem::Events { at, events });
        if batch.through > newest {
            record.watched(side, place, |at| WatchItem::Progress { at, revision: batch.through });
        }
        covered = batch.through;
    }
}

fn native_change(event: WatchEvent) -> Change {
    let (key, revision) = (etcd::text(event.key()), event.revision());
    let pair = match &event {
        WatchEvent::Put(pair) => Some(native::pair_of(pair)),
        WatchEvent::Delete { .. } => None,
    };
    Change { key, revision, pair, before: None }
}
