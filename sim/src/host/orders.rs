//! Command lines as people type them, and how they are carried out over the network.
//!
//! Invariant: a line that means nothing is refused and nothing is sent, as the real command line
//! does; what is sent goes through the same client code.
//!
//! Not here: commands that only look (they change nothing that could be wrong).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::cli::target::Connected;
use deploy::cli::zone;
use deploy::failure::{Context, Exit, Failure};
use deploy::membership::{self, EtcdMembers};
use deploy::serve::api::EventReport;
use deploy::serve::keys::{KeysReport, KeysRequest};
use http::Method;
use kvsvr::admin::{ChangeEnd, MemberChanges};
use ticket::id::KeyId;
use tokio::sync::mpsc;
use world::{NodeId, ZoneId};

use super::operator::{FIRST, Tools};
use crate::history::Outcome;
use crate::history::operator::{OperatorCall, OperatorReply};
use crate::schedule::Expect;

/// How long a replacement may take before the command gives up; it goes on when it is repeated.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);
/// Pause before a command that must succeed is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(700);

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
    /// `kv member replace N`
    Replace(NodeId),
    /// `etcdctl member remove N && etcdctl member add N`
    RemoveAndAdd(NodeId),
    /// `deploy push --build B`
    Push(String),
    /// `deploy activate --build B`
    Activate(String),
}

/// A line to be typed.
#[derive(Clone, Debug)]
pub struct Typed {
    /// Without the name of the program.
    pub line: String,
    /// What it must come to.
    pub expect: Expect,
    /// Whether it is typed again until it was carried out.
    pub until_done: bool,
}

/// Reads a line. Options that say who, why and whether to ask are left out of account.
///
/// # Errors
/// Exit code 2 when it means nothing.
pub fn parse(line: &str) -> Result<Order, Failure> {
    let (mut words, mut build) = (Vec::new(), None);
    let mut rest = line.split_whitespace();
    while let Some(word) = rest.next() {
        match word {
            "--yes" => {}
            "--reason" if rest.next().is_some() => {}
            "--build" if build.is_none() => build = rest.next(),
            option if option.starts_with('-') => {
                return Err(Failure::new(Exit::Usage, format!("{option:?} in {line:?} is not understood")));
            }
            word => words.push(word),
        }
    }
    let zone = |text: &str| {
        text.parse::<ZoneId>().map_err(|error| Failure::new(Exit::Usage, format!("{text:?}: {error}")))
    };
    let build = build.unwrap_or(FIRST).to_owned();
    let node = |text: &str| {
        text.parse::<NodeId>().map_err(|error| Failure::new(Exit::Usage, format!("{text:?}: {error}")))
    };
    match words.as_slice() {
        ["kv", "member", "replace", text] => Ok(Order::Replace(node(text)?)),
        ["etcdctl", "member", "remove", text, "&&", "etcdctl", "member", "add", again] if text == again => {
            Ok(Order::RemoveAndAdd(node(text)?))
        }
        ["deploy", "push"] => Ok(Order::Push(build)),
        ["deploy", "activate"] => Ok(Order::Activate(build)),
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

/// Carries out what is typed, one line after the other; what must succeed is left to a colleague.
pub async fn obey(tools: Arc<Tools>, mut lines: mpsc::UnboundedReceiver<Typed>) {
    while let Some(typed) = lines.recv().await {
        if typed.until_done {
            tokio::spawn(insist(Arc::clone(&tools), typed));
        } else {
            carry_out(&tools, typed).await;
        }
    }
}

async fn insist(tools: Arc<Tools>, typed: Typed) {
    while !carry_out(&tools, typed.clone()).await {
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

/// Types a line and writes down what came of it; answers whether it was carried out.
async fn carry_out(tools: &Tools, typed: Typed) -> bool {
    let board = &tools.board;
    let call = OperatorCall { line: typed.line.clone(), expect: typed.expect };
    let id = board.operator.lock().invoke(board.moment(), 0, None, call);
    let outcome = match send(tools, &typed.line).await {
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
    let done = matches!(outcome, Outcome::Done(_));
    board.operator.lock().finish(board.moment(), id, outcome);
    done
}

async fn send(tools: &Tools, line: &str) -> Result<OperatorReply, Failure> {
    let connected = &*tools.connected;
    let (zone, verb) = match parse(line)? {
        Order::Failover(zone) => (zone, "failover"),
        Order::Restore(zone) => (zone, "restore"),
        Order::Revoke(key) => return revoke(connected, key).await,
        Order::Replace(node) => {
            let (disk, changed) = membership::replace(connected, node, "simulated", REPLACED_WITHIN).await?;
            // Not `changed`: an attempt that was given up may have done the most of it.
            tools.board.happened("disk-replaced");
            return Ok(OperatorReply { changed, said: format!("{node} votes with disk {disk}") });
        }
        Order::RemoveAndAdd(node) => return remove_and_add(tools, node).await,
        Order::Push(build) => {
            let pushed = tools.push(&build).await?;
            let said = pushed.iter().map(|node| format!("{} {}/{}", node.node, node.verified, node.expected));
            return Ok(OperatorReply { changed: true, said: said.collect::<Vec<_>>().join(", ") });
        }
        Order::Activate(build) => {
            let report = tools.activate(&build).await?;
            let said = format!("{:?}", report.event.map(|event| event.build));
            return Ok(OperatorReply { changed: true, said });
        }
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

/// In etcd's steps. Typed again after it was cut off, the removal may find the new disk voting in some groups,
/// and is refused there: adding goes on.
async fn remove_and_add(tools: &Tools, node: NodeId) -> Result<OperatorReply, Failure> {
    let members = EtcdMembers(Arc::clone(&tools.connected));
    if members.remove_voter(node).await.is_ok() {
        tools.board.happened("member-removed");
    }
    let added = match members.add_learner(node).await {
        // It may vote already.
        Ok(()) | Err(ChangeEnd::Refused(_)) => members.promote(node).await,
        open => open,
    };
    match added {
        Ok(()) => {
            tools.board.happened("disk-replaced");
            Ok(OperatorReply { changed: true, said: format!("{node} was removed and votes again") })
        }
        Err(ChangeEnd::Refused(why)) => Err(Failure::new(Exit::Refused, why)),
        Err(ChangeEnd::Open(why)) => Err(Failure::new(Exit::Unavailable, why)),
    }
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
        let line = "deploy activate --build late";
        assert_eq!(parse(line).expect("a command"), Order::Activate("late".to_owned()));
        assert_eq!(
            parse("kv member replace c1 --reason drill --yes").expect("a command"),
            Order::Replace("c1".parse().expect("a node"))
        );
        assert_eq!(
            parse("etcdctl member remove c1 && etcdctl member add c1").expect("a command"),
            Order::RemoveAndAdd("c1".parse().expect("a node"))
        );
        for wrong in
            ["zone failover bb", "zone failvoer b", "zone", "", "zone failover b --now", "key revoke 0"]
        {
            assert_eq!(parse(wrong).expect_err("no command").exit, Exit::Usage, "{wrong:?}");
        }
    }
}
