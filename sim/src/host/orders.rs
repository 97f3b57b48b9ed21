//! Command lines as people type them, and how they are carried out over the network.
//!
//! Invariant: a line that means nothing is refused and nothing is sent, as the real command line
//! does; what is sent goes through the same client code.
//!
//! Not here: commands that only look (they change nothing that could be wrong).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use deploy::cli::target::Connected;
use deploy::cli::zone;
use deploy::failure::{Context, Exit, Failure};
use deploy::serve::api::EventReport;
use deploy::serve::keys::{KeysReport, KeysRequest};
use http::Method;
use ticket::id::KeyId;
use world::ZoneId;

use crate::board::Board;
use crate::history::Outcome;
use crate::history::operator::{OperatorCall, OperatorReply};
use crate::schedule::Expect;

/// A command that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `zone failover Z`
    Failover(ZoneId),
    /// `zone restore Z`
    Restore(ZoneId),
    /// `deploy close`
    Close,
    /// `key revoke K`
    Revoke(KeyId),
}

/// A line to be typed.
#[derive(Clone, Debug)]
pub struct Typed {
    /// Without the name of the program.
    pub line: String,
    /// What it must come to.
    pub expect: Expect,
}

/// Reads a line. Options that say who, why and whether to ask are left out of account.
///
/// # Errors
/// Exit code 2 when it means nothing.
pub fn parse(line: &str) -> Result<Order, Failure> {
    let mut words = Vec::new();
    let mut rest = line.split_whitespace();
    while let Some(word) = rest.next() {
        match word {
            "--yes" => {}
            "--reason" if rest.next().is_some() => {}
            option if option.starts_with('-') => {
                return Err(Failure::new(Exit::Usage, format!("{option:?} in {line:?} is not understood")));
            }
            word => words.push(word),
        }
    }
    let zone = |text: &str| {
        text.parse::<ZoneId>().map_err(|error| Failure::new(Exit::Usage, format!("{text:?}: {error}")))
    };
    match words.as_slice() {
        ["zone", "failover", text] => Ok(Order::Failover(zone(text)?)),
        ["zone", "restore", text] => Ok(Order::Restore(zone(text)?)),
        ["deploy", "close"] => Ok(Order::Close),
        ["key", "revoke", text] => {
            let key = text.parse().ok().filter(|key| *key > 0);
            let key =
                key.ok_or_else(|| Failure::new(Exit::Usage, format!("{text:?} is not a key number")))?;
            Ok(Order::Revoke(KeyId(key)))
        }
        _ => Err(Failure::new(Exit::Usage, format!("{line:?} is not a command"))),
    }
}

/// Types a line and writes down what came of it.
pub async fn carry_out(connected: &Connected, board: &Arc<Board>, typed: Typed) {
    let call = OperatorCall { line: typed.line.clone(), expect: typed.expect };
    let id = board.operator.lock().invoke(board.moment(), 0, None, call);
    let outcome = match send(connected, &typed.line).await {
        Ok(reply) => Outcome::Done(reply),
        Err(failure) => match failure.exit {
            Exit::Usage
            | Exit::NotFound
            | Exit::Conflict
            | Exit::Denied
            | Exit::Refused
            | Exit::Unverified => Outcome::Refused(failure.message),
            _ => Outcome::Unknown,
        },
    };
    tracing::info!(target: "sim::operator", line = %typed.line, ?outcome, "typed");
    board.operator.lock().finish(board.moment(), id, outcome);
}

async fn send(connected: &Connected, line: &str) -> Result<OperatorReply, Failure> {
    let (zone, verb) = match parse(line)? {
        Order::Failover(zone) => (zone, "failover"),
        Order::Restore(zone) => (zone, "restore"),
        Order::Revoke(key) => return revoke(connected, key).await,
        Order::Close => {
            let report: EventReport =
                connected.call_any(|_| false, Method::POST, "/v1/event/close", Bytes::new()).await?;
            let said = format!("{:?}", report.event.map(|event| event.state));
            return Ok(OperatorReply { changed: true, said });
        }
    };
    let outcome = zone::request(connected, zone, verb, "simulated", false).await?;
    let said = format!("{} {} at epoch {}", outcome.zone, outcome.state, outcome.epoch);
    Ok(OperatorReply { changed: outcome.changed, said })
}

async fn revoke(connected: &Connected, key: KeyId) -> Result<OperatorReply, Failure> {
    let event: EventReport = connected.call_any(|_| false, Method::GET, "/v1/event", Bytes::new()).await?;
    let event = event.event.ok_or_else(|| Failure::new(Exit::NotFound, "no event is active"))?;
    let body = serde_json::to_vec(&KeysRequest { keys: BTreeSet::from([key]) });
    let body = Bytes::from(body.context(Exit::Error, "making the request")?);
    let path = format!("/v1/builds/{}/keys/revoke", event.build);
    let report: KeysReport = connected.call_any(|_| false, Method::POST, &path, body).await?;
    Ok(OperatorReply { changed: true, said: format!("revoked: {:?}", report.revoked) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_the_command_line_reads_it() {
        let zone = |text: &str| text.parse::<ZoneId>().expect("a zone");
        assert_eq!(
            parse("zone failover b --reason drill --yes").expect("a command"),
            Order::Failover(zone("b"))
        );
        assert_eq!(parse("zone restore c").expect("a command"), Order::Restore(zone("c")));
        for wrong in
            ["zone failover bb", "zone failvoer b", "zone", "", "zone failover b --now", "key revoke 0"]
        {
            assert_eq!(parse(wrong).expect_err("no command").exit, Exit::Usage, "{wrong:?}");
        }
    }
}
