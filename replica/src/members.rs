//! Which changes of a group's members are legal. Pure: a view and a wish in, a verdict out.
//!
//! ```text
//!   learner --(caught up)--> voter      replace: old voter out, caught-up learner in, one change
//! ```
//!
//! Invariant: after every allowed change the voters that are known to be alive and caught up are
//! a majority, so the change cannot be what takes the group away.
//!
//! Not here: carrying a change out (openraft's joint consensus does, through
//! [`crate::group::Group`]), and where members should stand (placement decides that).

use std::collections::{BTreeMap, BTreeSet};

use world::NodeId;

/// A group's members as its leader sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Who votes.
    pub voters: BTreeSet<NodeId>,
    /// Who follows without a vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether a change is under way.
    pub joint: bool,
    /// Index of the leader's last log entry.
    pub last_index: u64,
    /// The last index each member that answers is known to hold, the leader included.
    pub alive: BTreeMap<NodeId, u64>,
    /// A member that lacks more entries than this has not caught up.
    pub lag_entries_max: u64,
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
    #[error("{node} is not a member; add it as a learner first")]
    NotMember {
        /// The node that was named.
        node: NodeId,
    },
    /// The node votes already.
    #[error("{node} is a voter already")]
    AlreadyVoter {
        /// The node that was named.
        node: NodeId,
    },
    /// The node does not vote.
    #[error("{node} is not a voter")]
    NotVoter {
        /// The node that was named.
        node: NodeId,
    },
    /// A new voter must hold the log first.
    #[error("{node} lacks {lag} log entries (at most {lag_max} are allowed); wait until it has caught up")]
    Behind {
        /// The node that was named.
        node: NodeId,
        /// Entries it lacks.
        lag: u64,
        /// Entries it may lack.
        lag_max: u64,
    },
    /// The node does not answer.
    #[error("{node} does not answer")]
    Silent {
        /// The node that was named.
        node: NodeId,
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
    /// Whether `node` answers and lacks few enough entries.
    ///
    /// # Errors
    /// [`MemberError::Silent`], [`MemberError::Behind`].
    pub fn check_caught_up(&self, node: NodeId) -> Result<(), MemberError> {
        let held = *self.alive.get(&node).ok_or(MemberError::Silent { node })?;
        let lag = self.last_index.saturating_sub(held);
        if lag > self.lag_entries_max {
            return Err(MemberError::Behind { node, lag, lag_max: self.lag_entries_max });
        }
        Ok(())
    }

    /// Whether `node` may be added without a vote.
    ///
    /// # Errors
    /// [`MemberError::InProgress`], [`MemberError::AlreadyVoter`].
    pub fn check_add_learner(&self, node: NodeId) -> Result<(), MemberError> {
        if self.joint {
            return Err(MemberError::InProgress);
        }
        if self.voters.contains(&node) {
            return Err(MemberError::AlreadyVoter { node });
        }
        Ok(())
    }

    /// Whether `voters` may become the voters.
    ///
    /// # Errors
    /// [`MemberError`].
    pub fn check_change(&self, voters: &BTreeSet<NodeId>) -> Result<(), MemberError> {
        if self.joint {
            return Err(MemberError::InProgress);
        }
        if voters.is_empty() {
            return Err(MemberError::NoVoters);
        }
        if voters.len().is_multiple_of(2) {
            return Err(MemberError::Even { count: voters.len() });
        }
        for node in voters.difference(&self.voters) {
            if !self.learners.contains(node) {
                return Err(MemberError::NotMember { node: *node });
            }
            self.check_caught_up(*node)?;
        }
        self.check_quorum(voters)?;
        // A joint change needs both majorities until it is through.
        self.check_quorum(&self.voters)
    }

    /// The voters after `old` has been replaced by the learner `new`, when that is allowed.
    ///
    /// # Errors
    /// [`MemberError`].
    pub fn check_replace(&self, old: NodeId, new: NodeId) -> Result<BTreeSet<NodeId>, MemberError> {
        if !self.voters.contains(&old) {
            return Err(MemberError::NotVoter { node: old });
        }
        if self.voters.contains(&new) {
            return Err(MemberError::AlreadyVoter { node: new });
        }
        let mut voters = self.voters.clone();
        voters.remove(&old);
        voters.insert(new);
        assert_eq!(voters.len(), self.voters.len(), "a replacement keeps the number of voters");
        self.check_change(&voters)?;
        Ok(voters)
    }

    fn check_quorum(&self, voters: &BTreeSet<NodeId>) -> Result<(), MemberError> {
        let alive = voters.iter().filter(|node| self.check_caught_up(**node).is_ok()).count();
        if alive * 2 <= voters.len() {
            return Err(MemberError::NoQuorum { alive, count: voters.len() });
        }
        Ok(())
    }
}

/// The voter to lead next: it answers, lacks the fewest entries, and is not `leader`. Among equals
/// the lowest id, so that every observer picks the same.
#[must_use]
pub fn best_successor(view: &View, leader: NodeId) -> Option<NodeId> {
    let candidates =
        view.voters.iter().filter(|node| **node != leader && view.check_caught_up(**node).is_ok());
    candidates.max_by_key(|node| (view.alive.get(node).copied(), std::cmp::Reverse(**node))).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a node name")
    }

    fn nodes(names: &[&str]) -> BTreeSet<NodeId> {
        names.iter().map(|name| node(name)).collect()
    }

    fn view(voters: &[&str], learners: &[&str], alive: &[(&str, u64)]) -> View {
        View {
            voters: nodes(voters),
            learners: nodes(learners),
            joint: false,
            last_index: 1_000,
            alive: alive.iter().map(|(name, index)| (node(name), *index)).collect(),
            lag_entries_max: 10,
        }
    }

    #[test]
    fn a_dead_voter_is_replaced_by_a_learner_that_has_caught_up() {
        let view = view(&["a1", "b1", "c1"], &["c2"], &[("a1", 1_000), ("b1", 999), ("c2", 995)]);
        assert_eq!(view.check_replace(node("c1"), node("c2")), Ok(nodes(&["a1", "b1", "c2"])));
    }

    #[test]
    fn a_learner_that_is_behind_or_silent_gets_no_vote() {
        let behind = view(&["a1", "b1", "c1"], &["c2"], &[("a1", 1_000), ("b1", 1_000), ("c2", 900)]);
        let verdict = behind.check_replace(node("c1"), node("c2"));
        assert_eq!(verdict, Err(MemberError::Behind { node: node("c2"), lag: 100, lag_max: 10 }));
        let silent = view(&["a1", "b1", "c1"], &["c2"], &[("a1", 1_000), ("b1", 1_000)]);
        assert_eq!(
            silent.check_replace(node("c1"), node("c2")),
            Err(MemberError::Silent { node: node("c2") })
        );
    }

    #[test]
    fn a_change_that_would_leave_no_quorum_is_refused() {
        let view = view(&["a1", "b1", "c1"], &[], &[("a1", 1_000)]);
        assert_eq!(
            view.check_change(&nodes(&["a1", "b1", "c1"])),
            Err(MemberError::NoQuorum { alive: 1, count: 3 })
        );
    }

    #[test]
    fn a_change_is_refused_while_another_is_under_way_and_for_odd_wishes() {
        let mut view =
            view(&["a1", "b1", "c1"], &["a2"], &[("a1", 1_000), ("b1", 1_000), ("c1", 1_000), ("a2", 1_000)]);
        assert_eq!(view.check_change(&nodes(&["a1", "b1"])), Err(MemberError::Even { count: 2 }));
        assert_eq!(view.check_change(&BTreeSet::new()), Err(MemberError::NoVoters));
        assert_eq!(
            view.check_change(&nodes(&["a1", "b1", "z1"])),
            Err(MemberError::NotMember { node: node("z1") })
        );
        assert_eq!(view.check_add_learner(node("a1")), Err(MemberError::AlreadyVoter { node: node("a1") }));
        assert_eq!(view.check_change(&nodes(&["a1"])), Ok(()));
        view.joint = true;
        assert_eq!(view.check_change(&nodes(&["a1"])), Err(MemberError::InProgress));
        assert_eq!(view.check_add_learner(node("z1")), Err(MemberError::InProgress));
    }

    #[test]
    fn the_successor_answers_and_lacks_the_least() {
        let check = |alive: &[(&str, u64)], expected: Option<&str>| {
            let view = view(&["a1", "b1", "c1"], &[], alive);
            assert_eq!(best_successor(&view, node("a1")), expected.map(node), "{alive:?}");
        };
        check(&[("a1", 1_000), ("b1", 998), ("c1", 999)], Some("c1"));
        check(&[("a1", 1_000), ("b1", 999), ("c1", 999)], Some("b1"));
        check(&[("a1", 1_000), ("b1", 2), ("c1", 3)], None);
        check(&[("a1", 1_000)], None);
    }
}
