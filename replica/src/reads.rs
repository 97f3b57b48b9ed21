//! Linearizable reads: one round to a quorum serves everybody who waits for one.
//!
//! ```text
//!   readers 1 2 3 -> round ----> all three pass
//!   readers 4 5 ------ wait ----------> next round
//! ```
//!
//! Invariant: a reader passes only on a round that began after the reader arrived, so what it then
//! reads is at least as new as everything acknowledged before it asked.
//!
//! Not here: leases. They would save the round and rest on clocks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Raft, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::error::ReadError;
use crate::limits::READERS_WAITING_MAX;
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::state::StateStore;
use crate::status::Counters;
use crate::types::TypeConfig;

type Reader = oneshot::Sender<Result<(), ReadError>>;

/// Where readers wait for a round.
pub(crate) struct ReadGate {
    /// `None` once the replica stops.
    waiting: Mutex<Option<Vec<Reader>>>,
    arrived: Notify,
    counters: Arc<Counters>,
}

impl ReadGate {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<ReadGate> {
        Arc::new(ReadGate { waiting: Mutex::new(Some(Vec::new())), arrived: Notify::new(), counters })
    }

    /// Waits for a round that begins after this call.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) async fn pass(&self, deadline: Duration) -> Result<(), ReadError> {
        let (reader, passed) = oneshot::channel();
        match &mut *self.waiting.lock() {
            Some(waiting) if waiting.len() < READERS_WAITING_MAX => waiting.push(reader),
            Some(_) => return Err(ReadError::Unavailable("overloaded: too many readers wait".to_owned())),
            None => return Err(ReadError::Unavailable("shutting down".to_owned())),
        }
        self.arrived.notify_one();
        match tokio::time::timeout(deadline, passed).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ReadError::Unavailable("the replica stopped".to_owned())),
            Err(_) => Err(ReadError::Unavailable("no quorum answered within the deadline".to_owned())),
        }
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        *self.waiting.lock() = None;
    }

    /// Makes rounds until the replica stops.
    pub(crate) async fn run<M: Machine>(
        self: Arc<Self>,
        raft: Raft<TypeConfig, StateStore<M>>,
        deadline: Duration,
    ) {
        loop {
            let readers = self.waiting.lock().as_mut().map(std::mem::take);
            let Some(readers) = readers else { return };
            if readers.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            let round = tokio::time::timeout(deadline, raft.ensure_linearizable(ReadPolicy::ReadIndex)).await;
            let outcome = match round {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(read_error(error)),
                Err(_) => Err(ReadError::Unavailable("no quorum answered within the deadline".to_owned())),
            };
            self.counters.read_rounds.fetch_add(1, Ordering::Relaxed);
            if outcome.is_ok() {
                Counters::add(&self.counters.reads, readers.len());
            }
            for reader in readers {
                let _ = reader.send(outcome.clone()); // A reader may have given up.
            }
        }
    }
}

fn read_error(error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => ReadError::NotLeader {
            hint: forward.leader_id.and_then(MemberId::from_raft_id).map(|leader| leader.node),
        },
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)) => {
            ReadError::Unavailable(error.to_string())
        }
        RaftError::Fatal(fatal) => ReadError::Unavailable(format!("the replica stopped: {fatal}")),
    }
}
