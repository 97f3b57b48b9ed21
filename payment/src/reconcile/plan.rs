//! A part of the plan in memory: some files, decrypted, 16 bytes a packet.
//!
//! Invariant: a row is said to match only if the file it names holds exactly its packet, at its
//! index, in its slot, under its key, with its amount.
//!
//! Not here: reading files (run.rs).

use std::collections::BTreeMap;

use serde::Serialize;
use ticket::id::{BatchId, FileNo, KeyId, PacketId, SlotNo};
use ticket::manifest::ManifestFile;
use ticket::money::Fen;
use ticket::open::Packet;

use crate::keyspace::BuildTag;
use crate::row::Row;

/// A sum and a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Packets.
    pub count: u64,
    /// Their money, fen.
    pub fen: u64,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, fen: u64) {
        self.count = self.count.checked_add(1).expect("fewer than 2^64 packets exist");
        // A plan's packets are u24; rows may say anything, and a sum stuck at the top is a mismatch.
        self.fen = self.fen.saturating_add(fen);
    }
}

/// How a row differs from the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The plan has no such file or place in it.
    NoSuchPlace,
    /// Another packet stands there.
    OtherPacket,
    /// The packet is worth something else.
    OtherAmount,
    /// The file is issued in another slot.
    OtherSlot,
    /// The record has another key.
    OtherKey,
}

/// 16 bytes: what a row must agree with.
#[derive(Clone, Copy)]
struct Place {
    serial: u64,
    amount: u32,
    batch: u16,
    key: u16,
}

const _: () = assert!(size_of::<Place>() == 16);

/// One file's packets.
struct PlanFile {
    slot: SlotNo,
    places: Vec<Place>,
}

/// Some files of the plan.
pub struct PlanSlice {
    tag: BuildTag,
    files: BTreeMap<FileNo, PlanFile>,
    batches: BTreeMap<BatchId, Tally>,
}

impl PlanSlice {
    /// An empty slice of the build with this tag.
    #[must_use]
    pub fn new(tag: BuildTag) -> PlanSlice {
        PlanSlice { tag, files: BTreeMap::new(), batches: BTreeMap::new() }
    }

    /// Adds a file, all its packets in order. Answers whether it is what the manifest says of it.
    #[must_use]
    pub fn add_file(&mut self, entry: &ManifestFile, packets: impl Iterator<Item = Packet>) -> bool {
        let mut places = Vec::with_capacity(entry.entry.count as usize);
        let mut batches: BTreeMap<BatchId, Tally> = BTreeMap::new();
        for packet in packets {
            assert!(packet.id.build_tag == self.tag, "the keyring opens packets of one build");
            let amount = u32::try_from(packet.amount.get()).expect("a packet's amount is u24");
            let Packet { id: PacketId { batch, serial, .. }, key, .. } = packet;
            places.push(Place { serial, amount, batch: batch.0, key: key.0 });
            batches.entry(batch).or_default().add(packet.amount.get());
        }
        let said = entry
            .batches
            .iter()
            .map(|part| (part.batch, Tally { count: u64::from(part.count), fen: part.amount_fen.get() }));
        let agrees = places.len() == entry.entry.count as usize
            && batches == said.filter(|(_, tally)| 0 < tally.count).collect();
        for (batch, tally) in batches {
            let total = self.batches.entry(batch).or_default();
            total.count += tally.count;
            total.fen += tally.fen;
        }
        let before = self.files.insert(entry.entry.no, PlanFile { slot: entry.entry.slot, places });
        assert!(before.is_none(), "file {} is added once", entry.entry.no);
        agrees
    }

    /// Whether the slice holds this file.
    #[must_use]
    pub fn holds(&self, file: FileNo) -> bool {
        self.files.contains_key(&file)
    }

    /// What the slice's packets are worth, per batch.
    #[must_use]
    pub fn batches(&self) -> &BTreeMap<BatchId, Tally> {
        &self.batches
    }

    /// Compares a row of one of the slice's files with the plan.
    ///
    /// # Errors
    /// The first [`Difference`].
    pub fn judge(&self, row: &Row) -> Result<(), Difference> {
        let file = self.files.get(&row.file).ok_or(Difference::NoSuchPlace)?;
        let place = file.places.get(row.index as usize).ok_or(Difference::NoSuchPlace)?;
        let planned = PacketId { build_tag: self.tag, batch: BatchId(place.batch), serial: place.serial };
        if row.packet != planned {
            return Err(Difference::OtherPacket);
        }
        if row.amount != Fen::new(u64::from(place.amount)) {
            return Err(Difference::OtherAmount);
        }
        if row.slot != file.slot {
            return Err(Difference::OtherSlot);
        }
        if row.key != KeyId(place.key) {
            return Err(Difference::OtherKey);
        }
        Ok(())
    }
}
