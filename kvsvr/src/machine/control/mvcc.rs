//! The multi-version store: reads at any kept revision, and writes that all carry one new revision.
//!
//! ```text
//!   before: revision 7        put a -> 8.0   delete b -> 8.1        after finish(): revision 8
//! ```
//! Like a notebook page per revision: a session opens the next page, its writes are lines on it,
//! and the page counts only when something stands on it.
//!
//! Invariant: `k`, `v` and `r` (see `layout`) say the same. A session without writes changes
//! nothing, not even the revision.
//!
//! Not here: etcd's request options (`range`, `txn`) and giving back space (`sweep`).

use std::ops::ControlFlow;

use bytes::Bytes;
use replica::engine::{EngineError, View};
use replica::machine::Txn;

use super::layout::{self, Event, Meta, Place};
use super::lease;
use crate::wire::mvccpb::KeyValue;

enum Access<'s, 'b> {
    Read(&'s dyn View),
    Write(&'s mut Txn<'b>),
}

/// One session over the store.
pub(super) struct Mvcc<'s, 'b> {
    access: Access<'s, 'b>,
    meta: Meta,
    // Writes so far; the next one's sub-revision. All stand at revision `meta.revision + 1`.
    changes: u32,
    // Bytes that these writes added, and took away.
    added: u64,
    removed: u64,
}

/// The keys `[from, to)`; without `to`, from `from` on; or one key.
#[derive(Clone, Copy)]
pub(super) enum Span<'k> {
    One(&'k [u8]),
    Between(&'k [u8], &'k [u8]),
    From(&'k [u8]),
}

impl<'k> Span<'k> {
    /// etcd's reading of key and range end.
    pub(super) fn new(key: &'k [u8], range_end: &'k [u8]) -> Span<'k> {
        match range_end {
            [] => Span::One(key),
            [0] => Span::From(key),
            _ => Span::Between(key, range_end),
        }
    }
}

/// Pairs of a span, and how many there are when a limit cut them off.
#[derive(Default)]
pub(super) struct Found {
    pub(super) pairs: Vec<KeyValue>,
    pub(super) count: i64,
}

/// Reads where the store stands.
pub(super) fn read_meta(view: &dyn View) -> Result<Meta, EngineError> {
    match view.get(layout::META_KEY)? {
        Some(bytes) => Meta::decode(bytes),
        None => Ok(Meta::EMPTY),
    }
}

impl<'s, 'b> Mvcc<'s, 'b> {
    /// A session that reads.
    pub(super) fn read_only(view: &'s dyn View) -> Result<Mvcc<'s, 'b>, EngineError> {
        Ok(Mvcc { meta: read_meta(view)?, access: Access::Read(view), changes: 0, added: 0, removed: 0 })
    }

    /// A session that may write. End it with `finish`.
    pub(super) fn writing(txn: &'s mut Txn<'b>) -> Result<Mvcc<'s, 'b>, EngineError> {
        Ok(Mvcc { meta: read_meta(txn)?, access: Access::Write(txn), changes: 0, added: 0, removed: 0 })
    }

    /// What this session reads, its own writes included.
    pub(super) fn view(&self) -> &dyn View {
        match &self.access {
            Access::Read(view) => *view,
            Access::Write(txn) => &**txn,
        }
    }

    fn txn(&mut self) -> &mut Txn<'b> {
        match &mut self.access {
            Access::Write(txn) => txn,
            Access::Read(_) => unreachable!("requests that write are given a writing session"),
        }
    }

    /// The revision this session reads at: its own once it has written.
    pub(super) fn revision(&self) -> i64 {
        self.meta.revision + i64::from(self.changes > 0)
    }

    /// The revision before this session's writes.
    pub(super) fn base_revision(&self) -> i64 {
        self.meta.revision
    }

    /// Reads below this revision are refused.
    pub(super) fn compacted(&self) -> i64 {
        self.meta.compacted
    }

    /// Writes so far.
    pub(super) fn changes(&self) -> u32 {
        self.changes
    }

    /// One live pair, now.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, EngineError> {
        let stored_key = layout::latest_key(key);
        match self.view().get(&stored_key)? {
            Some(value) => Ok(Some(layout::decode_latest(&stored_key, value)?)),
            None => Ok(None),
        }
    }

    /// The live pairs of a span in key order, now; at most `limit` of them are kept, all counted.
    pub(super) fn range(&self, span: Span<'_>, limit: usize) -> Result<Found, EngineError> {
        let (from, to) = match span {
            Span::One(key) => {
                let pairs: Vec<KeyValue> = self.get(key)?.into_iter().collect();
                return Ok(Found { count: pairs.len() as i64, pairs: truncated(pairs, limit) });
            }
            Span::Between(from, to) if to <= from => return Ok(Found::default()),
            Span::Between(from, to) => (layout::latest_key(from), layout::latest_key(to)),
            Span::From(from) => (layout::latest_key(from), Bytes::from_static(layout::LATEST_END)),
        };
        let mut found = Found::default();
        let mut fault = None;
        self.view().scan(&from, &to, false, &mut |key, value| {
            found.count += 1;
            if found.pairs.len() < limit {
                match layout::decode_latest(key, Bytes::copy_from_slice(value)) {
                    Ok(pair) => found.pairs.push(pair),
                    Err(error) => {
                        fault = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        fault.map_or(Ok(found), Err)
    }

    /// The same as it was at `revision`, which must be kept.
    pub(super) fn range_at(&self, span: Span<'_>, limit: usize, revision: i64) -> Result<Found, EngineError> {
        assert!(revision <= self.revision(), "the future cannot be read");
        assert!(revision >= self.meta.compacted, "what is compacted cannot be read");
        if revision == self.revision() {
            return self.range(span, limit);
        }
        let places = self.places_at(span, revision)?;
        let mut found = Found { count: places.len() as i64, pairs: Vec::new() };
        for place in places.into_iter().take(limit) {
            found.pairs.push(self.event(place)?.pair);
        }
        Ok(found)
    }

    // Where the keys of a span had their last write at `revision`; keys dead by then are left out.
    fn places_at(&self, span: Span<'_>, revision: i64) -> Result<Vec<Place>, EngineError> {
        let (from, to) = match span {
            Span::One(key) => return Ok(self.place_at(key, revision)?.into_iter().collect()),
            Span::Between(from, to) if to <= from => return Ok(Vec::new()),
            Span::Between(from, to) => {
                (layout::version_prefix(from).freeze(), layout::version_prefix(to).freeze())
            }
            Span::From(from) => {
                (layout::version_prefix(from).freeze(), Bytes::from_static(layout::VERSION_END))
            }
        };
        let mut places: Vec<Place> = Vec::new();
        let mut current: Option<(Bytes, Place, bool)> = None;
        let mut fault = None;
        let mut see = |stored_key: &[u8], value: &[u8]| -> Result<(), EngineError> {
            let (key, place) = layout::decode_version_key(stored_key)?;
            let tombstone = layout::decode_version(value)?;
            if place.revision > revision {
                return Ok(());
            }
            match &current {
                Some((current_key, last, dead)) if *current_key != key && !dead => places.push(*last),
                _ => {}
            }
            current = Some((key, place, tombstone));
            Ok(())
        };
        self.view().scan(&from, &to, false, &mut |key, value| match see(key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        })?;
        if let Some((_, last, false)) = current {
            places.push(last);
        }
        fault.map_or(Ok(places), Err)
    }

    // The same for one key: looks back from the revision, however long the key's history is.
    fn place_at(&self, key: &[u8], revision: i64) -> Result<Option<Place>, EngineError> {
        let from = layout::version_prefix(key);
        let to = layout::version_key(key, Place { revision: revision + 1, sub: 0 });
        let mut last = None;
        self.view().scan(&from, &to, true, &mut |stored_key, value| {
            let version = layout::decode_version_key(stored_key);
            last = Some(version.and_then(|(_, place)| Ok((place, layout::decode_version(value)?))));
            ControlFlow::Break(())
        })?;
        let last = last.transpose()?;
        Ok(last.filter(|(_, tombstone)| !tombstone).map(|(place, _)| place))
    }

    fn event(&self, place: Place) -> Result<Event, EngineError> {
        match self.view().get(&layout::event_key(place))? {
            Some(bytes) => layout::decode_event(place, bytes),
            None => {
                let Place { revision, sub } = place;
                Err(EngineError::Corrupt(format!("history lacks the event at {revision}.{sub}")))
            }
        }
    }

    /// Writes an event; `before` is the live pair it takes the place of.
    fn record(&mut self, event: &Event, before: Option<&KeyValue>) {
        assert!(event.pair.mod_revision == self.meta.revision + 1, "a session writes one revision");
        let place = Place { revision: event.pair.mod_revision, sub: self.changes };
        self.changes = self.changes.checked_add(1).expect("a request cannot make 2^32 writes");
        let key = event.pair.key.clone();
        self.write(layout::event_key(place), layout::encode_event(event));
        self.write(layout::version_key(&key, place), layout::encode_version(event.tombstone));
        self.removed += before.map_or(0, layout::latest_bytes);
        if event.tombstone {
            self.txn().delete(layout::latest_key(&key));
        } else {
            self.write(layout::latest_key(&key), layout::encode_latest(&event.pair));
        }
    }

    fn write(&mut self, key: Bytes, value: Bytes) {
        self.added += (key.len() + value.len()) as u64;
        self.txn().put(key, value);
    }

    /// Writes a key.
    pub(super) fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<(), EngineError> {
        let revision = self.meta.revision + 1;
        let previous = self.get(&key)?;
        let (create_revision, version) = match &previous {
            Some(pair) => (pair.create_revision, pair.version + 1),
            None => (revision, 1),
        };
        let hung_on = previous.as_ref().map_or(0, |pair| pair.lease);
        lease::rehang(self.txn(), &key, hung_on, lease);
        let pair = KeyValue { key, create_revision, mod_revision: revision, version, value, lease };
        self.record(&Event { pair, tombstone: false }, previous.as_ref());
        Ok(())
    }

    /// Deletes the live keys of a span; answers them as they were.
    pub(super) fn delete_range(&mut self, span: Span<'_>) -> Result<Vec<KeyValue>, EngineError> {
        let found = self.range(span, usize::MAX)?;
        let mod_revision = self.meta.revision + 1;
        for pair in &found.pairs {
            lease::rehang(self.txn(), &pair.key, pair.lease, 0);
            let dead = KeyValue { key: pair.key.clone(), mod_revision, ..KeyValue::default() };
            self.record(&Event { pair: dead, tombstone: true }, Some(pair));
        }
        assert!(found.pairs.len() as i64 == found.count, "without a limit every pair is kept");
        Ok(found.pairs)
    }

    /// Ends a writing session: the revision moves on if something was written.
    pub(super) fn finish(mut self) {
        if self.changes == 0 {
            return;
        }
        let bytes = (self.meta.bytes + self.added).saturating_sub(self.removed);
        let meta = Meta { revision: self.meta.revision + 1, bytes, ..self.meta };
        self.txn().put(layout::META_KEY, meta.encode());
    }
}

fn truncated(mut pairs: Vec<KeyValue>, limit: usize) -> Vec<KeyValue> {
    pairs.truncate(limit);
    pairs
}
