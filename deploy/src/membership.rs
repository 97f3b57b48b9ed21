//! Changing a node's membership in every group: asking every node for the next step, until nothing is left.
//!
//! ```text
//!   Change:  every node, again and again:  next step in the groups you lead, please
//!                                          until every group answers "done"
//! ```
//! Two come here: `hongbao kv member replace`, and etcd's member calls through [`EtcdMembers`], where a lost disk is
//! removed, the node's new one added, and given a vote.
//!
//! Invariant: nothing is kept here. Interrupted at any point and repeated, from wherever, a change goes on where
//! the groups stand, and repeated after the end it changes nothing.
//!
//! Not here: what the next step is, and whether it is allowed (`replica::members`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use kvsvr::admin::{ChangeEnd, MemberChanges};
use tokio::time::Instant;
use world::{GroupId, NodeId};

use crate::cli::target::Connected;
use crate::failure::{Context, Exit, Failure};
use crate::serve::api::{GroupStep, MemberRequest, MemberWish, MembersReport, StepsReport};
use crate::serve::node::group_name;

/// Pause between two rounds of a change.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// A guard that refuses for so long will go on to. Who has just died is missed a moment later.
const REFUSED_FOR_GOOD_AFTER: Duration = Duration::from_secs(2);
/// How long a node may take for one step.
const STEP_WITHIN: Duration = Duration::from_secs(15);
/// How long one of etcd's calls may take; its clients wait five seconds.
const ETCD_CALL_WITHIN: Duration = Duration::from_secs(4);

/// What every group's leader said.
pub type Steps = BTreeMap<u32, GroupStep>;

/// The disk that a node runs on.
///
/// # Errors
/// When the node does not answer; with the cure.
pub async fn disk_of(connected: &Connected, node: NodeId) -> Result<String, Failure> {
    let asked = connected.call(connected.cluster.node(node)?, Method::GET, "/v1/members", Bytes::new()).await;
    let report: MembersReport = asked.map_err(|failure| {
        let cure = format!("start {node} on an empty data directory first");
        Failure::new(
            failure.exit,
            format!("{cure}: the disk that shall be a member must be there ({failure})"),
        )
    })?;
    Ok(report.disk)
}

/// Puts the disk that `node` runs on now in the place of the one it lost, in every group, asking
/// nobody. Answers that disk, and whether anything had to be changed.
///
/// # Errors
/// Exit code 7 when a guard refuses, 6 when a node does not answer or the time is up.
pub async fn replace(
    connected: &Connected,
    node: NodeId,
    reason: &str,
    within: Duration,
) -> Result<(String, bool), Failure> {
    let disk = disk_of(connected, node).await?;
    let change = Change::new(connected, node, MemberWish::Voter(disk.clone()), reason)?;
    let settled = settled(&change.look().await?);
    if !settled {
        change.until_done(within, |line| tracing::info!("{line}")).await?;
    }
    Ok((disk, !settled))
}

/// A wish, and whom to ask.
pub struct Change<'a> {
    connected: &'a Connected,
    node: NodeId,
    wish: MemberWish,
    reason: &'a str,
    /// Every group there is.
    groups: Vec<u32>,
}

impl<'a> Change<'a> {
    /// A change of what `node` is in every group.
    ///
    /// # Errors
    /// Exit code 3 when there is no such node, 7 when it holds no groups.
    pub fn new(
        connected: &'a Connected,
        node: NodeId,
        wish: MemberWish,
        reason: &'a str,
    ) -> Result<Change<'a>, Failure> {
        connected.cluster.node(node)?;
        if connected.cluster.voters().iter().all(|(voter, _)| *voter != node) {
            let why = format!("{node} holds no groups: the first node of each zone does");
            return Err(Failure::new(Exit::Refused, why));
        }
        let groups = connected.cluster.groups().into_iter().map(|group| group.0).collect();
        Ok(Change { connected, node, wish, reason, groups })
    }

    /// Asks all nodes once; answers what each group's leader said, and of groups without one that nobody did.
    async fn ask(&self, dry_run: bool) -> Result<Steps, Failure> {
        let request = MemberRequest { wish: self.wish.clone(), reason: self.reason.to_owned(), dry_run };
        let body = Bytes::from(serde_json::to_vec(&request).context(Exit::Error, "making the request")?);
        let path = format!("/v1/members/{}", self.node);
        // A node that shall go is not asked: it does not answer, and not answering takes long.
        let goes = matches!(self.wish, MemberWish::NoVoter);
        let asked =
            self.connected.cluster.nodes.iter().filter(|node| !(goes && node.id == self.node)).map(|node| {
                let (path, body) = (&path, body.clone());
                async move {
                    let called = self.connected.call_within(STEP_WITHIN, node, Method::POST, path, body);
                    (node.id, called.await as Result<StepsReport, Failure>)
                }
            });
        let (mut groups, mut silent) = (Steps::new(), Vec::new());
        for (node, answer) in join_all(asked).await {
            match answer {
                Ok(report) => groups.extend(report.groups.into_iter().map(|group| (group.group, group))),
                Err(failure) if failure.exit == Exit::Unavailable => {
                    silent.push(format!("{node}: {failure}"))
                }
                Err(failure) => return Err(failure),
            }
        }
        if groups.is_empty() {
            let reasons = silent.join("\n");
            return Err(Failure::new(Exit::Unavailable, format!("no group has a leader now\n{reasons}")));
        }
        name_leaderless(&mut groups, &self.groups);
        Ok(groups)
    }

    /// What comes next in every group.
    ///
    /// # Errors
    /// Exit code 7 when a guard refuses, 6 when nobody leads.
    pub async fn look(&self) -> Result<Steps, Failure> {
        let started = Instant::now();
        loop {
            let groups = self.ask(true).await?;
            match refused(&groups) {
                Ok(()) => return Ok(groups),
                Err(refused) if started.elapsed() > REFUSED_FOR_GOOD_AFTER => return Err(refused),
                Err(_) => tokio::time::sleep(ROUND_PAUSE).await,
            }
        }
    }

    /// Goes on until every group is as wished.
    ///
    /// # Errors
    /// Exit code 7 when a guard refused to the end, 6 when the time is up; the groups keep what was done.
    pub async fn until_done(&self, within: Duration, progress: impl Fn(String)) -> Result<Steps, Failure> {
        let started = Instant::now();
        let mut shown = BTreeMap::new();
        loop {
            // A leader may have gone: what is not known now is asked again.
            let groups = self.ask(false).await.unwrap_or_default();
            for group in groups.values() {
                if shown.get(&group.group) != Some(&group.step) && group.step != "done" {
                    progress(format!("{}: {}", group.name, group.detail));
                }
                shown.insert(group.group, group.step.clone());
            }
            if settled(&groups) {
                return Ok(groups);
            }
            if started.elapsed() > within {
                refused(&groups)?;
                let done = groups.values().filter(|group| group.step == "done").count();
                let open = self.groups.len() - done;
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!("{open} groups are not done yet; repeat the command to go on"),
                ));
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }
}

/// Whether every group is as wished.
#[must_use]
pub fn settled(groups: &Steps) -> bool {
    !groups.is_empty() && groups.values().all(|group| group.step == "done")
}

fn refused(groups: &Steps) -> Result<(), Failure> {
    let refused: Vec<String> = groups
        .values()
        .filter(|group| group.step == "refused")
        .map(|group| format!("{}: {}", group.name, group.detail))
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(Failure::new(Exit::Refused, refused.join("\n"))) }
}

/// Names the groups of `every` that nobody spoke for: what is not known to be done is open.
fn name_leaderless(groups: &mut Steps, every: &[u32]) {
    for group in every {
        groups.entry(*group).or_insert_with(|| GroupStep {
            group: *group,
            name: group_name(GroupId(*group)),
            step: "unknown".to_owned(),
            detail: "nobody leads it now".to_owned(),
        });
    }
}

/// etcd's member calls, for all groups of a node.
pub struct EtcdMembers(pub Arc<Connected>);

impl EtcdMembers {
    async fn change(&self, node: NodeId, wish: MemberWish, reason: &str) -> Result<(), ChangeEnd> {
        let change = Change::new(&self.0, node, wish, reason).map_err(end)?;
        change.look().await.map_err(end)?;
        change.until_done(ETCD_CALL_WITHIN, |line| tracing::info!("{reason}: {line}")).await.map_err(end)?;
        Ok(())
    }
}

fn end(failure: Failure) -> ChangeEnd {
    match failure.exit {
        Exit::Refused | Exit::NotFound => ChangeEnd::Refused(failure.to_string()),
        _ => ChangeEnd::Open(failure.to_string()),
    }
}

#[async_trait]
impl MemberChanges for EtcdMembers {
    async fn remove_voter(&self, node: NodeId) -> Result<(), ChangeEnd> {
        self.change(node, MemberWish::NoVoter, "etcd's member remove").await
    }

    async fn remove_learner(&self, node: NodeId) -> Result<(), ChangeEnd> {
        self.change(node, MemberWish::NoLearner, "etcd's member remove").await
    }

    async fn add_learner(&self, node: NodeId) -> Result<(), ChangeEnd> {
        let disk = disk_of(&self.0, node).await.map_err(end)?;
        self.change(node, MemberWish::Learner(disk), "etcd's member add").await
    }

    async fn promote(&self, node: NodeId) -> Result<(), ChangeEnd> {
        let disk = disk_of(&self.0, node).await.map_err(end)?;
        self.change(node, MemberWish::Voter(disk), "etcd's member promote").await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(group: u32, step: &str) -> (u32, GroupStep) {
        let name = group_name(GroupId(group));
        (group, GroupStep { group, name, step: step.to_owned(), detail: String::new() })
    }

    /// Found by seed 50299: the command called a replacement finished because the one group that was not had
    /// no leader when it looked.
    #[test]
    fn a_group_that_nobody_leads_is_not_done() {
        let mut groups = BTreeMap::from([said(0, "done"), said(100, "done")]);
        assert!(settled(&groups));
        name_leaderless(&mut groups, &[0, 100, 101]);
        assert!(!settled(&groups));
        assert_eq!((&*groups[&101].name, &*groups[&101].step), ("queue 1", "unknown"));
        assert!(!settled(&BTreeMap::new()));
    }
}
