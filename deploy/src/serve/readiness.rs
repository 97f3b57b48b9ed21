//! What a node says about itself: whether it serves, and if not, what it waits for.

use std::sync::Arc;

use access::node::AccessNode;
use access::status::FileState;
use replica::host::Host;
use tokio::sync::watch;
use world::NodeId;

use super::api::{FileReport, GroupReport, NodeReport};
use super::node::{Counters, group_name};
use super::payments::Payments;
use crate::store::TicketStore;

/// A view of the control KV older than this means that the node is cut off.
const VIEW_AGE_MS_MAX: u64 = 5_000;

/// Where a node's report comes from.
pub struct Readiness {
    /// This node.
    pub node: NodeId,
    /// Its groups.
    pub host: Arc<Host>,
    /// Its access role.
    pub access: Arc<AccessNode>,
    /// Its payment roles.
    pub payments: Arc<Payments>,
    /// Its files.
    pub store: Arc<TicketStore>,
    /// Whether it is drained.
    pub drained: watch::Receiver<bool>,
}

impl Readiness {
    /// How the node is now.
    #[must_use]
    pub fn report(&self) -> NodeReport {
        let groups: Vec<GroupReport> = self
            .host
            .status()
            .into_iter()
            .map(|status| GroupReport {
                group: status.group.0,
                name: group_name(status.group),
                leader: status.leader,
                stopped: status.stopped,
                term: status.term,
                applied_index: status.applied_index,
                last_index: status.last_index,
            })
            .collect();
        let access = self.access.status();
        let problems = self.host.problems();
        let waiting_for = waiting_for(&groups, &problems, &access);
        let files =
            access.files.iter().filter(|file| file.claimed_by == Some(self.node)).map(|file| FileReport {
                slot: file.slot,
                file: file.file,
                home: file.home,
                count: file.count,
                issued: file.issued,
                frozen: file.state == FileState::Frozen,
            });
        let verified = access.build.and_then(|build| self.store.verified(build).ok()).unwrap_or_default();
        NodeReport {
            node: self.node,
            serving: waiting_for.is_none(),
            waiting_for,
            drained: *self.drained.borrow(),
            boot_epoch: access.boot_epoch,
            groups,
            problems,
            files: files.collect(),
            verified: verified.into_iter().collect(),
            counters: self.counters(&access),
        }
    }

    fn counters(&self, access: &access::status::NodeStatus) -> Counters {
        let mut counters = Counters::new();
        for (outcome, count) in &access.counters.shakes {
            counters.insert(format!("shake.{outcome}"), *count);
        }
        for (code, count) in &access.counters.opens {
            counters.insert(format!("edge_open.{code}"), *count);
        }
        counters.extend(self.payments.counters());
        counters
    }
}

fn waiting_for(
    groups: &[GroupReport],
    problems: &[String],
    access: &access::status::NodeStatus,
) -> Option<String> {
    if let Some(stopped) = groups.iter().find_map(|group| group.stopped.as_ref()) {
        return Some(format!("a restart: {stopped}"));
    }
    let leaderless: Vec<&str> =
        groups.iter().filter(|g| g.leader.is_none()).map(|g| g.name.as_str()).collect();
    if !leaderless.is_empty() {
        let why = problems.first().map(|problem| format!(" ({problem})")).unwrap_or_default();
        return Some(format!("a leader of {}{why}", leaderless.join(", ")));
    }
    if access.superseded {
        return Some("nothing: this node was started again elsewhere".to_owned());
    }
    match access.view_age_ms {
        None => return Some("a first look at KvSvr".to_owned()),
        Some(age_ms) if age_ms > VIEW_AGE_MS_MAX => return Some(format!("KvSvr, silent for {age_ms} ms")),
        Some(_) => {}
    }
    // Without an event there is nothing to seal, and so nothing to wait for.
    if access.event.is_some() && access.boot_epoch.is_none() {
        let why = access.problems.first().cloned();
        return Some(why.unwrap_or_else(|| "its boot epoch from KvSvr".to_owned()));
    }
    None
}
