//! How a group comes into being, and how a member that was not asked finds out why.
//!
//! ```text
//!   founder:   ask every voter: who are you, do you know the group, do you promise it to me?
//!                all there, nobody knows it, all promise  ->  form it, its first entry names
//!                                                             their disks
//!                somebody knows it                        ->  this disk is too late: never form
//!   others:    until the group reaches them, ask the same without wanting the promise
//! ```
//! From its first entry on a group knows its members by node *and disk*. Whoever comes back with
//! another disk is none of them until an operator replaces the old one (docs/adr/0012).
//!
//! Invariant: a group is formed only by a founder that every voter has promised it to, so at most
//! once, whoever restarts, loses a disk or asks first. All voters must be there for it; afterwards a
//! majority is enough.
//!
//! Not here: keeping the promise ([`crate::log`]), replacing a member ([`crate::change`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use parking_lot::Mutex;
use world::{GroupId, NodeId};

use crate::group::Group;
use crate::machine::Machine;
use crate::member_id::{MemberId, shown};
use crate::network::link::Links;
use crate::network::meet::{Met, meet};
use crate::types::Peer;

/// Pause before a founder asks again.
const FOUND_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Pause before a member that waits to hear of its group asks again.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Why groups of this host have not been formed, or not with this disk.
#[derive(Default)]
pub(crate) struct Obstacles {
    known: Mutex<BTreeMap<GroupId, Obstacle>>,
}

/// What keeps a member out of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// It will pass by itself.
    Waiting(String),
    /// Somebody must do something.
    Stuck(String),
}

impl Obstacles {
    pub(crate) fn list(&self) -> Vec<String> {
        let known = self.known.lock();
        let text = |(group, obstacle): (&GroupId, &Obstacle)| match obstacle {
            Obstacle::Waiting(text) | Obstacle::Stuck(text) => format!("{group}: {text}"),
        };
        known.iter().map(text).collect()
    }

    fn set(&self, group: GroupId, obstacle: Option<Obstacle>) {
        let mut known = self.known.lock();
        if known.get(&group) == obstacle.as_ref() {
            return;
        }
        match obstacle {
            Some(obstacle) => {
                if let Obstacle::Stuck(text) = &obstacle {
                    tracing::error!(%group, "{text}");
                }
                known.insert(group, obstacle);
            }
            None => {
                known.remove(&group);
            }
        }
    }
}

/// What a voter answered, or why it did not.
type Answer = Result<Met, String>;

/// What follows from the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// Every voter has promised: these are the members.
    Form(BTreeMap<u64, Peer>),
    /// Ask again.
    Not(Obstacle),
}

/// A member that does not know its group yet.
pub(crate) struct Candidate<M: Machine> {
    pub(crate) group: Arc<Group<M>>,
    pub(crate) own: MemberId,
    pub(crate) voters: Vec<(NodeId, String)>,
    pub(crate) founder: NodeId,
    pub(crate) links: Arc<Links>,
    pub(crate) obstacles: Arc<Obstacles>,
}

impl<M: Machine> Candidate<M> {
    /// Forms the group or waits for it, and then finds out, whenever there is no leader, whether
    /// that is because this disk is a member no longer. Runs until the host stops.
    pub(crate) async fn run(self) {
        let id = self.group.id();
        self.enter().await;
        loop {
            if self.group.leader().is_some() {
                self.obstacles.set(id, None);
            } else if let Verdict::Not(stuck @ Obstacle::Stuck(_)) =
                judge(self.own, &self.voters, false, &self.ask(false).await)
            {
                self.obstacles.set(id, Some(stuck));
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
    }

    /// Returns when this member knows the group.
    async fn enter(&self) {
        let id = self.group.id();
        let found = self.founder == self.own.node;
        while !self.group.is_formed() {
            let verdict = judge(self.own, &self.voters, found, &self.ask(found).await);
            let obstacle = match verdict {
                Verdict::Form(members) => self.form(members).await.err().map(Obstacle::Stuck),
                Verdict::Not(obstacle) => Some(obstacle),
            };
            let hurry = found && matches!(obstacle, Some(Obstacle::Waiting(_)) | None);
            self.obstacles.set(id, obstacle);
            tokio::time::sleep(if hurry { FOUND_AGAIN_AFTER } else { ASK_AGAIN_AFTER }).await;
        }
    }

    /// Asks all voters at once; this member answers for itself.
    async fn ask(&self, found: bool) -> BTreeMap<NodeId, Answer> {
        let asks = self.voters.iter().map(async |(node, address)| {
            let answer = if *node == self.own.node {
                let knows = self.group.acquaintance(self.own, found).await;
                knows.map(|knows| Met { member: self.own, knows })
            } else {
                meet(&self.links, address, self.group.id(), found).await
            };
            (*node, answer)
        });
        futures_util::future::join_all(asks).await.into_iter().collect()
    }

    async fn form(&self, members: BTreeMap<u64, Peer>) -> Result<(), String> {
        let named: Vec<String> = members.keys().map(|id| shown(*id)).collect();
        match self.group.raft.initialize(members).await {
            Ok(()) => {
                tracing::info!(group = %self.group.id(), members = named.join(" "), "formed");
                Ok(())
            }
            // A leader was heard of between the question and the call.
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What a member that does not know its group makes of what the voters say.
fn judge(
    own: MemberId,
    voters: &[(NodeId, String)],
    found: bool,
    answers: &BTreeMap<NodeId, Answer>,
) -> Verdict {
    let met = answers.values().filter_map(|answer| answer.as_ref().ok());
    if let Some(other) = met.clone().find(|met| met.knows.formed && !met.knows.named) {
        return Verdict::Not(Obstacle::Stuck(format!(
            "this disk ({own}) is none of the group's members, as {} knows them. If it takes the place of a \
             lost one, run `hongbao kv member replace {}`; if it is an old one that was replaced, take it away",
            other.member, own.node
        )));
    }
    if met.clone().any(|met| met.knows.formed) {
        return waiting("named by its members; waits for their leader");
    }
    if !found {
        return waiting("waits for the group to be formed");
    }
    let mut members = BTreeMap::new();
    for (node, address) in voters {
        let met = match answers.get(node) {
            Some(Ok(met)) => met,
            Some(Err(reason)) => {
                return waiting(&format!("to be formed, every voter must be there: {reason}"));
            }
            None => return waiting(&format!("{node} was not asked")),
        };
        if met.member.node != *node {
            return Verdict::Not(Obstacle::Stuck(format!(
                "{address} should be {node} and answers as {}: mend the peers addresses in cluster.toml",
                met.member.node
            )));
        }
        match met.knows.promised {
            Some(founder) if founder == own.raft_id() => {}
            Some(founder) => {
                return Verdict::Not(Obstacle::Stuck(format!(
                    "{} has promised the group to {}. If that disk is gone: nothing was ever stored in this \
                     group, so stop all nodes, move their data directories away and start anew",
                    met.member,
                    shown(founder)
                )));
            }
            None => return waiting(&format!("{} gave no promise", met.member)),
        }
        members.insert(met.member.raft_id(), Peer { addr: address.clone() });
    }
    assert_eq!(members.len(), voters.len(), "every voter is a member of its own");
    Verdict::Form(members)
}

fn waiting(text: &str) -> Verdict {
    Verdict::Not(Obstacle::Waiting(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member_id::DiskNo;
    use crate::network::service::Acquaintance;

    fn member(node: &str, disk: u64) -> MemberId {
        MemberId { node: node.parse().expect("a node"), disk: DiskNo::new(disk).expect("48 bits") }
    }

    fn voters() -> Vec<(NodeId, String)> {
        ["a1", "b1", "c1"].map(|name| (name.parse().expect("a node"), format!("{name}:7000"))).into()
    }

    fn knows(formed: bool, named: bool, promised: Option<MemberId>) -> Acquaintance {
        Acquaintance { formed, named, promised: promised.map(MemberId::raft_id) }
    }

    /// Everybody is there, knows nothing and has promised the group to `founder`.
    fn fresh(founder: MemberId) -> BTreeMap<NodeId, Answer> {
        let members = [member("a1", 1), member("b1", 2), member("c1", 3)];
        members
            .map(|member| (member.node, Ok(Met { member, knows: knows(false, false, Some(founder)) })))
            .into()
    }

    fn check(own: MemberId, found: bool, answers: &BTreeMap<NodeId, Answer>, expected: &str) {
        let said = match judge(own, &voters(), found, answers) {
            Verdict::Form(members) => format!("form {members:?}"),
            Verdict::Not(Obstacle::Waiting(text)) => format!("wait {text}"),
            Verdict::Not(Obstacle::Stuck(text)) => format!("stuck {text}"),
        };
        assert!(said.starts_with(expected), "{said}");
    }

    #[test]
    fn a_group_is_formed_when_all_voters_are_there_and_promise_it() {
        let own = member("a1", 1);
        let Verdict::Form(members) = judge(own, &voters(), true, &fresh(own)) else { panic!("not formed") };
        let disks: Vec<u64> = members.keys().copied().collect();
        assert_eq!(disks, [member("a1", 1), member("b1", 2), member("c1", 3)].map(MemberId::raft_id));
    }

    #[test]
    fn one_voter_that_is_missing_is_waited_for() {
        let own = member("a1", 1);
        let mut answers = fresh(own);
        answers.insert(member("c1", 3).node, Err("c1:7000 does not answer".to_owned()));
        check(own, true, &answers, "wait to be formed, every voter must be there: c1:7000");
    }

    #[test]
    fn a_founder_whose_disk_is_new_forms_nothing_over_a_group_that_one_voter_still_knows() {
        let own = member("a1", 9);
        let mut answers = fresh(own);
        answers.insert(
            member("b1", 2).node,
            Ok(Met { member: member("b1", 2), knows: knows(true, false, None) }),
        );
        check(own, true, &answers, "stuck this disk (a1-000000000009) is none of the group's members");
        answers.insert(member("c1", 3).node, Err("silent".to_owned()));
        check(own, true, &answers, "stuck this disk");
        check(own, false, &answers, "stuck this disk");
    }

    #[test]
    fn a_promise_to_another_founder_is_final() {
        let (own, before) = (member("a1", 9), member("a1", 1));
        let mut answers = fresh(own);
        answers.insert(
            member("c1", 3).node,
            Ok(Met { member: member("c1", 3), knows: knows(false, false, Some(before)) }),
        );
        check(own, true, &answers, "stuck c1-000000000003 has promised the group to a1-000000000001");
    }

    #[test]
    fn a_voter_that_answers_as_another_node_is_no_voter() {
        let own = member("a1", 1);
        let mut answers = fresh(own);
        let stranger = Met { member: member("c1", 3), knows: knows(false, false, Some(own)) };
        answers.insert(member("b1", 2).node, Ok(stranger));
        check(own, true, &answers, "stuck b1:7000 should be b1 and answers as c1");
    }

    #[test]
    fn whoever_is_named_or_does_not_found_just_waits() {
        let own = member("b1", 2);
        let mut answers = fresh(member("a1", 1));
        check(own, false, &answers, "wait waits for the group to be formed");
        let leader = Met { member: member("a1", 1), knows: knows(true, true, None) };
        answers.insert(member("a1", 1).node, Ok(leader));
        check(own, false, &answers, "wait named by its members");
    }
}
