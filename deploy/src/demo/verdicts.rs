//! What the evidence says about each invariant.
//!
//! Invariant: every verdict rests on two independent accounts of the same thing: the crowd's memory
//! and the rows, the claims and the nodes' own reports, the plan and the books.

use std::collections::{BTreeMap, BTreeSet};

use payment::reconcile::Report as Reconciled;
use payment::row::RowState;
use ticket::id::{FileNo, PacketId, SlotNo, UserId};
use ticket::manifest::Manifest;
use world::{NodeId, UnixMs, ZoneId};

use super::crowd::{Acked, Memory};
use super::ledger::Books;
use super::probe::{Of, Trace, writable_again_ms};
use super::report::{Claims, Opens, Packets, Report, SlotRow, Speed, Thefts, Verdict, ZoneRow};
use super::watch::Issued;
use crate::output::{grouped, yuan};
use crate::serve::api::{EventReport, ZonesReport};

/// The bound on how long a lost zone may hold writes up.
const WRITABLE_AGAIN_MS_MAX: u64 = 3_000;

/// Everything that was seen.
pub struct Evidence<'a> {
    /// The plan.
    pub manifest: &'a Manifest,
    /// The event and its claims.
    pub event: &'a EventReport,
    /// The zones at the end.
    pub zones: &'a ZonesReport,
    /// Records issued, as the nodes themselves said, file by file.
    pub nodes: &'a Issued,
    /// The first reconcile.
    pub before: &'a Reconciled,
    /// The last reconcile.
    pub after: &'a Reconciled,
    /// The rows.
    pub books: &'a Books,
    /// The crowd.
    pub memory: &'a Memory,
    /// The probes.
    pub traces: &'a [Trace],
    /// The zone that was lost.
    pub zone_failed: Option<ZoneId>,
    /// When.
    pub killed_at: Option<UnixMs>,
    /// How long everything took.
    pub seconds: f64,
}

/// What became of the crowd's acknowledged opens.
struct Fates {
    credited: u64,
    explained: u64,
    lost: Vec<String>,
    twice: u64,
}

/// Sums the evidence up.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Report {
    let fates = fates(evidence);
    let claims = claims(evidence);
    let frozen = frozen_files(evidence);
    let packets = packets(evidence, &frozen);
    let kv_ms = evidence.killed_at.and_then(|at| writable_again_ms(evidence.traces, Of::Kv, at));
    let queue_ms = evidence.killed_at.and_then(|at| writable_again_ms(evidence.traces, Of::Queue, at));
    let totals = &evidence.after.totals;
    let mut invariants = about_money(evidence);
    invariants.push(survived(evidence, &fates, kv_ms, queue_ms));
    Report {
        ok: invariants.iter().all(|verdict| verdict.held),
        event: evidence.manifest.event.clone(),
        scheme: evidence.manifest.scheme.clone(),
        fault: evidence.zone_failed.map_or_else(|| "none".to_owned(), |_| "zone-kill".to_owned()),
        budget_fen: totals.budget_fen,
        credited_fen: totals.credited_fen,
        pending_fen: totals.pending_fen,
        refunded_fen: totals.refunded_fen,
        unissued_fen: totals.unissued_fen,
        mismatches: totals.mismatches,
        packets,
        opens: Opens {
            acked: evidence.memory.acked.len() as u64,
            lost: fates.lost.len() as u64,
            unknown: evidence.memory.unknown,
            refused: evidence.memory.refused.clone(),
        },
        shakes: answered(evidence.memory),
        shake_outcomes: evidence.memory.shakes.clone(),
        claims,
        thefts: Thefts { tried: evidence.memory.thefts, succeeded: evidence.memory.thefts_succeeded },
        zone_failed: evidence.zone_failed.map(|zone| zone.to_string()),
        writable_again_ms: kv_ms.zip(queue_ms).map(|(kv, queue)| kv.max(queue)),
        kv_writable_again_ms: kv_ms,
        queue_writable_again_ms: queue_ms,
        speed: speed(evidence),
        slots: slot_rows(evidence, &frozen),
        zones: zone_rows(evidence, &frozen),
        timeline: Vec::new(),
        invariants,
        seconds: evidence.seconds,
    }
}

/// The verdicts on I1 to I6, which need no probes.
#[must_use]
pub fn about_money(evidence: &Evidence<'_>) -> Vec<Verdict> {
    let fates = fates(evidence);
    vec![
        minted(evidence),
        claimed_once(&claims(evidence), evidence),
        issued_once(evidence, &fates),
        opens_kept(evidence, &fates),
        balanced(evidence),
        only_from_the_plan(evidence),
    ]
}

fn verdict(id: &str, held: bool, detail: String) -> Verdict {
    Verdict { id: id.to_owned(), held, detail }
}

fn minted(evidence: &Evidence<'_>) -> Verdict {
    let manifest = evidence.manifest;
    let by_batch: u64 = manifest.batches.iter().map(|batch| batch.count).sum();
    let fen: u64 = manifest.batches.iter().map(|batch| batch.amount_fen.get()).sum();
    let held = by_batch == manifest.count
        && fen == evidence.after.totals.budget_fen
        && fen == manifest.amount_fen.get();
    let detail = format!("{} packets worth {} yuan minted, as the budget says", grouped(by_batch), yuan(fen));
    verdict("I1", held, detail)
}

fn claimed_once(claims: &Claims, evidence: &Evidence<'_>) -> Verdict {
    let held = claims.double == 0 && claims.total > 0;
    let detail = format!(
        "{} files claimed, {} of them taken over from {}, {} twice",
        claims.total,
        claims.taken_over,
        evidence.zone_failed.map_or_else(|| "nobody".to_owned(), |zone| format!("zone {zone}")),
        claims.double
    );
    verdict("I2", held, detail)
}

fn issued_once(evidence: &Evidence<'_>, fates: &Fates) -> Verdict {
    let mut seen: BTreeSet<(SlotNo, FileNo, u32)> = BTreeSet::new();
    let again =
        evidence.books.rows.values().filter(|row| !seen.insert((row.slot, row.file, row.index))).count()
            as u64;
    let contested = evidence.memory.refused.get("already_opened").copied().unwrap_or(0);
    let held = again == 0 && fates.twice == 0 && contested == 0;
    let detail = format!(
        "{} opened packets, each from another place in another file; {} in two hands",
        grouped(evidence.books.rows.len() as u64),
        again + fates.twice + contested
    );
    verdict("I3", held, detail)
}

fn opens_kept(evidence: &Evidence<'_>, fates: &Fates) -> Verdict {
    let acked = evidence.memory.acked.len() as u64;
    let otherwise = evidence.memory.told_otherwise;
    let kept = fates.lost.is_empty() && fates.credited + fates.explained == acked && acked > 0;
    let held = kept && otherwise == 0;
    let mut detail = format!(
        "{} opens acknowledged: {} credited, {} explained, {} lost",
        grouped(acked),
        grouped(fates.credited),
        grouped(fates.explained),
        fates.lost.len()
    );
    if let Some(first) = fates.lost.first() {
        detail.push_str(&format!(" (first: {first})"));
    }
    if otherwise > 0 {
        detail.push_str(&format!("; {otherwise} opens that arrived twice were answered in two ways"));
    }
    verdict("I4", held, detail)
}

fn balanced(evidence: &Evidence<'_>) -> Verdict {
    let adds_up = |report: &Reconciled| {
        let totals = &report.totals;
        let sum = totals.credited_fen + totals.pending_fen + totals.refunded_fen + totals.unissued_fen;
        let per_batch = report.batches.iter().all(|batch| {
            batch.budget_fen
                == batch.credited.fen + batch.pending.fen + batch.refunded_fen + batch.unissued_fen
        });
        sum == totals.budget_fen && per_batch && report.complete
    };
    let totals = &evidence.after.totals;
    let settled = totals.pending_fen == 0 && totals.unissued_fen == 0;
    let held = adds_up(evidence.before) && adds_up(evidence.after) && settled;
    let detail = format!(
        "{} credited + {} pending + {} refunded + {} unissued = {} yuan, in each of {} batches",
        yuan(totals.credited_fen),
        yuan(totals.pending_fen),
        yuan(totals.refunded_fen),
        yuan(totals.unissued_fen),
        yuan(totals.budget_fen),
        evidence.after.batches.len()
    );
    verdict("I5", held, detail)
}

fn only_from_the_plan(evidence: &Evidence<'_>) -> Verdict {
    let mismatches = evidence.before.totals.mismatches + evidence.after.totals.mismatches;
    let memory = evidence.memory;
    let held = mismatches == 0 && memory.thefts_succeeded == 0;
    let mut detail = format!(
        "{mismatches} credits outside the plan; {} altered or stolen tickets presented, {} opened",
        grouped(memory.thefts),
        memory.thefts_succeeded
    );
    if let Some(finding) = evidence.before.findings.first().or(evidence.after.findings.first()) {
        detail.push_str(&format!(" (first finding: {finding:?})"));
    }
    verdict("I6", held, detail)
}

fn survived(evidence: &Evidence<'_>, fates: &Fates, kv_ms: Option<u64>, queue_ms: Option<u64>) -> Verdict {
    let forgotten: Vec<&str> = evidence
        .traces
        .iter()
        .filter(|trace| trace.found.is_none_or(|found| found < trace.last_acked))
        .map(|trace| trace.group.as_str())
        .collect();
    let acked = |of: Of| -> u64 {
        evidence.traces.iter().filter(|trace| trace.of == of).map(|trace| trace.acked.len() as u64).sum()
    };
    let (writes, enqueues) = (acked(Of::Kv), acked(Of::Queue));
    let quick =
        evidence.killed_at.is_none() || kv_ms.max(queue_ms).is_some_and(|ms| ms < WRITABLE_AGAIN_MS_MAX);
    let answered = evidence.killed_at.is_none() || (kv_ms.is_some() && queue_ms.is_some());
    let held =
        forgotten.is_empty() && fates.lost.is_empty() && quick && answered && writes > 0 && enqueues > 0;
    let detail = format!(
        "{} KV writes and {} enqueues acknowledged, {} of them remembered {} times, {} forgotten",
        grouped(writes),
        grouped(evidence.memory.acked.len() as u64),
        evidence.traces.iter().filter(|trace| trace.of == Of::Queue && trace.last_acked > 0).count(),
        grouped(enqueues),
        forgotten.len() + fates.lost.len()
    );
    verdict("I7", held, detail)
}

fn fates(evidence: &Evidence<'_>) -> Fates {
    let mut fates = Fates { credited: 0, explained: 0, lost: Vec::new(), twice: 0 };
    let mut owners: BTreeMap<PacketId, u64> = BTreeMap::new();
    for acked in &evidence.memory.acked {
        let Ok(packet) = acked.packet_id.parse::<PacketId>() else {
            fates.lost.push(format!("{} is no packet id", acked.packet_id));
            continue;
        };
        if owners.insert(packet, acked.user).is_some_and(|owner| owner != acked.user) {
            fates.twice += 1;
        }
        match fate(evidence, packet, acked) {
            Ok(true) => fates.credited += 1,
            Ok(false) => fates.explained += 1,
            Err(reason) => fates.lost.push(reason),
        }
    }
    fates
}

/// Whether an acknowledged open was credited (true) or refused with a reason (false).
fn fate(evidence: &Evidence<'_>, packet: PacketId, acked: &Acked) -> Result<bool, String> {
    let user = UserId(acked.user);
    let Some(row) = evidence.books.rows.get(&packet) else {
        let rejected = evidence.books.rejections.contains_key(&(packet, user));
        return if rejected { Ok(false) } else { Err(format!("{packet} of user {user} has no row")) };
    };
    if row.user != user || row.amount.get() != acked.amount_fen {
        return Err(format!(
            "{packet}: user {user} was promised {} fen, the row says {row:?}",
            acked.amount_fen
        ));
    }
    match row.state {
        RowState::Pending => Err(format!("{packet} of user {user} is still pending")),
        RowState::Rejected(_) => Ok(false),
        _ => Ok(true),
    }
}

fn claims(evidence: &Evidence<'_>) -> Claims {
    let homes: BTreeMap<FileNo, NodeId> =
        evidence.manifest.files.iter().map(|file| (file.entry.no, file.entry.home)).collect();
    let written_again = evidence.event.claims.iter().filter(|claim| claim.version != 1).count() as u64;
    let mut issuers: BTreeMap<(SlotNo, FileNo), BTreeSet<NodeId>> = BTreeMap::new();
    for (node, slot, file) in evidence.nodes.keys() {
        issuers.entry((*slot, *file)).or_default().insert(*node);
    }
    for row in evidence.books.rows.values() {
        issuers.entry((row.slot, row.file)).or_default().insert(row.node);
    }
    let issued_twice = issuers.values().filter(|nodes| nodes.len() > 1).count() as u64;
    let claimed: BTreeMap<(SlotNo, FileNo), NodeId> =
        evidence.event.claims.iter().map(|claim| ((claim.slot, claim.file), claim.node)).collect();
    let unclaimed =
        issuers.iter().filter(|(file, nodes)| claimed.get(file).is_none_or(|owner| !nodes.contains(owner)));
    Claims {
        total: claimed.len() as u64,
        double: written_again + issued_twice + unclaimed.count() as u64,
        taken_over: claimed
            .iter()
            .filter(|((_, file), node)| homes.get(file).is_some_and(|home| home != *node))
            .count() as u64,
    }
}

/// Files that were claimed, frozen by a failover and not issued to the end: with what was issued.
fn frozen_files(evidence: &Evidence<'_>) -> BTreeMap<(SlotNo, FileNo), (NodeId, u64)> {
    let counts: BTreeMap<FileNo, u32> =
        evidence.manifest.files.iter().map(|file| (file.entry.no, file.entry.count)).collect();
    let mut frozen = BTreeMap::new();
    for claim in evidence.event.claims.iter().filter(|claim| claim.frozen) {
        let reported = evidence.nodes.get(&(claim.node, claim.slot, claim.file)).copied().unwrap_or(0);
        let count = counts.get(&claim.file).copied().unwrap_or(0);
        frozen.insert((claim.slot, claim.file), (claim.node, u64::from(count.saturating_sub(reported))));
    }
    frozen
}

fn issued_of(evidence: &Evidence<'_>, matches: impl Fn(NodeId, SlotNo) -> bool) -> u64 {
    let files = evidence.nodes.iter().filter(|((node, slot, _), _)| matches(*node, *slot));
    files.map(|(_, issued)| u64::from(*issued)).sum()
}

fn packets(evidence: &Evidence<'_>, frozen: &BTreeMap<(SlotNo, FileNo), (NodeId, u64)>) -> Packets {
    let rows = &evidence.books.rows;
    let rejected = rows.values().filter(|row| matches!(row.state, RowState::Rejected(_))).count() as u64;
    Packets {
        planned: evidence.manifest.count,
        issued: issued_of(evidence, |_, _| true),
        opened: rows.len() as u64,
        credited: evidence.after.totals.credited,
        frozen: frozen.values().map(|(_, count)| count).sum(),
        rejected,
    }
}

fn slot_rows(evidence: &Evidence<'_>, frozen: &BTreeMap<(SlotNo, FileNo), (NodeId, u64)>) -> Vec<SlotRow> {
    let mut rows = Vec::new();
    for slot in &evidence.manifest.slots {
        let here = || evidence.books.rows.values().filter(|row| row.slot == slot.slot);
        let zones: BTreeSet<char> = evidence
            .event
            .claims
            .iter()
            .filter(|claim| claim.slot == slot.slot)
            .map(|claim| claim.node.zone().letter())
            .collect();
        rows.push(SlotRow {
            id: slot.id.clone(),
            planned: slot.count,
            issued: issued_of(evidence, |_, at| at == slot.slot),
            opened: here().count() as u64,
            opened_fen: here().map(|row| row.amount.get()).sum(),
            frozen: frozen.iter().filter(|((at, _), _)| *at == slot.slot).map(|(_, (_, count))| count).sum(),
            zones: zones.into_iter().map(String::from).collect::<Vec<_>>().join(" "),
        });
    }
    rows
}

fn zone_rows(evidence: &Evidence<'_>, frozen: &BTreeMap<(SlotNo, FileNo), (NodeId, u64)>) -> Vec<ZoneRow> {
    let homes: BTreeMap<FileNo, NodeId> =
        evidence.manifest.files.iter().map(|file| (file.entry.no, file.entry.home)).collect();
    let mut rows = Vec::new();
    for zone in &evidence.zones.zones {
        let claimed = || evidence.event.claims.iter().filter(|claim| claim.node.zone() == zone.zone);
        let away =
            claimed().filter(|claim| homes.get(&claim.file).is_some_and(|home| home.zone() != zone.zone));
        rows.push(ZoneRow {
            zone: zone.zone.to_string(),
            state: zone.state.clone(),
            files: claimed().count() as u64,
            taken_over: away.count() as u64,
            issued: issued_of(evidence, |node, _| node.zone() == zone.zone),
            frozen: frozen
                .values()
                .filter(|(node, _)| node.zone() == zone.zone)
                .map(|(_, count)| count)
                .sum(),
        });
    }
    rows
}

fn answered(memory: &Memory) -> u64 {
    memory.shakes.iter().filter(|(outcome, _)| *outcome != "unanswered").map(|(_, count)| count).sum()
}

fn speed(evidence: &Evidence<'_>) -> Speed {
    let windows = evidence.event.event.as_ref().map_or(&[][..], |event| &event.slots);
    let running: f64 = windows.iter().map(|slot| slot.end_ms.since(slot.start_ms).as_secs_f64()).sum();
    let ms = |us: u64| us as f64 / 1_000.0;
    let memory = evidence.memory;
    Speed {
        shakes_per_second: answered(memory) as f64 / running.max(1e-9),
        opens_per_second: memory.acked.len() as f64 / running.max(1e-9),
        shake_p50_ms: ms(memory.shake_us.value_at_quantile(0.5)),
        shake_p99_ms: ms(memory.shake_us.value_at_quantile(0.99)),
        open_p50_ms: ms(memory.open_us.value_at_quantile(0.5)),
        open_p99_ms: ms(memory.open_us.value_at_quantile(0.99)),
    }
}
