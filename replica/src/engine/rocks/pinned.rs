//! A RocksDB snapshot that owns its database.
//!
//! RocksDB's snapshot borrows the database it was taken from; a snapshot that is sent to a slow
//! peer must outlive every borrow. So it travels with a reference count on the database.
//!
//! Invariant: the snapshot is dropped before the database it came from, and its borrow never
//! leaves this file.
//!
//! Not here: anything else that needs `unsafe`.

use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{DB, Snapshot};

use crate::engine::rocks::{bounds, engine_error, walk};
use crate::engine::{EngineError, View, Visit};

/// The key space at the moment it was taken.
pub(super) struct Pinned {
    /// Declared first, so dropped first. Not truly `'static`: it lives as long as `_db`.
    snapshot: Snapshot<'static>,
    _db: Arc<DB>,
}

impl Pinned {
    pub(super) fn take(db: &Arc<DB>) -> Pinned {
        let db = Arc::clone(db);
        let snapshot = db.snapshot();
        // SAFETY: only the lifetime changes. The snapshot refers to the `DB` inside the `Arc`,
        // whose address is stable; `_db` keeps it alive, is never replaced, and is dropped after
        // `snapshot` because fields are dropped in order of declaration. No method returns
        // anything that borrows from `snapshot` for longer than `&self`.
        #[expect(unsafe_code, reason = "the lifetime of a self-reference cannot be written")]
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Pinned { snapshot, _db: db }
    }
}

impl View for Pinned {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let found = self.snapshot.get_pinned(key).map_err(|error| engine_error(&error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        let Some(options) = bounds(from, to) else { return Ok(()) };
        walk(self.snapshot.raw_iterator_opt(options), reverse, visit)
    }
}
