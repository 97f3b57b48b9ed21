//! Ordered key-value storage beneath the Raft log and the machines.
//!
//! Two implementations hold the same promises and pass the same conformance suite: RocksDB, and a
//! simulated one that can lose what was not made durable.

use std::ops::ControlFlow;

use bytes::Bytes;

/// What storage can answer besides data.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The disk or the engine failed. The state in memory is no longer known to match the disk.
    #[error("storage failed: {0}")]
    Failed(String),
    /// Bytes that were read are not what was written.
    #[error("storage is corrupt: {0}")]
    Corrupt(String),
}

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
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError>;
}
