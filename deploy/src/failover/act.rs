//! Zone operations against the real cluster: gather a view, let `decide.rs` decide, commit.
//!
//! ```text
//!   gather (zones, event, claims, nodes, all at once)  --decide-->  fence: the zone's record
//!                                                                   then freezes, from the claims read after it
//! ```
//! Invariant: the write names the revision of every zone record the decision was made from; when one
//! changed in between, nothing is written and the operator is told to look again. So the same write may be
//! sent again while its outcome is unknown: its conditions hold once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use kvsvr::api::{Compare, ControlOp, Kv, KvError, TxnOutcome};
use ticket::control::{self, ClaimRecord, EventRecord, FreezeRecord, ZoneRecord, ZoneState};
use ticket::id::{FileNo, SlotNo};
use ticket::manifest::Roster;
use tokio::time::Instant;
use world::{NodeId, ZoneId};

use super::decide::{self, Asked, Decision, Frozen, Guard, NodeView, Operation, View};
use crate::failure::{Context, Exit, Failure};
use crate::http::{HttpClient, admin_call};
use crate::serve::admin::Admin;
use crate::serve::api::{NodeReport, ZoneOutcome, ZoneReport, ZoneRequest, ZonesReport};
use crate::serve::event;

/// How long a node may take to say how it is. A dead one must not hold a failover up.
const ASK_WITHIN: Duration = Duration::from_millis(700);
/// How long one read may take. The KV's client gives a node that stands still a second of it.
const READ_WITHIN: Duration = Duration::from_millis(2_500);
/// How long one write may take before it is sent again.
const WRITE_WITHIN: Duration = Duration::from_millis(1_000);
/// How often it is sent.
const WRITES_MAX: u32 = 4;
/// When a zone has just been lost the others elect leaders, and say meanwhile that they do not serve.
const HEALTHY_WITHIN: Duration = Duration::from_millis(2_500);
/// Pause between two looks at them.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(150);
/// Freezes written in one transaction.
const FREEZES_PER_WRITE: usize = 100;

/// What an operator does to a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Let the others issue its files.
    Failover,
    /// Give them back.
    Restore,
}

struct Gathered {
    zones: BTreeMap<ZoneId, (ZoneRecord, i64)>,
    event: Option<EventRecord>,
    roster: Option<Roster>,
    claims: Vec<(SlotNo, FileNo, ClaimRecord)>,
    nodes: BTreeMap<NodeId, NodeView>,
}

/// All zones as they are recorded, and whether they serve.
///
/// # Errors
/// When KvSvr does not answer.
pub async fn zones(admin: &Admin) -> Result<ZonesReport, Failure> {
    let (records, nodes) = tokio::join!(read_zones(&*admin.kv), ask_nodes(admin));
    let records = records?;
    let mut zones = Vec::new();
    for (zone, (record, _)) in records {
        let here: Vec<NodeId> = nodes.keys().copied().filter(|node| node.zone() == zone).collect();
        zones.push(ZoneReport {
            zone,
            state: state_name(record.state).to_owned(),
            epoch: record.epoch,
            from_slot: record.from_slot,
            reason: record.reason,
            at_ms: record.at_ms,
            serving: !here.is_empty() && here.iter().all(|node| nodes[node].serving),
            drained: !here.is_empty() && here.iter().all(|node| nodes[node].drained),
            nodes: here,
        });
    }
    Ok(ZonesReport { zones })
}

/// Does what the operator asks, or says why not.
///
/// # Errors
/// Exit code 7 when a guard refuses, 4 when a zone record changed meanwhile, 6 without a quorum.
pub async fn operate(
    admin: &Admin,
    zone: ZoneId,
    verb: Verb,
    request: &ZoneRequest,
) -> Result<ZoneOutcome, Failure> {
    let (mut gathered, decision) = decide(admin, zone, verb, request).await?;
    let (mut operation, again) = match decision {
        Decision::Commit(operation) => (*operation, false),
        Decision::Already(operation) => (*operation, true),
    };
    if !request.dry_run {
        if !again {
            operation.record = fence(&*admin.kv, &operation).await?;
            tracing::warn!(%zone, state = state_name(operation.record.state), epoch = %operation.record.epoch, reason = %request.reason, "zone operation");
        }
        // From the fence on the zone claims nothing more.
        gathered.claims = read_claims(&*admin.kv).await?;
        operation.frozen = decide::frozen(&gathered.view(admin), zone, &operation.record);
        freeze(&*admin.kv, zone, &operation.record, &operation.frozen).await?;
    }
    let ours =
        request.operation.is_some() && request.operation.as_ref() == operation.record.operations.last();
    Ok(outcome(&gathered, &operation, !request.dry_run && (!again || ours)))
}

/// Decides. What is refused because the others do not serve is looked at again for a while.
async fn decide(
    admin: &Admin,
    zone: ZoneId,
    verb: Verb,
    request: &ZoneRequest,
) -> Result<(Gathered, Decision), Failure> {
    let asked = Asked { reason: &request.reason, operation: request.operation.as_deref() };
    let started = Instant::now();
    loop {
        let gathered = gather(admin).await?;
        let view = gathered.view(admin);
        let decided = match verb {
            Verb::Failover => decide::failover(&view, zone, asked),
            Verb::Restore => decide::restore(&view, zone, asked),
        };
        match decided {
            Ok(decision) => return Ok((gathered, decision)),
            Err(Guard::TooFewHealthy { .. }) if started.elapsed() < HEALTHY_WITHIN => {
                tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            }
            Err(guard) => return Err(refusal(guard)),
        }
    }
}

fn outcome(gathered: &Gathered, operation: &Operation, changed: bool) -> ZoneOutcome {
    let slots = gathered.event.as_ref().map_or(&[][..], |event| &event.slots);
    let from_slot = slots.iter().find(|slot| slot.slot == operation.from_slot).map(|slot| slot.id.clone());
    let frozen_packets =
        operation.frozen.iter().map(|(frozen, _)| u64::from(frozen.count - frozen.issued)).sum();
    ZoneOutcome {
        zone: operation.zone,
        state: state_name(operation.record.state).to_owned(),
        epoch: operation.record.epoch,
        changed,
        from_slot,
        frozen_files: operation.frozen.len() as u64,
        frozen_packets,
    }
}

impl Gathered {
    fn view(&self, admin: &Admin) -> View<'_> {
        View {
            zones: self.zones.clone(),
            event: self.event.as_ref(),
            roster: self.roster.as_ref(),
            claims: self.claims.clone(),
            nodes: self.nodes.clone(),
            now: admin.clock.now(),
        }
    }
}

async fn gather(admin: &Admin) -> Result<Gathered, Failure> {
    let kv = &*admin.kv;
    let (zones, event, claims, nodes) =
        tokio::join!(read_zones(kv), read_event(kv), read_claims(kv), ask_nodes(admin));
    let (zones, event, claims) = (zones?, event?, claims?);
    // Without a roster no file is at stake. One that this node cannot read says nothing about the operation:
    // another node is to decide.
    let roster = match &event {
        Some(event) => Some(admin.store.roster(event.build).map_err(|failure| {
            Failure::new(Exit::Unavailable, format!("{} cannot decide: {failure}", admin.node))
        })?),
        None => None,
    };
    Ok(Gathered { zones, event, roster, claims, nodes })
}

async fn read_event(kv: &dyn Kv) -> Result<Option<EventRecord>, Failure> {
    let read = tokio::time::timeout(READ_WITHIN, event::read(kv)).await;
    Ok(read.map_err(|_| no_answer())??.map(|(record, _)| record))
}

async fn read_claims(kv: &dyn Kv) -> Result<Vec<(SlotNo, FileNo, ClaimRecord)>, Failure> {
    let mut claims = Vec::new();
    let page = tokio::time::timeout(READ_WITHIN, kv.range(control::CLAIM_PREFIX.as_bytes())).await;
    for pair in page.map_err(|_| no_answer())??.pairs {
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        let record = control::decode(&key, &pair.value).context(Exit::Error, "reading a claim")?;
        let (slot, file) = control::parse_file_key(&key)
            .ok_or_else(|| Failure::new(Exit::Error, format!("{key} is not a claim's key")))?;
        claims.push((slot, file, record));
    }
    Ok(claims)
}

fn no_answer() -> Failure {
    Failure::new(Exit::Unavailable, format!("KvSvr: no answer within {READ_WITHIN:?}"))
}

/// The zones' records, each with the revision it was read at.
///
/// # Errors
/// When KvSvr does not answer, or holds what cannot be read.
pub async fn read_zones(kv: &dyn Kv) -> Result<BTreeMap<ZoneId, (ZoneRecord, i64)>, Failure> {
    let mut zones = BTreeMap::new();
    let page = tokio::time::timeout(READ_WITHIN, kv.range(control::ZONE_PREFIX.as_bytes())).await;
    for pair in page.map_err(|_| no_answer())??.pairs {
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        let zone = key
            .trim_start_matches(control::ZONE_PREFIX)
            .parse()
            .context(Exit::Error, "reading a zone's key")?;
        let record = control::decode(&key, &pair.value).context(Exit::Error, "reading a zone")?;
        zones.insert(zone, (record, pair.mod_revision));
    }
    Ok(zones)
}

/// Asks every node how it is, all at once. One that does not answer in time does not serve.
async fn ask_nodes(admin: &Admin) -> BTreeMap<NodeId, NodeView> {
    let asks = admin.cluster.nodes.iter().map(|node| async move {
        if node.id == admin.node {
            return (node.id, view_of(&(admin.report)()));
        }
        let mut client =
            HttpClient::new(Arc::clone(&admin.net), &node.admin).with_bearer(admin.token.clone());
        let ask = admin_call::<NodeReport>(&mut client, Method::GET, "/v1/status", Bytes::new(), ASK_WITHIN);
        let view = match tokio::time::timeout(ASK_WITHIN, ask).await {
            Ok(Ok(report)) => view_of(&report),
            // It does not serve, whatever it said before; only what it had issued is remembered.
            Ok(Err(_)) | Err(_) => NodeView {
                serving: false,
                drained: false,
                verified: Vec::new(),
                issued: admin
                    .observer
                    .last_heard(node.id)
                    .map(|report| view_of(&report).issued)
                    .unwrap_or_default(),
            },
        };
        (node.id, view)
    });
    futures_util::future::join_all(asks).await.into_iter().collect()
}

fn view_of(report: &NodeReport) -> NodeView {
    NodeView {
        serving: report.serving,
        drained: report.drained,
        verified: report.verified.clone(),
        issued: report.files.iter().map(|file| ((file.slot, file.file), file.issued)).collect(),
    }
}

/// Writes a decision, unless a zone record has changed since it was made.
///
/// # Errors
/// Exit code 4 when one has, 6 without a quorum.
pub async fn commit(kv: &dyn Kv, operation: &Operation) -> Result<(), Failure> {
    let record = fence(kv, operation).await?;
    freeze(kv, operation.zone, &record, &operation.frozen).await
}

/// Writes the zone's record. Answers the one that stands: it may be that of another sending of the same
/// command, by another node.
async fn fence(kv: &dyn Kv, operation: &Operation) -> Result<ZoneRecord, Failure> {
    let zones = operation.unchanged.iter();
    let compares: Vec<Compare> = zones
        .map(|(zone, revision)| Compare::ModRevision(control::zone_key(*zone).into(), *revision))
        .collect();
    let key = control::zone_key(operation.zone);
    let put = ControlOp::Put(key.into(), control::encode(&operation.record).into());
    let mut last = String::new();
    for _ in 0..WRITES_MAX {
        match tokio::time::timeout(WRITE_WITHIN, kv.txn(compares.clone(), vec![put.clone()])).await {
            Ok(Ok(outcome)) if outcome.succeeded => return Ok(operation.record.clone()),
            Ok(Ok(outcome)) => return standing(&outcome, operation),
            Ok(Err(KvError::Refused(reason))) => return Err(KvError::Refused(reason).into()),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("no answer within {WRITE_WITHIN:?}"),
        }
    }
    let message = format!(
        "whether zone {} is {} now is not known ({last}): repeat the command, or look at `hongbao zone list`",
        operation.zone,
        state_name(operation.record.state)
    );
    Err(Failure::new(Exit::Unavailable, message))
}

/// The zone's record as an unsuccessful write found it, when it is the one that was to be written.
fn standing(outcome: &TxnOutcome, operation: &Operation) -> Result<ZoneRecord, Failure> {
    let at = operation.unchanged.keys().position(|zone| *zone == operation.zone);
    let pair = at.and_then(|at| outcome.found.get(at)).and_then(Option::as_ref);
    let key = control::zone_key(operation.zone);
    let found = pair.and_then(|pair| control::decode::<ZoneRecord>(&key, &pair.value).ok());
    let ours = |found: &ZoneRecord| {
        let name = found.operations.last();
        let same = (found.state, found.epoch) == (operation.record.state, operation.record.epoch);
        *found == operation.record || (same && name.is_some() && name == operation.record.operations.last())
    };
    found.filter(ours).ok_or_else(|| {
        let message = "another zone operation came in between: look at `hongbao zone list` and repeat";
        Failure::new(Exit::Conflict, message)
    })
}

/// Writes what a zone's record freezes, as long as it is the zone's record. Freezes are a report about it,
/// and writing them again changes nothing.
async fn freeze(
    kv: &dyn Kv,
    zone: ZoneId,
    record: &ZoneRecord,
    frozen: &[(Frozen, FreezeRecord)],
) -> Result<(), Failure> {
    let fence = Compare::Value(control::zone_key(zone).into(), control::encode(record).into());
    for frozen in frozen.chunks(FREEZES_PER_WRITE) {
        let puts = frozen.iter().map(|(frozen, record)| {
            ControlOp::Put(
                control::freeze_key(frozen.slot, frozen.file).into(),
                control::encode(record).into(),
            )
        });
        kv.txn(vec![fence.clone()], puts.collect()).await?;
    }
    Ok(())
}

fn refusal(guard: Guard) -> Failure {
    let exit = match guard {
        Guard::UnknownZone(_) => Exit::NotFound,
        Guard::Superseded(_) => Exit::Conflict,
        _ => Exit::Refused,
    };
    Failure::new(exit, guard.to_string())
}

fn state_name(state: ZoneState) -> &'static str {
    match state {
        ZoneState::Active => "active",
        ZoneState::Failed => "failed",
    }
}
