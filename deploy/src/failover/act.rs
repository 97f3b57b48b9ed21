//! Zone operations against the real cluster: gather a view, let `decide.rs` decide, commit.
//!
//! Invariant: the write names the revision of every zone record the decision was made from; when one
//! changed in between, nothing is written and the operator is told to look again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use kvsvr::api::{Compare, ControlOp, Kv};
use ticket::control::{self, ClaimRecord, EventRecord, ZoneRecord, ZoneState};
use ticket::id::{FileNo, SlotNo};
use ticket::manifest::Roster;
use world::{NodeId, ZoneId};

use super::decide::{self, Decision, Guard, NodeView, Operation};
use crate::failure::{Context, Exit, Failure};
use crate::http::{HttpClient, admin_call};
use crate::serve::admin::Admin;
use crate::serve::api::{NodeReport, ZoneOutcome, ZoneReport, ZoneRequest, ZonesReport};
use crate::serve::event;

/// How long a node may take to say how it is. A dead one must not hold a failover up.
const ASK_WITHIN: Duration = Duration::from_millis(700);
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
    let records = read_zones(&*admin.kv).await?;
    let nodes = ask_nodes(admin).await;
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
    let gathered = gather(admin).await?;
    let view = decide::View {
        zones: gathered.zones.clone(),
        event: gathered.event.as_ref(),
        roster: gathered.roster.as_ref(),
        claims: gathered.claims.clone(),
        nodes: gathered.nodes.clone(),
        now: admin.clock.now(),
    };
    let decided = match verb {
        Verb::Failover => decide::failover(&view, zone, &request.reason),
        Verb::Restore => decide::restore(&view, zone, &request.reason),
    };
    let operation = match decided.map_err(refusal)? {
        Decision::Already(record) => return Ok(unchanged(zone, &record)),
        Decision::Commit(operation) => operation,
    };
    if !request.dry_run {
        commit(&*admin.kv, &operation).await?;
        tracing::warn!(%zone, state = state_name(operation.record.state), epoch = %operation.record.epoch, reason = %request.reason, "zone operation");
    }
    let slots = gathered.event.as_ref().map_or(&[][..], |event| &event.slots);
    let from_slot = slots.iter().find(|slot| slot.slot == operation.from_slot).map(|slot| slot.id.clone());
    let frozen_packets =
        operation.frozen.iter().map(|(frozen, _)| u64::from(frozen.count - frozen.issued)).sum();
    Ok(ZoneOutcome {
        zone,
        state: state_name(operation.record.state).to_owned(),
        epoch: operation.record.epoch,
        changed: !request.dry_run,
        from_slot,
        frozen_files: operation.frozen.len() as u64,
        frozen_packets,
    })
}

async fn gather(admin: &Admin) -> Result<Gathered, Failure> {
    let zones = read_zones(&*admin.kv).await?;
    let event = event::read(&*admin.kv).await?.map(|(record, _)| record);
    // A node that opens nothing and issues nothing has no roster; then no file is at stake.
    let roster = match &event {
        Some(event) => Some(admin.store.roster(event.build)?),
        None => None,
    };
    let mut claims = Vec::new();
    for pair in admin.kv.range(control::CLAIM_PREFIX.as_bytes()).await?.pairs {
        let key = String::from_utf8_lossy(&pair.key).into_owned();
        let record = control::decode(&key, &pair.value).context(Exit::Error, "reading a claim")?;
        let (slot, file) = control::parse_file_key(&key)
            .ok_or_else(|| Failure::new(Exit::Error, format!("{key} is not a claim's key")))?;
        claims.push((slot, file, record));
    }
    Ok(Gathered { zones, event, roster, claims, nodes: ask_nodes(admin).await })
}

/// The zones' records, each with the revision it was read at.
///
/// # Errors
/// When KvSvr does not answer, or holds what cannot be read.
pub async fn read_zones(kv: &dyn Kv) -> Result<BTreeMap<ZoneId, (ZoneRecord, i64)>, Failure> {
    let mut zones = BTreeMap::new();
    for pair in kv.range(control::ZONE_PREFIX.as_bytes()).await?.pairs {
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
    let zone_key = control::zone_key(operation.zone);
    let compares = operation
        .unchanged
        .iter()
        .map(|(zone, revision)| Compare::ModRevision(control::zone_key(*zone).into(), *revision));
    let put = ControlOp::Put(zone_key.clone().into(), control::encode(&operation.record).into());
    let outcome = kv.txn(compares.collect(), vec![put]).await?;
    if !outcome.succeeded {
        let message = "another zone operation came in between: look at `hongbao zone list` and repeat";
        return Err(Failure::new(Exit::Conflict, message));
    }
    // The zone is fenced now. Freezes are a report about it, and writing them again changes nothing.
    let fence = Compare::Value(zone_key.into(), control::encode(&operation.record).into());
    for frozen in operation.frozen.chunks(FREEZES_PER_WRITE) {
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

fn unchanged(zone: ZoneId, record: &ZoneRecord) -> ZoneOutcome {
    ZoneOutcome {
        zone,
        state: state_name(record.state).to_owned(),
        epoch: record.epoch,
        changed: false,
        from_slot: None,
        frozen_files: 0,
        frozen_packets: 0,
    }
}

fn refusal(guard: Guard) -> Failure {
    let exit = if matches!(guard, Guard::UnknownZone(_)) { Exit::NotFound } else { Exit::Refused };
    Failure::new(exit, guard.to_string())
}

fn state_name(state: ZoneState) -> &'static str {
    match state {
        ZoneState::Active => "active",
        ZoneState::Failed => "failed",
    }
}
