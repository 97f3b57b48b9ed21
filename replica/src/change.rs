//! Carrying out changes of a group's members on its leader.
//!
//! Invariant: no change starts that [`crate::members`] does not allow.
//!
//! Not here: the verdicts themselves, which are pure.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ClientWriteError, RaftError};
use world::NodeId;

use crate::group::Group;
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::members::{MemberError, Step, Wish};
use crate::types::{Peer, TypeConfig};

/// How long one step of a change may take before its outcome is given as unknown.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);

/// Why the members are not as wished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This member does not lead the group; nothing was done.
    #[error("not the leader; {}", .hint.map_or("no leader is known".to_owned(), |l| format!("try {l}")))]
    NotLeader {
        /// Who leads, as far as this member knows.
        hint: Option<NodeId>,
    },
    /// The change is not allowed now; nothing was done.
    #[error("refused: {0}")]
    Refused(#[from] MemberError),
    /// Raft refused the change; nothing was done.
    #[error("refused by raft: {0}")]
    Raft(String),
    /// The change was begun, and it is not known whether it will be carried out.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

impl<M: Machine> Group<M> {
    /// Adds `member` without a vote; it begins to receive the log. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn add_learner(&self, member: MemberId, address: &str) -> Result<(), ChangeError> {
        self.check_leads()?;
        self.members().check_add_learner(member)?;
        let peer = Peer { addr: address.to_owned() };
        let written =
            tokio::time::timeout(CHANGE_DEADLINE, self.raft.add_learner(member.raft_id(), peer, false)).await;
        outcome(written, Steps::One)
    }

    /// Makes `voters` the voters, by joint consensus. Who is no longer a voter is no longer a
    /// member.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn change_voters(&self, voters: BTreeSet<MemberId>) -> Result<(), ChangeError> {
        self.check_leads()?;
        self.members().check_change(&voters)?;
        self.set_voters(voters).await
    }

    /// Does what comes next towards a wish and answers what that was: called until it answers
    /// [`Step::Done`], by whom and on which leader ever, with whatever interruptions. A new disk is reached at
    /// `address`. With `look` it only says what would come next.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn towards(&self, wish: Wish, address: &str, look: bool) -> Result<Step, ChangeError> {
        self.check_leads()?;
        let step = self.members().next_step(wish)?;
        if look {
            return Ok(step);
        }
        match (step.clone(), wish.new_disk()) {
            (Step::FinishChange, _) => self.finish_change().await?,
            (Step::AddLearner, Some(new)) => self.add_learner(new, address).await?,
            (Step::SetVoters(voters), _) => self.set_voters(voters).await?,
            (Step::RemoveLearners(learners), _) => {
                let ids = learners.into_iter().map(MemberId::raft_id).collect();
                self.change(ChangeMembers::RemoveNodes(ids), Steps::One).await?;
            }
            (Step::AddLearner, None) => unreachable!("a disk is added only when one is wished for"),
            (Step::Wait { .. } | Step::Done, _) => {}
        }
        Ok(step)
    }

    async fn set_voters(&self, voters: BTreeSet<MemberId>) -> Result<(), ChangeError> {
        let ids: BTreeSet<u64> = voters.into_iter().map(MemberId::raft_id).collect();
        assert!(!ids.is_empty(), "the check refuses an empty set");
        self.change(ChangeMembers::ReplaceAllVoters(ids), Steps::Two).await
    }

    /// Ends a change whose leader was lost between its two steps; does nothing otherwise.
    ///
    /// # Errors
    /// [`ChangeError`].
    pub async fn finish_change(&self) -> Result<(), ChangeError> {
        self.check_leads()?;
        if !self.members().is_joint() {
            return Ok(());
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), Steps::One).await
    }

    /// Members that the change leaves without a vote are members no longer.
    async fn change(&self, change: ChangeMembers<u64, Peer>, steps: Steps) -> Result<(), ChangeError> {
        let written = tokio::time::timeout(CHANGE_DEADLINE, self.raft.change_membership(change, false)).await;
        outcome(written, steps)
    }

    fn check_leads(&self) -> Result<(), ChangeError> {
        if self.is_leader() { Ok(()) } else { Err(ChangeError::NotLeader { hint: self.leader() }) }
    }
}

type Written<T> = Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// How many log entries a change takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Steps {
    One,
    /// Into the joint configuration and out of it: an error may come from either.
    Two,
}

fn outcome<T>(
    written: Result<Written<T>, tokio::time::error::Elapsed>,
    steps: Steps,
) -> Result<(), ChangeError> {
    match (written, steps) {
        (Ok(Ok(_)), _) => Ok(()),
        (Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))), Steps::One) => {
            let hint = forward.leader_id.and_then(MemberId::from_raft_id).map(|leader| leader.node);
            Err(ChangeError::NotLeader { hint })
        }
        (Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error)))), _) => {
            Err(ChangeError::Raft(error.to_string()))
        }
        (Ok(Err(error)), _) => Err(ChangeError::Unknown(error.to_string())),
        (Err(_), _) => Err(ChangeError::Unknown("not done within the deadline".to_owned())),
    }
}
