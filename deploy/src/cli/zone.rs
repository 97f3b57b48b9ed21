//! `hongbao zone list|drain|undrain|failover|restore`.
//!
//! Invariant: a command that changes something says what it will do and asks first; in a script it
//! wants `--yes`. Repeating a command changes nothing.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use tokio::time::Instant;
use world::{ZoneId, rng};

use super::drain::{self, Drain};
use super::target::{Connected, Target};
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, grouped, print, rfc3339, table};
use crate::serve::api::{ZoneOutcome, ZoneRequest, ZonesReport};

/// How long a command is repeated whose outcome is not known.
const REPEATED_FOR: Duration = Duration::from_secs(6);
/// Pause before it is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(300);

/// See the module.
#[derive(Debug, Subcommand)]
pub enum ZoneCommand {
    /// Show the zones, their state and whether they serve
    List(Target),
    /// Move every leader and the settling out of this zone, before it is worked on
    Drain(Drain),
    /// Let this zone lead and settle again
    Undrain(Drain),
    /// Let the other zones issue this zone's files from the current slot on
    Failover(Operation),
    /// Give the zone its files back from the next slot on
    Restore(Operation),
}

/// One zone operation.
#[derive(Debug, Args)]
pub struct Operation {
    /// The zone's letter
    zone: ZoneId,
    #[command(flatten)]
    target: Target,
    /// Kept with the zone and shown by `zone list`
    #[arg(long, default_value = "no reason given")]
    reason: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Only say what would happen
    #[arg(long)]
    dry_run: bool,
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when there is no such zone, 7 when a guard refuses, 6 when no node answers.
pub async fn run(command: ZoneCommand, format: Format) -> Result<(), Failure> {
    match command {
        ZoneCommand::List(target) => {
            let connected = target.connect()?;
            let report: ZonesReport =
                connected.call_any(|_| false, Method::GET, "/v1/zones", Bytes::new()).await?;
            print(format, &report, show)
        }
        ZoneCommand::Drain(args) => drain::run(&args, true, format).await,
        ZoneCommand::Undrain(args) => drain::run(&args, false, format).await,
        ZoneCommand::Failover(operation) => operate(operation, "failover", format).await,
        ZoneCommand::Restore(operation) => operate(operation, "restore", format).await,
    }
}

async fn operate(operation: Operation, verb: &str, format: Format) -> Result<(), Failure> {
    let connected = operation.target.connect()?;
    connected.cluster.check_zone(operation.zone)?;
    if !operation.dry_run && !operation.yes {
        let preview = request(&connected, operation.zone, verb, &operation.reason, true).await?;
        eprintln!("{}", sentence(&preview, verb, true));
        confirm("zone's letter", &operation.zone.to_string())?;
    }
    let outcome = request(&connected, operation.zone, verb, &operation.reason, operation.dry_run).await?;
    print(format, &outcome, |outcome| sentence(outcome, verb, operation.dry_run))
}

/// Has a node do it, one outside the zone if that can be. The command has a name of its own, so that it can
/// be sent again, to whichever node, until its outcome is known.
///
/// # Errors
/// As [`run`].
pub async fn request(
    connected: &Connected,
    zone: ZoneId,
    verb: &str,
    reason: &str,
    dry_run: bool,
) -> Result<ZoneOutcome, Failure> {
    connected.cluster.check_zone(zone)?;
    let [name @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
        rng::secret_bytes().context(Exit::Error, "naming the command")?;
    let operation = Some(format!("{:032x}", u128::from_be_bytes(name)));
    let body = ZoneRequest { reason: reason.to_owned(), dry_run, operation };
    let body = Bytes::from(serde_json::to_vec(&body).context(Exit::Error, "making the request")?);
    let path = format!("/v1/zones/{zone}/{verb}");
    let started = Instant::now();
    let may_repeat = |failure: &Failure| failure.exit == Exit::Unavailable && !dry_run;
    loop {
        let answer = connected.call_any(|node| node.zone() == zone, Method::POST, &path, body.clone()).await;
        match answer {
            Err(failure) if may_repeat(&failure) && started.elapsed() < REPEATED_FOR => {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(failure) if failure.exit == Exit::Unavailable && !dry_run => {
                let cure = format!(
                    "whether it was done is not known: look at `hongbao zone list`, or repeat `zone {verb} {zone}`"
                );
                return Err(Failure::new(failure.exit, format!("{}\n{cure}", failure.message)));
            }
            answer => return answer,
        }
    }
}

/// Wants a name typed, so that nobody confirms the wrong one by habit.
///
/// # Errors
/// Exit code 2 when nobody is there to type it, 7 when something else was typed.
pub fn confirm(what: &str, expected: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "nobody is there to confirm: add --yes"));
    }
    eprint!("type the {what} to go on: ");
    io::stderr().flush().context(Exit::Error, "asking")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context(Exit::Error, "reading the answer")?;
    if answer.trim() == expected {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, "not confirmed; nothing was changed"))
}

fn sentence(outcome: &ZoneOutcome, verb: &str, dry_run: bool) -> String {
    let from = outcome
        .from_slot
        .as_deref()
        .map_or_else(|| "no slot is left".to_owned(), |slot| format!("from slot {slot} on"));
    if !outcome.changed && !dry_run {
        return format!(
            "zone {} was {} already (epoch {}); nothing changed",
            outcome.zone, outcome.state, outcome.epoch
        );
    }
    let tense = if dry_run { "would be" } else { "is" };
    let mut text =
        format!("zone {} {tense} {}, epoch {}, {from}", outcome.zone, outcome.state, outcome.epoch);
    if verb == "failover" {
        text.push_str(&format!(
            "; frozen, to be refunded: {} packets in {} files it had claimed",
            grouped(outcome.frozen_packets),
            outcome.frozen_files
        ));
    }
    text
}

fn show(report: &ZonesReport) -> String {
    let mut rows = table(&["zone", "state", "epoch", "serving", "nodes", "since", "reason"]);
    for zone in &report.zones {
        let nodes: Vec<String> = zone.nodes.iter().map(ToString::to_string).collect();
        rows.add_row(vec![
            zone.zone.to_string(),
            zone.state.clone(),
            zone.epoch.to_string(),
            match (zone.serving, zone.drained) {
                (true, true) => "yes, drained",
                (true, false) => "yes",
                (false, _) => "NO",
            }
            .to_owned(),
            nodes.join(" "),
            rfc3339(zone.at_ms),
            zone.reason.clone(),
        ]);
    }
    rows.to_string()
}
