//! Which zone operations are safe now, and what they write. Pure.
//!
//! ```text
//!   zone:   active, epoch 3  --failover-->  failed, epoch 4  --restore-->  active, epoch 5
//!   files:  claimed in a slot that still runs -> frozen: reported, never issued by another node
//!           not claimed                       -> the other zones claim them at the slot's start
//! ```
//! Invariant: at most one zone is failed over at a time; nothing here ever moves a claim.
//!
//! Not here: how the view is gathered and how the outcome is written (`act.rs`).

use std::collections::BTreeMap;

use ticket::control::{ClaimRecord, EventRecord, FORMAT, FreezeRecord, SlotWindow, ZoneRecord, ZoneState};
use ticket::id::{FileNo, SlotNo};
use ticket::manifest::Roster;
use world::{NodeId, UnixMs, ZoneId};

/// Names of commands that a zone's record keeps. A sending that is late by more commands than that is taken
/// for a new one.
const OPERATIONS_KEPT: usize = 8;

/// What is known about a node from its own status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// It answered, and says that it serves.
    pub serving: bool,
    /// It hands over what it leads; shown, and no ground for any decision.
    pub drained: bool,
    /// Ticket files whose copy it has verified.
    pub verified: Vec<FileNo>,
    /// Records issued of each file it claimed, as last heard.
    pub issued: BTreeMap<(SlotNo, FileNo), u32>,
}

/// Everything a decision rests on.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// All zones with the revision their record was read at.
    pub zones: BTreeMap<ZoneId, (ZoneRecord, i64)>,
    /// The active event, if any.
    pub event: Option<&'a EventRecord>,
    /// Its files.
    pub roster: Option<&'a Roster>,
    /// Every claim there is.
    pub claims: Vec<(SlotNo, FileNo, ClaimRecord)>,
    /// Every node there is.
    pub nodes: BTreeMap<NodeId, NodeView>,
    /// The operator's wall clock.
    pub now: UnixMs,
}

/// A claimed file that will not be finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// The slot it was claimed for.
    pub slot: SlotNo,
    /// The file.
    pub file: FileNo,
    /// Who claimed it.
    pub node: NodeId,
    /// Records in it.
    pub count: u32,
    /// Records issued, as last heard; more may have gone out since.
    pub issued: u32,
}

/// What an operation writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The zone.
    pub zone: ZoneId,
    /// Its new record.
    pub record: ZoneRecord,
    /// Revisions of all zone records; the write is void if one changed.
    pub unchanged: BTreeMap<ZoneId, i64>,
    /// What is frozen by it, with the records to write.
    pub frozen: Vec<(Frozen, FreezeRecord)>,
    /// The first slot whose files the other zones issue (failover) or the zone issues again (restore).
    pub from_slot: SlotNo,
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write this.
    Commit(Box<Operation>),
    /// It is so already, by this record. Whoever wrote it may have been cut off before the freezes it calls
    /// for were written; writing them again changes nothing.
    Already(Box<Operation>),
}

/// What somebody asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// Why, kept with the zone.
    pub reason: &'a str,
    /// The command's own name.
    pub operation: Option<&'a str>,
}

/// Why an operation is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Guard {
    /// No such zone.
    #[error("there is no zone {0}")]
    UnknownZone(ZoneId),
    /// Another zone is failed over.
    #[error("zone {open} is failed over already: a data centre of three can spare one; restore {open} first")]
    AnotherOpen {
        /// The zone that is failed over.
        open: ZoneId,
    },
    /// It was carried out, and others were since: this is a late sending of it.
    #[error(
        "this command was carried out before, and zone {0} has been operated on since; nothing was changed"
    )]
    Superseded(ZoneId),
    /// Too few zones would be left.
    #[error(
        "only {healthy} of the other zones serve: failing {zone} over would leave no quorum of healthy zones"
    )]
    TooFewHealthy {
        /// The zone to be failed over.
        zone: ZoneId,
        /// Other zones that serve.
        healthy: usize,
    },
    /// Copies that would be needed are not verified.
    #[error(
        "{missing} files of slot {slot} are not verified on the nodes that would take them over (first: file {file} on {node}); repeat `deploy push`"
    )]
    CopiesUnverified {
        /// The next slot.
        slot: String,
        /// Files without a verified copy.
        missing: usize,
        /// The first of them.
        file: FileNo,
        /// Who should hold it.
        node: NodeId,
    },
    /// The zone that is to be restored does not serve.
    #[error("zone {0} does not serve yet: start its nodes and wait until `hongbao status` shows them")]
    NotServing(ZoneId),
}

/// Decides whether `zone` may be failed over now.
///
/// # Errors
/// The [`Guard`] that refuses.
pub fn failover(view: &View<'_>, zone: ZoneId, asked: Asked<'_>) -> Result<Decision, Guard> {
    let (record, _) = view.zones.get(&zone).ok_or(Guard::UnknownZone(zone))?;
    check_not_late(zone, record, asked, ZoneState::Failed)?;
    if record.state == ZoneState::Failed {
        return Ok(Decision::Already(Box::new(standing(view, zone, record))));
    }
    if let Some((open, _)) = view.zones.iter().find(|(_, (record, _))| record.state == ZoneState::Failed) {
        return Err(Guard::AnotherOpen { open: *open });
    }
    let healthy = view.zones.keys().filter(|other| **other != zone && zone_serves(view, **other)).count();
    if healthy < 2 {
        return Err(Guard::TooFewHealthy { zone, healthy });
    }
    let slots = view.event.map_or(&[][..], |event| &event.slots);
    let current = slots.iter().find(|slot| slot.start_ms <= view.now && view.now < slot.end_ms);
    let next = slots.iter().find(|slot| view.now < slot.start_ms);
    if let Some(next) = next {
        check_copies(view, zone, next)?;
    }
    let from_slot = current.or(next).map_or(SlotNo(0), |slot| slot.slot);
    let record = ZoneRecord {
        format: FORMAT,
        state: ZoneState::Failed,
        epoch: record.epoch.next(),
        from_slot,
        reason: asked.reason.to_owned(),
        at_ms: view.now,
        operations: named(record, asked),
    };
    let frozen = frozen(view, zone, &record);
    Ok(Decision::Commit(Box::new(Operation { zone, record, unchanged: revisions(view), frozen, from_slot })))
}

/// Decides whether `zone` may have its files back, from the next slot on.
///
/// # Errors
/// The [`Guard`] that refuses.
pub fn restore(view: &View<'_>, zone: ZoneId, asked: Asked<'_>) -> Result<Decision, Guard> {
    let (record, _) = view.zones.get(&zone).ok_or(Guard::UnknownZone(zone))?;
    check_not_late(zone, record, asked, ZoneState::Active)?;
    if record.state == ZoneState::Active {
        return Ok(Decision::Already(Box::new(standing(view, zone, record))));
    }
    if !zone_serves(view, zone) {
        return Err(Guard::NotServing(zone));
    }
    let slots = view.event.map_or(&[][..], |event| &event.slots);
    let after_last = slots.last().map_or(SlotNo(0), |last| SlotNo(last.slot.0.saturating_add(1)));
    let from_slot = slots.iter().find(|slot| view.now < slot.start_ms).map_or(after_last, |slot| slot.slot);
    let record = ZoneRecord {
        format: FORMAT,
        state: ZoneState::Active,
        epoch: record.epoch.next(),
        from_slot,
        reason: asked.reason.to_owned(),
        at_ms: view.now,
        operations: named(record, asked),
    };
    let operation = Operation { zone, record, unchanged: revisions(view), frozen: Vec::new(), from_slot };
    Ok(Decision::Commit(Box::new(operation)))
}

/// The names of a record that this command writes.
fn named(record: &ZoneRecord, asked: Asked<'_>) -> Vec<String> {
    let mut operations = record.operations.clone();
    operations.extend(asked.operation.map(str::to_owned));
    let surplus = operations.len().saturating_sub(OPERATIONS_KEPT);
    operations.split_off(surplus)
}

fn check_not_late(
    zone: ZoneId,
    record: &ZoneRecord,
    asked: Asked<'_>,
    wanted: ZoneState,
) -> Result<(), Guard> {
    let Some(name) = asked.operation else { return Ok(()) };
    let is_last = record.operations.last().is_some_and(|last| last == name) && record.state == wanted;
    let is_known = record.operations.iter().any(|known| known == name);
    if is_known && !is_last { Err(Guard::Superseded(zone)) } else { Ok(()) }
}

/// What was done to a zone already.
fn standing(view: &View<'_>, zone: ZoneId, record: &ZoneRecord) -> Operation {
    Operation {
        zone,
        record: record.clone(),
        unchanged: revisions(view),
        frozen: frozen(view, zone, record),
        from_slot: record.from_slot,
    }
}

fn revisions(view: &View<'_>) -> BTreeMap<ZoneId, i64> {
    view.zones.iter().map(|(zone, (_, revision))| (*zone, *revision)).collect()
}

fn zone_serves(view: &View<'_>, zone: ZoneId) -> bool {
    let mut nodes = view.nodes.iter().filter(|(node, _)| node.zone() == zone).peekable();
    nodes.peek().is_some() && nodes.all(|(_, seen)| seen.serving)
}

/// Every file of the zone in `slot` must be verified on the first holder outside the zone.
fn check_copies(view: &View<'_>, zone: ZoneId, slot: &SlotWindow) -> Result<(), Guard> {
    let Some(roster) = view.roster else { return Ok(()) };
    let mut missing = Vec::new();
    for file in roster.files.iter().filter(|file| file.slot == slot.slot && file.home.zone() == zone) {
        let Some(taker) = file.holders.iter().find(|holder| holder.zone() != zone) else {
            missing.push((file.no, file.home));
            continue;
        };
        let holds = view.nodes.get(taker).is_some_and(|node| node.verified.contains(&file.no));
        if !holds {
            missing.push((file.no, *taker));
        }
    }
    match missing.first() {
        None => Ok(()),
        Some((file, node)) => Err(Guard::CopiesUnverified {
            slot: slot.id.clone(),
            missing: missing.len(),
            file: *file,
            node: *node,
        }),
    }
}

/// What a record freezes: the zone's claims in slots that are not over, when it says that the zone is failed
/// over. The same record freezes in the same words, whoever asks.
#[must_use]
pub fn frozen(view: &View<'_>, zone: ZoneId, record: &ZoneRecord) -> Vec<(Frozen, FreezeRecord)> {
    let slots = view.event.map_or(&[][..], |event| &event.slots);
    let mut frozen = Vec::new();
    if record.state == ZoneState::Active {
        return frozen;
    }
    for (slot, file, claim) in &view.claims {
        let over =
            slots.iter().find(|window| window.slot == *slot).is_none_or(|window| window.end_ms <= view.now);
        if over || claim.node.zone() != zone {
            continue;
        }
        let count = view.roster.and_then(|r| r.files.iter().find(|f| f.no == *file)).map_or(0, |f| f.count);
        let issued = view.nodes.get(&claim.node).and_then(|node| node.issued.get(&(*slot, *file)));
        let issued = issued.copied().unwrap_or(0).min(count);
        let lost = Frozen { slot: *slot, file: *file, node: claim.node, count, issued };
        let write = FreezeRecord {
            format: FORMAT,
            zone,
            zone_epoch: record.epoch,
            node: claim.node,
            at_ms: record.at_ms,
        };
        frozen.push((lost, write));
    }
    assert!(frozen.iter().all(|(lost, _)| lost.node.zone() == zone), "only the failed zone's claims freeze");
    frozen
}

#[cfg(test)]
#[path = "decide_test.rs"]
mod decide_test;
