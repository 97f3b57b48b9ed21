//! Turns many small commands into few large proposals, without a timer.
//!
//! ```text
//!   propose --> backlog --> proposal --> Raft (at most 2 at once)
//!     ^            ^ fills up while the proposals before it are on their way, and while tasks
//!     |              are ready to run that bring more: batches grow with load, and one lone
//!     |              command never waits
//!     +---- replies, one per command, in order ----+
//! ```
//! A proposal costs three members the same whatever is in it (threads woken, frames, an fsync each), so
//! under load few large ones leave more of the processors for the commands themselves.
//!
//! Invariant: a command is answered exactly once, and "refused" or "not the leader" only when it
//! certainly was not appended to any log. Everything else that is not a reply is "unknown".
//!
//! Not here: retries. Only the caller knows whether its command may be repeated.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::Raft;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use world::UnixMs;

use crate::backlog::{Backlog, Bounds, Full};
use crate::error::ProposeError;
use crate::limits::{
    BACKLOG_BYTES_MAX, BACKLOG_COMMANDS_MAX, COMMAND_BYTES_MAX, GATHER_YIELDS_IN_VAIN_MAX, GATHER_YIELDS_MAX,
    PROPOSAL_BYTES_MAX, PROPOSAL_COMMANDS_MAX, PROPOSALS_IN_FLIGHT_MAX,
};
use crate::machine::Machine;
use crate::member_id::MemberId;

use crate::state::StateStore;
use crate::status::Counters;
use crate::types::{Proposal, TypeConfig};

type Outcome = Result<Bytes, ProposeError>;
type Caller = oneshot::Sender<Outcome>;

/// The front of a group through which commands go.
pub(crate) struct Batcher {
    backlog: Mutex<Backlog<Caller>>,
    arrived: Notify,
    counters: Arc<Counters>,
}

impl Batcher {
    pub(crate) fn new(counters: Arc<Counters>) -> Arc<Batcher> {
        let bounds = Bounds {
            backlog_commands_max: BACKLOG_COMMANDS_MAX,
            backlog_bytes_max: BACKLOG_BYTES_MAX,
            proposal_commands_max: PROPOSAL_COMMANDS_MAX,
            proposal_bytes_max: PROPOSAL_BYTES_MAX,
        };
        Arc::new(Batcher { backlog: Mutex::new(Backlog::new(bounds)), arrived: Notify::new(), counters })
    }

    /// Has `command` proposed and waits for its reply.
    ///
    /// # Errors
    /// [`ProposeError`].
    pub(crate) async fn propose(&self, command: Bytes, deadline: Duration) -> Outcome {
        if command.len() > COMMAND_BYTES_MAX {
            Counters::add(&self.counters.refused, 1);
            let size = command.len();
            return Err(ProposeError::Refused(format!(
                "a command of {size} bytes; the limit is {COMMAND_BYTES_MAX}"
            )));
        }
        let (caller, mut reply) = oneshot::channel();
        let pushed = self.backlog.lock().push(command, caller);
        let place = match pushed {
            Ok(place) => place,
            Err(full) => return Err(self.refuse(full)),
        };
        self.arrived.notify_one();
        match tokio::time::timeout(deadline, &mut reply).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(self.unknown("the replica stopped")),
            Err(_) if self.backlog.lock().withdraw(place) => {
                Counters::add(&self.counters.refused, 1);
                Err(ProposeError::Refused("overloaded: not proposed within its deadline".to_owned()))
            }
            // Taken between the deadline and the withdrawal: the answer may be there already.
            Err(_) => reply.try_recv().unwrap_or_else(|_| Err(self.unknown("no reply within the deadline"))),
        }
    }

    /// Takes no more commands; those that wait are refused.
    pub(crate) fn close(&self) {
        let callers = self.backlog.lock().close();
        for caller in callers {
            let _ = caller.send(Err(self.refuse(Full::Closed)));
        }
        self.arrived.notify_one();
    }

    /// Proposes what waits until the replica stops.
    pub(crate) async fn run<M: Machine>(
        self: Arc<Self>,
        raft: Raft<TypeConfig, StateStore<M>>,
        now: impl Fn() -> UnixMs,
    ) {
        let mut in_flight = FuturesUnordered::new();
        let mut alone = true;
        loop {
            while in_flight.len() < PROPOSALS_IN_FLIGHT_MAX {
                if !alone {
                    self.gather().await;
                }
                let taken = self.backlog.lock().take();
                if taken.is_empty() {
                    break;
                }
                alone = taken.len() == 1;
                let (commands, callers): (Vec<Bytes>, Vec<Caller>) = taken.into_iter().unzip();
                let proposal = Proposal::pack(now().0, commands.iter().map(Bytes::as_ref));
                let (responder, result) = ProgressResponder::complete_only();
                match raft.client_write_ff(proposal, Some(responder)).await {
                    Ok(()) => in_flight.push(async move { (result.await.ok(), callers) }),
                    // The request did not reach the core, so nothing was appended.
                    Err(fatal) => self
                        .answer_all(callers, &ProposeError::Refused(format!("the replica stopped: {fatal}"))),
                }
            }
            tokio::select! {
                biased;
                Some((result, callers)) = in_flight.next(), if !in_flight.is_empty() => self.settle(result, callers),
                () = self.arrived.notified(), if in_flight.len() < PROPOSALS_IN_FLIGHT_MAX => {}
            }
        }
    }

    /// Lets tasks run that are ready, for as long as they bring commands to those that wait.
    async fn gather(&self) {
        let (mut waiting, mut in_vain) = (self.backlog.lock().len(), 0);
        for _ in 0..GATHER_YIELDS_MAX {
            if waiting == 0 || waiting >= PROPOSAL_COMMANDS_MAX || in_vain == GATHER_YIELDS_IN_VAIN_MAX {
                return;
            }
            tokio::task::yield_now().await;
            let more = self.backlog.lock().len();
            in_vain = if more > waiting { 0 } else { in_vain + 1 };
            waiting = more;
        }
    }

    /// Answers the callers of one proposal.
    fn settle(&self, result: Option<ClientWriteResult<TypeConfig>>, callers: Vec<Caller>) {
        let error = match replies_of(result) {
            Ok(replies) => {
                assert_eq!(replies.len(), callers.len(), "a proposal has one reply per command");
                Counters::add(&self.counters.proposals, 1);
                Counters::add(&self.counters.commands, callers.len());
                for (caller, reply) in callers.into_iter().zip(replies) {
                    let _ = caller.send(Ok(reply)); // A caller may have given up.
                }
                return;
            }
            Err(error) => error,
        };
        self.answer_all(callers, &error);
    }

    fn answer_all(&self, callers: Vec<Caller>, error: &ProposeError) {
        match error {
            ProposeError::Unknown(_) => Counters::add(&self.counters.unknown, callers.len()),
            ProposeError::Refused(_) => Counters::add(&self.counters.refused, callers.len()),
            ProposeError::NotLeader { .. } => {}
        }
        for caller in callers {
            let _ = caller.send(Err(error.clone()));
        }
    }

    fn refuse(&self, full: Full) -> ProposeError {
        Counters::add(&self.counters.refused, 1);
        ProposeError::Refused(match full {
            Full::Backlog => "overloaded: too many commands wait".to_owned(),
            Full::Closed => "shutting down".to_owned(),
        })
    }

    fn unknown(&self, reason: &str) -> ProposeError {
        Counters::add(&self.counters.unknown, 1);
        ProposeError::Unknown(reason.to_owned())
    }
}

/// What became of a proposal: one reply per command, or why there is none. `None`: the replica stopped.
pub(crate) fn replies_of(result: Option<ClientWriteResult<TypeConfig>>) -> Result<Vec<Bytes>, ProposeError> {
    match result {
        Some(Ok(response)) => Ok(response.data.0),
        Some(Err(ClientWriteError::ForwardToLeader(forward))) => Err(ProposeError::NotLeader {
            hint: forward.leader_id.and_then(MemberId::from_raft_id).map(|leader| leader.node),
        }),
        Some(Err(error)) => Err(ProposeError::Unknown(format!("leadership was lost: {error}"))),
        None => Err(ProposeError::Unknown("the replica stopped".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_is_ready_comes_along_and_nobody_is_waited_for_long() {
        let batcher = Batcher::new(Arc::default());
        let push = |batcher: &Batcher| {
            let (caller, _) = oneshot::channel();
            batcher.backlog.lock().push(Bytes::from_static(b"command"), caller).expect("room");
        };
        // Each comes one turn after the one before it; the last one after too many turns in which nobody came.
        for turns in (0..10).chain([10 + GATHER_YIELDS_IN_VAIN_MAX + 1]) {
            let batcher = Arc::clone(&batcher);
            tokio::spawn(async move {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                push(&batcher);
            });
        }
        batcher.gather().await;
        assert_eq!(batcher.backlog.lock().len(), 0, "without a command there is nothing to wait for");
        push(&batcher);
        batcher.gather().await;
        assert_eq!(batcher.backlog.lock().len(), 11);
        batcher.gather().await;
        assert_eq!(batcher.backlog.lock().len(), 12, "it came later");
    }
}
