//! A node that is about to be worked on leads nothing and settles nothing, and everything else goes on.
//!
//! ```text
//!   drain     settler stops taking; every led group goes to a voter that has caught up
//!             elected all the same (nobody else could be)?  hands over again as soon as somebody can
//!   undrain   settler takes again; groups go back to where they are at home, as the other nodes are asked
//! ```
//! A drained node still votes, stores, serves reads, shakes and opens: what is written goes to the leaders.
//! It is drained until it is told otherwise or starts anew.
//!
//! Invariant: draining never takes the last leader a group could have: it hands over, it does not resign.
//!
//! Not here: taking the zone's files from it; that is `zone failover`.

use std::sync::Arc;
use std::time::Duration;

use replica::host::Host;
use tokio::sync::watch;
use tokio::time::Instant;
use world::NodeId;

use super::api::{DrainReport, DrainRequest, GroupMove};
use super::node::group_name;

/// How long the groups may take to go.
const DRAINED_WITHIN: Duration = Duration::from_secs(10);
/// Pause between two attempts.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How often a drained node looks whether it was elected.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Drains this node, or ends it. Answers what moved, and what did not.
pub async fn drain(host: &Host, drained: &watch::Sender<bool>, request: &DrainRequest) -> DrainReport {
    let mut report =
        DrainReport { node: host.node(), drained: request.drain, moved: Vec::new(), left: Vec::new() };
    if request.dry_run {
        report.drained = *drained.borrow();
        report.left = led(host);
        return report;
    }
    if drained.send_replace(request.drain) != request.drain {
        tracing::warn!(drain = request.drain, reason = request.reason, "draining was asked for");
    }
    if !request.drain {
        return report;
    }
    let started = Instant::now();
    loop {
        hand_over(host, &mut report.moved).await;
        report.left = led(host);
        if report.left.is_empty() || started.elapsed() > DRAINED_WITHIN {
            return report;
        }
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
    }
}

/// Gives groups that are at home elsewhere back to their home.
pub async fn rebalance(host: &Host) -> Vec<GroupMove> {
    let moves = host.rebalance().await;
    moves.into_iter().filter(|(_, _, moved)| moved.is_ok()).map(|(group, to, _)| named(group, to)).collect()
}

/// Hands over what a drained node was elected for, for ever.
pub async fn keep_drained(host: Arc<Host>, drained: watch::Receiver<bool>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if *drained.borrow() && !led(&host).is_empty() {
            hand_over(&host, &mut Vec::new()).await;
        }
    }
}

async fn hand_over(host: &Host, moved: &mut Vec<GroupMove>) {
    for (group, to, outcome) in host.drain().await {
        match outcome {
            Ok(()) => moved.push(named(group, to)),
            Err(error) => tracing::info!(%error, group = group_name(group), %to, "not handed over yet"),
        }
    }
}

fn named(group: world::GroupId, to: NodeId) -> GroupMove {
    GroupMove { name: group_name(group), to }
}

fn led(host: &Host) -> Vec<String> {
    let status = host.status().into_iter();
    status.filter(|group| group.is_leader).map(|group| group_name(group.group)).collect()
}
