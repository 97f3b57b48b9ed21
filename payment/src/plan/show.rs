//! `plan show`: what a build holds, as rows of a table.
//!
//! Invariant: the figures are those of the signed manifest; sums over rows equal its totals.
//!
//! Not here: columns and colours (the command line), and whether the files are sound
//! (see [`verify`](super::verify())).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use ticket::id::{BatchId, BuildId, SlotNo};
use ticket::manifest::{Manifest, load_signed};
use ticket::money::Fen;
use ticket::record::Kind;
use ticket::sign::VerifyingKey;
use world::UnixMs;
use world::disk::Disk;

use super::error::VerifyError;

/// Packets and their money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    /// Packets.
    pub packets: u64,
    /// Money.
    pub amount_fen: Fen,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotRow {
    /// Its place in the script.
    pub slot: SlotNo,
    /// Its id.
    pub id: String,
    /// Issuing starts.
    pub start_ms: UnixMs,
    /// Issuing ends.
    pub end_ms: UnixMs,
    /// Ticket files.
    pub files: u64,
    /// Per kind; kinds without packets are missing.
    pub kinds: BTreeMap<Kind, Sum>,
    /// All kinds.
    pub total: Sum,
}

/// One batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BatchRow {
    /// Its id.
    pub batch: BatchId,
    /// Who pays.
    pub sponsor: String,
    /// Its kind.
    pub kind: Kind,
    /// How it was split.
    pub split: String,
    /// Its smallest packet allowed.
    pub min_fen: Fen,
    /// Its largest packet allowed.
    pub max_fen: Fen,
    /// By slot number.
    pub slots: Vec<Sum>,
    /// All slots.
    pub total: Sum,
}

/// A whole build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The event's id.
    pub event: String,
    /// The scheme.
    pub scheme: String,
    /// The build.
    pub build: BuildId,
    /// Ticket files.
    pub files: u64,
    /// Data keys.
    pub keys: u64,
    /// Packets credited at once.
    pub instant: Sum,
    /// All packets.
    pub total: Sum,
    /// By slot.
    pub slots: Vec<SlotRow>,
    /// By batch.
    pub batches: Vec<BatchRow>,
}

impl Sum {
    fn add(&mut self, packets: u64, amount: Fen) {
        self.packets += packets;
        let sum = self.amount_fen.checked_add(amount);
        self.amount_fen = sum.expect("a loaded manifest was checked to add up within 64 bits");
    }
}

/// Loads the signed manifest of a build directory with the directory's own public key.
///
/// # Errors
/// [`VerifyError::NotFound`], or [`VerifyError::Failed`] with the reason it is not believed.
pub fn load_manifest(disk: &dyn Disk, dir: &Path) -> Result<Manifest, VerifyError> {
    if !disk.exists(&dir.join("manifest.json")) {
        return Err(VerifyError::NotFound { path: dir.to_owned() });
    }
    let failed = |reason: String| VerifyError::Failed(vec![reason]);
    let key =
        VerifyingKey::load(disk, &dir.join("keys").join("sign.pub")).map_err(|e| failed(e.to_string()))?;
    load_signed(disk, &dir.join("manifest.json"), &key).map_err(|e| failed(e.to_string()))
}

/// What the build in `dir` holds.
///
/// # Errors
/// As [`load_manifest`].
pub fn show(disk: &dyn Disk, dir: &Path) -> Result<Shown, VerifyError> {
    let manifest = load_manifest(disk, dir)?;
    let kinds: BTreeMap<BatchId, Kind> =
        manifest.batches.iter().map(|batch| (batch.batch, batch.kind)).collect();
    let mut slots: Vec<SlotRow> = manifest.slots.iter().map(slot_row).collect();
    let mut parts: BTreeMap<BatchId, Vec<Sum>> = BTreeMap::new();
    for file in &manifest.files {
        let at = usize::from(file.entry.slot.0);
        let slot = &mut slots[at];
        slot.files += 1;
        for part in &file.batches {
            let (packets, amount) = (u64::from(part.count), part.amount_fen);
            slot.kinds.entry(kinds[&part.batch]).or_default().add(packets, amount);
            slot.total.add(packets, amount);
            let row = parts.entry(part.batch).or_insert_with(|| vec![Sum::default(); manifest.slots.len()]);
            row[at].add(packets, amount);
        }
    }
    let batches = manifest.batches.iter().map(|batch| BatchRow {
        batch: batch.batch,
        sponsor: batch.sponsor.clone(),
        kind: batch.kind,
        split: batch.split.clone(),
        min_fen: batch.min_fen,
        max_fen: batch.max_fen,
        slots: parts.remove(&batch.batch).unwrap_or_default(),
        total: Sum { packets: batch.count, amount_fen: batch.amount_fen },
    });
    Ok(Shown {
        batches: batches.collect(),
        event: manifest.event,
        scheme: manifest.scheme,
        build: manifest.build,
        files: manifest.files.len() as u64,
        keys: u64::from(manifest.key_count),
        instant: Sum { packets: manifest.instant.count, amount_fen: manifest.instant.amount_fen },
        total: Sum { packets: manifest.count, amount_fen: manifest.amount_fen },
        slots,
    })
}

fn slot_row(slot: &ticket::manifest::SlotEntry) -> SlotRow {
    SlotRow {
        slot: slot.slot,
        id: slot.id.clone(),
        start_ms: slot.start_ms,
        end_ms: slot.end_ms,
        files: 0,
        kinds: BTreeMap::new(),
        total: Sum::default(),
    }
}
