//! Digests of the store, by which members are compared.
//!
//! ```text
//!   of a key's history up to revision R, compacted at C:
//!     ... | last write at or below C, if the key lives then | every write in (C, R]
//!     not hashed            hashed                                hashed
//!   all keys' writes in the order in which they were made
//! ```
//! Invariant: a digest at a revision is the same on every member that has compacted at the same
//! revision, however far each has come with giving back space.
//!
//! Not here: etcd's own digest. It covers etcd's storage format; only equal programs can be
//! compared by it.

use std::ops::ControlFlow;

use bytes::Bytes;
use replica::engine::{EngineError, View};

use super::Fault;
use super::layout::{self, Place};
use super::mvcc::{Mvcc, read_meta};
use crate::refusal::Refusal;

/// A digest of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// The digest.
    pub hash: u32,
    /// Members are comparable when they agree in this.
    pub compact_revision: i64,
    /// Up to which revision.
    pub hash_revision: i64,
    /// The newest revision then.
    pub current_revision: i64,
}

/// Digests what can be read at `revision` and below; 0 is now.
///
/// # Errors
/// [`Fault`].
pub fn hash_kv(view: &dyn View, revision: i64) -> Result<KvHash, Fault> {
    let meta = read_meta(view)?;
    if revision > 0 && revision < meta.compacted {
        return Err(Refusal::Compacted.into());
    }
    if revision > meta.revision {
        return Err(Refusal::FutureRevision.into());
    }
    let hash_revision = if revision > 0 { revision } else { meta.revision };
    let store = Mvcc::read_only(view)?;
    let mut digest = blake3::Hasher::new();
    let mut fault = None;
    let mut see = |stored_key: &[u8], value: &[u8]| -> Result<(), EngineError> {
        let place = layout::decode_event_key(stored_key)?;
        if place.revision <= meta.compacted {
            let event = layout::decode_event(place, Bytes::copy_from_slice(value))?;
            if event.tombstone || !store.stands_at(&event.pair.key, place, meta.compacted)? {
                return Ok(());
            }
        }
        field(&mut digest, stored_key);
        field(&mut digest, value);
        Ok(())
    };
    let end = layout::event_key(Place { revision: hash_revision + 1, sub: 0 });
    view.scan(b"r", &end, false, &mut |key, value| match see(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(fault) = fault {
        return Err(fault.into());
    }
    Ok(KvHash {
        hash: short(&digest),
        compact_revision: meta.compacted,
        hash_revision,
        current_revision: meta.revision,
    })
}

/// Digests everything the group stores, and answers the newest revision.
///
/// # Errors
/// [`EngineError`].
pub fn hash_all(view: &dyn View) -> Result<(u32, i64), EngineError> {
    let mut digest = blake3::Hasher::new();
    view.scan(&[], &[], false, &mut |key, value| {
        field(&mut digest, key);
        field(&mut digest, value);
        ControlFlow::Continue(())
    })?;
    Ok((short(&digest), read_meta(view)?.revision))
}

// With its length, so that no two lists of fields look alike.
fn field(digest: &mut blake3::Hasher, bytes: &[u8]) {
    digest.update(&(bytes.len() as u64).to_be_bytes());
    digest.update(bytes);
}

fn short(digest: &blake3::Hasher) -> u32 {
    let digest = digest.finalize();
    u32::from_be_bytes(digest.as_bytes()[..4].try_into().expect("a digest has 32 bytes"))
}
