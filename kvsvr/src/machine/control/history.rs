//! History in order: what a watch replays.
//!
//! Invariant: a page holds every kept event of the revisions it covers; a revision is never split
//! between two pages.
//!
//! Not here: which of the events a watch wants (`watch::session`).

use std::ops::ControlFlow;

use bytes::Bytes;
use replica::engine::{EngineError, View};

use super::layout::{self, Event, Place};
use super::mvcc::{Mvcc, Span, read_meta};
use crate::wire::mvccpb::KeyValue;

/// What replaying from a revision brings.
#[derive(Clone, Debug, PartialEq)]
pub enum Replay {
    /// All events from that revision through `through`.
    Page {
        /// In the order in which they happened.
        events: Vec<Event>,
        /// The last revision that is covered.
        through: i64,
    },
    /// Events below this revision may be gone, and the one that was asked for is below it.
    Compacted(i64),
}

/// The events from revision `from` on, whole revisions, about `bytes_max` bytes of them.
///
/// # Errors
/// [`EngineError`].
pub fn replay(view: &dyn View, from: i64, bytes_max: usize) -> Result<Replay, EngineError> {
    let meta = read_meta(view)?;
    if from < meta.compacted {
        return Ok(Replay::Compacted(meta.compacted));
    }
    let mut events: Vec<Event> = Vec::new();
    let mut bytes = 0;
    let mut through = meta.revision;
    let mut fault = None;
    let mut see = |key: &[u8], value: &[u8]| -> Result<ControlFlow<()>, EngineError> {
        let place = layout::decode_event_key(key)?;
        if let Some(last) = events.last().filter(|_| bytes >= bytes_max)
            && last.pair.mod_revision < place.revision
        {
            through = last.pair.mod_revision;
            return Ok(ControlFlow::Break(()));
        }
        bytes += value.len();
        events.push(layout::decode_event(place, Bytes::copy_from_slice(value))?);
        Ok(ControlFlow::Continue(()))
    };
    let start = layout::event_key(Place { revision: from.max(0), sub: 0 });
    view.scan(&start, layout::EVENT_END, false, &mut |key, value| {
        see(key, value).unwrap_or_else(|error| {
            fault = Some(error);
            ControlFlow::Break(())
        })
    })?;
    fault.map_or(Ok(Replay::Page { events, through }), Err)
}

/// The pair as it was before the event; `None` when there was none, or when that is not kept.
///
/// # Errors
/// [`EngineError`].
pub fn before(view: &dyn View, event: &Event) -> Result<Option<KeyValue>, EngineError> {
    let created = !event.tombstone && event.pair.create_revision == event.pair.mod_revision;
    let store = Mvcc::read_only(view)?;
    let revision = event.pair.mod_revision - 1;
    if created || revision < store.compacted() || revision > store.revision() {
        return Ok(None);
    }
    Ok(store.range_at(Span::One(&event.pair.key), 1, revision)?.pairs.pop())
}
