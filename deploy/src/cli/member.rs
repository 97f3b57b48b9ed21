//! `hongbao kv member list|replace`.
//!
//! Invariant: the commands keep nothing. A replacement that is interrupted and repeated goes on where the groups
//! stand, and repeated after the end it changes nothing.
//!
//! Not here: how a replacement is driven ([`crate::membership`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use serde::Serialize;
use world::{GroupId, NodeId};

use super::target::{Connected, Target};
use super::zone::confirm;
use crate::failure::{Exit, Failure};
use crate::membership::{self, Change, settled};
use crate::output::{Format, print, table};
use crate::serve::api::{GroupStep, MemberWish, MembersReport};
use crate::serve::node::group_name;

/// See the module.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
    /// Show every group's members, and what keeps disks out of them
    List(Target),
    /// Put the disk a node runs on now in the place of the one it lost, in every group
    Replace(Replace),
}

/// `hongbao kv member replace`
#[derive(Debug, Args)]
pub struct Replace {
    /// The node that lost its disk and runs on an empty one
    node: NodeId,
    #[command(flatten)]
    target: Target,
    /// Logged by every leader
    #[arg(long)]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Only say what would come next in each group
    #[arg(long)]
    dry_run: bool,
    /// Give up after so many seconds without an end; the groups keep what was done
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

#[derive(Serialize)]
struct Members {
    nodes: Vec<MembersReport>,
    unreachable: BTreeMap<NodeId, String>,
}

#[derive(Serialize)]
struct Replaced {
    node: NodeId,
    disk: String,
    changed: bool,
    dry_run: bool,
    groups: Vec<GroupStep>,
}

/// Does what the command says.
///
/// # Errors
/// Exit code 7 when a guard refuses, 6 when a node does not answer or the time is up.
pub async fn run(command: MemberCommand, format: Format) -> Result<(), Failure> {
    match command {
        MemberCommand::List(target) => {
            let members = members(&target.connect()?).await;
            if members.nodes.is_empty() {
                let reasons: Vec<&str> = members.unreachable.values().map(String::as_str).collect();
                return Err(Failure::new(Exit::Unavailable, reasons.join("\n")));
            }
            print(format, &members, show)
        }
        MemberCommand::Replace(replace) => run_replace(&replace, format).await,
    }
}

async fn members(connected: &Connected) -> Members {
    let mut members = Members { nodes: Vec::new(), unreachable: BTreeMap::new() };
    for node in &connected.cluster.nodes {
        match connected.call(node, Method::GET, "/v1/members", Bytes::new()).await {
            Ok(report) => members.nodes.push(report),
            Err(failure) => {
                members.unreachable.insert(node.id, failure.to_string());
            }
        }
    }
    members
}

async fn run_replace(replace: &Replace, format: Format) -> Result<(), Failure> {
    let connected = replace.target.connect()?;
    let node = connected.cluster.node(replace.node)?;
    let disk = membership::disk_of(&connected, node.id).await?;
    let change = Change::new(&connected, node.id, MemberWish::Voter(disk.clone()), &replace.reason)?;
    let mut groups = change.look().await?;
    let settled = settled(&groups);
    if !replace.dry_run && !settled {
        eprintln!(
            "the disk {disk} takes the place of {}'s lost one in {} groups; the lost disk can never come back",
            node.id,
            groups.len()
        );
        if !replace.yes {
            confirm("node's name", &node.id.to_string())?;
        }
        groups = change.until_done(Duration::from_secs(replace.timeout), |line| eprintln!("{line}")).await?;
    }
    let replaced = Replaced {
        node: node.id,
        disk,
        changed: !settled && !replace.dry_run,
        dry_run: replace.dry_run,
        groups: groups.into_values().collect(),
    };
    print(format, &replaced, show_replaced)
}

fn show_replaced(replaced: &Replaced) -> String {
    if !replaced.changed && !replaced.dry_run {
        return format!("{} votes with disk {} in every group already", replaced.node, replaced.disk);
    }
    let mut rows = table(&["group", "step", "detail"]);
    for group in &replaced.groups {
        rows.add_row(vec![group.name.clone(), group.step.clone(), group.detail.clone()]);
    }
    rows.to_string()
}

fn show(members: &Members) -> String {
    let mut rows = table(&["group", "node", "disk", "votes", "alive", "lag", "address"]);
    let mut groups: Vec<_> = members.nodes.iter().flat_map(|node| &node.leads).collect();
    groups.sort_by_key(|group| group.group);
    for group in groups {
        for member in &group.members {
            rows.add_row(vec![
                group.name.clone(),
                member.node.to_string(),
                member.disk.clone(),
                if member.votes { "yes" } else { "no" }.to_owned(),
                if member.alive { "yes" } else { "NO" }.to_owned(),
                member.lag.map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
                member.address.clone(),
            ]);
        }
    }
    let mut text = rows.to_string();
    for node in &members.nodes {
        text.push_str(&format!("\n{} runs on disk {} (start {})", node.node, node.disk, node.starts));
        for problem in &node.problems {
            text.push_str(&format!("\n  {problem}"));
        }
    }
    for group in leaderless(&members.nodes) {
        text.push_str(&format!("\n{}: nobody leads it now", group_name(GroupId(group))));
    }
    for (node, reason) in &members.unreachable {
        text.push_str(&format!("\n{node} does not answer: {reason}"));
    }
    text
}

fn leaderless(nodes: &[MembersReport]) -> BTreeSet<u32> {
    let led: BTreeSet<u32> = nodes.iter().flat_map(|node| &node.leads).map(|group| group.group).collect();
    nodes.iter().flat_map(|node| &node.groups).filter(|group| !led.contains(group)).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::api::GroupMembers;

    #[test]
    fn a_list_of_members_names_the_groups_that_nobody_leads() {
        let control =
            GroupMembers { group: 0, name: "control".to_owned(), changing: false, members: Vec::new() };
        let node = MembersReport {
            node: "a1".parse().expect("a node"),
            disk: "000000000001".to_owned(),
            starts: 1,
            groups: vec![0, 101],
            leads: vec![control],
            problems: Vec::new(),
        };
        let members = Members { nodes: vec![node], unreachable: BTreeMap::new() };
        assert!(show(&members).contains("queue 1: nobody leads it now"), "{}", show(&members));
    }
}
