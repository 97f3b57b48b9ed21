//! Whether a manifest or roster agrees with itself. Asserted before it is signed, checked again when
//! it is loaded.
//!
//! Invariant: what passes has every total equal to the sum of its parts, to the fen and the packet.
//!
//! Not here: whether the files are what it says (see [`crate::file`]).

use std::collections::BTreeMap;

use super::{FileEntry, Manifest, Roster, Signed, SlotEntry};
use crate::file::file_size;
use crate::id::BatchId;
use crate::limits::{FILE_HOLDERS_MAX, FILE_RECORDS_MAX};
use crate::money::{self, Fen};

/// A sentence: what in a manifest does not agree with what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(String);

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), Contradiction> {
    if holds { Ok(()) } else { Err(Contradiction(reason())) }
}

impl Signed for Roster {
    const DOMAIN: &str = "hongbao/roster";

    fn validate(&self) -> Result<(), Contradiction> {
        validate_slots(&self.slots)?;
        ensure(self.pages.is_sorted_by(|a, b| a.batch < b.batch), || {
            "its pages are not in order".to_owned()
        })?;
        validate_files(&self.slots, self.files.iter())
    }
}

impl Signed for Manifest {
    const DOMAIN: &str = "hongbao/manifest";

    fn validate(&self) -> Result<(), Contradiction> {
        validate_slots(&self.slots)?;
        validate_files(&self.slots, self.files.iter().map(|file| &file.entry))?;
        self.validate_batches()?;
        self.validate_keys()?;
        let instant = self.instant;
        ensure(instant.count <= self.count && instant.amount_fen <= self.amount_fen, || {
            "more is credited at once than there is".to_owned()
        })
    }
}

impl Manifest {
    /// Each batch's total is the sum of its parts, and the grand total the sum of the batches.
    fn validate_batches(&self) -> Result<(), Contradiction> {
        let mut parts: BTreeMap<BatchId, (u64, Fen)> = BTreeMap::new();
        for file in &self.files {
            let no = file.entry.no;
            let count: u64 = file.batches.iter().map(|part| u64::from(part.count)).sum();
            ensure(count == u64::from(file.entry.count), || {
                format!("the batches of file {no} make {count} packets, it holds {}", file.entry.count)
            })?;
            ensure(file.batches.is_sorted_by(|a, b| a.batch < b.batch), || {
                format!("the batches of file {no} are not in order")
            })?;
            for part in &file.batches {
                let (count, amount) = parts.entry(part.batch).or_default();
                *count += u64::from(part.count);
                *amount = amount.checked_add(part.amount_fen).ok_or_else(overflow)?;
            }
        }
        ensure(self.batches.is_sorted_by(|a, b| a.batch < b.batch), || {
            "its batches are not in order".to_owned()
        })?;
        for batch in &self.batches {
            let (count, amount) = parts.remove(&batch.batch).unwrap_or_default();
            ensure((count, amount) == (batch.count, batch.amount_fen), || {
                let (id, planned, budget) = (batch.batch, batch.count, batch.amount_fen);
                format!(
                    "batch {id} has {planned} packets of {budget} yuan, its files hold {count} of {amount}"
                )
            })?;
        }
        ensure(parts.is_empty(), || "its files hold a batch that it does not list".to_owned())?;
        let totals = self.batches.iter().map(|batch| (batch.count, batch.amount_fen));
        self.validate_total("batches", totals)
    }

    /// Keys are numbered from 1, none protects more than it may, and together they protect all.
    fn validate_keys(&self) -> Result<(), Contradiction> {
        let numbered = self.keys.iter().map(|key| key.key.0).eq(1..=self.key_count);
        ensure(numbered, || format!("its keys are not numbered from 1 to {}", self.key_count))?;
        for key in &self.keys {
            ensure(key.amount_fen <= self.key_budget_fen, || {
                format!("key {} protects {} yuan, more than {}", key.key, key.amount_fen, self.key_budget_fen)
            })?;
        }
        self.validate_total("keys", self.keys.iter().map(|key| (key.count, key.amount_fen)))
    }

    fn validate_total(
        &self,
        what: &str,
        parts: impl Iterator<Item = (u64, Fen)> + Clone,
    ) -> Result<(), Contradiction> {
        let count: u64 =
            parts.clone().map(|(count, _)| count).try_fold(0, u64::checked_add).ok_or_else(overflow)?;
        let amount = money::sum(parts.map(|(_, amount)| amount)).ok_or_else(overflow)?;
        ensure((count, amount) == (self.count, self.amount_fen), || {
            let (all, budget) = (self.count, self.amount_fen);
            format!("its {what} make {count} packets of {amount} yuan, the total is {all} of {budget}")
        })
    }
}

fn overflow() -> Contradiction {
    Contradiction("a sum is larger than any budget".to_owned())
}

fn validate_slots(slots: &[SlotEntry]) -> Result<(), Contradiction> {
    for (place, slot) in slots.iter().enumerate() {
        ensure(usize::from(slot.slot.0) == place, || format!("slot {} stands in place {place}", slot.slot))?;
        ensure(slot.start_ms < slot.end_ms, || format!("slot {} ends before it starts", slot.slot))?;
    }
    let apart = slots.is_sorted_by(|a, b| a.end_ms <= b.start_ms);
    ensure(apart, || "its slots overlap or are not in order".to_owned())
}

fn validate_files<'a>(
    slots: &[SlotEntry],
    files: impl Iterator<Item = &'a FileEntry>,
) -> Result<(), Contradiction> {
    let mut counts = vec![0u64; slots.len()];
    for (place, file) in files.enumerate() {
        let no = file.no;
        ensure(u32::try_from(place).is_ok_and(|place| place == no.0), || {
            format!("file {no} stands in place {place}")
        })?;
        ensure(file.holders.first() == Some(&file.home), || {
            format!("the first holder of file {no} is not its home")
        })?;
        ensure(file.holders.len() <= FILE_HOLDERS_MAX, || format!("file {no} has too many holders"))?;
        let mut zones: Vec<_> = file.holders.iter().map(|holder| holder.zone()).collect();
        zones.sort_unstable();
        ensure(zones.is_sorted_by(|a, b| a < b), || format!("two holders of file {no} stand in one zone"))?;
        ensure(file.count <= FILE_RECORDS_MAX, || format!("file {no} holds too many records"))?;
        ensure(file.size_bytes == file_size(file.count), || {
            format!("the size of file {no} is not that of its count")
        })?;
        let slot = counts.get_mut(usize::from(file.slot.0));
        let slot = slot.ok_or_else(|| {
            Contradiction(format!("file {no} is of slot {}, which does not exist", file.slot))
        })?;
        *slot += u64::from(file.count);
    }
    for (slot, count) in slots.iter().zip(counts) {
        ensure(slot.count == count, || {
            format!("slot {} has {} packets, its files hold {count}", slot.slot, slot.count)
        })?;
    }
    Ok(())
}
