//! Watchers of etcd's API that go from zone to zone and resume where they were.
//!
//! ```text
//!   watch from R at a --events--> covered C    broken off, or left on purpose
//!   watch from C+1 at b --events--> ...
//! ```
//! Invariant: what arrives is recorded as it came, message by message.
//!
//! Not here: judging (oracle/i8_watch.rs).

use std::sync::Arc;
use std::time::Duration;

use kvsvr::wire::etcdserverpb::watch_client::WatchClient;
use kvsvr::wire::etcdserverpb::watch_request::RequestUnion;
use kvsvr::wire::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use kvsvr::wire::mvccpb;
use rand::RngExt;
use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Status, Streaming};
use world::rng::Stream;

use super::{PREFIX, after, bytes, pair_of, revision, text};
use crate::board::Board;
use crate::history::kv::{Change, WatchItem, Watcher};

/// How long a watcher stays at one zone: from, to.
const STAYS_MS: (u64, u64) = (500, 6_000);
/// Pause before another zone is asked.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// One watcher.
pub struct EtcdWatcher {
    /// Its place among the watchers.
    pub number: usize,
    /// The ways to the zones.
    pub channels: Vec<Channel>,
    /// Its choices.
    pub chance: Stream,
    /// Where it records.
    pub board: Arc<Board>,
}

impl EtcdWatcher {
    /// Watches until it is sent home.
    pub async fn run(mut self) {
        let mut covered = 0;
        while !self.board.going_home() {
            let stays_ms = self.chance.random_range(STAYS_MS.0..=STAYS_MS.1);
            let until = Instant::now() + Duration::from_millis(stays_ms);
            let at = self.chance.random_range(0..self.channels.len());
            if covered > 0 {
                self.note(WatchItem::Resumed { at: self.board.moment(), revision: covered + 1 });
            }
            // How a watch breaks off is of no interest: it goes on elsewhere.
            let _ = self.at(at, &mut covered, until).await;
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    fn note(&self, item: WatchItem) {
        tracing::info!(target: "sim::etcd", watcher = self.number, ?item);
        self.board.watchers.lock()[self.number].items.push(item);
    }

    async fn at(&self, zone: usize, covered: &mut i64, until: Instant) -> Result<(), Status> {
        let create = WatchCreateRequest {
            key: bytes(PREFIX),
            range_end: after(PREFIX),
            start_revision: *covered + 1,
            progress_notify: true,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open: its end would be the end of the watch.
        let requests = futures_util::StreamExt::chain(
            futures_util::stream::iter([create]),
            futures_util::stream::pending(),
        );
        let late = |_| Status::deadline_exceeded("long enough");
        let mut watching = WatchClient::new(self.channels[zone].clone());
        let opened = timeout_at(until, watching.watch(requests)).await.map_err(late)??;
        let mut responses: Streaming<WatchResponse> = opened.into_inner();
        loop {
            let response = timeout_at(until, responses.message()).await.map_err(late)??;
            let Some(response) = response else { return Ok(()) };
            if response.canceled {
                if response.compact_revision > 0 {
                    let compact_revision = response.compact_revision;
                    self.note(WatchItem::Compacted { at: self.board.moment(), compact_revision });
                    *covered = compact_revision.max(*covered);
                }
                return Ok(());
            }
            self.take(&response, covered);
        }
    }

    fn take(&self, response: &WatchResponse, covered: &mut i64) {
        if response.created && response.events.is_empty() {
            return;
        }
        let at = self.board.moment();
        if response.events.is_empty() {
            let revision = revision(&response.header);
            self.note(WatchItem::Progress { at, revision });
            *covered = revision.max(*covered);
            return;
        }
        let events: Vec<Change> = response.events.iter().filter_map(change).collect();
        *covered = events.iter().map(|event| event.revision).max().unwrap_or(0).max(*covered);
        self.note(WatchItem::Events { at, events });
    }
}

fn change(event: &mvccpb::Event) -> Option<Change> {
    let pair = event.kv.as_ref()?;
    let written = event.r#type == mvccpb::event::EventType::Put as i32;
    Some(Change {
        key: text(&pair.key),
        revision: pair.mod_revision,
        pair: written.then(|| pair_of(pair)),
        before: event.prev_kv.as_ref().map(pair_of),
    })
}

/// A watcher that has seen nothing yet.
#[must_use]
pub fn unborn(number: usize) -> Watcher {
    Watcher {
        name: format!("w{number}"),
        prefix: PREFIX.to_owned(),
        from_revision: 1,
        with_before: true,
        items: Vec::new(),
    }
}
