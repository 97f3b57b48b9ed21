//! Where a group's snapshot arrives, and what is kept of it when its stream breaks.
//!
//! ```text
//!   land --page, page, ...--> take (complete)
//!     \_ stream broke, or another one begins: kept -> land again behind it
//! ```
//!
//! Invariant: one stream writes at a time. A stream that is thought broken by its sender may not
//! have noticed here yet: whoever asks what was kept ends it first. At most one unfinished snapshot is
//! kept per group; another one takes its place.
//!
//! Not here: whether what arrived is right; the seal says so (`state`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tonic::Status;

use super::service::PeerHandler;
use crate::state::{StageError, StagedSnapshot};
use crate::types::LogId;

/// How long an earlier stream may take to end, the installation of what it brought included.
const TURN_DEADLINE: Duration = Duration::from_secs(5);

/// A snapshot that is not complete.
struct Kept {
    /// The last entry it covers.
    last: Option<LogId>,
    staged: StagedSnapshot,
}

/// One group's place for snapshots.
#[derive(Default)]
pub(crate) struct Landing {
    kept: Arc<Mutex<Option<Kept>>>,
    interrupt: Arc<Notify>,
}

/// A snapshot while its pages arrive. Dropped, it is kept.
pub(super) struct Landed {
    slot: OwnedMutexGuard<Option<Kept>>,
    last: Option<LogId>,
    staged: Option<StagedSnapshot>,
    interrupt: Arc<Notify>,
}

impl Landing {
    async fn turn(&self) -> Result<OwnedMutexGuard<Option<Kept>>, Status> {
        self.interrupt.notify_waiters();
        let turn = tokio::time::timeout(TURN_DEADLINE, Arc::clone(&self.kept).lock_owned()).await;
        turn.map_err(|_| Status::unavailable("an earlier snapshot is still being received"))
    }

    /// What was kept of the snapshot that covers entries up to `last`.
    pub(super) async fn kept(&self, last: Option<LogId>) -> Result<Option<(Bytes, u64)>, Status> {
        let kept = self.turn().await?;
        Ok(kept.as_ref().filter(|kept| kept.last == last).and_then(|kept| kept.staged.position()))
    }

    /// Begins to receive, at the beginning or behind what was kept.
    pub(super) async fn land(
        &self,
        group: &dyn PeerHandler,
        last: Option<LogId>,
        from: Option<(Bytes, u64)>,
    ) -> Result<Landed, Status> {
        let mut slot = self.turn().await?;
        let staged = match (slot.take(), from) {
            (Some(kept), Some(from)) if kept.last == last && kept.staged.position() == Some(from.clone()) => {
                kept.staged
            }
            (_, Some(_)) => return Err(Status::aborted("this was not kept; begin again")),
            (_, None) => group.stage_snapshot(),
        };
        Ok(Landed { slot, last, staged: Some(staged), interrupt: Arc::clone(&self.interrupt) })
    }
}

impl Landed {
    /// Returns when another stream wants to begin.
    pub(super) async fn interrupted(&self) {
        self.interrupt.notified().await;
    }

    /// Writes the next page. After an error nothing of the snapshot is kept.
    pub(super) fn write_page(&mut self, page: Bytes) -> Result<(), StageError> {
        let staged = self.staged.as_mut().expect("pages are written before the snapshot is taken");
        let written = staged.write_page(page);
        if written.is_err() {
            self.staged = None;
        }
        written
    }

    /// All pages are there.
    pub(super) fn take(&mut self) -> StagedSnapshot {
        self.staged.take().expect("a snapshot is taken once, and not after an error")
    }
}

impl Drop for Landed {
    fn drop(&mut self) {
        let Some(staged) = self.staged.take() else { return };
        if staged.position().is_some() {
            *self.slot = Some(Kept { last: self.last, staged });
        }
    }
}
