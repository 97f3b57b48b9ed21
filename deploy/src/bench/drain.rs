//! `hongbao bench drain`: what writers feel when the leader's zone is drained.
//!
//! ```text
//!   writers   put -> answer -> put -> answer ...  the longest wait of any of them is the drain's pause
//!   operator          drain --> nothing is led there           undrain --> leaders go home
//! ```
//! The leader of etcd's group is meant; its zone hands over all that it leads.
//!
//! Invariant: every put counts, from before the drain until after it; one that failed is counted as failed.
//! A pause is the machine's as much as the drain's, so it is never less than what the drain caused.
//!
//! Not here: zones that are taken away afterwards ([`super::failover`] ends one without asking).

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::sleep;
use world::ZoneId;

use super::failover::leader;
use super::kv::Workload;
use super::load::LoadArgs;
use super::times::Times;
use crate::cli::drain::ask;
use crate::cli::target::{Connected, Target};
use crate::failure::{Exit, Failure};
use crate::output::{Format, grouped, print};
use crate::serve::api::DrainRequest;

/// How long writers write around each drain.
const WRITING: Duration = Duration::from_secs(3);
/// How long before the drain.
const BEFORE: Duration = Duration::from_millis(1_000);
/// Quiet between two drains, in which leaders move home.
const QUIET: Duration = Duration::from_millis(1_500);

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    target: Target,
    /// How often the leader's zone is drained
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    drains: u32,
    /// Writers, each with one put under way, spread over the zones
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: u32,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct DrainsFelt {
    drains: usize,
    puts: u64,
    errors: u64,
    first_error: Option<String>,
    /// The longest wait for a put in the seconds around each drain.
    #[serde(flatten)]
    pauses: Times,
}

impl DrainsFelt {
    fn line(&self) -> String {
        let DrainsFelt { drains, puts, errors, .. } = self;
        let (puts, pauses) = (grouped(*puts), self.pauses.line());
        format!(
            "{drains} drains of the leader's zone: {puts} puts and {errors} failed, longest wait {pauses}"
        )
    }
}

/// Drains and measures.
///
/// # Errors
/// When a drain is refused or leaves something led, or nothing could be written.
pub async fn run(args: DrainArgs, format: Format) -> Result<(), Failure> {
    let connected = args.target.connect()?;
    let endpoints: Vec<String> = connected.cluster.nodes.iter().map(|node| node.etcd.clone()).collect();
    let load = LoadArgs { clients: args.clients, seconds: WRITING.as_secs(), size: 128 };
    let writers = Workload::puts(load);
    let (mut all_ms, mut puts, mut errors, mut first_error) = (Vec::new(), 0, 0, None);
    for _ in 0..args.drains {
        let zone = leader(&connected.cluster).await?.zone();
        let draining = async {
            sleep(BEFORE).await;
            drain(&connected, zone).await
        };
        let writing = writers.measure(&endpoints);
        let (drained, measured) = tokio::join!(draining, writing);
        let undrained = ask(&connected, zone, &request(false)).await;
        drained?;
        undrained?;
        let measured = measured?;
        let pause_us = measured.max_us.max(measured.late_max_us);
        eprintln!("zone {zone} drained: longest wait {pause_us} us, {} errors", measured.errors);
        all_ms.push(pause_us.div_ceil(1_000));
        puts += measured.ops;
        errors += measured.errors;
        first_error = first_error.or_else(|| measured.first_error.clone());
        measured.into_result()?;
        sleep(QUIET).await;
    }
    let felt = DrainsFelt { drains: all_ms.len(), puts, errors, first_error, pauses: Times::of(all_ms) };
    print(format, &felt, DrainsFelt::line)
}

async fn drain(connected: &Connected, zone: ZoneId) -> Result<(), Failure> {
    let drained = ask(connected, zone, &request(true)).await?;
    if drained.left.is_empty() {
        return Ok(());
    }
    let left = drained.left.join(", ");
    Err(Failure::new(Exit::Unavailable, format!("zone {zone} was drained and leads {left} still")))
}

fn request(drain: bool) -> DrainRequest {
    DrainRequest { drain, reason: "bench drain".to_owned(), dry_run: false }
}
