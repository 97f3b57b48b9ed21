//! Digests of the store, by which members are compared.
//!
//! ```text
//!   of a key's history up to revision R, compacted at C:
//!     ... | last write at or below C, if the key lives then | every write in (C, R]
//!     not hashed            hashed                                hashed
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
use super::mvcc::read_meta;
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
    let mut digest = blake3::Hasher::new();
    let mut last: Option<(Bytes, Place, bool)> = None;
    let mut fault = None;
    let mut see = |stored_key: &[u8], value: &[u8]| -> Result<(), EngineError> {
        let (key, place) = layout::decode_version_key(stored_key)?;
        let tombstone = layout::decode_version(value)?;
        // What stood at the compacted revision counts once it is known to be the last one there.
        let settled = match &last {
            Some((of, _, _)) if *of != key || place.revision > meta.compacted => last.take(),
            _ => None,
        };
        if let Some((_, place, false)) = settled {
            add(&mut digest, view, place)?;
        }
        if place.revision <= meta.compacted {
            last = Some((key, place, tombstone));
        } else if place.revision <= hash_revision {
            add(&mut digest, view, place)?;
        }
        Ok(())
    };
    view.scan(b"v", layout::VERSION_END, false, &mut |key, value| match see(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(fault) = fault {
        return Err(fault.into());
    }
    if let Some((_, place, false)) = last {
        add(&mut digest, view, place)?;
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

fn add(digest: &mut blake3::Hasher, view: &dyn View, place: Place) -> Result<(), EngineError> {
    let key = layout::event_key(place);
    let event = view.get(&key)?.ok_or_else(|| {
        EngineError::Corrupt(format!("history lacks the event at {}.{}", place.revision, place.sub))
    })?;
    field(digest, &key);
    field(digest, &event);
    Ok(())
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
