//! I10: without faults the cluster heals: one leader per group, equal state on all replicas, and it
//! serves.
//!
//! Evidence: what every replica says of itself some time after the last fault was over, whether
//! probes through every zone were answered, and the last reconcile.
//!
//! Invariant: the conditions are judged in the order in which they depend on each other, and the
//! verdict names the first that is not met: a replica that is behind is the cause, that its hash
//! differs the consequence.
//!
//! Limits: equal hashes say that the replicas agree, not that they are right; I4 to I8 say that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

use super::{Findings, Verdict};

/// What one replica of one group says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The group.
    pub group: u32,
    /// The node.
    pub node: NodeId,
    /// Who leads, as it knows.
    pub leader: Option<NodeId>,
    /// The term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log: u64,
    /// The last entry it applied.
    pub applied: u64,
    /// Hash of its state at `applied`.
    pub state_hash: String,
    /// Whether it leads, as it says.
    pub leads: bool,
    /// Voters, as it knows: nodes with their disks.
    pub voters: BTreeSet<String>,
    /// Members without a vote, and a change of members that is under way.
    pub others: usize,
}

/// Whether a probe through a zone was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The zone that was asked.
    pub zone: ZoneId,
    /// What was asked, like `KV put` or `open`.
    pub what: String,
    /// `None`: answered; otherwise what came instead.
    pub failure: Option<String>,
}

/// The cluster some time after the last fault.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healed {
    /// How long after, in simulated milliseconds.
    pub after_ms: u64,
    /// Nodes that must be up.
    pub nodes: BTreeSet<NodeId>,
    /// The disks that are in the machines, with their nodes: whoever votes.
    pub members: BTreeSet<String>,
    /// Groups there are.
    pub groups: BTreeSet<u32>,
    /// What the replicas say.
    pub replicas: Vec<Replica>,
    /// Probes, of every zone.
    pub probes: Vec<Probe>,
    /// Messages still unsettled in the queue, if the settlers were to drain it.
    pub unsettled: Option<u64>,
    /// Differences the last reconcile found, if there was one.
    pub differences: Option<u64>,
}

/// Of one group; how it is not met, as the end of a sentence.
type Condition = fn(u32, &[&Replica], &Healed) -> Option<String>;

/// Judges the healed cluster.
#[must_use]
pub fn check(healed: &Healed) -> Verdict {
    let mut findings = Findings::new("I10", "the cluster heals");
    let unmet = first_unmet(healed, &mut findings);
    if let Some(unmet) = unmet {
        findings.violation(None, format!("{} ms after the last fault {unmet}", healed.after_ms));
    }
    let (replicas, groups) = (healed.replicas.len(), healed.groups.len());
    findings.verdict(|_| {
        format!(
            "{replicas} replicas of {groups} groups agree within {} ms, and every zone serves",
            healed.after_ms
        )
    })
}

/// What is not met yet, as the end of a sentence; for who waits until all is.
#[must_use]
pub fn unmet(healed: &Healed) -> Option<String> {
    first_unmet(healed, &mut Findings::new("I10", "the cluster heals"))
}

/// The first condition that is not met, as the end of a sentence.
fn first_unmet(healed: &Healed, findings: &mut Findings) -> Option<String> {
    let mut groups: BTreeMap<u32, Vec<&Replica>> = BTreeMap::new();
    for replica in &healed.replicas {
        groups.entry(replica.group).or_default().push(replica);
    }
    let conditions: [Condition; 5] =
        [everybody_is_there, one_leader, same_members, same_progress, same_state];
    for condition in conditions {
        for group in healed.groups.iter().copied() {
            findings.checked();
            let replicas = groups.get(&group).map_or(&[][..], Vec::as_slice);
            if let Some(unmet) = condition(group, replicas, healed) {
                return Some(unmet);
            }
        }
    }
    let zones: BTreeSet<ZoneId> = healed.nodes.iter().map(|node| node.zone()).collect();
    for zone in zones {
        findings.checked();
        let mut probes = healed.probes.iter().filter(|probe| probe.zone == zone).peekable();
        if probes.peek().is_none() {
            return Some(format!("nobody probed zone {zone}"));
        }
        if let Some(Probe { what, failure: Some(failure), .. }) = probes.find(|probe| probe.failure.is_some())
        {
            return Some(format!("zone {zone} does not serve: {what} came to: {failure}"));
        }
    }
    findings.checked();
    if let Some(left) = healed.unsettled.filter(|left| *left > 0) {
        return Some(format!("{left} messages are not settled"));
    }
    let differences = healed.differences.filter(|count| *count > 0);
    differences.map(|count| format!("the reconcile finds {count} differences"))
}

fn everybody_is_there(group: u32, replicas: &[&Replica], healed: &Healed) -> Option<String> {
    let there: BTreeSet<NodeId> = replicas.iter().map(|replica| replica.node).collect();
    let missing = healed.nodes.difference(&there).next()?;
    Some(format!("{missing} does not answer for group {group}"))
}

fn one_leader(group: u32, replicas: &[&Replica], _: &Healed) -> Option<String> {
    if let Some(lost) = replicas.iter().find(|replica| replica.leader.is_none()) {
        return Some(format!("{} knows no leader of group {group}", lost.node));
    }
    let leaders: BTreeSet<(u64, NodeId)> =
        replicas.iter().filter_map(|replica| Some((replica.term, replica.leader?))).collect();
    let leading = replicas.iter().filter(|replica| replica.leads).count();
    let mut leaders = leaders.into_iter();
    let (Some(one), Some(other)) = (leaders.next(), leaders.next()) else {
        return (leading != 1).then(|| format!("{leading} replicas say that they lead group {group}"));
    };
    Some(format!(
        "the replicas of group {group} follow {} of term {} and {} of term {}",
        one.1, one.0, other.1, other.0
    ))
}

fn same_members(group: u32, replicas: &[&Replica], healed: &Healed) -> Option<String> {
    let strange = |replica: &&&Replica| replica.voters != healed.members || replica.others > 0;
    let Replica { node, voters, others, .. } = replicas.iter().find(strange)?;
    let members = &healed.members;
    Some(format!(
        "{node} knows the voters {voters:?} of group {group} and {others} others; the machines hold {members:?}"
    ))
}

fn same_progress(group: u32, replicas: &[&Replica], _: &Healed) -> Option<String> {
    let most = replicas.iter().map(|replica| replica.last_log).max()?;
    let behind = replicas.iter().find(|replica| replica.last_log < most || replica.applied < most)?;
    Some(format!(
        "{} has entries up to {} of group {group} and applied {}, of {most}",
        behind.node, behind.last_log, behind.applied
    ))
}

fn same_state(group: u32, replicas: &[&Replica], _: &Healed) -> Option<String> {
    let first = replicas.first()?;
    let other = replicas.iter().find(|replica| replica.state_hash != first.state_hash)?;
    Some(format!(
        "the state of group {group} at entry {} is {} on {} and {} on {}",
        first.applied, first.state_hash, first.node, other.state_hash, other.node
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> NodeId {
        text.parse().expect("a node")
    }

    fn healthy() -> Healed {
        let nodes: BTreeSet<NodeId> = ["a1", "b1", "c1"].map(node).into();
        let replica = |group: u32, at: NodeId| Replica {
            group,
            node: at,
            leader: Some(node("b1")),
            term: 4,
            last_log: 90,
            applied: 90,
            state_hash: format!("h{group}"),
            leads: at == node("b1"),
            voters: nodes.iter().map(ToString::to_string).collect(),
            others: 0,
        };
        let replicas = (0..2).flat_map(|group| nodes.iter().map(move |at| replica(group, *at))).collect();
        let probe = |at: &NodeId| Probe { zone: at.zone(), what: "KV put".to_owned(), failure: None };
        Healed {
            after_ms: 5_000,
            groups: [0, 1].into(),
            replicas,
            probes: nodes.iter().map(probe).collect(),
            unsettled: Some(0),
            differences: Some(0),
            members: nodes.iter().map(ToString::to_string).collect(),
            nodes,
        }
    }

    fn check_with(spoil: impl FnOnce(&mut Healed), expected: Option<&str>) {
        let mut healed = healthy();
        spoil(&mut healed);
        let verdict = check(&healed);
        let said = verdict.violations.first().map(|violation| violation.what.as_str());
        assert_eq!(said.map(|said| said.trim_start_matches("5000 ms after the last fault ")), expected);
        assert_eq!(verdict.held, expected.is_none());
    }

    #[test]
    fn a_healed_cluster_is_accepted() {
        check_with(|_| {}, None);
    }

    #[test]
    fn a_missing_node_is_seen() {
        check_with(|healed| drop(healed.replicas.remove(4)), Some("b1 does not answer for group 1"));
    }

    #[test]
    fn no_leader_or_two_are_seen() {
        check_with(|healed| healed.replicas[2].leader = None, Some("c1 knows no leader of group 0"));
        check_with(
            |healed| (healed.replicas[3].leader, healed.replicas[3].term) = (Some(node("a1")), 3),
            Some("the replicas of group 1 follow a1 of term 3 and b1 of term 4"),
        );
        check_with(|healed| healed.replicas[0].leads = true, Some("2 replicas say that they lead group 0"));
    }

    #[test]
    fn different_members_are_seen() {
        check_with(
            |healed| assert!(healed.replicas[1].voters.remove("c1")),
            Some(
                "b1 knows the voters {\"a1\", \"b1\"} of group 0 and 0 others; the machines hold {\"a1\", \"b1\", \"c1\"}",
            ),
        );
    }

    #[test]
    fn a_replica_that_is_behind_is_named_before_its_state() {
        check_with(
            |healed| {
                healed.replicas[2].applied = 80;
                healed.replicas[2].state_hash = "other".to_owned();
            },
            Some("c1 has entries up to 90 of group 0 and applied 80, of 90"),
        );
    }

    #[test]
    fn states_that_differ_are_seen() {
        check_with(
            |healed| healed.replicas[5].state_hash = "x".to_owned(),
            Some("the state of group 1 at entry 90 is h1 on a1 and x on c1"),
        );
    }

    #[test]
    fn a_zone_that_does_not_serve_or_was_not_asked_is_seen() {
        check_with(
            |healed| healed.probes[1].failure = Some("deadline".to_owned()),
            Some("zone b does not serve: KV put came to: deadline"),
        );
        check_with(|healed| drop(healed.probes.remove(2)), Some("nobody probed zone c"));
    }

    #[test]
    fn what_is_left_over_is_seen() {
        check_with(|healed| healed.unsettled = Some(3), Some("3 messages are not settled"));
        check_with(|healed| healed.differences = Some(1), Some("the reconcile finds 1 differences"));
    }
}
