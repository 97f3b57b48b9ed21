//! A machine in memory as a member of a group, for tests of the services above it.
//!
//! Invariant: what is proposed is applied at once; a read after that sees it.
//!
//! Not here: other members. One that follows is played by [`LocalMember::set_leader`].

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use replica::engine::View;
use replica::error::{ProposeError, ReadError};
use replica::machine::Machine;
use tokio::sync::watch;
use world::{NodeId, ZoneId};

use super::LocalMachine;
use crate::group::{KvGroup, Standing};

/// A group of one member, which leads until told otherwise.
pub struct LocalMember<M> {
    machine: RwLock<LocalMachine<M>>,
    applied: watch::Sender<u64>,
    leader: Mutex<Option<NodeId>>,
    node: NodeId,
}

impl<M: Machine> LocalMember<M> {
    /// A member over this machine.
    pub fn new(machine: LocalMachine<M>) -> LocalMember<M> {
        let zone = ZoneId::from_index(0).expect("there is a zone a");
        let node = NodeId::new(zone, 1).expect("1 is a node number");
        LocalMember {
            applied: watch::Sender::new(machine.applied()),
            machine: RwLock::new(machine),
            leader: Mutex::new(Some(node)),
            node,
        }
    }

    /// Which node it is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// From now on this node leads, or nobody.
    pub fn set_leader(&self, leader: Option<NodeId>) {
        *self.leader.lock() = leader;
    }

    /// Puts another state in force, as an installed snapshot does.
    pub fn install(&self, machine: LocalMachine<M>) {
        let applied = machine.applied();
        *self.machine.write() = machine;
        self.applied.send_replace(applied);
    }

    fn check_leads(&self) -> Result<(), Option<NodeId>> {
        let leader = *self.leader.lock();
        if leader == Some(self.node) { Ok(()) } else { Err(leader) }
    }
}

#[async_trait]
impl<M: Machine> KvGroup for LocalMember<M> {
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        self.propose_attached(command, Bytes::new()).await
    }

    async fn propose_attached(&self, command: Bytes, content: Bytes) -> Result<Bytes, ProposeError> {
        self.check_leads().map_err(|hint| ProposeError::NotLeader { hint })?;
        let (reply, applied) = {
            let mut machine = self.machine.write();
            let reply = machine.apply_attached(&command, content);
            (reply.map_err(|error| ProposeError::Unknown(error.to_string()))?, machine.applied())
        };
        self.applied.send_replace(applied);
        Ok(reply)
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        self.check_leads().map_err(|hint| ReadError::NotLeader { hint })
    }

    async fn read_barrier_anywhere(&self) -> Result<(), ReadError> {
        self.check_leads().map_err(|hint| ReadError::NotLeader { hint })
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn read(&self, visit: &mut dyn FnMut(&dyn View)) {
        visit(self.machine.read().view());
    }

    fn read_long(&self, visit: &mut dyn FnMut(&dyn View)) {
        let view = self.machine.read().view().clone();
        visit(&view);
    }

    fn standing(&self) -> Standing {
        let applied_index = self.machine.read().applied();
        Standing {
            leader: *self.leader.lock(),
            term: 1,
            last_index: applied_index,
            committed_index: applied_index,
            applied_index,
        }
    }
}
