//! Minting one file: its cells become amounts, places and records.
//!
//! ```text
//!   cells --split--> amounts in the order of cells      stream (amounts, file)
//!   0, 1, 2, ...  --shuffle--> place of each packet     stream (places, file)
//!     or, for even exposure: packet i of a cell of n lies at a random point of the i-th of n
//!     equal stretches of the file, amounts within the cell shuffled first
//!   cell by cell: serial = map(first + n), seal with the cell's key, write to the packet's place
//! ```
//! Amounts are four bytes each and places as well, so the working set of a file stays in the cache;
//! records are sealed cell by cell, so that a key is expanded once per cell and not per record.
//!
//! Invariant: the bytes of a file depend on its plan, the build's secret and its two streams only;
//! what was sealed is what the plan says, per cell, in packets and in fen.
//!
//! Not here: the file format (crate `ticket`), and which packets a file gets (the dealer).

use std::io;

use rand::Rng;
use ticket::id::{BuildId, KeyId, PacketId};
use ticket::limits::RECORD_LEN;
use ticket::mint::{MintKeyring, RecordSealer};
use ticket::money::Fen;
use ticket::record::{Flags, Record};
use world::rng::Stream;

use super::amount::{self, Scratch};
use super::budget::Batch;
use super::chance::shuffle;
use super::collect::Collector;
use super::deal::{Cell, FilePlan};
use super::keys::CellKeys;
use super::script::Exposure;
use super::seeds::{Purpose, Seeds};
use super::serial::SerialMap;

/// What all files of a build share.
pub(crate) struct Press<'a> {
    pub batches: &'a [Batch],
    pub build: BuildId,
    pub seeds: &'a Seeds,
    pub keyring: MintKeyring,
    pub serials: SerialMap,
    pub key_budget: Fen,
    pub instants: &'a Collector,
    pub exposure: Exposure,
}

/// Room for one file, kept by a thread between files.
#[derive(Default)]
pub(crate) struct Sheet {
    /// The file's records in the order of the file.
    pub records: Vec<Record>,
    /// What each key sealed in this file.
    pub keys: Vec<KeyUse>,
    amounts: Vec<u32>,
    places: Vec<u32>,
    points: Vec<u64>,
    scratch: Scratch,
}

/// A key's part of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyUse {
    pub key: u16,
    pub count: u64,
    pub amount_fen: u64,
}

/// Gives each packet its place so that every cell is spread over the whole file.
fn spread_evenly(rng: &mut Stream, file: &FilePlan, sheet: &mut Sheet) {
    sheet.points.clear();
    let mut from = 0usize;
    for cell in &file.cells {
        let end = from + cell.count as usize;
        shuffle(rng, &mut sheet.amounts[from..end]);
        for (at, packet) in (0u64..).zip(from..end) {
            // The point within the file as 32 bits after the point; the packet behind it.
            let point = ((at << 32) | u64::from(rng.next_u32())) / u64::from(cell.count);
            sheet.points.push((point << 32) | packet as u64);
        }
        from = end;
    }
    assert!(sheet.points.len() == file.count as usize, "a point for every packet of file {}", file.no);
    sheet.points.sort_unstable();
    for (place, point) in (0u32..).zip(&sheet.points) {
        sheet.places[(point & u64::from(u32::MAX)) as usize] = place;
    }
}

impl Press<'_> {
    /// Mints a file onto `sheet`.
    ///
    /// # Errors
    /// Whatever the disk says about the instant list.
    pub fn mint(&self, file: &FilePlan, sheet: &mut Sheet) -> io::Result<()> {
        let mut rng = self.seeds.stream(Purpose::Amounts, u64::from(file.no.0));
        sheet.amounts.clear();
        for cell in &file.cells {
            let split = (cell.count, cell.total_fen, &*cell.tiers);
            amount::amounts(&mut rng, self.batch(cell), split, &mut sheet.scratch, &mut sheet.amounts);
        }
        assert!(sheet.amounts.len() == file.count as usize, "file {} has another count", file.no);

        let mut rng = self.seeds.stream(Purpose::Places, u64::from(file.no.0));
        sheet.places.clear();
        sheet.places.extend(0..file.count);
        match self.exposure {
            Exposure::Random => shuffle(&mut rng, &mut sheet.places),
            Exposure::Even => spread_evenly(&mut rng, file, sheet),
        }

        sheet.records.clear();
        sheet.records.resize(file.count as usize, Record([0; RECORD_LEN]));
        sheet.keys.clear();
        let mut from = 0;
        for cell in &file.cells {
            from = self.seal_cell(file, cell, from, sheet)?;
        }
        assert!(from == file.count as usize, "file {} was sealed to {from}", file.no);
        Ok(())
    }

    fn batch(&self, cell: &Cell) -> &Batch {
        &self.batches[cell.batch as usize]
    }

    /// Seals the packets of one cell, which begin at `from`; where the next cell begins.
    fn seal_cell(&self, file: &FilePlan, cell: &Cell, from: usize, sheet: &mut Sheet) -> io::Result<usize> {
        let batch = self.batch(cell);
        let end = from + cell.count as usize;
        let mut keys = CellKeys::new(cell, self.key_budget);
        let mut used = KeyUse { key: cell.key_first, count: 0, amount_fen: 0 };
        let mut sealer: RecordSealer = self.keyring.sealer(KeyId(used.key));
        let plain = Flags::new(batch.kind, false);
        let instant = Flags::new(batch.kind, true);
        let may_be_instant = self.instants.wants(batch.max);
        let cells = sheet.amounts[from..end].iter().zip(&sheet.places[from..end]);
        for ((amount, place), number) in cells.zip(file.first + from as u64..) {
            let fen = u64::from(*amount);
            let amount = Fen::new(fen);
            let key = keys.next(fen);
            if key != used.key {
                sheet.keys.push(used);
                used = KeyUse { key, count: 0, amount_fen: 0 };
                sealer = self.keyring.sealer(KeyId(key));
            }
            used.count += 1;
            used.amount_fen += fen;
            let serial = self.serials.serial(number);
            let at_once = may_be_instant && self.instants.wants(amount);
            if at_once {
                let id = PacketId { build_tag: self.build.tag(), batch: batch.id, serial };
                self.instants.add(cell.batch as usize, &super::instant::InstantPacket { id, amount })?;
            }
            let flags = if at_once { instant } else { plain };
            sheet.records[*place as usize] = sealer.seal(file.slot, batch.id, serial, amount, flags);
        }
        sheet.keys.push(used);
        Ok(end)
    }
}
