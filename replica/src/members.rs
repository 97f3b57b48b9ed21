//! Which changes of a group's members are legal, and what comes next in replacing one. Pure: a view
//! and a wish in, a verdict out.
//!
//! ```text
//!   learner --(caught up)--> voter
//!   replace a node's disk:   new disk in as learner --(caught up)--> old out, new in, in one change
//!   in etcd's steps:         old out | new disk in as learner | --(caught up)--> voter
//! ```
//!
//! Invariant: after every allowed change the voters that are known to be alive and caught up are
//! a majority, so the change cannot be what takes the group away. A voter that answers is neither replaced
//! nor removed: it has not lost anything.
//!
//! Not here: carrying a change out (openraft's joint consensus does, through
//! [`crate::group::Group`]), and where members should stand (placement decides that).

use std::collections::{BTreeMap, BTreeSet};

use world::NodeId;

use crate::member_id::MemberId;

/// A group's members as its leader sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Who votes.
    pub voters: BTreeSet<MemberId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<MemberId>,
    /// The sets of voters of each of which a majority is needed: two while a change is under way, and then
    /// `voters` is all of them.
    pub majorities: Vec<BTreeSet<MemberId>>,
    /// Whether the newest of these sets is not yet known to be committed: it may be taken back.
    pub pending: bool,
    /// Index of the leader's last log entry.
    pub last_index: u64,
    /// The last index each member that answers is known to hold, the leader included.
    pub alive: BTreeMap<MemberId, u64>,
    /// A member that lacks more entries than this has not caught up.
    pub lag_entries_max: u64,
}

/// What an operator wants of a node's disks in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// The disk votes, and no other of its node is a member.
    Voter(MemberId),
    /// The disk follows without a vote; what votes for its node stays.
    Learner(MemberId),
    /// No disk of the node votes.
    NoVoter(NodeId),
    /// No disk of the node follows without a vote.
    NoLearner(NodeId),
}

impl Wish {
    /// The disk that is to become a member.
    #[must_use]
    pub fn new_disk(self) -> Option<MemberId> {
        match self {
            Wish::Voter(new) | Wish::Learner(new) => Some(new),
            Wish::NoVoter(_) | Wish::NoLearner(_) => None,
        }
    }
}

/// What comes next towards a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A change was left half done; end it first.
    FinishChange,
    /// The new disk is no member yet.
    AddLearner,
    /// The new disk is being filled.
    Wait {
        /// Log entries it lacks; `None` while it has not answered.
        lag: Option<u64>,
    },
    /// These become the voters: whoever is new among them holds everything.
    SetVoters(BTreeSet<MemberId>),
    /// These follow without a vote, and shall not.
    RemoveLearners(BTreeSet<MemberId>),
    /// The group is as wished.
    Done,
}

/// Why a change of members is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Only one change at a time.
    #[error("another change of members is under way")]
    InProgress,
    /// The wish names no voter at all.
    #[error("a group needs at least one voter")]
    NoVoters,
    /// An even number of voters survives no more losses than one fewer.
    #[error("{count} voters survive no more losses than {}; give an odd number", count - 1)]
    Even {
        /// How many were wished.
        count: usize,
    },
    /// Only learners become voters.
    #[error("{member} is not a member; add it as a learner first")]
    NotMember {
        /// The member that was named.
        member: MemberId,
    },
    /// The member votes already.
    #[error("{member} is a voter already")]
    AlreadyVoter {
        /// The member that was named.
        member: MemberId,
    },
    /// No disk of the node votes.
    #[error("{node} is not a voter")]
    NotVoter {
        /// The node that was named.
        node: NodeId,
    },
    /// A new voter must hold the log first.
    #[error("{member} lacks {lag} log entries (at most {lag_max} are allowed); wait until it has caught up")]
    Behind {
        /// The member that was named.
        member: MemberId,
        /// Entries it lacks.
        lag: u64,
        /// Entries it may lack.
        lag_max: u64,
    },
    /// The member does not answer.
    #[error("{member} does not answer")]
    Silent {
        /// The member that was named.
        member: MemberId,
    },
    /// The disk to be replaced is there.
    #[error("{member} answers, so its disk is not lost; stop that node if it shall be replaced")]
    Alive {
        /// The old disk.
        member: MemberId,
    },
    /// Too few of the voters-to-be are alive and caught up.
    #[error("only {alive} of {count} voters would be alive and caught up")]
    NoQuorum {
        /// How many would be.
        alive: usize,
        /// How many voters there would be.
        count: usize,
    },
}

impl View {
    /// Whether a change is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.majorities.len() > 1
    }

    /// The voter that is a disk of `node`.
    ///
    /// # Errors
    /// [`MemberError::NotVoter`].
    pub fn voter_of(&self, node: NodeId) -> Result<MemberId, MemberError> {
        let found = self.voters.iter().find(|voter| voter.node == node);
        found.copied().ok_or(MemberError::NotVoter { node })
    }

    /// Whether `member` answers and lacks few enough entries.
    ///
    /// # Errors
    /// [`MemberError::Silent`], [`MemberError::Behind`].
    pub fn check_caught_up(&self, member: MemberId) -> Result<(), MemberError> {
        let held = *self.alive.get(&member).ok_or(MemberError::Silent { member })?;
        let lag = self.last_index.saturating_sub(held);
        if lag > self.lag_entries_max {
            return Err(MemberError::Behind { member, lag, lag_max: self.lag_entries_max });
        }
        Ok(())
    }

    /// Whether `member` may be added without a vote.
    ///
    /// # Errors
    /// [`MemberError::InProgress`], [`MemberError::AlreadyVoter`], [`MemberError::NoQuorum`].
    pub fn check_add_learner(&self, member: MemberId) -> Result<(), MemberError> {
        if self.is_joint() {
            return Err(MemberError::InProgress);
        }
        if self.voters.contains(&member) {
            return Err(MemberError::AlreadyVoter { member });
        }
        self.check_quorum(&self.voters)
    }

    /// Whether `voters` may become the voters.
    ///
    /// # Errors
    /// [`MemberError`].
    pub fn check_change(&self, voters: &BTreeSet<MemberId>) -> Result<(), MemberError> {
        if self.is_joint() {
            return Err(MemberError::InProgress);
        }
        if voters.is_empty() {
            return Err(MemberError::NoVoters);
        }
        if voters.len().is_multiple_of(2) {
            return Err(MemberError::Even { count: voters.len() });
        }
        for member in voters.difference(&self.voters) {
            if !self.learners.contains(member) {
                return Err(MemberError::NotMember { member: *member });
            }
            self.check_caught_up(*member)?;
        }
        self.check_quorum(voters)?;
        // A joint change needs both majorities until it is through.
        self.check_quorum(&self.voters)
    }

    /// The voters after the voter `old` has been replaced by the learner `new`, when that is
    /// allowed.
    ///
    /// # Errors
    /// [`MemberError`].
    pub fn check_replace(&self, old: MemberId, new: MemberId) -> Result<BTreeSet<MemberId>, MemberError> {
        if !self.voters.contains(&old) {
            return Err(MemberError::NotVoter { node: old.node });
        }
        if self.voters.contains(&new) {
            return Err(MemberError::AlreadyVoter { member: new });
        }
        let mut voters = self.voters.clone();
        voters.remove(&old);
        voters.insert(new);
        assert_eq!(voters.len(), self.voters.len(), "a replacement keeps the number of voters");
        self.check_change(&voters)?;
        Ok(voters)
    }

    /// What comes next towards a wish. Asked again after every step and after every interruption, it goes on
    /// where the group stands.
    ///
    /// # Errors
    /// [`MemberError`]; then nothing may be done now.
    pub fn next_step(&self, wish: Wish) -> Result<Step, MemberError> {
        if self.is_joint() {
            // Each by itself: of both together two disks of one node may be lost, the old one and the one that
            // was to take its place.
            self.majorities.iter().try_for_each(|voters| self.check_quorum(voters))?;
            return Ok(Step::FinishChange);
        }
        match wish {
            Wish::Voter(new) => self.towards_voter(new),
            Wish::Learner(new) => self.towards_learner(new),
            Wish::NoVoter(node) => self.towards_no_voter(node),
            Wish::NoLearner(node) => {
                let learners = of_node(&self.learners, node);
                if learners.is_empty() { self.done() } else { Ok(Step::RemoveLearners(learners)) }
            }
        }
    }

    fn towards_voter(&self, new: MemberId) -> Result<Step, MemberError> {
        let others = |members: &BTreeSet<MemberId>| -> BTreeSet<MemberId> {
            of_node(members, new.node).into_iter().filter(|member| *member != new).collect()
        };
        let (old_voters, old_learners) = (others(&self.voters), others(&self.learners));
        if let Some(alive) = old_voters.union(&old_learners).find(|old| self.alive.contains_key(*old)) {
            return Err(MemberError::Alive { member: *alive });
        }
        if self.voters.contains(&new) && old_voters.is_empty() {
            return if old_learners.is_empty() {
                self.done()
            } else {
                Ok(Step::RemoveLearners(old_learners))
            };
        }
        if old_voters.is_empty() {
            self.check_place_for(new)?;
        }
        if !self.learners.contains(&new) {
            self.check_add_learner(new)?;
            return Ok(Step::AddLearner);
        }
        match self.check_caught_up(new) {
            Ok(()) => match old_voters.first() {
                Some(old) => self.check_replace(*old, new).map(Step::SetVoters),
                None => {
                    let voters = self.voters.iter().copied().chain([new]).collect();
                    self.check_change(&voters)?;
                    Ok(Step::SetVoters(voters))
                }
            },
            Err(MemberError::Behind { lag, .. }) => Ok(Step::Wait { lag: Some(lag) }),
            Err(MemberError::Silent { .. }) => Ok(Step::Wait { lag: None }),
            Err(error) => Err(error),
        }
    }

    fn towards_learner(&self, new: MemberId) -> Result<Step, MemberError> {
        if self.learners.contains(&new) {
            return self.done();
        }
        if of_node(&self.voters, new.node).is_empty() {
            self.check_place_for(new)?;
        }
        self.check_add_learner(new)?;
        Ok(Step::AddLearner)
    }

    fn towards_no_voter(&self, node: NodeId) -> Result<Step, MemberError> {
        let old = of_node(&self.voters, node);
        if old.is_empty() {
            return self.done();
        }
        if let Some(alive) = old.iter().find(|old| self.alive.contains_key(*old)) {
            return Err(MemberError::Alive { member: *alive });
        }
        let rest: BTreeSet<MemberId> = self.voters.difference(&old).copied().collect();
        if rest.is_empty() {
            return Err(MemberError::NoVoters);
        }
        // All of them may be needed for a majority: as many as with the lost one, which no majority can count on.
        self.check_quorum(&rest)?;
        self.check_quorum(&self.voters)?;
        Ok(Step::SetVoters(rest))
    }

    // What is not known to be committed may be taken back.
    fn done(&self) -> Result<Step, MemberError> {
        if self.pending { Err(MemberError::InProgress) } else { Ok(Step::Done) }
    }

    // A node that had no voter gets one only where one was removed: an odd number votes then.
    fn check_place_for(&self, new: MemberId) -> Result<(), MemberError> {
        if self.voters.len().is_multiple_of(2) {
            Ok(())
        } else {
            Err(MemberError::NotVoter { node: new.node })
        }
    }

    fn check_quorum(&self, voters: &BTreeSet<MemberId>) -> Result<(), MemberError> {
        let alive = voters.iter().filter(|member| self.check_caught_up(**member).is_ok()).count();
        if alive * 2 <= voters.len() {
            return Err(MemberError::NoQuorum { alive, count: voters.len() });
        }
        Ok(())
    }
}

fn of_node(members: &BTreeSet<MemberId>, node: NodeId) -> BTreeSet<MemberId> {
    members.iter().filter(|member| member.node == node).copied().collect()
}

/// The voter to lead next: it answers, lacks the fewest entries, and is not `leader`. Among equals
/// the lowest id, so that every observer picks the same.
#[must_use]
pub fn best_successor(view: &View, leader: MemberId) -> Option<MemberId> {
    let candidates =
        view.voters.iter().filter(|voter| **voter != leader && view.check_caught_up(**voter).is_ok());
    candidates.max_by_key(|voter| (view.alive.get(*voter).copied(), std::cmp::Reverse(**voter))).copied()
}

#[cfg(test)]
mod tests;
