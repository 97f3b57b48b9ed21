//! `hongbao key list|revoke|activate`: the data keys of the active build.
//!
//! Invariant: a key is revoked everywhere with one command, within a second, without a restart. What
//! lies under it and is not credited yet goes back to the sponsors.

use std::collections::BTreeSet;
use std::io::IsTerminal;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use ticket::id::{BuildId, KeyId};

use super::target::{Connected, Target};
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};
use crate::serve::api::EventReport;
use crate::serve::keys::{KeysReport, KeysRequest};

/// See the module.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Show which data keys of the active build may be used
    List(Target),
    /// Take keys out of use: nothing under them is opened, settled or credited any more
    Revoke(Operation),
    /// Let revoked keys be used again
    Activate(Operation),
}

/// One operation on keys.
#[derive(Debug, Args)]
pub struct Operation {
    /// Key numbers
    #[arg(required = true, value_parser = key_id)]
    keys: Vec<KeyId>,
    #[command(flatten)]
    target: Target,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn key_id(text: &str) -> Result<KeyId, String> {
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("{text:?} is not a key number from 1 to 65535")),
        Ok(number) => Ok(KeyId(number)),
    }
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when no build is active, 2 when it has no such key.
pub async fn run(command: KeyCommand, format: Format) -> Result<(), Failure> {
    match command {
        KeyCommand::List(target) => {
            let connected = target.connect()?;
            let build = active_build(&connected).await?;
            let path = format!("/v1/builds/{build}/keys");
            let report: KeysReport = connected.call_any(|_| false, Method::GET, &path, Bytes::new()).await?;
            print(format, &report, sentence)
        }
        KeyCommand::Revoke(operation) => operate(operation, "revoke", format).await,
        KeyCommand::Activate(operation) => operate(operation, "activate", format).await,
    }
}

async fn operate(operation: Operation, verb: &str, format: Format) -> Result<(), Failure> {
    let connected = operation.target.connect()?;
    let build = active_build(&connected).await?;
    let keys: BTreeSet<KeyId> = operation.keys.into_iter().collect();
    if !operation.yes && !asked(verb, &keys)? {
        return Err(Failure::new(Exit::Refused, "not confirmed; nothing was changed"));
    }
    let body = serde_json::to_vec(&KeysRequest { keys }).context(Exit::Error, "making the request")?;
    let path = format!("/v1/builds/{build}/keys/{verb}");
    let report: KeysReport = connected.call_any(|_| false, Method::POST, &path, Bytes::from(body)).await?;
    print(format, &report, sentence)
}

fn asked(verb: &str, keys: &BTreeSet<KeyId>) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, "nobody is there to confirm: add --yes"));
    }
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    eprint!("{verb} data keys {}? type {verb} to go on: ", keys.join(", "));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).context(Exit::Error, "reading the answer")?;
    Ok(answer.trim() == verb)
}

async fn active_build(connected: &Connected) -> Result<BuildId, Failure> {
    let report: EventReport = connected.call_any(|_| false, Method::GET, "/v1/event", Bytes::new()).await?;
    let event = report.event.ok_or_else(|| Failure::new(Exit::NotFound, "no event is active"))?;
    Ok(event.build)
}

fn sentence(report: &KeysReport) -> String {
    let revoked: Vec<String> = report.revoked.iter().map(ToString::to_string).collect();
    let revoked = if revoked.is_empty() { "none".to_owned() } else { revoked.join(" ") };
    format!("build {}: {} data keys may be used; revoked: {revoked}", report.build, report.usable)
}
