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

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;
use replica::engine::{EngineError, View};
use replica::machine::Txn;

use super::layout::{self, Event, Latest, Meta, Place};
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

/// Sees a stored key and value.
type See<'v> = dyn FnMut(&[u8], &[u8]) -> Result<(), EngineError> + 'v;

/// Where a key's last write at some revision is kept.
#[derive(Clone, Copy)]
enum Version {
    /// In history.
    Past(Place),
    /// It is the live pair.
    Present,
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
        Ok(self.latest(key)?.map(|latest| latest.pair))
    }

    fn latest(&self, key: &[u8]) -> Result<Option<Latest>, EngineError> {
        let stored_key = layout::latest_key(key);
        match self.view().get(&stored_key)? {
            Some(value) => Ok(Some(layout::decode_latest(&stored_key, value)?)),
            None => Ok(None),
        }
    }

    /// The live pairs of a span in key order, now; at most `limit` of them are kept, all counted.
    pub(super) fn range(&self, span: Span<'_>, limit: usize) -> Result<Found, EngineError> {
        if let Span::One(key) = span {
            let pairs: Vec<KeyValue> = self.get(key)?.into_iter().collect();
            return Ok(Found { count: pairs.len() as i64, pairs: truncated(pairs, limit) });
        }
        let mut found = Found::default();
        self.scan(present(span), &mut |key, value| {
            found.count += 1;
            if found.pairs.len() < limit {
                found.pairs.push(layout::decode_latest(key, Bytes::copy_from_slice(value))?.pair);
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn scan(&self, (from, to): (Bytes, Bytes), see: &mut See<'_>) -> Result<(), EngineError> {
        if to <= from {
            return Ok(());
        }
        let mut fault = None;
        self.view().scan(&from, &to, false, &mut |key, value| match see(key, value) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                fault = Some(error);
                ControlFlow::Break(())
            }
        })?;
        fault.map_or(Ok(()), Err)
    }

    /// The same as it was at `revision`, which must be kept.
    pub(super) fn range_at(&self, span: Span<'_>, limit: usize, revision: i64) -> Result<Found, EngineError> {
        assert!(revision <= self.revision(), "the future cannot be read");
        assert!(revision >= self.meta.compacted, "what is compacted cannot be read");
        if revision == self.revision() {
            return self.range(span, limit);
        }
        if let Span::One(key) = span {
            let pairs: Vec<KeyValue> = self.get_at(key, revision)?.into_iter().collect();
            return Ok(Found { count: pairs.len() as i64, pairs: truncated(pairs, limit) });
        }
        let versions = self.versions_at(span, revision)?;
        let mut found = Found { count: versions.len() as i64, pairs: Vec::new() };
        for (key, version) in versions.into_iter().take(limit) {
            let pair = match version {
                Version::Past(place) => Some(self.event(place)?.pair),
                Version::Present => self.get(&key)?,
            };
            found.pairs.push(pair.expect("what was found a moment ago in the same view"));
        }
        Ok(found)
    }

    // The keys of a span that lived at `revision`, and where their last write until then is kept.
    fn versions_at(&self, span: Span<'_>, revision: i64) -> Result<BTreeMap<Bytes, Version>, EngineError> {
        let mut versions = BTreeMap::new();
        self.scan(past(span), &mut |stored_key, value| {
            let (key, place) = layout::decode_version_key(stored_key)?;
            let tombstone = layout::decode_version(value)?;
            // In order of places: a later one counts.
            if place.revision > revision {
                return Ok(());
            }
            if tombstone {
                versions.remove(&key);
            } else {
                versions.insert(key, Version::Past(place));
            }
            Ok(())
        })?;
        self.scan(present(span), &mut |key, value| {
            let pair = layout::decode_latest(key, Bytes::copy_from_slice(value))?.pair;
            if pair.mod_revision <= revision {
                versions.insert(pair.key, Version::Present);
            }
            Ok(())
        })?;
        Ok(versions)
    }

    // One pair at `revision`: looks back from there, however long the key's history is.
    fn get_at(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, EngineError> {
        let present = self.get(key)?;
        if present.as_ref().is_some_and(|pair| pair.mod_revision <= revision) {
            return Ok(present);
        }
        let from = layout::version_prefix(key);
        let to = layout::version_key(key, Place { revision: revision + 1, sub: 0 });
        let mut last = None;
        self.view().scan(&from, &to, true, &mut |stored_key, value| {
            let version = layout::decode_version_key(stored_key);
            last = Some(version.and_then(|(_, place)| Ok((place, layout::decode_version(value)?))));
            ControlFlow::Break(())
        })?;
        match last.transpose()? {
            Some((place, false)) => Ok(Some(self.event(place)?.pair)),
            _ => Ok(None),
        }
    }

    /// Whether the write at `place` made the pair of `key` that stands at `revision`, not before it.
    pub(super) fn stands_at(&self, key: &[u8], place: Place, revision: i64) -> Result<bool, EngineError> {
        assert!(place.revision <= revision, "what stands was written");
        let after = layout::version_key(key, Place { sub: place.sub + 1, ..place });
        let end = layout::version_key(key, Place { revision: revision + 1, sub: 0 });
        let mut overtaken = self
            .latest(key)?
            .and_then(|latest| latest.unindexed())
            .is_some_and(|latest| latest > place && latest.revision <= revision);
        self.view().scan(&after, &end, false, &mut |_, _| {
            overtaken = true;
            ControlFlow::Break(())
        })?;
        Ok(!overtaken)
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
    fn record(&mut self, event: &Event, before: Option<&Latest>) {
        assert!(event.pair.mod_revision == self.meta.revision + 1, "a session writes one revision");
        let place = Place { revision: event.pair.mod_revision, sub: self.changes };
        self.changes = self.changes.checked_add(1).expect("a request cannot make 2^32 writes");
        let key = event.pair.key.clone();
        if let Some(before) = before {
            self.removed += before.bytes();
            if let Some(place) = before.unindexed() {
                self.write(layout::version_key(&key, place), layout::encode_version(false));
            }
        }
        self.write(layout::event_key(place), layout::encode_event(event));
        if event.tombstone {
            self.write(layout::version_key(&key, place), layout::encode_version(true));
            self.txn().delete(layout::latest_key(&key));
        } else {
            self.write(layout::latest_key(&key), layout::encode_latest(&event.pair, place.sub));
        }
    }

    fn write(&mut self, key: Bytes, value: Bytes) {
        self.added += (key.len() + value.len()) as u64;
        self.txn().put(key, value);
    }

    /// Writes a key.
    pub(super) fn put(&mut self, key: Bytes, value: Bytes, lease: i64) -> Result<(), EngineError> {
        let revision = self.meta.revision + 1;
        let previous = self.latest(&key)?;
        let (create_revision, version, hung_on) = match &previous {
            Some(Latest { pair, .. }) => (pair.create_revision, pair.version + 1, pair.lease),
            None => (revision, 1, 0),
        };
        lease::rehang(self.txn(), &key, hung_on, lease);
        let pair = KeyValue { key, create_revision, mod_revision: revision, version, value, lease };
        self.record(&Event { pair, tombstone: false }, previous.as_ref());
        Ok(())
    }

    /// Deletes the live keys of a span; answers them as they were.
    pub(super) fn delete_range(&mut self, span: Span<'_>) -> Result<Vec<KeyValue>, EngineError> {
        let mut found = Vec::new();
        if let Span::One(key) = span {
            found.extend(self.latest(key)?);
        } else {
            self.scan(present(span), &mut |key, value| {
                found.push(layout::decode_latest(key, Bytes::copy_from_slice(value))?);
                Ok(())
            })?;
        }
        let mod_revision = self.meta.revision + 1;
        for latest in &found {
            let key = latest.pair.key.clone();
            lease::rehang(self.txn(), &key, latest.pair.lease, 0);
            let dead = KeyValue { key, mod_revision, ..KeyValue::default() };
            self.record(&Event { pair: dead, tombstone: true }, Some(latest));
        }
        Ok(found.into_iter().map(|latest| latest.pair).collect())
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

// Where the live pairs of a span are stored.
fn present(span: Span<'_>) -> (Bytes, Bytes) {
    match span {
        Span::One(_) => unreachable!("one key is looked up"),
        Span::Between(from, to) => (layout::latest_key(from), layout::latest_key(to)),
        Span::From(from) => (layout::latest_key(from), Bytes::from_static(layout::LATEST_END)),
    }
}

// Where the versions of a span are stored that are no live pairs.
fn past(span: Span<'_>) -> (Bytes, Bytes) {
    let from_key = |key: &[u8]| layout::version_prefix(key).freeze();
    match span {
        Span::One(_) => unreachable!("one key is looked up"),
        Span::Between(from, to) => (from_key(from), from_key(to)),
        Span::From(from) => (from_key(from), Bytes::from_static(layout::VERSION_END)),
    }
}

fn truncated(mut pairs: Vec<KeyValue>, limit: usize) -> Vec<KeyValue> {
    pairs.truncate(limit);
    pairs
}
