//! `hongbao status` and `hongbao slot list`: one screen that says whether all is well.

use bytes::Bytes;
use clap::Subcommand;
use http::Method;
use serde::Serialize;
use ticket::control::EventState;
use world::clock::SystemClock;
use world::{Clock, NodeId};

use super::target::Target;
use crate::failure::{Exit, Failure};
use crate::output::{Format, grouped, print, rfc3339, right, table};
use crate::serve::api::{EventReport, NodeReport};

/// `hongbao slot`
#[derive(Debug, Subcommand)]
pub enum SlotCommand {
    /// Show when each slot runs and who issues its files
    List(Target),
}

#[derive(Serialize)]
struct ClusterStatus {
    cluster: String,
    healthy: bool,
    nodes: Vec<NodeLine>,
}

#[derive(Serialize)]
struct NodeLine {
    node: NodeId,
    reachable: bool,
    problem: Option<String>,
    report: Option<NodeReport>,
}

#[derive(Serialize)]
struct SlotLine {
    slot: u16,
    id: String,
    state: &'static str,
    start: String,
    end: String,
    files_claimed: usize,
    files_frozen: usize,
    nodes: Vec<NodeId>,
}

#[derive(Serialize)]
struct Slots {
    event: Option<String>,
    open: bool,
    slots: Vec<SlotLine>,
}

/// Shows every node. Exit code 10 when one does not serve.
///
/// # Errors
/// See above.
pub async fn run(target: &Target, format: Format) -> Result<(), Failure> {
    let connected = target.connect()?;
    let mut nodes = Vec::new();
    for node in &connected.cluster.nodes {
        let answer = connected.call::<NodeReport>(node, Method::GET, "/v1/status", Bytes::new()).await;
        nodes.push(match answer {
            Ok(report) => NodeLine {
                node: node.id,
                reachable: true,
                problem: report.waiting_for.clone(),
                report: Some(report),
            },
            Err(failure) => {
                NodeLine { node: node.id, reachable: false, problem: Some(failure.message), report: None }
            }
        });
    }
    let healthy = nodes.iter().all(|node| node.report.as_ref().is_some_and(|report| report.serving));
    let status = ClusterStatus { cluster: connected.cluster.name.clone(), healthy, nodes };
    print(format, &status, show)?;
    if healthy {
        return Ok(());
    }
    Err(Failure::new(Exit::Unhealthy, "not every node serves"))
}

fn show(status: &ClusterStatus) -> String {
    let mut rows = table(&["node", "serving", "leads", "applied", "files", "issued", "problem"]);
    for line in &status.nodes {
        let Some(report) = &line.report else {
            let problem = line.problem.clone().unwrap_or_default();
            rows.add_row(vec![
                line.node.to_string(),
                "NO".to_owned(),
                String::new(),
                String::new(),
                String::new(),
                String::new(),
                problem,
            ]);
            continue;
        };
        let leads: Vec<&str> =
            report.groups.iter().filter(|g| g.leader == Some(line.node)).map(|g| g.name.as_str()).collect();
        let applied: Vec<String> = report.groups.iter().map(|g| g.applied_index.to_string()).collect();
        let issued: u64 = report.files.iter().map(|file| u64::from(file.issued)).sum();
        rows.add_row(vec![
            line.node.to_string().into(),
            if report.serving { "yes" } else { "NO" }.into(),
            leads.join(", ").into(),
            applied.join(" ").into(),
            right(report.files.len()),
            right(grouped(issued)),
            line.problem.clone().unwrap_or_default().into(),
        ]);
    }
    rows.to_string()
}

/// Shows the slots of the active event.
///
/// # Errors
/// Exit code 6 when no node answers.
pub async fn run_slots(command: SlotCommand, format: Format) -> Result<(), Failure> {
    let SlotCommand::List(target) = command;
    let connected = target.connect()?;
    let report: EventReport = connected.call_any(|_| false, Method::GET, "/v1/event", Bytes::new()).await?;
    let now = SystemClock::new().now();
    let mut slots = Slots { event: None, open: false, slots: Vec::new() };
    if let Some(event) = &report.event {
        slots.event = Some(event.event.clone());
        slots.open = event.state == EventState::Open;
        for window in &event.slots {
            let claims: Vec<_> = report.claims.iter().filter(|claim| claim.slot == window.slot).collect();
            let mut nodes: Vec<NodeId> = claims.iter().map(|claim| claim.node).collect();
            nodes.sort();
            nodes.dedup();
            let state = match (now < window.start_ms, now < window.end_ms) {
                (true, _) => "to come",
                (false, true) => "running",
                (false, false) => "over",
            };
            slots.slots.push(SlotLine {
                slot: window.slot.0,
                id: window.id.clone(),
                state,
                start: rfc3339(window.start_ms),
                end: rfc3339(window.end_ms),
                files_claimed: claims.len(),
                files_frozen: claims.iter().filter(|claim| claim.frozen).count(),
                nodes,
            });
        }
    }
    print(format, &slots, show_slots)
}

fn show_slots(slots: &Slots) -> String {
    let Some(event) = &slots.event else {
        return "no event is active; see `hongbao deploy activate`".to_owned();
    };
    let mut rows = table(&["slot", "state", "start", "end", "files claimed", "frozen", "by"]);
    for slot in &slots.slots {
        let nodes: Vec<String> = slot.nodes.iter().map(ToString::to_string).collect();
        rows.add_row(vec![
            slot.id.clone().into(),
            slot.state.into(),
            slot.start.clone().into(),
            slot.end.clone().into(),
            right(slot.files_claimed),
            right(slot.files_frozen),
            nodes.join(" ").into(),
        ]);
    }
    format!("event {event} is {}\n{rows}", if slots.open { "open" } else { "closed" })
}
