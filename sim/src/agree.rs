//! Whether the replicas agree once everything works again (I10): one leader a group, the disks that
//! are in the machines as its voters and no others, the same entries applied everywhere, the same state
//! to the byte.
//!
//! Invariant: what is compared is what the engines hold, not what the nodes say of it.
//!
//! Not here: what the state means.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use replica::engine::View;
use replica::engine::sim::SimEngine;
use replica::member_id::MemberId;
use replica::status::GroupStatus;
use world::GroupId;

use crate::host::node::Site;

/// Says what is still apart, as a sentence; `None` when all replicas agree.
#[must_use]
pub fn first_difference(sites: &[Arc<Site>]) -> Option<String> {
    let mut statuses: BTreeMap<GroupId, Vec<GroupStatus>> = BTreeMap::new();
    let mut disks: BTreeSet<MemberId> = BTreeSet::new();
    for site in sites {
        let Some(host) = site.groups() else { return Some(format!("{} does not run", site.id)) };
        disks.insert(host.identity().member);
        for status in host.status() {
            statuses.entry(status.group).or_default().push(status);
        }
    }
    if statuses.is_empty() {
        return Some("no node has a group".to_owned());
    }
    for (group, members) in &statuses {
        if let Some(difference) = apart(*group, members, &disks) {
            return Some(difference);
        }
    }
    let hashes: Vec<BTreeMap<GroupId, String>> = sites.iter().map(|site| hashes(site)).collect();
    for (site, theirs) in sites.iter().zip(&hashes).skip(1) {
        for group in statuses.keys() {
            let (mine, theirs) = (hashes[0].get(group), theirs.get(group));
            if mine != theirs {
                return Some(format!(
                    "{group}: {} and {} applied the same entries and hold different state",
                    sites[0].id, site.id
                ));
            }
        }
    }
    None
}

fn apart(group: GroupId, members: &[GroupStatus], disks: &BTreeSet<MemberId>) -> Option<String> {
    if members.len() != disks.len() {
        return Some(format!("{group} is on {} of {} nodes", members.len(), disks.len()));
    }
    let leaders: BTreeSet<_> = members.iter().map(|member| member.leader).collect();
    if leaders.len() != 1 || leaders.contains(&None) {
        return Some(format!("{group} has no leader that all know: {leaders:?}"));
    }
    if members.iter().filter(|member| member.is_leader).count() != 1 {
        return Some(format!("{group} is not led by exactly one member"));
    }
    let applied: BTreeSet<_> = members.iter().map(|member| member.applied_index).collect();
    if applied.len() != 1 {
        return Some(format!("{group} has applied up to different entries: {applied:?}"));
    }
    members.iter().find_map(|status| {
        let (voting, learning): (Vec<_>, Vec<_>) = status.members.iter().partition(|member| member.votes);
        let voting: BTreeSet<MemberId> = voting.into_iter().map(|member| member.member).collect();
        let strange = voting != *disks || !learning.is_empty() || status.joint;
        strange.then(|| {
            let (node, more) = (status.node, learning.len());
            format!(
                "{group}: {node} knows the voters {voting:?} and {more} others; the machines hold {disks:?}"
            )
        })
    })
}

/// A hash of each group's state. The layout is that of `replica::state`: group, generation, the
/// machine's key; generations differ where a snapshot was received, so they are left out.
fn hashes(site: &Site) -> BTreeMap<GroupId, String> {
    let mut states: BTreeMap<(u32, u32), blake3::Hasher> = BTreeMap::new();
    let engine = SimEngine::open(&site.storage().state);
    let scanned = engine.scan(&[], &[], false, &mut |key, value| {
        let number =
            |at: usize| key.get(at..at + 4).and_then(|raw| raw.try_into().ok()).map(u32::from_be_bytes);
        if let (Some(group), Some(generation), Some(own)) = (number(0), number(4), key.get(8..))
            && generation > 0
        {
            let hasher = states.entry((group, generation)).or_default();
            hasher.update(&(own.len() as u64).to_be_bytes()).update(own);
            hasher.update(&(value.len() as u64).to_be_bytes()).update(value);
        }
        ControlFlow::Continue(())
    });
    if let Err(error) = scanned {
        return BTreeMap::from([(GroupId(0), error.to_string())]);
    }
    // In ascending order: the highest generation, which is the one in force, stays.
    states
        .into_iter()
        .map(|((group, _), hasher)| (GroupId(group), hasher.finalize().to_hex().to_string()))
        .collect()
}
