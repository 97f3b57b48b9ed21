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
//! Invariant: a group is formed once, by its first leader, and only when that member's log is
//! empty. A member that has data keeps what it knows, whatever it is told at start.
//!
//! Not here: listening (the node mounts [`Host::peer_service`] on its peers port), and what the
//! machines do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use openraft::errors::{Fatal, InitializeError, RaftError};
use parking_lot::Mutex;
use world::net::Net;
use world::{Clock, GroupId, NodeId};

use crate::codec::pb::peer_server::PeerServer;
use crate::config::{ConfigError, ReplicaConfig};
use crate::engine::{Engine, EngineError};
use crate::group::{Group, Parts};
use crate::handler::HostedGroup;
use crate::log::{LogStore, LogWriter};
use crate::machine::Machine;
use crate::network::client::Factory;
use crate::network::link::Links;
use crate::network::service::{PeerService, Registry};
use crate::state::StateStore;
use crate::status::GroupStatus;
use crate::transfer::TransferError;
use crate::types::{Peer, TypeConfig, raft_id};

/// Who a host is and how its groups behave.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// This node.
    pub node: NodeId,
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
    #[error(transparent)]
    Engine(#[from] EngineError),
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
    node: NodeId,
    replica: ReplicaConfig,
    raft: Arc<openraft::Config>,
    clock: Arc<dyn Clock>,
    engines: Engines,
    links: Arc<Links>,
    registry: Arc<Registry>,
    groups: Mutex<BTreeMap<GroupId, Arc<dyn HostedGroup>>>,
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
            node: config.node,
            replica: config.replica,
            raft,
            clock,
            engines,
            links: Links::new(net),
            registry: Registry::new(),
            groups: Mutex::new(BTreeMap::new()),
        }))
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The service that other members reach this host's groups through.
    #[must_use]
    pub fn peer_service(&self) -> PeerServer<PeerService> {
        PeerService::server(Arc::clone(&self.registry))
    }

    /// Starts this node's member of a group. The first leader forms the group if its own log is
    /// empty; every other member waits to hear from a leader. Safe to repeat at every start, with
    /// the other nodes up or not. `voters` matter only when the group is formed: afterwards the
    /// log says who they are.
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
        let members = check_members(id, voters, first_leader)?;
        if self.groups.lock().contains_key(&id) {
            return Err(HostError::Duplicate(id));
        }
        let state = StateStore::open(id, Arc::clone(&self.engines.state), machine)?;
        let handle = state.handle();
        let log = LogStore::open(id, Arc::clone(&self.engines.log), self.engines.log_writer.clone())?
            .guarded_by(handle.flushed_next());
        let factory = Factory { group: id, links: Arc::clone(&self.links) };
        let raft = Raft::new(raft_id(self.node), Arc::clone(&self.raft), factory, log, state).await;
        let raft = raft.map_err(|fatal| stopped(id, &fatal))?;
        let group = Group::start(Parts {
            id,
            node: self.node,
            preferred: first_leader,
            config: self.replica.clone(),
            raft: raft.clone(),
            state: handle,
            links: Arc::clone(&self.links),
            clock: Arc::clone(&self.clock),
        });
        self.registry.insert(id, Arc::clone(&group) as _);
        self.groups.lock().insert(id, Arc::clone(&group) as _);
        if first_leader == self.node {
            form(id, &raft, members).await?;
        }
        Ok(group)
    }

    /// What every group on this host says about itself.
    #[must_use]
    pub fn status(&self) -> Vec<GroupStatus> {
        self.hosted().iter().map(|group| group.report()).collect()
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
            if preferred != self.node && group.report().is_leader {
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
            tracing::warn!(node = %self.node, "some groups were not handed over in time");
        }
        self.halt().await;
        self.engines.state.flush()
    }

    /// Stops all groups at once, handing nothing over: what a crash leaves to the others.
    pub async fn halt(&self) {
        self.registry.stop();
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

/// The members of a new group, when they make one.
fn check_members(
    group: GroupId,
    voters: &[(NodeId, String)],
    first_leader: NodeId,
) -> Result<BTreeMap<u64, Peer>, HostError> {
    let wrong = |reason: String| HostError::Members { group, reason };
    let mut addresses = BTreeSet::new();
    let mut members = BTreeMap::new();
    for (node, address) in voters {
        if !addresses.insert(address) {
            return Err(wrong(format!("{address} is given to two nodes")));
        }
        if members.insert(raft_id(*node), Peer { addr: address.clone() }).is_some() {
            return Err(wrong(format!("{node} is given twice")));
        }
    }
    if !members.contains_key(&raft_id(first_leader)) {
        return Err(wrong(format!("the first leader {first_leader} is not a voter")));
    }
    Ok(members)
}

/// Forms the group unless this member knows something already.
async fn form<M: Machine>(
    group: GroupId,
    raft: &Raft<TypeConfig, StateStore<M>>,
    members: BTreeMap<u64, Peer>,
) -> Result<(), HostError> {
    if raft.is_initialized().await.map_err(|fatal| stopped(group, &fatal))? {
        return Ok(());
    }
    match raft.initialize(members).await {
        // A leader was heard of between the question and the call.
        Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
        Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
            Err(HostError::Members { group, reason: error.to_string() })
        }
        Err(RaftError::Fatal(fatal)) => Err(stopped(group, &fatal)),
    }
}

fn stopped(group: GroupId, fatal: &Fatal<TypeConfig>) -> HostError {
    HostError::Stopped { group, reason: fatal.to_string() }
}
