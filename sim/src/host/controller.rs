//! A controller that decides about a zone, stands still, and carries its decision out long after.
//!
//! ```text
//!   remember: read zones, claims, event -> decide (production code)    ... the world goes on ...
//!   act:      commit what was decided then (production code) -> refused if any zone has changed since
//! ```
//! Invariant: it is expected to be turned down exactly if a zone's record is another one than when it
//! decided.
//!
//! Not here: when (nemesis.rs), and the decision (`deploy::failover`).

use std::collections::BTreeMap;
use std::sync::Arc;

use deploy::failover::act::{commit, read_zones};
use deploy::failover::decide::{self, Asked, Decision, NodeView, Operation, View};
use deploy::failure::{Context, Exit, Failure};
use deploy::serve::event;
use ticket::control::{self, ZoneRecord, ZoneState};
use tokio::sync::mpsc;
use world::ZoneId;

use super::operator::Tools;
use crate::history::Outcome;
use crate::history::operator::{OperatorCall, OperatorReply};
use crate::schedule::{Expect, ZoneVerb};

/// What a controller is told.
#[derive(Clone, Copy, Debug)]
pub enum Errand {
    /// Decide now, under this number.
    Remember(u64, ZoneId, ZoneVerb),
    /// Carry out what was decided under this number.
    Act(u64),
}

/// Does errands, one after the other.
pub async fn stand_by(tools: Arc<Tools>, mut errands: mpsc::UnboundedReceiver<Errand>) {
    let mut decided: BTreeMap<u64, Operation> = BTreeMap::new();
    while let Some(errand) = errands.recv().await {
        match errand {
            Errand::Remember(number, zone, verb) => match decide_now(&tools, zone, verb).await {
                Ok(operation) => drop(decided.insert(number, operation)),
                Err(failure) => {
                    tracing::info!(target: "sim::controller", %zone, %failure, "decides nothing");
                }
            },
            Errand::Act(number) => {
                if let Some(operation) = decided.remove(&number) {
                    act(&tools, &operation).await;
                }
            }
        }
    }
}

async fn decide_now(tools: &Tools, zone: ZoneId, verb: ZoneVerb) -> Result<Operation, Failure> {
    let kv = &*tools.kv;
    let zones = read_zones(kv).await?;
    let event = event::read(kv).await?.map(|(record, _)| record);
    let mut claims = Vec::new();
    for pair in kv.range(control::CLAIM_PREFIX.as_bytes()).await?.pairs {
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        let record = control::decode(&key, &pair.value).context(Exit::Error, "reading a claim")?;
        let (slot, file) =
            control::parse_file_key(&key).ok_or_else(|| Failure::new(Exit::Error, "a claim's key"))?;
        claims.push((slot, file, record));
    }
    let roster = event.as_ref().and_then(|event| tools.build_of(event.build)).map(|build| &build.roster);
    // It believes that every node is well.
    let verified = roster.map_or(Vec::new(), |roster| roster.files.iter().map(|file| file.no).collect());
    let well = NodeView { serving: true, verified, drained: false, issued: BTreeMap::new() };
    let nodes = tools.connected.cluster.nodes.iter().map(|node| (node.id, well.clone())).collect();
    let now = tools.clock.now();
    let view = View { zones, event: event.as_ref(), roster, claims, nodes, now };
    let asked = Asked { reason: "an old controller", operation: None };
    let decided = match verb {
        ZoneVerb::Failover => decide::failover(&view, zone, asked),
        ZoneVerb::Restore => decide::restore(&view, zone, asked),
    };
    match decided.map_err(|guard| Failure::new(Exit::Refused, guard.to_string()))? {
        Decision::Commit(operation) => Ok(*operation),
        // Another controller did it just before. This one is about to write the same.
        Decision::Already(standing) => Ok(again(&view, zone, &standing.record, verb)),
    }
}

/// The write of a controller that does not know that it was done already.
fn again(view: &View<'_>, zone: ZoneId, found: &ZoneRecord, verb: ZoneVerb) -> Operation {
    let state = match verb {
        ZoneVerb::Failover => ZoneState::Failed,
        ZoneVerb::Restore => ZoneState::Active,
    };
    let record = ZoneRecord { state, epoch: found.epoch.next(), at_ms: view.now, ..found.clone() };
    let unchanged = view.zones.iter().map(|(zone, (_, revision))| (*zone, *revision)).collect();
    Operation { zone, record, unchanged, frozen: Vec::new(), from_slot: found.from_slot }
}

async fn act(tools: &Tools, operation: &Operation) {
    let board = &tools.board;
    let changed = read_zones(&*tools.kv).await.is_ok_and(|zones| {
        zones.iter().any(|(zone, (_, revision))| operation.unchanged.get(zone) != Some(revision))
    });
    let invoked = board.moment();
    let outcome = match commit(&*tools.kv, operation).await {
        Ok(()) => Outcome::Done(OperatorReply { changed: true, said: "committed".to_owned() }),
        Err(failure) if failure.exit == Exit::Conflict => Outcome::Refused(failure.message),
        Err(_) => Outcome::Unknown,
    };
    board.happened(match &outcome {
        Outcome::Done(_) => "old-controller-was-not-old",
        Outcome::Refused(_) => "old-controller-turned-down",
        Outcome::Unknown => "old-controller-not-answered",
    });
    // An answer that was lost says nothing about the guard.
    let expect = if changed && outcome != Outcome::Unknown { Expect::Refused } else { Expect::Any };
    let line = format!("(an old controller) zone {} {:?}", operation.zone, operation.record.state);
    tracing::info!(target: "sim::controller", %line, changed, ?outcome, "acted");
    let mut history = board.operator.lock();
    let id = history.invoke(invoked, 1, None, OperatorCall { line, expect });
    history.finish(board.moment(), id, outcome);
}
