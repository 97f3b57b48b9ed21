//! Members of the Raft groups, for operators: who they are, and one step of changing them.
//!
//! Invariant: a node acts only in the groups that it leads. Which step comes next follows from where
//! the group stands, so whoever asks again goes on where the last one stopped.
//!
//! Not here: asking every node until nothing is left to do ([`crate::membership`]).

use replica::change::ChangeError;
use replica::host::Host;
use replica::member_id::{DiskNo, MemberId};
use replica::members::{Step, Wish};
use replica::status::GroupStatus;
use world::{GroupId, NodeId};

use super::api::{
    GroupMembers, GroupStep, MemberReport, MemberRequest, MemberWish, MembersReport, StepsReport,
};
use super::node::group_name;
use crate::failure::{Exit, Failure};

/// This node's disk, and the members of the groups it leads.
#[must_use]
pub fn report(host: &Host) -> MembersReport {
    let identity = host.identity();
    let groups = host.status();
    let leads = groups.iter().filter(|group| group.is_leader);
    MembersReport {
        node: identity.member.node,
        disk: identity.member.disk.to_string(),
        starts: identity.starts,
        groups: groups.iter().map(|group| group.group.0).collect(),
        leads: leads.map(|group| members_of(group, identity.member)).collect(),
        problems: host.problems(),
    }
}

fn members_of(group: &GroupStatus, leader: MemberId) -> GroupMembers {
    let members = group.members.iter().map(|member| {
        let held = if member.member == leader { Some(group.last_index) } else { member.matched };
        MemberReport {
            node: member.member.node,
            disk: member.member.disk.to_string(),
            votes: member.votes,
            address: member.address.clone(),
            alive: member.alive,
            lag: held.map(|held| group.last_index.saturating_sub(held)),
        }
    });
    GroupMembers {
        group: group.group.0,
        name: group_name(group.group),
        changing: group.joint,
        members: members.collect(),
    }
}

/// Does the next step in every group that this node leads. `node` is reached by its peers at `address`.
///
/// # Errors
/// Exit code 2 for a disk that is none, 7 when another disk answers at the node's address.
pub async fn change(
    host: &Host,
    node: NodeId,
    address: &str,
    request: &MemberRequest,
) -> Result<StepsReport, Failure> {
    let wish = wish_of(node, &request.wish)?;
    let steps = host
        .towards(wish, address, request.dry_run)
        .await
        .map_err(|reason| Failure::new(Exit::Refused, reason))?;
    let groups: Vec<GroupStep> = steps.into_iter().map(|(group, step)| told(group, wish, step)).collect();
    for group in groups.iter().filter(|group| !request.dry_run && !matches!(&*group.step, "wait" | "done")) {
        tracing::warn!(
            ?wish,
            group = group.name,
            step = group.step,
            detail = group.detail,
            reason = request.reason,
            "change of members"
        );
    }
    Ok(StepsReport { groups })
}

fn wish_of(node: NodeId, wish: &MemberWish) -> Result<Wish, Failure> {
    let disk = |text: &str| -> Result<MemberId, Failure> {
        let disk = DiskNo::parse(text).ok_or_else(|| {
            Failure::new(Exit::Usage, format!("{text:?} is not a disk: expected 12 hex digits"))
        })?;
        Ok(MemberId { node, disk })
    };
    Ok(match wish {
        MemberWish::Voter(text) => Wish::Voter(disk(text)?),
        MemberWish::Learner(text) => Wish::Learner(disk(text)?),
        MemberWish::NoVoter => Wish::NoVoter(node),
        MemberWish::NoLearner => Wish::NoLearner(node),
    })
}

fn told(group: GroupId, wish: Wish, step: Result<Step, ChangeError>) -> GroupStep {
    let (step, detail) = match step {
        Ok(Step::FinishChange) => ("finish_change", "a change that was cut off is finished".to_owned()),
        Ok(Step::AddLearner) => ("add_learner", "the new disk is added without a vote".to_owned()),
        Ok(Step::Wait { lag: Some(lag) }) => ("wait", format!("the new disk lacks {lag} entries")),
        Ok(Step::Wait { lag: None }) => ("wait", "the new disk has not answered yet".to_owned()),
        Ok(Step::SetVoters(voters)) => {
            let voters: Vec<String> = voters.iter().map(|voter| voter.node.to_string()).collect();
            let whose = if wish.new_disk().is_some() {
                "the new disk votes"
            } else {
                "the lost disk votes no longer"
            };
            ("set_voters", format!("{whose}; the voters are {}", voters.join(", ")))
        }
        Ok(Step::RemoveLearners(old)) => {
            let old: Vec<String> = old.iter().map(ToString::to_string).collect();
            ("remove_learners", format!("{} never voted and is removed", old.join(", ")))
        }
        Ok(Step::Done) => ("done", "the members are as wished".to_owned()),
        // Neither says that nothing can be done: whoever leads now is asked next.
        Err(error @ (ChangeError::Unknown(_) | ChangeError::NotLeader { .. })) => {
            ("unknown", error.to_string())
        }
        Err(error @ (ChangeError::Refused(_) | ChangeError::Raft(_))) => ("refused", error.to_string()),
    };
    GroupStep { group: group.0, name: group_name(group), step: step.to_owned(), detail }
}
