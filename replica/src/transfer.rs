//! Moving a group's leadership on purpose.
//!
//! ```text
//!   check target: votes, answers, caught up
//!     -> hand over -> target leads
//!          \-- nobody leads in time -> ask the target, then the others, to stand for election
//! ```
//!
//! Invariant: leadership is handed over only to a voter that answers and has caught up. Handing
//! over stops the old leader's writes at once and nothing in openraft takes that back, so a
//! transfer that fails is followed by an election, not by hope.
//!
//! Not here: which group should be led where ([`crate::host`] knows preferences).

use std::time::Duration;

use tokio::time::Instant;
use world::NodeId;

use crate::codec::pb;
use crate::group::Group;
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::members::MemberError;

/// Why leadership did not move, or not to the target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This member does not lead the group; nothing was done.
    #[error("not the leader; {}", .hint.map_or("no leader is known".to_owned(), |l| format!("try {l}")))]
    NotLeader {
        /// Who leads, as far as this member knows.
        hint: Option<NodeId>,
    },
    /// The target may not lead now; nothing was done.
    #[error("refused: {0}")]
    Refused(#[from] MemberError),
    /// The handing over failed and another member leads.
    #[error("{leader} leads instead")]
    Elsewhere {
        /// Who leads.
        leader: NodeId,
    },
    /// Nobody led when the deadline came. The members go on trying by themselves.
    #[error("no leader within {waited_ms} ms")]
    NoLeader {
        /// How long was waited.
        waited_ms: u64,
    },
}

impl<M: Machine> Group<M> {
    /// Hands leadership to `to` and waits until it leads.
    ///
    /// # Errors
    /// [`TransferError`].
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), TransferError> {
        if !self.is_leader() {
            return Err(TransferError::NotLeader { hint: self.leader() });
        }
        if to == self.own.node {
            return Ok(());
        }
        let members = self.members();
        let target = members.voter_of(to)?;
        members.check_caught_up(target)?;
        let started = Instant::now();
        if self.raft.trigger().transfer_leader(target.raft_id()).await.is_err() {
            return Err(TransferError::NotLeader { hint: None });
        }
        if let Some(leader) = self.other_leader(self.config.election_patience()).await {
            return arrived(leader, to);
        }
        tracing::warn!(group = %self.id, target = %to, "leader transfer left no leader; asking for an election");
        let others = members.voters.iter().filter(|voter| **voter != target && **voter != self.own);
        for candidate in std::iter::once(&target).chain(others) {
            if started.elapsed() > self.config.transfer_deadline {
                break;
            }
            self.ask_to_elect(*candidate).await;
            if let Some(leader) = self.other_leader(self.config.election_patience()).await {
                return arrived(leader, to);
            }
        }
        let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Err(TransferError::NoLeader { waited_ms })
    }

    async fn ask_to_elect(&self, candidate: MemberId) {
        let link = self.address(candidate).map(|address| self.links.to(Some(candidate), &address));
        let Some(Ok(link)) = link else { return };
        let mut control = link.control.clone();
        let message = pb::ElectRequest { group: self.id.0 };
        let deadline = Duration::from_millis(self.config.election_min_ms);
        let asked = tokio::time::timeout(deadline, control.elect(message)).await;
        if !matches!(asked, Ok(Ok(_))) {
            tracing::warn!(group = %self.id, %candidate, "could not be asked to stand for election");
        }
    }
}

fn arrived(leader: NodeId, to: NodeId) -> Result<(), TransferError> {
    if leader == to { Ok(()) } else { Err(TransferError::Elsewhere { leader }) }
}
