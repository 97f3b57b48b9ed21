//! One member of one Raft group: what the machine's owner talks to.
//!
//! ```text
//!   propose -> batcher -> Raft -> log, peers, machine -> reply
//!   read_barrier -> read gate -> quorum       read -> machine and state, one consistent cut
//!   read_barrier_anywhere -> another gate -> here or at the leader
//!   standing, status, next_change <- Raft's metrics
//! ```
//!
//! Invariant: nothing here can acknowledge a write that Raft has not committed and applied, nor
//! let a read pass without a quorum.
//!
//! Not here: other groups and the host they share ([`crate::host`]); how leadership moves
//! (`transfer`) and how members change (`change`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::{RaftMetrics, RaftServerMetrics};
use openraft::type_config::alias::VoteOf;
use openraft::{Instant as _, Raft};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use world::mutant::{Mutant, armed};
use world::pace::Pace;
use world::{Clock, GroupId, NodeId, UnixMs};

use crate::attach::Fetcher;
use crate::batcher::Batcher;
use crate::config::ReplicaConfig;
use crate::engine::View;
use crate::error::{ProposeError, ReadError};
use crate::log::{Attachments, LogExtent, Promise};
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::members;
use crate::network::link::Links;
use crate::network::service::Acquaintance;
use crate::reads::{LeaderRound, MemberRound, ReadGate};
use crate::retention;
use crate::state::{PinnedState, StateHandle, StateStore};
use crate::status::{Counters, GroupStatus, MemberStatus, Standing};
use crate::types::{LogId, TypeConfig};

/// A running member of a group whose machine is `M`.
pub struct Group<M: Machine> {
    pub(crate) id: GroupId,
    pub(crate) own: MemberId,
    /// Who should lead when all is well.
    pub(crate) preferred: NodeId,
    pub(crate) config: ReplicaConfig,
    pub(crate) raft: Raft<TypeConfig, StateStore<M>>,
    pub(crate) state: StateHandle<M>,
    pub(crate) links: Arc<Links>,
    promise: Promise,
    pace: Arc<Pace>,
    batcher: Arc<Batcher>,
    pub(crate) fetcher: Fetcher<M>,
    gate: Arc<ReadGate>,
    /// Passed by followers too.
    member_gate: Arc<ReadGate>,
    reporter: Reporter,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

/// What a group is made of.
pub(crate) struct Parts<M: Machine> {
    pub(crate) id: GroupId,
    pub(crate) own: MemberId,
    pub(crate) preferred: NodeId,
    pub(crate) config: ReplicaConfig,
    pub(crate) raft: Raft<TypeConfig, StateStore<M>>,
    pub(crate) state: StateHandle<M>,
    pub(crate) links: Arc<Links>,
    pub(crate) promise: Promise,
    pub(crate) extent: LogExtent,
    pub(crate) attachments: Arc<Attachments>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl<M: Machine> Group<M> {
    pub(crate) fn start(parts: Parts<M>) -> Arc<Group<M>> {
        let Parts { id, own, preferred, config, raft, state, links, promise, extent, attachments, clock } =
            parts;
        let fetcher = Fetcher { group: id, attachments, links: Arc::clone(&links), raft: raft.clone() };
        let counters = Arc::new(Counters::default());
        let pace = Arc::new(Pace::new(clock));
        let now = {
            let (pace, state) = (Arc::clone(&pace), state.clone());
            move || pace.now(state.now())
        };
        let batcher = Batcher::new(Arc::clone(&counters));
        let gate = ReadGate::new(Arc::clone(&counters));
        let member_gate = ReadGate::new(Arc::clone(&counters));
        let leader_round = || LeaderRound { raft: raft.clone(), deadline: config.read_deadline };
        let member_round = MemberRound {
            group: id,
            own,
            leader_round: leader_round(),
            state: state.clone(),
            links: Arc::clone(&links),
        };
        let patience = config.election_patience();
        let reporter = Reporter { group: id, own, patience, counters };
        let tasks = vec![
            tokio::spawn(Arc::clone(&batcher).run(raft.clone(), now)),
            tokio::spawn(Arc::clone(&gate).run(leader_round())),
            tokio::spawn(Arc::clone(&member_gate).run(member_round)),
            tokio::spawn(retention::run(raft.clone(), extent, config.clone())),
        ];
        let tasks = Mutex::new(tasks);
        Arc::new(Group {
            id,
            own,
            preferred,
            config,
            raft,
            state,
            links,
            promise,
            pace,
            batcher,
            fetcher,
            gate,
            member_gate,
            reporter,
            tasks,
        })
    }

    /// The group's number.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// Has `command` replicated and applied; answers the machine's reply. Commands that arrive
    /// together share a log entry.
    ///
    /// # Errors
    /// [`ProposeError`]. Only `Unknown` leaves open whether the command is or will be applied.
    pub async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        self.check_may_write().await?;
        self.batcher.propose(command, self.config.propose_deadline).await
    }

    /// Returns when this member has proved that it led after the call began, and has applied
    /// everything that was acknowledged before. A [`Group::read`] that follows is linearizable.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_barrier(&self) -> Result<(), ReadError> {
        if !self.is_leader() {
            return Err(ReadError::NotLeader { hint: self.leader() });
        }
        if armed(Mutant::ReadWithoutQuorum) {
            return Ok(());
        }
        self.gate.pass(self.config.read_deadline).await
    }

    /// Returns when this member has applied everything that was acknowledged before the call began,
    /// whether it leads or follows: a follower asks the leader how far that is. A [`Group::read`]
    /// that follows is linearizable.
    ///
    /// # Errors
    /// [`ReadError`]; `NotLeader` when nobody could be asked, and the next try may go well.
    pub async fn read_barrier_anywhere(&self) -> Result<(), ReadError> {
        if armed(Mutant::ReadWithoutQuorum) && self.is_leader() {
            return Ok(());
        }
        self.member_gate.pass(self.config.read_deadline).await
    }

    /// Index of the last entry this member has applied, told whenever it changes.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.state.announcements()
    }

    /// Reads the machine and its durable state at one applied index: as new as this member knows,
    /// linearizable only after [`Group::read_barrier`].
    pub fn read<R>(&self, read: impl FnOnce(&M, &dyn View) -> R) -> R {
        self.state.read(read)
    }

    /// The state as [`Group::read`] shows it, for reads that take long: applying goes on meanwhile.
    #[must_use]
    pub fn pin(&self) -> PinnedState {
        self.state.pin()
    }

    /// # Errors
    /// [`ProposeError::NotLeader`] when this member does not lead.
    pub(crate) async fn check_may_write(&self) -> Result<(), ProposeError> {
        if self.may_write().await {
            return Ok(());
        }
        Err(ProposeError::NotLeader { hint: self.leader().filter(|leader| *leader != self.own.node) })
    }

    /// Whether this member leads. Raft refuses writes to a leader just elected until a first
    /// quorum has answered it, a round trip later: that is waited for.
    async fn may_write(&self) -> bool {
        let mut metrics = self.raft.metrics();
        let settled = async {
            loop {
                match readiness(&metrics.borrow_watched()) {
                    Readiness::Follows => return false,
                    Readiness::Leads => return true,
                    Readiness::Elected => {}
                }
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
        };
        tokio::time::timeout(self.config.election_patience(), settled).await.unwrap_or(false)
    }

    /// The group's clock, as this member's commands would bear it: never before what is applied here.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        self.pace.now(self.state.now())
    }

    /// Whether this member believes that it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.is_leader()
    }

    /// Who leads, as far as this member knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.raft.metrics().borrow_watched().current_leader.and_then(node_of)
    }

    /// Term and node of this member's leadership, for fencing what it hands out; `None` when it
    /// does not lead. Greater tokens belong to later leaders.
    #[must_use]
    pub fn term_token(&self) -> Option<(u64, NodeId)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let vote = &metrics.vote;
        let own = vote.leader_id.node_id == self.own.raft_id();
        let leads = metrics.state.is_leader() && vote.committed && own;
        leads.then_some((vote.leader_id.term, self.own.node))
    }

    /// The member's view of the group now.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        self.reporter.report(&self.raft.metrics().borrow_watched())
    }

    /// The part of it that goes with every answer.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        Standing {
            leader: metrics.current_leader.and_then(node_of),
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(&metrics.local_committed),
            applied_index: index(&metrics.last_applied),
        }
    }

    /// Resolves when something was applied, or the leadership moved, after this call; never when the
    /// group has stopped.
    pub fn next_change(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut applied = self.applied();
        applied.mark_unchanged();
        let mut server = self.raft.server_metrics();
        let led = leadership(&server.borrow_watched());
        async move {
            let applied = async {
                if applied.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let moved = async {
                while leadership(&server.borrow_watched()) == led {
                    if server.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                biased;
                () = applied => {}
                () = moved => {}
            }
        }
    }

    /// Waits until this member knows another leader than itself.
    pub(crate) async fn other_leader(&self, patience: Duration) -> Option<NodeId> {
        let mut server = self.raft.server_metrics();
        let moved = async {
            loop {
                let leader = server.borrow_watched().current_leader.and_then(node_of);
                if leader.is_some_and(|leader| leader != self.own.node) {
                    return leader;
                }
                server.changed().await.ok()?;
            }
        };
        tokio::time::timeout(patience, moved).await.ok()?
    }

    /// Takes a snapshot now, whatever the log's length: makes the state durable and lets the log
    /// before it be removed.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] when the replica has stopped.
    pub async fn snapshot(&self) -> Result<(), ReadError> {
        let triggered = self.raft.trigger().snapshot().await;
        triggered.map_err(|fatal| ReadError::Unavailable(format!("the replica stopped: {fatal}")))
    }

    /// The members as this leader sees them. A member is alive when it answered within two
    /// election timeouts.
    #[must_use]
    pub fn members(&self) -> members::View {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let last_index = metrics.last_log_index.unwrap_or(0);
        let mut alive: BTreeMap<MemberId, u64> = BTreeMap::from([(self.own, last_index)]);
        for (id, heard) in metrics.heartbeat.iter().flatten() {
            let fresh = heard.is_some_and(|heard| heard.elapsed() < self.config.election_patience());
            let held = metrics.replication.as_ref().and_then(|held| held.get(id)).and_then(Option::as_ref);
            if let (true, Some(member), Some(held)) = (fresh, MemberId::from_raft_id(*id), held) {
                alive.insert(member, held.index);
            }
        }
        members::View {
            voters: members_of(&mut membership.voter_ids()),
            learners: members_of(&mut membership.learner_ids()),
            majorities: membership
                .get_joint_config()
                .iter()
                .map(|voters| members_of(&mut voters.iter().copied()))
                .collect(),
            pending: *metrics.membership_config.log_id() > metrics.local_committed,
            last_index,
            alive,
            lag_entries_max: self.config.transfer_lag_entries_max,
        }
    }

    /// How `member` is reached, when it is one.
    pub(crate) fn address(&self, member: MemberId) -> Option<String> {
        self.fetcher.address(member)
    }

    /// Whether this member knows who the group's members are.
    pub(crate) fn is_formed(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().voter_ids().next().is_some()
    }

    /// What this member knows of the group, for `asker`; gives it the promise when it wants to found
    /// the group and nothing of the group is here. Asks Raft itself: what is published about it may
    /// not be there yet when a member has just started.
    pub(crate) async fn acquaintance(&self, asker: MemberId, found: bool) -> Result<Acquaintance, String> {
        let blank = !self.raft.is_initialized().await.map_err(|fatal| fatal.to_string())?;
        if found && blank {
            self.promise.give(asker.raft_id()).await.map_err(|error| error.to_string())?;
        }
        let promised = self.promise.given().map_err(|error| error.to_string())?;
        let known = self.raft.with_raft_state(move |state| {
            let membership = state.membership_state.effective().membership();
            let formed = membership.voter_ids().next().is_some();
            (formed, membership.get_node(&asker.raft_id()).is_some())
        });
        let (formed, named) = known.await.map_err(|fatal| fatal.to_string())?;
        Ok(Acquaintance { formed, named, promised })
    }

    /// Stops the member: refuses what is new, then stops Raft, then the tasks around it.
    pub(crate) async fn stop(&self) {
        self.batcher.close();
        self.gate.close();
        self.member_gate.close();
        if self.raft.shutdown().await.is_err() {
            tracing::error!(group = %self.id, "the replica did not stop cleanly");
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.abort();
        }
    }
}

/// How a member stands towards writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Readiness {
    Follows,
    /// It leads, and no quorum has answered it as a leader yet.
    Elected,
    Leads,
}

fn readiness(metrics: &RaftMetrics<TypeConfig>) -> Readiness {
    let alone = || metrics.membership_config.membership().voter_ids().count() == 1;
    if !metrics.state.is_leader() {
        Readiness::Follows
    } else if metrics.last_quorum_acked.is_some() || alone() {
        Readiness::Leads
    } else {
        Readiness::Elected
    }
}

fn node_of(raft_id: u64) -> Option<NodeId> {
    MemberId::from_raft_id(raft_id).map(|member| member.node)
}

fn members_of(ids: &mut dyn Iterator<Item = u64>) -> BTreeSet<MemberId> {
    ids.filter_map(MemberId::from_raft_id).collect()
}

/// Makes statuses of Raft's metrics.
struct Reporter {
    group: GroupId,
    own: MemberId,
    /// Who was heard of within this time is alive.
    patience: Duration,
    counters: Arc<Counters>,
}

impl Reporter {
    fn report(&self, metrics: &RaftMetrics<TypeConfig>) -> GroupStatus {
        let membership = metrics.membership_config.membership();
        let (voters, learners) =
            (members_of(&mut membership.voter_ids()), members_of(&mut membership.learner_ids()));
        let nodes = |members: &BTreeSet<MemberId>| members.iter().map(|member| member.node).collect();
        let acked_ms = metrics.last_quorum_acked.map(|acked| acked.elapsed().as_millis());
        GroupStatus {
            group: self.group,
            node: self.own.node,
            stopped: metrics.running_state.as_ref().err().map(ToString::to_string),
            leader: metrics.current_leader.and_then(node_of),
            is_leader: metrics.state.is_leader(),
            term: metrics.current_term,
            last_index: metrics.last_log_index.unwrap_or(0),
            committed_index: index(&metrics.local_committed),
            applied_index: index(&metrics.last_applied),
            snapshot_index: index(&metrics.snapshot),
            purged_index: index(&metrics.purged),
            voters: nodes(&voters),
            learners: nodes(&learners),
            members: voters.union(&learners).map(|member| self.member(metrics, *member)).collect(),
            joint: membership.get_joint_config().len() > 1,
            quorum_acked_ms_ago: acked_ms.and_then(|ms| u64::try_from(ms).ok()),
            counts: self.counters.read(),
        }
    }

    fn member(&self, metrics: &RaftMetrics<TypeConfig>, member: MemberId) -> MemberStatus {
        let membership = metrics.membership_config.membership();
        let id = member.raft_id();
        let heard = metrics.heartbeat.as_ref().and_then(|heard| heard.get(&id)).copied().flatten();
        MemberStatus {
            member,
            votes: membership.voter_ids().any(|voter| voter == id),
            address: membership.get_node(&id).map(|peer| peer.addr.clone()).unwrap_or_default(),
            alive: member == self.own || heard.is_some_and(|heard| heard.elapsed() < self.patience),
            matched: metrics.replication.as_ref().and_then(|held| held.get(&id)).map(index),
        }
    }
}

fn index(id: &Option<LogId>) -> u64 {
    id.as_ref().map_or(0, |id| id.index)
}

/// Which leadership this is: the term's, and whether it is settled.
fn leadership(metrics: &RaftServerMetrics<TypeConfig>) -> (Option<u64>, VoteOf<TypeConfig>) {
    (metrics.current_leader, metrics.vote)
}
