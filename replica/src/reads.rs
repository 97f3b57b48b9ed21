//! Linearizable reads: one round to a quorum serves everybody who waits for one.
//!
//! ```text
//!   readers 1 2 3 -> round ----> all three pass
//!   readers 4 5 ------ wait ----------> next round
//!
//!   a round on the leader:    quorum confirms it, commit index applied here
//!   a round on a follower:    the leader makes such a round and answers its index, applied here
//! ```
//! There are two gates. The one of [`crate::group::Group::read_barrier`] proves leadership and so
//! makes rounds of the first kind only; any member passes the other.
//!
//! Invariant: a reader passes only on a round that began after the reader arrived, so what it then
//! reads is at least as new as everything acknowledged before it asked.
//!
//! Not here: leases. They would save the round and rest on clocks.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Raft, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use world::GroupId;

use crate::codec::pb;
use crate::error::ReadError;
use crate::limits::READERS_WAITING_MAX;
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::network::link::Links;
use crate::state::{StateHandle, StateStore};
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
    pub(crate) async fn run(self: Arc<Self>, round: impl Round) {
        loop {
            let readers = self.waiting.lock().as_mut().map(std::mem::take);
            let Some(readers) = readers else { return };
            if readers.is_empty() {
                self.arrived.notified().await;
                continue;
            }
            let outcome = round.make().await;
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

/// A way to learn that what is read here now is as new as everything acknowledged before.
pub(crate) trait Round: Send + Sync + 'static {
    fn make(&self) -> impl Future<Output = Result<(), ReadError>> + Send;
}

/// Rounds of a member that must lead.
pub(crate) struct LeaderRound<M: Machine> {
    pub(crate) raft: Raft<TypeConfig, StateStore<M>>,
    pub(crate) deadline: Duration,
}

impl<M: Machine> Round for LeaderRound<M> {
    async fn make(&self) -> Result<(), ReadError> {
        let round = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(self.deadline, round).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(read_error(error)),
            Err(_) => Err(ReadError::Unavailable("no quorum answered within the deadline".to_owned())),
        }
    }
}

/// Rounds of any member: a follower has the leader make one.
pub(crate) struct MemberRound<M: Machine> {
    pub(crate) group: GroupId,
    pub(crate) own: MemberId,
    pub(crate) leader_round: LeaderRound<M>,
    pub(crate) state: StateHandle<M>,
    pub(crate) links: Arc<Links>,
}

impl<M: Machine> Round for MemberRound<M> {
    async fn make(&self) -> Result<(), ReadError> {
        let (leader, address) = self.leader();
        if leader == Some(self.own) {
            return self.leader_round.make().await;
        }
        let deadline = self.leader_round.deadline;
        let follow = async {
            let index = self.ask(leader, address).await?;
            let mut applied = self.state.announcements();
            let reached = applied.wait_for(|applied| *applied >= index).await;
            reached.map(|_| ()).map_err(|_| ReadError::Unavailable("the replica stopped".to_owned()))
        };
        match tokio::time::timeout(deadline, follow).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ReadError::Unavailable("the leader did not answer within the deadline".to_owned())),
        }
    }
}

impl<M: Machine> MemberRound<M> {
    fn leader(&self) -> (Option<MemberId>, Option<String>) {
        let metrics = self.leader_round.raft.metrics();
        let metrics = metrics.borrow_watched();
        let Some(leader) = metrics.current_leader else { return (None, None) };
        let peer = metrics.membership_config.membership().get_node(&leader);
        (MemberId::from_raft_id(leader), peer.map(|peer| peer.addr.clone()))
    }

    // That the leader cannot be asked means that it may have changed: the caller may look again.
    async fn ask(&self, leader: Option<MemberId>, address: Option<String>) -> Result<u64, ReadError> {
        let nobody = ReadError::NotLeader { hint: None };
        let address = address.ok_or(nobody.clone())?;
        let link =
            self.links.to(leader, &address).map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let mut request = tonic::Request::new(pb::ReadIndexRequest { group: self.group.0 });
        request.set_timeout(self.leader_round.deadline);
        let mut control = link.control.clone();
        match control.read_index(request).await {
            Ok(reply) => Ok(reply.into_inner().applied),
            Err(status) => {
                tracing::debug!(group = %self.group, ?leader, %status, "the leader gave no read index");
                Err(nobody)
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
