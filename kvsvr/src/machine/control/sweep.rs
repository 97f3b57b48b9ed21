//! Compaction, in two steps: at once the old revisions can no longer be read; the space is given
//! back little by little, a few events with each later command.
//!
//! ```text
//!   events:  2 put a | 3 put a | 4 del a | 5 put b | 6 put b       compact at 5
//!            gone      gone      gone      stays     stays         (3 supersedes 2, 4 supersedes 3,
//!            ^-------- sweep visits each event <= 5 once --------^  and an old tombstone is nothing)
//! ```
//! Visiting an event removes the version of its key just before it, for nobody may read that any
//! more; a tombstone goes as well. So one pass in history order suffices, and a later compaction
//! goes on where this one ended. The compacted revision itself stays whole until then: a watch may
//! still begin there, and must be told of all of it.
//!
//! Invariant: what a read or a watch at or above the compacted revision can see is never removed.

use std::ops::ControlFlow;

use bytes::Bytes;
use replica::engine::{EngineError, View};
use replica::machine::Txn;

use super::Fault;
use super::layout::{self, Event, Meta, Place};
use super::mvcc::read_meta;
use crate::refusal::Refusal;

/// Makes revisions below `revision` unreadable.
pub(super) fn compact(txn: &mut Txn<'_>, revision: i64) -> Result<(), Fault> {
    let meta = read_meta(txn)?;
    if revision <= meta.compacted {
        return Err(Refusal::Compacted.into());
    }
    if revision > meta.revision {
        return Err(Refusal::FutureRevision.into());
    }
    // The revision that was kept whole is an old one now: it is visited again.
    let again = meta.sweep_next.revision == meta.compacted;
    let sweep_next = if again { Place { sub: 0, ..meta.sweep_next } } else { meta.sweep_next };
    txn.put(layout::META_KEY, Meta { compacted: revision, sweep_next, ..meta }.encode());
    Ok(())
}

/// Visits at most `events_max` events that are owed. Answers whether nothing is owed any more.
pub(super) fn sweep(txn: &mut Txn<'_>, events_max: usize) -> Result<bool, EngineError> {
    let meta = read_meta(txn)?;
    let compacted = meta.compacted.max(0);
    if meta.sweep_next >= visited(compacted) {
        return Ok(true);
    }
    let end = Place { revision: compacted + 1, sub: 0 };
    let owed = owed_events(txn, meta.sweep_next, end, events_max)?;
    let clean = owed.len() < events_max;
    let last = owed.last().map(|(place, _)| *place);
    let mut freed = 0;
    for (place, event) in &owed {
        freed += visit(txn, *place, event, compacted)?;
    }
    let sweep_next = match last {
        Some(place) if !clean => Place { sub: place.sub + 1, ..place },
        _ => visited(compacted),
    };
    assert!(sweep_next > meta.sweep_next, "a sweep moves on");
    let bytes = meta.bytes.saturating_sub(freed);
    txn.put(layout::META_KEY, Meta { sweep_next, bytes, ..meta }.encode());
    Ok(clean)
}

/// Where a sweep stands that has visited everything through `revision`.
fn visited(revision: i64) -> Place {
    Place { revision, sub: u32::MAX }
}

fn owed_events(
    view: &dyn View,
    from: Place,
    to: Place,
    max: usize,
) -> Result<Vec<(Place, Event)>, EngineError> {
    let mut owed = Vec::new();
    let mut fault = None;
    view.scan(&layout::event_key(from), &layout::event_key(to), false, &mut |key, value| {
        let event = layout::decode_event_key(key)
            .and_then(|place| Ok((place, layout::decode_event(place, Bytes::copy_from_slice(value))?)));
        match event {
            Ok(event) => owed.push(event),
            Err(error) => {
                fault = Some(error);
                return ControlFlow::Break(());
            }
        }
        if owed.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    fault.map_or(Ok(owed), Err)
}

/// Answers how many bytes were given back.
fn visit(txn: &mut Txn<'_>, place: Place, event: &Event, compacted: i64) -> Result<u64, EngineError> {
    let key = &event.pair.key;
    let prefix = layout::version_prefix(key);
    let mut before = None;
    let mut freed = 0;
    txn.scan(&prefix, &layout::version_key(key, place), true, &mut |stored_key, _| {
        before = Some(layout::decode_version_key(stored_key));
        ControlFlow::Break(())
    })?;
    if let Some(before) = before {
        let (before_key, before_place) = before?;
        assert!(before_key == *key, "the scan stays within the key");
        assert!(before_place < place, "the scan stays before the event");
        freed += forget(txn, key, before_place, compacted)?;
    }
    if event.tombstone {
        freed += forget(txn, key, place, compacted)?;
    }
    Ok(freed)
}

fn forget(txn: &mut Txn<'_>, key: &[u8], place: Place, compacted: i64) -> Result<u64, EngineError> {
    if place.revision >= compacted {
        return Ok(0);
    }
    let (event_key, version_key) = (layout::event_key(place), layout::version_key(key, place));
    let Some(event) = txn.get(&event_key)? else { return Ok(0) };
    let freed = event_key.len() + event.len() + version_key.len() + layout::encode_version(false).len();
    txn.delete(event_key);
    txn.delete(version_key);
    Ok(freed as u64)
}
