//! Which files this node may claim now. Pure; the transaction is in `claimer`.
//!
//! ```text
//!            start - early      start        start + grace     start + 2 x grace      end
//!   ------------|----------------|----------------|------------------|-----------------|-->
//!   first of    | may claim .............................................................
//!   the order   | (home)         | (if home's zone is failed over)
//!   second      |                                 | may claim ...........................
//!   third       |                                 |                  | may claim ........
//! ```
//! The order is the roster's: the home node, then one holder in each other zone. Holders whose
//! zone is failed over for the slot drop out, so the next one moves up: after a failover it claims
//! at the slot's start and waits for nobody.
//!
//! Invariant: whatever this file decides, a file has one owner: every claim is conditional on the
//! claim key's absence, on the event, and on the zone record of every holder up to and including
//! this node being what the decision saw. The rules above only say who goes first.
//!
//! Not here: clocks agreeing. A wrong clock lets the wrong holder be first, never two.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvsvr::api::{Compare, KeyValue};
use ticket::control::{
    ClaimRecord, ControlError, EVENT_KEY, EventRecord, EventState, FORMAT, SlotWindow, ZoneRecord, ZoneState,
    claim_key, decode, zone_key,
};
use ticket::id::{FileNo, SlotNo};
use ticket::manifest::{FileEntry, Roster};
use world::mutant::{Mutant, armed};
use world::{Epoch, NodeId, UnixMs, ZoneId};

/// When holders may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimTiming {
    /// The home node claims this long before its slot starts.
    pub early_ms: u64,
    /// Each later holder waits this much longer after the start.
    pub grace_ms: u64,
}

impl Default for ClaimTiming {
    fn default() -> ClaimTiming {
        ClaimTiming { early_ms: 3_000, grace_ms: 2_000 }
    }
}

/// A record of the control group and the revision it was last written at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen<T> {
    /// What it says.
    pub record: T,
    /// The revision a transaction compares.
    pub mod_revision: i64,
}

impl<T: serde::de::DeserializeOwned> Seen<T> {
    /// Reads a pair of the control group.
    ///
    /// # Errors
    /// When the value is not what its key promises.
    pub fn read(pair: &KeyValue) -> Result<Seen<T>, ControlError> {
        let key = String::from_utf8_lossy(&pair.key);
        Ok(Seen { record: decode(&key, &pair.value)?, mod_revision: pair.mod_revision })
    }
}

/// The files of a roster that one node keeps, by slot.
#[derive(Clone, Debug, Default)]
pub struct Holdings {
    by_slot: BTreeMap<SlotNo, Vec<FileEntry>>,
}

impl Holdings {
    /// What `node` holds according to `roster`.
    #[must_use]
    pub fn new(roster: &Roster, node: NodeId) -> Holdings {
        let mut by_slot: BTreeMap<SlotNo, Vec<FileEntry>> = BTreeMap::new();
        for entry in roster.files.iter().filter(|entry| entry.holders.contains(&node)) {
            by_slot.entry(entry.slot).or_default().push(entry.clone());
        }
        Holdings { by_slot }
    }

    /// The files this node holds for `slot`.
    #[must_use]
    pub fn of(&self, slot: SlotNo) -> &[FileEntry] {
        self.by_slot.get(&slot).map_or(&[], Vec::as_slice)
    }
}

/// Everything a claim is decided by.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// This node.
    pub node: NodeId,
    /// The incarnation of its disk.
    pub incarnation: &'a str,
    /// The event as last seen.
    pub event: &'a Seen<EventRecord>,
    /// The zones as last seen. A zone without a record was never operated on: active at epoch 0.
    pub zones: &'a BTreeMap<ZoneId, Seen<ZoneRecord>>,
    /// What this node holds.
    pub holdings: &'a Holdings,
    /// The claims already made, as last seen.
    pub claims: &'a BTreeMap<(SlotNo, FileNo), ClaimRecord>,
    /// What was put on this node's shelf since it started, closed files too. A clock that was set back
    /// makes a slot due again whose claims are not in view any more.
    pub shelved: &'a BTreeSet<(SlotNo, FileNo)>,
    /// When to claim.
    pub timing: ClaimTiming,
    /// This node's wall clock.
    pub now: UnixMs,
}

/// A claim this node should try to make, with all it depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimIntent {
    /// The slot.
    pub slot: SlotNo,
    /// The file.
    pub file: FileNo,
    /// What will stand under the claim's key.
    pub record: ClaimRecord,
    /// What must hold for the write; the first is the absence of the claim's key.
    pub compares: Vec<Compare>,
}

/// Whether `slot` is one whose files may be claimed at `now` by somebody.
#[must_use]
pub fn in_window(slot: &SlotWindow, timing: ClaimTiming, now: UnixMs) -> bool {
    slot.start_ms.0.saturating_sub(timing.early_ms) <= now.0 && now < slot.end_ms
}

/// The claims to try now.
#[must_use]
pub fn due(situation: &Situation<'_>) -> Vec<ClaimIntent> {
    let event = &situation.event.record;
    if event.state == EventState::Closed {
        return Vec::new();
    }
    let mut intents = Vec::new();
    for window in event.slots.iter().filter(|slot| in_window(slot, situation.timing, situation.now)) {
        for entry in situation.holdings.of(window.slot) {
            assert_eq!(entry.slot, window.slot, "a holding stands under another slot");
            let key = (entry.slot, entry.no);
            let taken = situation.claims.contains_key(&key) || situation.shelved.contains(&key);
            if !taken && opens_at(situation, window, entry).is_some_and(|at| at <= situation.now) {
                intents.push(intent(situation, entry));
            }
        }
    }
    intents
}

/// From when this node may claim `entry`; `None` while its own zone is failed over.
fn opens_at(situation: &Situation<'_>, window: &SlotWindow, entry: &FileEntry) -> Option<UnixMs> {
    let serving = |node: &&NodeId| is_active(situation.zones, node.zone(), entry.slot);
    let rank = entry.holders.iter().filter(serving).position(|node| *node == situation.node)?;
    if rank == 0 && entry.holders.first() == Some(&situation.node) {
        return Some(UnixMs(window.start_ms.0.saturating_sub(situation.timing.early_ms)));
    }
    let waits = u64::try_from(rank).expect("a roster's order is short");
    Some(UnixMs(window.start_ms.0.saturating_add(situation.timing.grace_ms.saturating_mul(waits))))
}

/// Whether `zone` claims files of `slot`. A record holds from its slot on; before it, the opposite
/// did, since every operation turns the state.
#[must_use]
pub fn is_active(zones: &BTreeMap<ZoneId, Seen<ZoneRecord>>, zone: ZoneId, slot: SlotNo) -> bool {
    match zones.get(&zone) {
        None => true,
        Some(seen) => (seen.record.state == ZoneState::Active) == (seen.record.from_slot <= slot),
    }
}

fn intent(situation: &Situation<'_>, entry: &FileEntry) -> ClaimIntent {
    let absent = Compare::Absent(Bytes::from(claim_key(entry.slot, entry.no)));
    let event = Compare::ModRevision(Bytes::from_static(EVENT_KEY.as_bytes()), situation.event.mod_revision);
    let mut compares = vec![absent, event];
    if armed(Mutant::ClaimOverwrites) {
        compares.remove(0);
    }
    for holder in entry.holders.iter().filter(|_| !armed(Mutant::ClaimNotFenced)) {
        compares.push(zone_fence(situation.zones, holder.zone()));
        if *holder == situation.node {
            break;
        }
    }
    let mutilated = armed(Mutant::ClaimOverwrites) || armed(Mutant::ClaimNotFenced);
    assert!(3 <= compares.len() || mutilated, "a claim without a zone's fence");
    let zone_epoch =
        situation.zones.get(&situation.node.zone()).map_or(Epoch::default(), |seen| seen.record.epoch);
    let record = ClaimRecord {
        format: FORMAT,
        node: situation.node,
        incarnation: situation.incarnation.to_owned(),
        zone_epoch,
        at_ms: situation.now,
    };
    ClaimIntent { slot: entry.slot, file: entry.no, record, compares }
}

fn zone_fence(zones: &BTreeMap<ZoneId, Seen<ZoneRecord>>, zone: ZoneId) -> Compare {
    let key = Bytes::from(zone_key(zone));
    match zones.get(&zone) {
        Some(seen) => Compare::ModRevision(key, seen.mod_revision),
        None => Compare::Absent(key),
    }
}

#[cfg(test)]
mod tests;
