//! The watches of one stream: where each of them is, and what its client is told next.
//!
//! ```text
//!                                    seen
//!   history  ... 5 6 7 8 9 10 11 12 | 13 14 ...
//!   behind         ^next               live: all before is delivered; next > seen means a start
//!     pages of the store, until       in the future
//!     `seen` is reached, then live
//! ```
//! Invariant: a watch accepts only events at or after its `next`, and `next` moves on with what it
//! is given. So nothing is delivered twice, whatever pages come; nothing is left out, because a
//! live watch gets every page in order and one behind asks for the page at its `next`. What says
//! how far a watch is (progress) is said only when it is live, so it never overtakes an event.
//!
//! Not here: where pages come from, and waiting. This is a pure core.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use prost::Message;
use replica::engine::EngineError;

use super::interests::Interests;
use super::span::Span;
use super::{Change, Page};
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::watch_create_request::FilterType;
use crate::wire::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use crate::wire::mvccpb::event::EventType;
use crate::wire::mvccpb::{Event, KeyValue};

/// Stands for the whole stream, or for a watch that does not come to be.
const NO_WATCH: i64 = -1;
/// Questions for progress of one stream that wait for an answer of their own.
const PROGRESS_QUESTIONS_MAX: usize = 64;

/// Looks up the pair before an event.
pub(crate) type Before<'l> = &'l mut dyn FnMut(&Change) -> Result<Option<KeyValue>, EngineError>;

#[derive(Debug)]
struct Watch {
    span: Span,
    next: i64,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    fragment: bool,
    progress: bool,
    // Was told something since the last tick.
    told: bool,
}

impl Watch {
    // A live watch that begins in the future must not be told a revision before its beginning: its
    // client would resume there, and get events it never asked for.
    fn begun(&self, seen: i64) -> bool {
        self.next <= seen + 1
    }
}

/// The watches of one stream.
#[derive(Debug)]
pub struct Session {
    watches: BTreeMap<i64, Watch>,
    live: Interests<i64>,
    behind: BTreeSet<i64>,
    // The least id that was not yet chosen for a client.
    id_next: i64,
    seen: i64,
    // Questions of the client how far the stream is; each is answered once every watch is there.
    progress_asked: VecDeque<i64>,
    response_bytes_max: usize,
}

fn response(revision: i64, watch_id: i64) -> WatchResponse {
    let header = ResponseHeader { revision, ..ResponseHeader::default() };
    WatchResponse { header: Some(header), watch_id, ..WatchResponse::default() }
}

/// The answer to a watch that cannot be.
pub(crate) fn refused(revision: i64, reason: &str) -> WatchResponse {
    let cancel_reason = reason.to_owned();
    WatchResponse { created: true, canceled: true, cancel_reason, ..response(revision, NO_WATCH) }
}

impl Session {
    /// A stream without watches, when `seen` is the newest revision. Watches that allow it get
    /// larger responses in parts.
    #[must_use]
    pub fn new(seen: i64, response_bytes_max: usize) -> Session {
        Session {
            watches: BTreeMap::new(),
            live: Interests::default(),
            behind: BTreeSet::new(),
            id_next: 0,
            seen,
            progress_asked: VecDeque::new(),
            response_bytes_max,
        }
    }

    /// Creates a watch; `newest` is the store's revision now. Answers the response, and whether
    /// the watch came to be.
    pub fn create(&mut self, request: &WatchCreateRequest, newest: i64) -> (WatchResponse, bool) {
        if request.start_revision < 0 {
            return (refused(newest, Refusal::Compacted.text()), false);
        }
        let Some(span) = Span::of_watch(&request.key, &request.range_end) else {
            return (refused(newest, "mvcc: watcher range is empty"), false);
        };
        let id = match request.watch_id {
            0 => self.choose_id(),
            id if self.watches.contains_key(&id) => {
                return (refused(newest, "mvcc: duplicate watch ID provided on the WatchStream"), false);
            }
            id => id,
        };
        let next = if request.start_revision == 0 { newest + 1 } else { request.start_revision };
        let filtered = |kind: FilterType| request.filters.contains(&(kind as i32));
        let watch = Watch {
            span,
            next,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress: request.progress_notify,
            told: false,
        };
        if next <= newest {
            self.behind.insert(id);
        } else {
            self.live.add(&watch.span, id);
        }
        let replaced = self.watches.insert(id, watch);
        assert!(replaced.is_none(), "watch {id} is new");
        (WatchResponse { created: true, ..response(newest, id) }, true)
    }

    fn choose_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.id_next) {
            self.id_next += 1;
        }
        self.id_next += 1;
        self.id_next - 1
    }

    /// Ends a watch; nothing happens when there is none of this id.
    pub fn cancel(&mut self, id: i64, newest: i64) -> Option<(Span, WatchResponse)> {
        let span = self.remove(id)?;
        Some((span, WatchResponse { canceled: true, ..response(newest, id) }))
    }

    fn remove(&mut self, id: i64) -> Option<Span> {
        let watch = self.watches.remove(&id)?;
        if !self.behind.remove(&id) {
            self.live.remove(&watch.span, id);
        }
        Some(watch.span)
    }

    /// All live watches have been given everything through this revision.
    #[must_use]
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// Nothing that concerns a live watch happened through this revision.
    pub fn skip_to(&mut self, revision: i64) {
        self.seen = self.seen.max(revision);
    }

    /// Gives the live watches a page that follows what they have seen.
    ///
    /// # Errors
    /// What `before` says. The stream has to end: what was not told is not told later.
    pub fn deliver(&mut self, page: &Page, before: Before<'_>) -> Result<Vec<WatchResponse>, EngineError> {
        let mut wanted: BTreeMap<i64, Vec<Arc<Change>>> = BTreeMap::new();
        for change in page.changes.iter().filter(|change| change.revision() > self.seen) {
            self.live.each(&change.event.pair.key, &mut |id| {
                wanted.entry(id).or_default().push(Arc::clone(change));
            });
        }
        self.skip_to(page.through);
        let mut responses = Vec::with_capacity(wanted.len());
        for (id, changes) in wanted {
            self.tell(id, &changes, page.through, before, &mut responses)?;
        }
        Ok(responses)
    }

    /// Some of what the live watches have not seen cannot be had as a page any more, from `first`
    /// on. They have to catch up with `head` from the store.
    pub fn fall_behind(&mut self, first: i64, head: i64) {
        for (id, watch) in &mut self.watches {
            if self.behind.contains(id) {
                continue;
            }
            watch.next = watch.next.max(first);
            if watch.next <= head {
                self.live.remove(&watch.span, *id);
                self.behind.insert(*id);
            }
        }
        self.skip_to(head);
    }

    /// The revision from which a page of the store is wanted: that of the watch farthest behind.
    #[must_use]
    pub fn behind_from(&self) -> Option<i64> {
        self.behind.iter().map(|id| self.watches[id].next).min()
    }

    /// Gives the watches that are behind a page that begins at `behind_from`.
    ///
    /// # Errors
    /// As [`Session::deliver`].
    pub fn deliver_behind(
        &mut self,
        page: &Page,
        before: Before<'_>,
    ) -> Result<Vec<WatchResponse>, EngineError> {
        let mut responses = Vec::new();
        for id in self.behind.clone() {
            let watch = &self.watches[&id];
            if watch.next > page.through {
                continue;
            }
            let changes = page.changes.iter().filter(|change| watch.span.contains(&change.event.pair.key));
            let changes: Vec<Arc<Change>> = changes.cloned().collect();
            self.tell(id, &changes, page.through, before, &mut responses)?;
            let watch = self.watches.get_mut(&id).expect("it was just told");
            watch.next = page.through + 1;
            if page.through >= self.seen {
                self.behind.remove(&id);
                self.live.add(&watch.span, id);
            }
        }
        Ok(responses)
    }

    /// What is below `revision` is gone: ends the watches that still wanted it.
    pub fn compacted(&mut self, revision: i64, newest: i64) -> Vec<(Span, WatchResponse)> {
        let gone = self.behind.iter().copied().filter(|id| self.watches[id].next < revision);
        let gone: Vec<i64> = gone.collect();
        let end = |id| {
            let told = WatchResponse { canceled: true, compact_revision: revision, ..response(newest, id) };
            self.remove(id).map(|span| (span, told))
        };
        gone.into_iter().filter_map(end).collect()
    }

    fn tell(
        &mut self,
        id: i64,
        changes: &[Arc<Change>],
        through: i64,
        before: Before<'_>,
        responses: &mut Vec<WatchResponse>,
    ) -> Result<(), EngineError> {
        let watch = self.watches.get_mut(&id).expect("only watches that are there are told");
        let mut events = Vec::with_capacity(changes.len());
        for change in changes.iter().filter(|change| change.revision() >= watch.next) {
            let deleted = change.event.tombstone;
            let unwanted = if deleted { watch.no_delete } else { watch.no_put };
            if unwanted {
                continue;
            }
            let kind = if deleted { EventType::Delete } else { EventType::Put };
            let prev_kv = if watch.prev_kv { before(change)? } else { None };
            events.push(Event { r#type: kind as i32, kv: Some(change.event.pair.clone()), prev_kv });
        }
        watch.next = watch.next.max(through + 1);
        if events.is_empty() {
            return Ok(());
        }
        watch.told = true;
        let whole = WatchResponse { events, ..response(through, id) };
        if watch.fragment {
            responses.extend(fragments(whole, self.response_bytes_max));
        } else {
            responses.push(whole);
        }
        Ok(())
    }

    /// The client wants to know how far the stream is, when the store is at `newest`.
    pub fn ask_progress(&mut self, newest: i64) {
        // One answer will do for what was asked in a flood.
        if self.progress_asked.len() >= PROGRESS_QUESTIONS_MAX {
            self.progress_asked.pop_back();
        }
        self.progress_asked.push_back(newest);
    }

    /// The revision that the next answer to such a question must have reached.
    #[must_use]
    pub fn progress_asked(&self) -> Option<i64> {
        self.progress_asked.front().copied()
    }

    /// An answer, once every watch of the stream has been given everything through there.
    pub fn progress(&mut self) -> Option<WatchResponse> {
        let reached = self.progress_asked().is_some_and(|asked| asked <= self.seen);
        let everywhere = self.behind.is_empty() && self.watches.values().all(|watch| watch.begun(self.seen));
        if !reached || !everywhere {
            return None;
        }
        self.progress_asked.pop_front();
        Some(response(self.seen, NO_WATCH))
    }

    /// A progress interval has passed: tells the watches that wished it and heard nothing since.
    pub fn tick(&mut self) -> Vec<WatchResponse> {
        let mut responses = Vec::new();
        let seen = self.seen;
        for (id, watch) in &mut self.watches {
            let due = watch.progress && !watch.told && watch.begun(seen);
            if due && !self.behind.contains(id) {
                responses.push(response(seen, *id));
            }
            watch.told = false;
        }
        responses
    }
}

/// Splits a response that is too large into parts, of at least one event each.
fn fragments(whole: WatchResponse, bytes_max: usize) -> Vec<WatchResponse> {
    if whole.encoded_len() < bytes_max || whole.events.len() < 2 {
        return vec![whole];
    }
    let WatchResponse { events, header, watch_id, .. } = whole;
    let empty = WatchResponse { header, watch_id, ..WatchResponse::default() };
    let envelope = empty.encoded_len();
    let mut parts: Vec<WatchResponse> = Vec::new();
    let mut bytes = usize::MAX;
    for event in events {
        // The event, its tag and its length.
        let event_bytes = event.encoded_len() + 1 + prost::length_delimiter_len(event.encoded_len());
        if bytes.saturating_add(event_bytes) >= bytes_max {
            parts.push(WatchResponse { fragment: true, ..empty.clone() });
            bytes = envelope;
        }
        bytes += event_bytes;
        parts.last_mut().expect("the first event begins a part").events.push(event);
    }
    parts.last_mut().expect("there are events").fragment = false;
    parts
}
