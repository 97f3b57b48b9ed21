//! Every record of a build, opened and counted.
//!
//! ```text
//!   record --open--> packet        genuine under its key, in this slot
//!   serial --map back--> number    of this file, of this batch's cell, not taken before
//!   amount                         between the batch's bounds; a face of its tiers; its fixed face
//!   sums                           cell and key = manifest; batch and tier = budget
//! ```
//! Serials are a one-to-one map of dense numbers and each file owns a range of them, so a bitmap
//! of one file finds every duplicate in the build. The instant list is compared as a multiset: the
//! sum of the hashes of its entries.
//!
//! Invariant: nothing is counted that was not opened; whatever disagrees is a fault with the
//! place where it was seen.
//!
//! Not here: digests and signatures (see `verify`).

use parking_lot::Mutex;
use ticket::file::TicketFile;
use ticket::id::BatchId;
use ticket::keys::{BuildSecret, KeyList};
use ticket::manifest::{Manifest, ManifestFile};
use ticket::money::Fen;
use ticket::open::{OpenKeyring, Packet};

use super::budget::{Batch, Split};
use super::faults::Faults;
use super::inputs::Plan;
use super::instant::{InstantFile, InstantPacket};
use super::serial::SerialMap;

/// Packets and fen.
type Sum = (u64, u64);

/// What all files share.
pub(crate) struct Audit<'a> {
    manifest: &'a Manifest,
    plan: &'a Plan,
    faults: &'a Faults,
    keyring: OpenKeyring,
    serials: SerialMap,
    /// The dense number at which each file begins.
    firsts: Vec<u64>,
    totals: Mutex<Totals>,
}

/// Sums over all files so far.
struct Totals {
    keys: Vec<Sum>,
    batches: Vec<Sum>,
    /// Per batch, packets of each tier; empty for other splits.
    tiers: Vec<Vec<u64>>,
    instants: Multiset,
}

/// A set of entries regardless of their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Multiset {
    hash: u128,
    count: u64,
    fen: u64,
}

/// Room for one file, kept by a thread between files.
#[derive(Default)]
pub(crate) struct Bench {
    /// By place in the file's range of numbers: which of its parts owns it.
    owners: Vec<u16>,
    taken: Vec<bool>,
    keys: Vec<Sum>,
    parts: Vec<Part>,
}

/// One batch in the file at hand.
#[derive(Clone, Default)]
struct Part {
    batch: usize,
    sum: Sum,
    tiers: Vec<u64>,
}

impl Multiset {
    fn add(&mut self, packet: &InstantPacket) {
        let hash = blake3::hash(&packet.encode());
        let half: [u8; 16] = hash.as_bytes()[..16].try_into().expect("16 of 32 bytes");
        self.hash = self.hash.wrapping_add(u128::from_be_bytes(half));
        self.count += 1;
        self.fen = self.fen.saturating_add(packet.amount.get());
    }

    fn merge(&mut self, other: Multiset) {
        self.hash = self.hash.wrapping_add(other.hash);
        self.count += other.count;
        self.fen = self.fen.saturating_add(other.fen);
    }
}

impl<'a> Audit<'a> {
    /// Begins an audit of the build that `manifest` describes against `plan`.
    pub fn new(
        manifest: &'a Manifest,
        plan: &'a Plan,
        secret: &BuildSecret,
        faults: &'a Faults,
    ) -> Audit<'a> {
        let mut next = 0u64;
        let mut first = |count: u32| {
            let first = next;
            next += u64::from(count);
            first
        };
        let tiers = |batch: &Batch| match &batch.split {
            Split::Tiers(faces) => vec![0; faces.len()],
            _ => Vec::new(),
        };
        let totals = Totals {
            keys: vec![(0, 0); usize::from(manifest.key_count)],
            batches: vec![(0, 0); plan.budget.batches.len()],
            tiers: plan.budget.batches.iter().map(tiers).collect(),
            instants: Multiset::default(),
        };
        let list = KeyList::all(manifest.key_count);
        Audit {
            manifest,
            plan,
            faults,
            keyring: OpenKeyring::new(secret, manifest.build, manifest.key_count, list),
            serials: SerialMap::new(secret.to_text().as_bytes(), manifest.build),
            firsts: manifest.files.iter().map(|file| first(file.entry.count)).collect(),
            totals: Mutex::new(totals),
        }
    }

    fn place_of(&self, batch: BatchId) -> Option<usize> {
        self.plan.budget.batches.binary_search_by_key(&batch, |known| known.id).ok()
    }

    /// Opens and counts one file, whose bytes are known to be those in the manifest.
    pub fn file(&self, file: &ManifestFile, loaded: &TicketFile, bench: &mut Bench) {
        let no = file.entry.no;
        if !self.prepare(file, bench) {
            self.faults.note(format!("file {no} holds a batch that the budget does not have"));
            return;
        }
        let first = self.firsts[no.0 as usize];
        let mut instants = Multiset::default();
        let records = self.faults.take(loaded.records(0..loaded.count()));
        for (index, record) in records.into_iter().flatten().enumerate() {
            let fault = |what: String| self.faults.note(format!("file {no} record {index}: {what}"));
            let packet = match self.keyring.open(file.entry.slot, &record) {
                Ok(packet) => packet,
                Err(error) => {
                    fault(error.to_string());
                    continue;
                }
            };
            let number = self.serials.number(record.serial());
            let place = number.checked_sub(first).and_then(|place| usize::try_from(place).ok());
            let Some(place) = place.filter(|place| *place < bench.owners.len()) else {
                fault(format!("packet {} does not belong into this file", packet.id));
                continue;
            };
            if std::mem::replace(&mut bench.taken[place], true) {
                fault(format!("packet {} stands there twice", packet.id));
            }
            let part = &mut bench.parts[usize::from(bench.owners[place])];
            if let Some(what) = self.judge(&packet, part) {
                fault(what);
            }
            let key = &mut bench.keys[usize::from(packet.key.0) - 1];
            *key = (key.0 + 1, key.1 + packet.amount.get());
            if packet.flags.instant() {
                instants.add(&InstantPacket { id: packet.id, amount: packet.amount });
            }
        }
        self.settle(file, bench, instants);
    }

    /// Sets the bench up for a file; `false` when a batch is not known.
    fn prepare(&self, file: &ManifestFile, bench: &mut Bench) -> bool {
        bench.owners.clear();
        bench.parts.clear();
        for (at, part) in file.batches.iter().enumerate() {
            let Some(batch) = self.place_of(part.batch) else { return false };
            let owner = u16::try_from(at).expect("a file has at most one part per batch");
            bench.owners.extend((0..part.count).map(|_| owner));
            let tiers = match &self.plan.budget.batches[batch].split {
                Split::Tiers(faces) => vec![0; faces.len()],
                _ => Vec::new(),
            };
            bench.parts.push(Part { batch, sum: (0, 0), tiers });
        }
        bench.taken.clear();
        bench.taken.resize(bench.owners.len(), false);
        bench.keys.clear();
        bench.keys.resize(usize::from(self.manifest.key_count), (0, 0));
        assert!(bench.owners.len() == file.entry.count as usize, "a loaded manifest agrees with itself");
        true
    }

    /// Counts a packet; what is wrong with it, if anything.
    fn judge(&self, packet: &Packet, part: &mut Part) -> Option<String> {
        let batch = &self.plan.budget.batches[part.batch];
        let Packet { id, amount, flags, .. } = packet;
        part.sum = (part.sum.0 + 1, part.sum.1 + amount.get());
        if id.batch != batch.id {
            return Some(format!("packet {id} lies where one of batch {} should", batch.id));
        }
        if flags.kind() != batch.kind {
            return Some(format!("packet {id} is a {} packet, its batch is {}", flags.kind(), batch.kind));
        }
        if *amount < batch.min || *amount > batch.max {
            return Some(format!(
                "packet {id} holds {amount} yuan, allowed are {} to {}",
                batch.min, batch.max
            ));
        }
        if flags.instant() != (*amount >= self.manifest.instant.min_fen) {
            return Some(format!("packet {id} of {amount} yuan is marked wrongly for instant credit"));
        }
        match &batch.split {
            Split::Fixed if amount.get() != batch.total.get() / batch.count => {
                Some(format!("packet {id} holds {amount} yuan, but its batch has equal packets"))
            }
            Split::Tiers(faces) => match faces.iter().position(|tier| tier.face == *amount) {
                Some(tier) => {
                    part.tiers[tier] += 1;
                    None
                }
                None => Some(format!("packet {id} holds {amount} yuan, which is no tier of its batch")),
            },
            _ => None,
        }
    }

    /// Compares a file's sums with the manifest and adds them to the totals.
    fn settle(&self, file: &ManifestFile, bench: &Bench, instants: Multiset) {
        for (planned, found) in file.batches.iter().zip(&bench.parts) {
            let sum = (u64::from(planned.count), planned.amount_fen.get());
            self.faults.ensure(found.sum == sum, || {
                let (no, batch) = (file.entry.no, planned.batch);
                format!(
                    "file {no} holds {} of batch {batch}, the manifest says {}",
                    shown(found.sum),
                    shown(sum)
                )
            });
        }
        let mut totals = self.totals.lock();
        for part in &bench.parts {
            add(&mut totals.batches[part.batch], part.sum);
            for (total, found) in totals.tiers[part.batch].iter_mut().zip(&part.tiers) {
                *total += found;
            }
        }
        for (total, found) in totals.keys.iter_mut().zip(&bench.keys) {
            add(total, *found);
        }
        totals.instants.merge(instants);
    }

    /// Compares the totals with manifest, budget and instant list.
    pub fn finish(self, instants: Option<&InstantFile>) {
        let Audit { manifest, plan, faults, totals, .. } = self;
        let totals = totals.into_inner();
        for (key, found) in manifest.keys.iter().zip(&totals.keys) {
            let planned = (key.count, key.amount_fen.get());
            faults.ensure(*found == planned, || {
                format!("key {} sealed {}, the manifest says {}", key.key, shown(*found), shown(planned))
            });
            faults.ensure(found.1 <= plan.script.key_budget.get(), || {
                format!("key {} protects more than {} yuan", key.key, plan.script.key_budget)
            });
        }
        for ((batch, found), tiers) in plan.budget.batches.iter().zip(&totals.batches).zip(&totals.tiers) {
            let planned = (batch.count, batch.total.get());
            faults.ensure(*found == planned, || {
                format!("batch {} holds {}, the budget says {}", batch.id, shown(*found), shown(planned))
            });
            if let Split::Tiers(faces) = &batch.split {
                let same = faces.iter().map(|tier| tier.count).eq(tiers.iter().copied());
                faults
                    .ensure(same, || format!("the tiers of batch {} are not those of the budget", batch.id));
            }
        }
        if let Some(list) = instants {
            check_instants(list, totals.instants, manifest, faults);
        }
    }
}

/// The instant list holds exactly the packets that are marked so, in order.
fn check_instants(list: &InstantFile, marked: Multiset, manifest: &Manifest, faults: &Faults) {
    let mut listed = Multiset::default();
    let mut last = None;
    for block in list.blocks() {
        for packet in faults.take(block).unwrap_or_default() {
            let ordered =
                last.is_none_or(|last| last < packet.id) && packet.id.build_tag == manifest.build.tag();
            faults.ensure(ordered, || format!("the instant list is not in order at packet {}", packet.id));
            last = Some(packet.id);
            listed.add(&packet);
        }
    }
    let sum = (manifest.instant.count, manifest.instant.amount_fen.get());
    faults.ensure((listed.count, listed.fen) == sum, || {
        format!(
            "the instant list holds {}, the manifest says {}",
            shown((listed.count, listed.fen)),
            shown(sum)
        )
    });
    faults.ensure(listed == marked, || {
        "the instant list is not the set of packets that are marked so".to_owned()
    });
}

fn add(total: &mut Sum, part: Sum) {
    *total = (total.0 + part.0, total.1.saturating_add(part.1));
}

fn shown((count, fen): Sum) -> String {
    format!("{count} packets of {} yuan", Fen::new(fen))
}
