//! A snapshot on its way in: pages into a generation that is not in force.
//!
//! ```text
//!   begin --write_page*--> seal: count and digest agree, pages durable --> install (by the store)
//!      \______________________\_ dropped or crashed: the generation is deleted
//! ```
//!
//! Invariant: nothing of it is visible before it is installed, and only a sealed one can be.
//!
//! Not here: putting it in force (`store`).

use std::sync::Arc;

use bytes::Bytes;
use world::GroupId;

use crate::engine::{Batch, Engine, EngineError};
use crate::machine::prefix_end;
use crate::state::keys;
use crate::state::page::{self, Sealer, SnapshotSeal};

/// Why a snapshot cannot be received.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// A page that is not well formed, or not in order.
    #[error("a snapshot page is malformed: {0}")]
    Page(&'static str),
    /// What arrived is not what was sent.
    #[error("the snapshot does not match its seal: {got} pairs arrived, {sent} were sent")]
    Seal {
        /// Pairs that arrived.
        got: u64,
        /// Pairs the sender counted.
        sent: u64,
    },
    /// The state engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A snapshot being received.
#[must_use = "a snapshot that is dropped is given up"]
pub struct StagedSnapshot {
    group: GroupId,
    engine: Arc<dyn Engine>,
    generation: u32,
    last_key: Option<Bytes>,
    sealer: Sealer,
    sealed: Option<SnapshotSeal>,
    installed: bool,
}

impl StagedSnapshot {
    pub(super) fn begin(group: GroupId, engine: Arc<dyn Engine>, generation: u32) -> StagedSnapshot {
        StagedSnapshot {
            group,
            engine,
            generation,
            last_key: None,
            sealer: Sealer::default(),
            sealed: None,
            installed: false,
        }
    }

    /// Writes the next page.
    ///
    /// # Errors
    /// [`StageError`]. The snapshot must then be dropped.
    pub fn write_page(&mut self, page: Bytes) -> Result<(), StageError> {
        if self.sealed.is_some() {
            return Err(StageError::Page("it follows the seal"));
        }
        let pairs = page::parse(page.clone()).ok_or(StageError::Page("lengths do not fit"))?;
        self.sealer.add(&page, pairs.len() as u64);
        let prefix = keys::state(self.group, self.generation);
        let mut batch = Batch::with_capacity(pairs.len());
        for (key, value) in pairs {
            if self.last_key.as_ref().is_some_and(|last| *last >= key) {
                return Err(StageError::Page("keys do not ascend"));
            }
            batch.put([prefix.as_ref(), &key].concat(), value);
            self.last_key = Some(key);
        }
        Ok(self.engine.write(batch)?)
    }

    /// The last key that arrived, and how many pairs did.
    #[must_use]
    pub fn position(&self) -> Option<(Bytes, u64)> {
        Some((self.last_key.clone()?, self.sealer.pairs()))
    }

    /// Verifies that everything arrived, and makes it durable.
    ///
    /// # Errors
    /// [`StageError`]. The snapshot must then be dropped.
    pub fn seal(&mut self, seal: &SnapshotSeal) -> Result<(), StageError> {
        let arrived = self.sealer.seal(seal.now_ms);
        if arrived != *seal {
            return Err(StageError::Seal { got: arrived.pairs, sent: seal.pairs });
        }
        self.engine.flush()?;
        self.sealed = Some(arrived);
        Ok(())
    }

    /// Makes what arrived durable; for pairs that come from within this process, whose seal is what they are.
    pub(super) fn seal_as_arrived(&mut self, now_ms: u64) -> Result<(), StageError> {
        let seal = self.sealer.seal(now_ms);
        self.seal(&seal)
    }

    /// The generation and its clock, if it may be put in force in this group.
    pub(super) fn ready(&self, group: GroupId) -> Option<(u32, u64)> {
        let sealed = self.sealed.filter(|_| self.group == group && !self.installed)?;
        Some((self.generation, sealed.now_ms))
    }

    /// From now on the generation belongs to the group.
    pub(super) fn into_installed(mut self) {
        self.installed = true;
    }
}

impl Drop for StagedSnapshot {
    fn drop(&mut self) {
        if self.installed {
            return;
        }
        let prefix = keys::state(self.group, self.generation);
        let mut batch = Batch::with_capacity(1);
        batch.delete_range(prefix.clone(), prefix_end(&prefix));
        // When this fails the node is about to stop; the next start deletes the generation.
        if let Err(error) = self.engine.write(batch) {
            tracing::debug!(%error, group = %self.group, "an unfinished snapshot stays until restart");
        }
    }
}
