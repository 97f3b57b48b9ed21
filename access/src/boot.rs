//! Takes a boot epoch from the store: the part of every seal's nonce that makes a start unlike any
//! other.
//!
//! ```text
//!   read boot record (e) -> note max(e, disk) + 1 on disk, durably -> raise the record to it, if
//!   it is still what was read -> only a definite yes counts
//! ```
//! Invariant: an epoch is used by one sealer only. A lost answer is not asked after: the next
//! attempt takes a higher epoch, and epochs are plenty.
//!
//! Not here: how long to try. Without an epoch nothing is sealed, so the node serves nothing.

use bytes::Bytes;
use kvsvr::api::{Compare, ControlOp, Kv, KvError};
use ticket::control::{BootRecord, ControlError, FORMAT, boot_key, encode};
use world::NodeId;
use world::disk::Disk;

use crate::blocking::off_the_path;
use crate::claim::Seen;
use crate::claimer::bounded;
use crate::incarnation::{DiskIdentity, IncarnationError};

/// Why no epoch was taken. All may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The store did not say a definite yes.
    #[error("no boot epoch from the store: {0}")]
    Kv(#[from] KvError),
    /// Another start raised it in between.
    #[error("another start of this node took a boot epoch at the same moment")]
    Raced,
    /// The record makes no sense.
    #[error(transparent)]
    Record(#[from] ControlError),
    /// The disk does not keep its identity.
    #[error(transparent)]
    Disk(#[from] IncarnationError),
}

/// Takes the next boot epoch of `node`. May make `identity` a new incarnation.
///
/// # Errors
/// [`BootError`]; no epoch was taken then, as far as this node is concerned.
pub async fn take_epoch(
    kv: &dyn Kv,
    disk: &dyn Disk,
    identity: &mut DiskIdentity,
    node: NodeId,
) -> Result<u32, BootError> {
    let key = boot_key(node);
    let seen = match bounded(kv.get(key.as_bytes())).await? {
        Some(pair) => Some(Seen::<BootRecord>::read(&pair)?),
        None => None,
    };
    let stored = seen.as_ref().map_or(0, |seen| seen.record.boot_epoch);
    let boot_epoch = off_the_path(|| identity.prepare(disk, stored))?;
    assert!(stored < boot_epoch, "boot epoch {boot_epoch} does not rise above {stored}");
    let record = BootRecord { format: FORMAT, boot_epoch, incarnation: identity.incarnation().to_string() };
    let key = Bytes::from(key);
    let compare = match seen {
        Some(seen) => Compare::ModRevision(key.clone(), seen.mod_revision),
        None => Compare::Absent(key.clone()),
    };
    let write = ControlOp::Put(key, Bytes::from(encode(&record)));
    let outcome = bounded(kv.txn(vec![compare], vec![write])).await?;
    if outcome.succeeded { Ok(boot_epoch) } else { Err(BootError::Raced) }
}
