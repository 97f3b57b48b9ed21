//! Pairs of the state that were read lately, in memory: what an engine answers in microseconds.
//!
//! ```text
//!   get --hit--> value, or "there is none"
//!    \--miss--> engine --> kept
//!   a batch is written: what is kept and is in it gets its new value
//! ```
//! A pair is kept because somebody read it, never because it was written: history that is written
//! once and not read again takes no room. All groups of a node share the memory; their keys differ.
//!
//! Invariant: what is kept of a group's generation in force is what the engine holds. So it is read
//! under the group's lock, in either way, and changed with every batch under the write lock.
//!
//! Not here: scans, and views pinned at an earlier moment; they go to the engine.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::engine::{Batch, EngineError, Op, View, Visit};
use crate::limits::HOT_BYTES_MAX;
use crate::state::keys;

/// What a kept pair takes beside its key and value, about: two allocations and a place in the table.
const PAIR_BYTES: u64 = 128;
/// Pairs the table is made for; it grows.
const PAIRS_EXPECTED: usize = 1024;

/// Weighs by memory.
#[derive(Clone, Copy, Debug, Default)]
struct Bytewise;

impl Weighter<Bytes, Option<Bytes>> for Bytewise {
    fn weight(&self, key: &Bytes, value: &Option<Bytes>) -> u64 {
        PAIR_BYTES + key.len() as u64 + value.as_ref().map_or(0, |value| value.len() as u64)
    }
}

/// The pairs, under their keys in the engine.
pub(crate) struct Hot {
    pairs: Cache<Bytes, Option<Bytes>, Bytewise>,
    /// Kinds of keys of which one was ever kept. Of the others (history, indexes) none is looked for
    /// when a batch is written.
    kinds: [AtomicBool; 256],
}

impl Default for Hot {
    fn default() -> Hot {
        Hot::new(HOT_BYTES_MAX)
    }
}

impl Hot {
    fn new(bytes_max: u64) -> Hot {
        let pairs = Cache::with_weighter(PAIRS_EXPECTED, bytes_max, Bytewise);
        Hot { pairs, kinds: std::array::from_fn(|_| AtomicBool::new(false)) }
    }

    /// Call it before the engine writes the batch, under the lock under which it does.
    pub(super) fn write(&self, batch: &Batch) {
        for op in batch.ops() {
            match op {
                Op::Put(key, value) => self.change(key, Some(value)),
                Op::Delete(key) => self.change(key, None),
                Op::DeleteRange(from, to) => self.pairs.retain(|key, _| key < from || to <= key),
            }
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.pairs.clear();
    }

    fn change(&self, key: &Bytes, value: Option<&Bytes>) {
        if self.kinds[kind(key)].load(Ordering::Relaxed) && self.pairs.contains_key(key) {
            self.keep(key, value);
        }
    }

    // Copies: a value may be a piece of a large command, which must not stay for its sake.
    fn keep(&self, key: &[u8], value: Option<&Bytes>) {
        self.kinds[kind(key)].store(true, Ordering::Relaxed);
        self.pairs.insert(Bytes::copy_from_slice(key), value.map(|value| Bytes::copy_from_slice(value)));
    }
}

/// The first byte of a key behind its group and generation: machines tell kinds of records apart by it.
fn kind(key: &[u8]) -> usize {
    key.get(keys::PREFIX_LEN).copied().map_or(0, usize::from)
}

/// The state engine, with the kept pairs before it.
pub(super) struct HotView<'a> {
    engine: &'a dyn View,
    hot: &'a Hot,
}

impl<'a> HotView<'a> {
    /// To be dropped before the group's lock is.
    pub(super) fn new(engine: &'a dyn View, hot: &'a Hot) -> HotView<'a> {
        HotView { engine, hot }
    }
}

impl View for HotView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        if let Some(kept) = self.hot.pairs.get(key) {
            return Ok(kept);
        }
        let found = self.engine.get(key)?;
        self.hot.keep(key, found.as_ref());
        Ok(found)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        self.engine.scan(from, to, reverse, visit)
    }
}

#[cfg(test)]
#[path = "hot_test.rs"]
mod tests;
