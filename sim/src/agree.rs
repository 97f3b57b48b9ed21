//! What is put before I10 once everything works again: what every replica says of itself, what its
//! engine holds, and whether every zone serves.
//!
//! Invariant: states are compared by what the engines hold, not by what the nodes say of it.
//!
//! Not here: what must hold of it (oracle/i10_convergence.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use world::GroupId;

use crate::host::node::Site;
use crate::oracle::i10_convergence::{self, Healed, Replica};
use crate::stage::Stage;

/// Says what is still missing, as the end of a sentence; `None` when nothing is.
#[must_use]
pub fn first_unmet(stage: &Stage, after_ms: u64) -> Option<String> {
    // States are hashed only when everything else is as it should be: that takes time.
    i10_convergence::unmet(&healed(stage, after_ms, false))
        .or_else(|| i10_convergence::unmet(&healed(stage, after_ms, true)))
}

/// The cluster as it is now.
#[must_use]
pub fn healed(stage: &Stage, after_ms: u64, with_states: bool) -> Healed {
    let (mut replicas, mut members) = (Vec::new(), BTreeSet::new());
    for site in &stage.sites {
        let Some(host) = site.groups() else { continue };
        let mut hashes = if with_states { hashes(site) } else { BTreeMap::new() };
        members.insert(host.identity().member.to_string());
        for status in host.status() {
            let voting = status.members.iter().filter(|member| member.votes);
            replicas.push(Replica {
                group: status.group.0,
                node: site.id,
                leader: status.leader,
                term: status.term,
                last_log: status.last_index,
                applied: status.applied_index,
                state_hash: hashes.remove(&status.group).unwrap_or_default(),
                leads: status.is_leader,
                voters: voting.map(|member| member.member.to_string()).collect(),
                others: status.members.iter().filter(|member| !member.votes).count()
                    + usize::from(status.joint),
            });
        }
    }
    let closing = stage.board.closing.lock();
    let unsettled = closing.as_ref().map(|closing| {
        let outstanding = &closing.after.outstanding;
        outstanding.ready + outstanding.in_flight + outstanding.delayed
    });
    Healed {
        after_ms,
        nodes: stage.sites.iter().map(|site| site.id).collect(),
        members,
        groups: stage.groups.iter().map(|group| group.0).collect::<BTreeSet<u32>>(),
        replicas,
        probes: stage.board.probes.lock().clone(),
        unsettled,
        // What reconcile thinks is put before I5.
        differences: None,
    }
}

/// A hash of each group's state. The layout is that of `replica::state`: group, generation, the
/// machine's key; generations differ where a snapshot was received, so they are left out.
fn hashes(site: &Site) -> BTreeMap<GroupId, String> {
    let mut states: BTreeMap<(u32, u32), blake3::Hasher> = BTreeMap::new();
    let Some(state) = site.storage().state.view() else { return BTreeMap::new() };
    let scanned = state.scan(&[], &[], false, &mut |key, value| {
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
