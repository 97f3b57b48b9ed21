//! `hongbao zone drain|undrain`: every leader out of a zone before it is worked on, and back.
//!
//! Invariant: refused unless all nodes of the other zones serve and are not drained themselves: a zone that
//! is taken away afterwards must not take the last quorum with it.
//!
//! Not here: how a node hands over (`serve::drain`).

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::future::join_all;
use http::Method;
use serde::Serialize;
use world::{NodeId, ZoneId};

use super::target::{Connected, Target};
use crate::config::Node;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};
use crate::serve::api::{DrainReport, DrainRequest, GroupMove, NodeReport};

/// How long a node of another zone may take to say how it is.
const STATUS_WITHIN: Duration = Duration::from_secs(2);

/// `hongbao zone drain`, `hongbao zone undrain`
#[derive(Debug, Args)]
pub struct Drain {
    /// The zone's letter
    zone: ZoneId,
    #[command(flatten)]
    target: Target,
    /// Logged by the zone's nodes
    #[arg(long, default_value = "no reason given")]
    reason: String,
    /// Only say what would move
    #[arg(long)]
    dry_run: bool,
}

/// What became of it.
#[derive(Serialize)]
pub struct Drained {
    zone: ZoneId,
    drained: bool,
    dry_run: bool,
    moved: Vec<GroupMove>,
    /// What the zone leads still, or would hand over.
    pub left: Vec<String>,
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when there is no such zone, 6 when one of its nodes does not answer or a group cannot move,
/// 7 when a guard refuses.
pub async fn run(args: &Drain, drain: bool, format: Format) -> Result<(), Failure> {
    let connected = args.target.connect()?;
    let request = DrainRequest { drain, reason: args.reason.clone(), dry_run: args.dry_run };
    let outcome = ask(&connected, args.zone, &request).await?;
    print(format, &outcome, sentence)?;
    if drain && !args.dry_run && !outcome.left.is_empty() {
        let left = outcome.left.join(", ");
        let message =
            format!("zone {} leads {left} still; it goes on trying. See `hongbao status`", args.zone);
        return Err(Failure::new(Exit::Unavailable, message));
    }
    Ok(())
}

/// Asks a zone's nodes to drain, or to take leaders again, and then the others to give them back.
///
/// # Errors
/// As [`run`]; that a group cannot move is none.
pub async fn ask(connected: &Connected, zone: ZoneId, request: &DrainRequest) -> Result<Drained, Failure> {
    connected.cluster.check_zone(zone)?;
    let (here, elsewhere): (Vec<&Node>, Vec<&Node>) =
        connected.cluster.nodes.iter().partition(|node| node.id.zone() == zone);
    let DrainRequest { drain, dry_run, .. } = *request;
    if drain {
        check_others(connected, &elsewhere).await?;
    }
    let body = Bytes::from(serde_json::to_vec(request).context(Exit::Error, "making the request")?);
    let mut outcome = Drained { zone, drained: drain, dry_run, moved: Vec::new(), left: Vec::new() };
    for node in here {
        let report: DrainReport = connected.call(node, Method::POST, "/v1/drain", body.clone()).await?;
        outcome.moved.extend(report.moved);
        outcome.left.extend(report.left);
    }
    if !drain && !dry_run {
        for node in elsewhere {
            // A node that does not answer leads nothing that could come back.
            let moved =
                connected.call::<Vec<GroupMove>>(node, Method::POST, "/v1/rebalance", Bytes::new()).await;
            outcome.moved.extend(moved.unwrap_or_default());
        }
    }
    Ok(outcome)
}

async fn check_others(connected: &Connected, elsewhere: &[&Node]) -> Result<(), Failure> {
    let mut wrong: Vec<String> = Vec::new();
    let asks = elsewhere.iter().map(|node| async move {
        let status = |within| connected.call_within(within, node, Method::GET, "/v1/status", Bytes::new());
        (node, status(STATUS_WITHIN).await as Result<NodeReport, Failure>)
    });
    for (node, asked) in join_all(asks).await {
        let of = |id: NodeId, why: &str| format!("{id} {why}");
        match asked {
            Ok(report) if report.drained => {
                wrong.push(of(node.id, "is drained itself: undrain its zone first"))
            }
            Ok(report) if report.serving => {}
            Ok(report) => {
                let why = report.waiting_for.unwrap_or_default();
                wrong.push(of(node.id, &format!("does not serve: it waits for {why}")));
            }
            Err(failure) => wrong.push(of(node.id, &format!("does not answer: {failure}"))),
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.push("a drained zone is about to be taken away; all others must be well before".to_owned());
    Err(Failure::new(Exit::Refused, wrong.join("\n")))
}

fn sentence(outcome: &Drained) -> String {
    let zone = outcome.zone;
    let moved: Vec<String> =
        outcome.moved.iter().map(|moved| format!("{} to {}", moved.name, moved.to)).collect();
    let moved = if moved.is_empty() { "nothing had to move".to_owned() } else { moved.join(", ") };
    match (outcome.dry_run, outcome.drained) {
        (true, _) if outcome.left.is_empty() => format!("zone {zone} leads nothing"),
        (true, _) => format!("zone {zone} leads {}", outcome.left.join(", ")),
        (false, true) => format!(
            "zone {zone} is drained: {moved}. It votes and serves reads on; `hongbao zone undrain {zone}` or a restart ends it"
        ),
        (false, false) => format!("zone {zone} is not drained any more: {moved}"),
    }
}
