//! A node's share in all of its groups: what they have in common and how they start and stop.
//!
//! ```text
//!            +--------------------- host ---------------------+
//!   peers -> | registry -> group 0, group 1, ... -> links     | -> peers
//!            |              |   each its Raft and machine     |
//!            |   log engine (one writer)    state engine      |
//!            +------------------------------------------------+
//! ```
//!
//! Invariant: all groups of a host are members under one id, that of its node and disk. A group is
//! formed once, by its first leader with the promise of every voter (`formation`). A member that has
//! data keeps what it knows, whatever it is told at start.
//!
//! Not here: listening (the node mounts [`Host::peer_service`] on its peers port), and what the
//! machines do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use openraft::errors::Fatal;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use world::net::Net;
use world::{Clock, GroupId, NodeId};

use crate::change::ChangeError;
use crate::codec::pb::peer_server::PeerServer;
use crate::config::{ConfigError, ReplicaConfig};
use crate::engine::{Engine, EngineError};
use crate::formation::{Candidate, Obstacles};
use crate::group::{Group, Parts};
use crate::handler::HostedGroup;
use crate::identity::{HOST_GROUP, Identity, LOG_DIR, REPLACE, STATE_DIR};
use crate::log::{LogStore, LogWriter};
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::members::{Step, Wish};
use crate::network::client::Factory;
use crate::network::link::Links;
use crate::network::meet::meet;
use crate::network::service::{PeerService, Registry};
use crate::state::{Hot, StateHandle, StateStore};
use crate::status::GroupStatus;
use crate::transfer::TransferError;
use crate::types::{LogId, TypeConfig};

/// Who a host is and how its groups behave.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// This node and its disk ([`crate::identity::settle`]).
    pub identity: Identity,
    /// Times and distances, the same for all groups.
    pub replica: ReplicaConfig,
}

/// Where a host keeps what it must not forget.
#[derive(Clone)]
pub struct Engines {
    /// Raft logs of all groups.
    pub log: Arc<dyn Engine>,
    /// The one writer of the log engine.
    pub log_writer: LogWriter,
    /// Applied state of all groups.
    pub state: Arc<dyn Engine>,
}

/// Why a host or a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Settings that contradict each other.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Storage could not be read.
    #[error("{group}: {error}")]
    Engine {
        /// The group.
        group: GroupId,
        /// What the engine said.
        error: EngineError,
    },
    /// What was read is not what was written.
    #[error("{group}: {error}. {REPLACE}")]
    Damaged {
        /// The group.
        group: GroupId,
        /// What is wrong, and where.
        error: EngineError,
    },
    /// A group was added twice.
    #[error("{0} is on this host already")]
    Duplicate(GroupId),
    /// The members given do not make a group.
    #[error("{group}: {reason}")]
    Members {
        /// The group.
        group: GroupId,
        /// What is wrong, for people.
        reason: String,
    },
    /// Raft stopped while it was started.
    #[error("{group} stopped at start: {reason}")]
    Stopped {
        /// The group.
        group: GroupId,
        /// Why, for people.
        reason: String,
    },
}

/// A node's share in all of its groups.
pub struct Host {
    own: Identity,
    replica: ReplicaConfig,
    raft: Arc<openraft::Config>,
    clock: Arc<dyn Clock>,
    engines: Engines,
    hot: Arc<Hot>,
    links: Arc<Links>,
    registry: Arc<Registry>,
    groups: Mutex<BTreeMap<GroupId, Arc<dyn HostedGroup>>>,
    obstacles: Arc<Obstacles>,
    /// Members that do not know their group yet.
    candidates: Mutex<Vec<JoinHandle<()>>>,
}

impl Host {
    /// A host without groups.
    ///
    /// # Errors
    /// [`HostError::Config`].
    pub fn start(
        config: HostConfig,
        net: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
        engines: Engines,
    ) -> Result<Arc<Host>, HostError> {
        let raft = config.replica.raft()?;
        Ok(Arc::new(Host {
            links: Links::new(config.identity.clone(), net),
            own: config.identity,
            replica: config.replica,
            raft,
            clock,
            engines,
            hot: Arc::default(),
            registry: Registry::new(),
            groups: Mutex::new(BTreeMap::new()),
            obstacles: Arc::default(),
            candidates: Mutex::default(),
        }))
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.own.member.node
    }

    /// This node and its disk.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.own
    }

    /// The service that other members reach this host's groups through.
    #[must_use]
    pub fn peer_service(&self) -> PeerServer<PeerService> {
        PeerService::server(self.own.clone(), Arc::clone(&self.registry))
    }

    /// Starts this node's member of a group and returns at once. When the group is new, its first
    /// leader forms it as soon as every voter is there; every other member waits to hear from a
    /// leader. Safe to repeat at every start, with the other nodes up or not. `voters` matter only
    /// when the group is formed: afterwards the log says who they are.
    ///
    /// # Errors
    /// [`HostError`].
    pub async fn add_group<M: Machine>(
        &self,
        id: GroupId,
        machine: M,
        voters: &[(NodeId, String)],
        first_leader: NodeId,
    ) -> Result<Arc<Group<M>>, HostError> {
        check_members(id, voters, first_leader)?;
        if self.groups.lock().contains_key(&id) {
            return Err(HostError::Duplicate(id));
        }
        let refused = |error| refused(id, error);
        let (engine, hot) = (Arc::clone(&self.engines.state), Arc::clone(&self.hot));
        let state = StateStore::open_beside(id, engine, machine, hot).map_err(refused)?;
        let handle = state.handle();
        let log = LogStore::open(id, Arc::clone(&self.engines.log), self.engines.log_writer.clone());
        let log = log.map_err(refused)?.guarded_by(handle.flushed_next());
        check_ends(log.ends(), &handle).map_err(refused)?;
        let attachments = log.attachments();
        let state = state.beside(log.durable_next(), Arc::clone(&attachments));
        let (promise, extent) = (log.promise(), log.extent());
        let factory = Factory { group: id, links: Arc::clone(&self.links) };
        let raft = Raft::new(self.own.member.raft_id(), Arc::clone(&self.raft), factory, log, state).await;
        let raft = raft.map_err(|fatal| stopped(id, &fatal))?;
        let group = Group::start(Parts {
            id,
            own: self.own.member,
            preferred: first_leader,
            config: self.replica.clone(),
            raft,
            state: handle,
            links: Arc::clone(&self.links),
            promise,
            extent,
            attachments,
            clock: Arc::clone(&self.clock),
        });
        self.registry.insert(id, Arc::clone(&group) as _);
        self.groups.lock().insert(id, Arc::clone(&group) as _);
        let candidate = Candidate {
            group: Arc::clone(&group),
            own: self.own.member,
            voters: voters.to_vec(),
            founder: first_leader,
            links: Arc::clone(&self.links),
            obstacles: Arc::clone(&self.obstacles),
        };
        self.candidates.lock().push(tokio::spawn(candidate.run()));
        Ok(group)
    }

    /// What every group on this host says about itself.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        self.hosted().iter().map(|group| group.report()).collect()
    }

    /// What keeps this host out of its groups, or others from it: for people, empty when all is
    /// well.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.obstacles.list();
        let named: BTreeSet<MemberId> =
            self.status().iter().flat_map(|group| group.members.iter().map(|member| member.member)).collect();
        let refusals = self.links.refusals().into_iter().filter(|(member, _)| named.contains(member));
        problems.extend(refusals.map(|(member, said)| format!("in the place of {member}: {said}")));
        problems
    }

    /// Does what comes next towards a wish in every group that this host leads. Called on every host until
    /// every group answers [`Step::Done`]. With `look` nothing is changed. A new disk is reached at `address`.
    ///
    /// # Errors
    /// When another member answers at `address`; why, for people.
    pub async fn towards(
        &self,
        wish: Wish,
        address: &str,
        look: bool,
    ) -> Result<Vec<(GroupId, Result<Step, ChangeError>)>, String> {
        let led: Vec<_> = self.hosted().into_iter().filter(|group| group.report().is_leader).collect();
        let Some(first) = led.first() else { return Ok(Vec::new()) };
        if let Some(new) = wish.new_disk() {
            let met = meet(&self.links, address, first.group_id(), false).await?;
            if met.member != new {
                return Err(format!("{address} answers as {}, not as {new}", met.member));
            }
        }
        let mut steps = Vec::new();
        for group in led {
            steps.push((group.group_id(), group.towards(wish, address, look).await));
        }
        Ok(steps)
    }

    /// Hands one group to another member; `None` when the group is not on this host.
    pub async fn transfer(&self, group: GroupId, to: NodeId) -> Option<Result<(), TransferError>> {
        let group = self.groups.lock().get(&group).map(Arc::clone)?;
        Some(group.move_leader(to).await)
    }

    /// Makes this host's member of a group stand for election now, without asking first whether
    /// others would vote: a leader that is well is disturbed. Ignored by a leader.
    pub async fn stand_for_election(&self, group: GroupId) {
        let group = self.groups.lock().get(&group).map(Arc::clone);
        if let Some(group) = group {
            group.stand().await;
        }
    }

    /// Takes a snapshot of every group on this host, so that their logs can be cut short.
    pub async fn snapshot_all(&self) {
        for group in self.hosted() {
            group.snapshot_now().await;
        }
    }

    /// Hands the groups that this host leads to their preferred leaders, where those can take
    /// them. Answers what was tried.
    pub async fn rebalance(&self) -> Vec<(GroupId, NodeId, Result<(), TransferError>)> {
        let mut moves = Vec::new();
        for group in self.hosted() {
            let preferred = group.preferred_leader();
            if preferred != self.node() && group.report().is_leader {
                moves.push((group.group_id(), preferred, group.move_leader(preferred).await));
            }
        }
        moves
    }

    /// Hands every group that this host leads to another voter that can take it. Answers what was
    /// tried; a group without such a voter stays here.
    pub async fn drain(&self) -> Vec<(GroupId, NodeId, Result<(), TransferError>)> {
        let mut moves = Vec::new();
        for group in self.hosted() {
            if let Some(successor) = group.successor() {
                moves.push((group.group_id(), successor, group.move_leader(successor).await));
            }
        }
        moves
    }

    /// Leaves in good order: hands leadership over where possible (for at most `patience`), stops
    /// all groups and makes their state durable.
    ///
    /// # Errors
    /// [`EngineError`] when the state could not be made durable. Nothing acknowledged is lost
    /// then either: the log holds it.
    pub async fn shutdown(&self, patience: Duration) -> Result<(), EngineError> {
        if tokio::time::timeout(patience, self.drain()).await.is_err() {
            tracing::warn!(node = %self.node(), "some groups were not handed over in time");
        }
        self.halt().await;
        self.engines.state.flush()
    }

    /// Stops all groups at once, handing nothing over: what a crash leaves to the others.
    pub async fn halt(&self) {
        self.registry.stop();
        for candidate in std::mem::take(&mut *self.candidates.lock()) {
            candidate.abort();
        }
        let groups = std::mem::take(&mut *self.groups.lock());
        for group in groups.values() {
            group.halt().await;
        }
        self.links.clear();
    }

    fn hosted(&self) -> Vec<Arc<dyn HostedGroup>> {
        self.groups.lock().values().map(Arc::clone).collect()
    }
}

/// Whether these members can make a group.
fn check_members(group: GroupId, voters: &[(NodeId, String)], first_leader: NodeId) -> Result<(), HostError> {
    let wrong = |reason: String| Err(HostError::Members { group, reason });
    if group == HOST_GROUP {
        return wrong("this number stands for the host itself".to_owned());
    }
    let mut addresses = BTreeSet::new();
    let mut nodes = BTreeSet::new();
    for (node, address) in voters {
        if !addresses.insert(address) {
            return wrong(format!("{address} is given to two nodes"));
        }
        if !nodes.insert(*node) {
            return wrong(format!("{node} is given twice"));
        }
    }
    if !nodes.contains(&first_leader) {
        return wrong(format!("the first leader {first_leader} is not a voter"));
    }
    Ok(())
}

/// Whether log and state reach each other. Openraft would take a log that ends before the state for
/// one that a snapshot has overtaken, and go on without the promises that are missing.
fn check_ends<M: Machine>(
    (purged, last): (Option<LogId>, Option<LogId>),
    state: &StateHandle<M>,
) -> Result<(), EngineError> {
    let applied = state.applied();
    if applied < purged {
        return Err(EngineError::Corrupt(format!(
            "the state ends at {} and the log begins after {}: {STATE_DIR} is an older copy, or a part of it \
             is lost",
            at(applied),
            at(purged)
        )));
    }
    // Entries that others made durable may be applied before they are durable here, and a snapshot
    // takes the place of the log before it: the state may be ahead, but not of what the log had.
    if last.map_or(0, |last| last.index + 1) < state.logged_next() {
        return Err(EngineError::Corrupt(format!(
            "the log ends at {} although it held all entries below {}: {LOG_DIR} is an older copy, or its end \
             is lost, and with it votes and entries this node has promised",
            at(last),
            state.logged_next()
        )));
    }
    Ok(())
}

fn refused(group: GroupId, error: EngineError) -> HostError {
    match error {
        EngineError::Corrupt(_) => HostError::Damaged { group, error },
        EngineError::Failed(_) => HostError::Engine { group, error },
    }
}

fn at(id: Option<LogId>) -> String {
    id.map_or_else(|| "its beginning".to_owned(), |id| format!("index {}", id.index))
}

fn stopped(group: GroupId, fatal: &Fatal<TypeConfig>) -> HostError {
    HostError::Stopped { group, reason: fatal.to_string() }
}
