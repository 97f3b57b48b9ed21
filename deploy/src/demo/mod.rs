//! `hongbao demo`: one whole event on this machine, through real processes, with the loss of a zone
//! in the middle.
//!
//! ```text
//!   build -> three zones up -> files to all zones -> slots in quick succession, a crowd at the edge
//!         -> a zone is killed in the middle of a slot, failed over, restarted, restored
//!         -> reconcile -> credit -> refund -> report with a verdict on every invariant
//! ```
//! Invariant: every number in the report was counted by the crowd, read from the cluster, or summed
//! from the plan; the exit code is 0 only if every invariant held.
//!
//! Not here: anything the servers do for a demo that they would not do otherwise.

pub mod crowd;
pub mod ledger;
pub mod probe;
pub mod report;
pub mod stage;
pub mod story;
pub mod timeline;
pub mod trouble;
pub mod verdicts;
pub mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use world::clock::SystemClock;
use world::disk::{Disk, RealDisk};
use world::net::TcpNet;

use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};
use report::Report;
use stage::Stage;

/// What goes wrong in the middle of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// Zone b is ended with SIGKILL in the middle of a slot.
    ZoneKill,
    /// Nothing.
    None,
}

/// The options of the demo.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Sponsors' orders, CSV (the sample event if not given)
    #[arg(long, requires = "script")]
    pub budget: Option<PathBuf>,
    /// Slots and schemes, TOML (the sample event if not given)
    #[arg(long, requires = "budget")]
    pub script: Option<PathBuf>,
    /// Which scheme of the script
    #[arg(long, default_value = "A")]
    pub scheme: String,
    /// Simulated users; how many packets each may have stands in the script
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(1..=5_000_000))]
    pub users: u64,
    /// What goes wrong
    #[arg(long, value_enum, default_value_t = Fault::ZoneKill)]
    pub fault: Fault,
    /// Shakes a second, all users together
    #[arg(long, default_value_t = 5_000)]
    pub rate: u32,
    /// Length of each slot in seconds
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(3..=3600))]
    pub slot: u64,
    /// Pause between slots in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub gap: u64,
    /// Makes the crowd's behaviour repeatable
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report as JSON to this file
    #[arg(long)]
    pub report: Option<PathBuf>,
    /// Keep everything in this directory instead of a temporary one
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The first of the 30 ports that are used (free ones are looked for if not given)
    #[arg(long)]
    pub base_port: Option<u16>,
}

/// Runs the demo.
///
/// # Errors
/// Exit code 11 when an invariant is broken; whatever a step failed with otherwise.
pub async fn run(args: DemoArgs, format: Format) -> Result<(), Failure> {
    let stage = Stage::set(&args)?;
    let doors = story::Doors { clock: Arc::new(SystemClock::new()), net: Arc::new(TcpNet) };
    let told = tokio::select! {
        told = Box::pin(story::tell(&args, &stage, doors)) => told,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Error, "interrupted; the cluster was stopped")),
    };
    if !told.as_ref().is_ok_and(|report| report.ok) {
        stage.keep_for_inspection();
    }
    let struck = stage.strike().await;
    let report = told?;
    struck?;
    if let Some(file) = &args.report {
        let bytes = serde_json::to_vec_pretty(&report).context(Exit::Error, "making the report")?;
        RealDisk.publish(file, &bytes).context(Exit::Error, format!("writing {}", file.display()))?;
    }
    print(format, &report, Report::page)?;
    if report.ok {
        return Ok(());
    }
    let broken: Vec<&str> = report.invariants.iter().filter(|v| !v.held).map(|v| v.id.as_str()).collect();
    Err(Failure::new(Exit::InvariantBroken, format!("broken: {}", broken.join(", "))))
}
