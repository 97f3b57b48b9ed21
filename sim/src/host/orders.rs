//! Command lines as people type them, and how they are carried out over the network.
//!
//! Invariant: a line that means nothing is refused and nothing is sent, as the real command line
//! does; what is sent goes through the same client code.
//!
//! Not here: commands that only look (they change nothing that could be wrong).

use std::sync::Arc;

use bytes::Bytes;
use deploy::cli::target::Connected;
use deploy::cli::zone;
use deploy::failure::{Exit, Failure};
use deploy::serve::api::EventReport;
use http::Method;
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
}

/// A line to be typed.
#[derive(Clone, Debug)]
pub struct Typed {
    /// Without the name of the program.
    pub line: String,
    /// What it must come to.
    pub expect: Expect,
}

/// Reads a line; options are left out of account.
///
/// # Errors
/// Exit code 2 when it means nothing.
pub fn parse(line: &str) -> Result<Order, Failure> {
    let words: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with("--")).collect();
    let zone = |text: &str| {
        text.parse::<ZoneId>().map_err(|error| Failure::new(Exit::Usage, format!("{text:?}: {error}")))
    };
    match words.as_slice() {
        ["zone", "failover", text] => Ok(Order::Failover(zone(text)?)),
        ["zone", "restore", text] => Ok(Order::Restore(zone(text)?)),
        ["deploy", "close"] => Ok(Order::Close),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_the_command_line_reads_it() {
        let zone = |text: &str| text.parse::<ZoneId>().expect("a zone");
        assert_eq!(parse("zone failover b --yes").expect("a command"), Order::Failover(zone("b")));
        assert_eq!(parse("zone restore c").expect("a command"), Order::Restore(zone("c")));
        for wrong in ["zone failover bb", "zone failvoer b", "zone", ""] {
            assert_eq!(parse(wrong).expect_err("no command").exit, Exit::Usage, "{wrong:?}");
        }
    }
}
