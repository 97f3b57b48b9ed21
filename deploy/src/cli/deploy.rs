//! `hongbao deploy keys|push|activate|close|status`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use world::clock::SystemClock;
use world::disk::RealDisk;
use world::{Clock, NodeId};

use super::money;
use super::target::Target;
use crate::distribute::{BuildDir, Pushed, Schedule};
use crate::failure::{Exit, Failure};
use crate::output::{Format, grouped, print, rfc3339, right, table};
use crate::serve::api::{BuildReport, EventReport};
use crate::store::install_secrets;

/// See the module.
#[derive(Debug, Subcommand)]
pub enum DeployCommand {
    /// Copy a build's secrets to nodes whose disks are on this machine
    Keys {
        #[command(flatten)]
        place: Place,
        /// Only this node
        #[arg(long)]
        node: Option<NodeId>,
    },
    /// Bring every file to its home node and to the other zones, and verify it there
    Push(Place),
    /// Make the build the active event, after every copy was verified and instant amounts were loaded
    Activate {
        #[command(flatten)]
        place: Place,
        /// Start the first slot this many seconds from now, instead of as planned
        #[arg(long, value_name = "SECONDS")]
        start_in: Option<u64>,
        /// With --start-in: length of each slot in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "start_in")]
        slot: u64,
        /// With --start-in: pause between slots in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "start_in")]
        gap: u64,
    },
    /// End the event: nothing is issued or opened any more
    Close(Target),
    /// Show how far each node holds the build
    Status(Place),
}

/// A cluster and a build.
#[derive(Debug, Args)]
pub struct Place {
    #[command(flatten)]
    target: Target,
    /// The directory `plan build` made
    #[arg(long)]
    build: PathBuf,
}

/// Does what the command says.
///
/// # Errors
/// See [`crate::distribute`].
pub async fn run(command: DeployCommand, format: Format) -> Result<(), Failure> {
    match command {
        DeployCommand::Keys { place, node } => {
            let connected = place.target.connect()?;
            let build = BuildDir::load(Arc::new(RealDisk), &place.build)?;
            let nodes =
                connected.cluster.nodes.iter().filter(|known| node.is_none_or(|node| node == known.id));
            let mut done = Vec::new();
            for node in nodes {
                install_secrets(&RealDisk, &build.path, build.manifest.build, node.id, &node.data_dir)?;
                done.push(node.id);
            }
            if done.is_empty() {
                return Err(Failure::new(Exit::NotFound, "no such node in the cluster"));
            }
            print(format, &serde_json::json!({ "installed": done }), |_| {
                format!("installed on {} nodes", done.len())
            })
        }
        DeployCommand::Push(place) => {
            let connected = place.target.connect()?;
            let build = BuildDir::load(Arc::new(RealDisk), &place.build)?;
            let pushed = build.push(&connected, |_| {}).await?;
            print(format, &pushed, |pushed| show_pushed(pushed))
        }
        DeployCommand::Activate { place, start_in, slot, gap } => {
            let connected = place.target.connect()?;
            let build = BuildDir::load(Arc::new(RealDisk), &place.build)?;
            let schedule = start_in.map_or(Schedule::AsPlanned, |start_in| Schedule::Compressed {
                first: SystemClock::new().now().plus(Duration::from_secs(start_in)),
                slot: Duration::from_secs(slot),
                gap: Duration::from_secs(gap),
            });
            let loaded = money::preload_instant(&connected, &build).await?;
            let report = build.activate(&connected, schedule).await?;
            print(format, &report, |report| {
                format!("{} instant amounts loaded\n{}", grouped(loaded), show_event(report))
            })
        }
        DeployCommand::Close(target) => {
            let connected = target.connect()?;
            let report: EventReport =
                connected.call_any(|_| false, Method::POST, "/v1/event/close", Bytes::new()).await?;
            print(format, &report, show_event)
        }
        DeployCommand::Status(place) => {
            let connected = place.target.connect()?;
            let build = BuildDir::load(Arc::new(RealDisk), &place.build)?;
            let mut pushed = Vec::new();
            for node in &connected.cluster.nodes {
                let path = format!("/v1/builds/{}", build.manifest.build);
                let report: BuildReport = connected.call(node, Method::GET, &path, Bytes::new()).await?;
                pushed.push(Pushed {
                    node: node.id,
                    expected: report.expected.len(),
                    verified: report.verified.len(),
                });
            }
            print(format, &pushed, |pushed| show_pushed(pushed))
        }
    }
}

fn show_pushed(pushed: &[Pushed]) -> String {
    let mut rows = table(&["node", "files expected", "verified"]);
    for node in pushed {
        rows.add_row(vec![node.node.to_string().into(), right(node.expected), right(node.verified)]);
    }
    rows.to_string()
}

fn show_event(report: &EventReport) -> String {
    let Some(event) = &report.event else { return "no event is active".to_owned() };
    let mut text =
        format!("event {} scheme {} build {} is {:?}", event.event, event.scheme, event.build, event.state);
    for slot in &event.slots {
        text.push_str(&format!("\n  {:<20} {} to {}", slot.id, rfc3339(slot.start_ms), rfc3339(slot.end_ms)));
    }
    text
}
