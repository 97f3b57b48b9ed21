//! What Maintenance and Cluster need of the control group beside reading and writing: durable points,
//! its members, and who leads.
//!
//! Invariant: the group's own guards decide; what they refuse is handed on, not worked around.
//!
//! Not here: how members are changed. That concerns all groups of a node, not only this one, and is handed in.

use async_trait::async_trait;
use replica::error::ReadError;
use replica::group::Group;
use replica::machine::Machine;
use replica::transfer::TransferError;
use world::NodeId;

use crate::group::KvGroup;

/// The members of a group, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Who votes.
    pub voters: Vec<NodeId>,
    /// Who follows without a vote.
    pub learners: Vec<NodeId>,
}

/// A member of a group as an operator sees it.
#[async_trait]
pub trait GroupAdmin: KvGroup {
    /// Makes what is applied durable, so that the log before it can go.
    async fn checkpoint(&self) -> Result<(), ReadError>;

    /// Who the members are, as far as this one knows.
    fn members(&self) -> Members;

    /// Hands leadership to another voter and waits until it leads.
    async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError>;
}

#[async_trait]
impl<M: Machine> GroupAdmin for Group<M> {
    async fn checkpoint(&self) -> Result<(), ReadError> {
        Group::snapshot(self).await
    }

    fn members(&self) -> Members {
        let status = self.status();
        Members { voters: status.voters, learners: status.learners }
    }

    async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        Group::transfer_leader(self, to).await
    }
}

/// Why the members are not as etcd's client wanted them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeEnd {
    /// A guard refuses; some groups may have been changed before. Why, for people.
    Refused(String),
    /// It is not through: somebody does not answer, or a disk is still being filled. Repeating goes on.
    Open(String),
}

/// Changes a node's membership in all its groups at once.
#[async_trait]
pub trait MemberChanges: Send + Sync {
    /// Has no disk of the node vote. Refused while it answers.
    async fn remove_voter(&self, node: NodeId) -> Result<(), ChangeEnd>;

    /// Has no disk of the node follow without a vote.
    async fn remove_learner(&self, node: NodeId) -> Result<(), ChangeEnd>;

    /// Has the disk that the node runs on follow without a vote.
    async fn add_learner(&self, node: NodeId) -> Result<(), ChangeEnd>;

    /// Gives a vote to the disk that the node runs on.
    async fn promote(&self, node: NodeId) -> Result<(), ChangeEnd>;
}
