//! A watch that outlives the member that serves it.
//!
//! ```text
//!   member a --events 5 6 7--> position 8     a dies
//!   member b <--watch from 8-- position 8 --events 8 9--> position 10
//! ```
//! Where the watch is, is known here and nowhere else: the revision after the last one that was
//! handed out. Any member can go on from there, even one that has not applied that much yet.
//!
//! Invariant: every event of the watch is handed out once, in order, and a revision as a whole,
//! whatever happens to connections, members and leaders. When that cannot be kept, because the next
//! revision was compacted away, the watch ends and says so.
//!
//! Not here: what to do then. Who watches reads the present and watches from there.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};
use world::NodeId;

use crate::api::KeyValue;
use crate::limits::{ANSWER_BYTES_MAX, RETRY_PAUSE, WATCH_OPEN_PATIENCE};
use crate::outcome::CallError;
use crate::peers::Peers;
use crate::translate;
use crate::wire::etcdserverpb::watch_request::RequestUnion;
use crate::wire::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use crate::wire::mvccpb;
use crate::wire::native::data_kv_client::DataKvClient;

/// Something that happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// It was written.
    Put(KeyValue),
    /// It was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// When.
        revision: i64,
    },
}

/// Whole revisions, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// At least one.
    pub events: Vec<WatchEvent>,
    /// Every event of the watch through this revision has been handed out.
    pub through: i64,
}

/// Why a watch is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The next events were compacted away before they could be read.
    #[error("compacted: history begins at revision {revision}")]
    Compacted {
        /// Where history begins.
        revision: i64,
    },
    /// The watch itself is not taken.
    #[error("refused: {0}")]
    Refused(String),
}

/// Where a watch is. Pure: responses in, what they mean out.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    // The first revision that is still wanted; `None` until a member has said when "now" is.
    next: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    Events(WatchBatch),
    Nothing,
    End(WatchEnd),
    // The stream is of no use any more; another one may be.
    Broken(String),
}

/// A watch of the control records of the cluster. Made by [`super::Client::watch`].
pub struct Watcher {
    peers: Arc<Peers>,
    order: Vec<NodeId>,
    key: Bytes,
    range_end: Bytes,
    position: Position,
    stream: Option<Open>,
    // Place in `order` of the member that is asked next.
    turn: usize,
}

struct Open {
    responses: Streaming<WatchResponse>,
    // Dropping it tells the member that nothing more is asked.
    _requests: mpsc::Sender<WatchRequest>,
}

impl Watcher {
    pub(super) fn new(
        peers: Arc<Peers>,
        order: Vec<NodeId>,
        (key, range_end): (Bytes, Bytes),
        from: Option<i64>,
    ) -> Watcher {
        assert!(!order.is_empty(), "somebody can be asked");
        let position = Position { next: from.map(|from| from.max(1)) };
        Watcher { peers, order, key, range_end, position, stream: None, turn: 0 }
    }

    /// The next events. Waits until there are some; goes on at other members when one fails. May be
    /// given up and called again.
    ///
    /// # Errors
    /// [`WatchEnd`]; the watch is over then.
    pub async fn next(&mut self) -> Result<WatchBatch, WatchEnd> {
        let mut failures = 0;
        loop {
            let response = match &mut self.stream {
                None => self.open().await,
                Some(open) => heard(open.responses.next().await),
            };
            let meaning = match response {
                Ok(response) => self.position.take(response),
                Err(status) => Meaning::Broken(status.message().to_owned()),
            };
            match meaning {
                Meaning::Events(batch) => return Ok(batch),
                Meaning::Nothing => failures = 0,
                Meaning::End(end) => return Err(end),
                Meaning::Broken(reason) => {
                    tracing::debug!(node = %self.order[self.turn], reason, "a watch goes on elsewhere");
                    self.stream = None;
                    self.turn = (self.turn + 1) % self.order.len();
                    failures += 1;
                    if failures >= self.order.len() {
                        failures = 0;
                        sleep(RETRY_PAUSE).await;
                    }
                }
            }
        }
    }

    // Opens the watch at one member; answers its first response.
    async fn open(&mut self) -> Result<WatchResponse, Status> {
        let opening = async {
            let nobody = || CallError::NotLeader { hint: None }.status();
            let channel = self.peers.channel(self.order[self.turn]).ok_or_else(nobody)?;
            let mut client = DataKvClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
            let (requests, sent) = mpsc::channel(1);
            let create = WatchCreateRequest {
                key: self.key.clone(),
                range_end: self.range_end.clone(),
                start_revision: self.position.next.unwrap_or(0),
                // Moves the position on while nothing happens: what is behind it may be compacted.
                progress_notify: true,
                ..WatchCreateRequest::default()
            };
            let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
            let mut request = Request::new(stream::iter([create]).chain(ReceiverStream::new(sent)));
            // A member that is cut off must not keep this watch waiting.
            request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
            let mut responses = client.control_watch(request).await?.into_inner();
            let first = heard(responses.next().await)?;
            self.stream = Some(Open { responses, _requests: requests });
            Ok(first)
        };
        match timeout(WATCH_OPEN_PATIENCE, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Status::deadline_exceeded("the watch was not opened in time")),
        }
    }
}

fn heard(response: Option<Result<WatchResponse, Status>>) -> Result<WatchResponse, Status> {
    response.unwrap_or_else(|| Err(Status::unavailable("the stream ended")))
}

impl Position {
    fn take(&mut self, response: WatchResponse) -> Meaning {
        let Some(header) = response.header else {
            return Meaning::Broken(translate::malformed("no header"));
        };
        if response.compact_revision != 0 {
            return Meaning::End(WatchEnd::Compacted { revision: response.compact_revision });
        }
        if response.canceled {
            return Meaning::End(WatchEnd::Refused(response.cancel_reason));
        }
        if response.created {
            self.next.get_or_insert(header.revision + 1);
            return Meaning::Nothing;
        }
        let Some(next) = self.next else {
            return Meaning::Broken(translate::malformed("events before the watch was created"));
        };
        let events: Option<Vec<WatchEvent>> = response.events.into_iter().map(event).collect();
        let Some(mut events) = events else {
            return Meaning::Broken(translate::malformed("an event without a pair"));
        };
        events.retain(|event| event.revision() >= next);
        let newest = events.last().map_or(0, WatchEvent::revision);
        if !events.is_sorted_by_key(WatchEvent::revision) || newest > header.revision {
            return Meaning::Broken(translate::malformed("events out of order"));
        }
        self.next = Some(next.max(header.revision + 1));
        if events.is_empty() {
            return Meaning::Nothing;
        }
        Meaning::Events(WatchBatch { events, through: header.revision })
    }
}

fn event(event: mvccpb::Event) -> Option<WatchEvent> {
    let pair = event.kv?;
    if event.r#type == mvccpb::event::EventType::Delete as i32 {
        return Some(WatchEvent::Delete { key: pair.key, revision: pair.mod_revision });
    }
    Some(WatchEvent::Put(translate::key_value(pair)))
}

impl WatchEvent {
    /// When it happened.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            WatchEvent::Put(pair) => pair.mod_revision,
            WatchEvent::Delete { revision, .. } => *revision,
        }
    }

    /// The key it happened to.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            WatchEvent::Put(pair) => &pair.key,
            WatchEvent::Delete { key, .. } => key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::etcdserverpb::ResponseHeader;

    fn response(revision: i64, events: &[i64]) -> WatchResponse {
        let pair = |revision: &i64| mvccpb::KeyValue { mod_revision: *revision, ..Default::default() };
        let event = |revision| mvccpb::Event { kv: Some(pair(revision)), ..Default::default() };
        WatchResponse {
            header: Some(ResponseHeader { revision, ..ResponseHeader::default() }),
            events: events.iter().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    fn check(position: &mut Position, heard: WatchResponse, handed_out: &[i64], next: i64) {
        let revisions = match position.take(heard) {
            Meaning::Events(batch) => batch.events.iter().map(WatchEvent::revision).collect(),
            Meaning::Nothing => Vec::new(),
            other => panic!("{other:?}"),
        };
        assert_eq!((revisions.as_slice(), position.next), (handed_out, Some(next)));
    }

    #[test]
    fn the_position_moves_on_with_what_is_handed_out_and_what_is_said_to_be_nothing() {
        let mut position = Position { next: None };
        check(&mut position, WatchResponse { created: true, ..response(7, &[]) }, &[], 8);
        check(&mut position, response(9, &[8, 8, 9]), &[8, 8, 9], 10);
        check(&mut position, WatchResponse { created: true, ..response(3, &[]) }, &[], 10);
        check(&mut position, response(15, &[]), &[], 16);
        check(&mut position, response(17, &[9, 16, 17]), &[16, 17], 18);
        check(&mut position, response(12, &[]), &[], 18);
    }

    #[test]
    fn what_is_no_answer_ends_the_stream_and_what_is_gone_ends_the_watch() {
        let mut position = Position { next: Some(5) };
        let compacted = WatchResponse { canceled: true, compact_revision: 9, ..response(20, &[]) };
        assert_eq!(position.take(compacted), Meaning::End(WatchEnd::Compacted { revision: 9 }));
        let refused = WatchResponse { canceled: true, cancel_reason: "no".to_owned(), ..response(20, &[]) };
        assert_eq!(position.take(refused), Meaning::End(WatchEnd::Refused("no".to_owned())));
        for broken in [WatchResponse::default(), response(6, &[6, 5]), response(6, &[7])] {
            let meaning = position.take(broken.clone());
            assert!(matches!(meaning, Meaning::Broken(_)), "{broken:?} gave {meaning:?}");
        }
        assert_eq!(position.next, Some(5), "none of them moved the watch");
    }
}
