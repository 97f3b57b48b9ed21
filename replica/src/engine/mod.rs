//! Ordered key-value storage beneath the Raft log and the machines.
//!
//! ```text
//!             write ---------> readable at once, lost by a power cut
//!   Batch --<                        |
//!             write_durable ---+     | flush: a durable point
//!                              v     v
//!                             survives a power cut
//! ```
//!
//! Two implementations hold the same promises and pass the same conformance suite: RocksDB, and a
//! simulated one that can lose what was not made durable.
//!
//! Invariant: a batch is atomic, also across a crash; what survives a crash is a prefix of the
//! batches in the order they were written, and holds everything up to the last durable point.
//! After a failed write or sync the engine answers nothing but that failure: the page cache may
//! have dropped the data, so a second sync that succeeds proves nothing. The process must stop.
//!
//! Not here: any meaning of keys.

mod batch;
pub mod rocks;
pub mod sim;

#[cfg(test)]
mod conformance;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

pub use batch::{Batch, Op};

/// What storage can answer besides data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The disk or the engine failed. The state in memory is no longer known to match the disk.
    #[error("storage failed: {0}")]
    Failed(String),
    /// Bytes that were read are not what was written.
    #[error("storage is corrupt: {0}")]
    Corrupt(String),
}

impl From<EngineError> for std::io::Error {
    fn from(error: EngineError) -> std::io::Error {
        let kind = match &error {
            EngineError::Failed(_) => std::io::ErrorKind::Other,
            EngineError::Corrupt(_) => std::io::ErrorKind::InvalidData,
        };
        std::io::Error::new(kind, error)
    }
}

/// Called with each pair of a scan, in its order, until it breaks.
pub type Visit<'v> = &'v mut (dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v);

/// Read access to an ordered key space at one moment.
pub trait View: Send + Sync {
    /// The value under `key`.
    ///
    /// # Errors
    /// [`EngineError`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Visits pairs with `from <= key < to` in key order (descending when `reverse`), until
    /// `visit` breaks. An empty `to` means no upper bound.
    ///
    /// # Errors
    /// [`EngineError`].
    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError>;
}

/// A key space that can be written. Reads through the engine itself see every write that returned.
pub trait Engine: View + 'static {
    /// Applies `batch` atomically. It survives a power cut once a durable point has passed it.
    ///
    /// # Errors
    /// [`EngineError`], from then on for every call.
    fn write(&self, batch: Batch) -> Result<(), EngineError>;

    /// Applies `batch` atomically and makes it, and everything before it, durable.
    ///
    /// # Errors
    /// [`EngineError`], from then on for every call.
    fn write_durable(&self, batch: Batch) -> Result<(), EngineError>;

    /// A durable point: returns when everything written before survives a power cut.
    ///
    /// # Errors
    /// [`EngineError`], from then on for every call.
    fn flush(&self) -> Result<(), EngineError>;

    /// The key space as it is now; later writes do not change it. Holding it keeps old versions on
    /// disk, so it should be dropped or replaced in time.
    fn snapshot(&self) -> Arc<dyn View>;
}
