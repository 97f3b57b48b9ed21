//! The instant list while files are minted in any order: sorted in parts, in bounded memory.
//!
//! ```text
//!   entry (batch, serial) --its place in the order of ids--> part 0 | part 1 | ... | part n
//!   at the end: each part is read, sorted and appended; parts are already in order
//! ```
//! Serials are spread evenly over 48 bits, so the part of an entry can be computed from its id
//! alone, and parts come out about equally large. One part stays in memory; more go to files.
//!
//! Invariant: the list does not depend on the order in which entries arrive.
//!
//! Not here: the list's format.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use ticket::id::BuildId;
use ticket::manifest::InstantEntry;
use ticket::money::Fen;
use world::disk;

use super::instant::{ENTRY_LEN, InstantPacket, InstantWriter};

/// Parts at most: each holds a file open.
const PARTS_MAX: u64 = 256;

/// Entries arriving.
pub(crate) struct Collector {
    dir: PathBuf,
    build: BuildId,
    min: Option<Fen>,
    /// Packets that may enter the list: by batch the sum over earlier batches, then the batch's own.
    places: Vec<(u64, u64)>,
    bound: u64,
    parts: Vec<Mutex<Part>>,
}

/// One run of the list.
#[derive(Default)]
struct Part {
    held: Vec<u128>,
    spilled: Option<BufWriter<File>>,
    count: u64,
    amount_fen: u64,
}

impl Collector {
    /// A list in `dir` for batches that can each bring at most `bounds[i]` entries, in the order of
    /// their ids; at most about `chunk_max` entries are held in memory.
    pub fn new(
        dir: &Path,
        build: BuildId,
        min: Option<Fen>,
        bounds: &[u64],
        chunk_max: u64,
    ) -> io::Result<Collector> {
        let mut bound = 0u64;
        let mut places = Vec::with_capacity(bounds.len());
        for own in bounds {
            places.push((bound, *own));
            bound += own;
        }
        let count = bound.div_ceil(chunk_max).clamp(1, PARTS_MAX);
        let mut parts = Vec::new();
        for at in 0..count {
            let mut part = Part::default();
            if count > 1 {
                part.spilled = Some(BufWriter::new(File::create(spill_path(dir, at))?));
            }
            parts.push(Mutex::new(part));
        }
        Ok(Collector { dir: dir.to_owned(), build, min, places, bound, parts })
    }

    /// Whether a packet of this amount enters the list.
    #[inline]
    pub fn wants(&self, amount: Fen) -> bool {
        self.min.is_some_and(|min| amount >= min)
    }

    /// Adds a packet of the batch in this place of the budget.
    pub fn add(&self, batch: usize, packet: &InstantPacket) -> io::Result<()> {
        assert!(self.wants(packet.amount), "{} is below the least instant amount", packet.amount);
        let (before, own) = self.places[batch];
        assert!(own > 0, "batch {} was said to bring no instant packets", packet.id.batch);
        let within = (u128::from(own) * u128::from(packet.id.serial)) >> 48;
        let place = (u128::from(before) + within) * self.parts.len() as u128 / u128::from(self.bound);
        let mut part = self.parts[usize::try_from(place).expect("a part")].lock();
        part.count += 1;
        part.amount_fen += packet.amount.get();
        let entry = packet.encode();
        match &mut part.spilled {
            Some(file) => file.write_all(&entry),
            None => {
                part.held.push(u128::from_be_bytes(entry));
                Ok(())
            }
        }
    }

    /// Writes the list and removes what was spilled.
    pub fn finish(self) -> io::Result<InstantEntry> {
        let mut parts: Vec<Part> = self.parts.into_iter().map(Mutex::into_inner).collect();
        let count: u64 = parts.iter().map(|part| part.count).sum();
        let amount_fen = parts.iter().map(|part| part.amount_fen).sum();
        let mut written = None;
        disk::publish_with(&self.dir.join("instant.bin"), |file| {
            let mut writer = InstantWriter::new(BufWriter::new(file), self.build, count)?;
            for (at, part) in parts.iter_mut().enumerate() {
                let path = spill_path(&self.dir, at as u64);
                writer.add(&sorted(part, &path)?)?;
            }
            written = Some(writer.finish()?);
            Ok(())
        })?;
        let (size_bytes, digest) = written.expect("publishing succeeded, so the closure ran to its end");
        let min_fen = self.min.unwrap_or(Fen::MAX);
        Ok(InstantEntry { min_fen, count, amount_fen: Fen::new(amount_fen), size_bytes, digest })
    }
}

fn spill_path(dir: &Path, part: u64) -> PathBuf {
    dir.join(format!("instant.{part:03}.spill"))
}

/// A part's entries in order.
fn sorted(part: &mut Part, path: &Path) -> io::Result<Vec<u128>> {
    let mut entries = std::mem::take(&mut part.held);
    if let Some(file) = part.spilled.take() {
        file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        let read = bytes.chunks_exact(ENTRY_LEN);
        entries.extend(read.map(|entry| u128::from_be_bytes(entry.try_into().expect("16 bytes"))));
        std::fs::remove_file(path)?;
    }
    assert!(entries.len() as u64 == part.count, "{} entries of {} came back", entries.len(), part.count);
    entries.sort_unstable();
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;
    use ticket::id::{BatchId, PacketId};
    use world::rng::Seed;

    fn collect(packets: &[InstantPacket], chunk_max: u64) -> (InstantEntry, Vec<String>) {
        let dir = tempfile::tempdir().expect("tempdir");
        let min = Some(Fen::new(5));
        let collector =
            Collector::new(dir.path(), BuildId([3; 16]), min, &[400, 0, 600], chunk_max).expect("memory");
        for packet in packets {
            collector.add(usize::from(packet.id.batch.0), packet).expect("memory");
        }
        let entry = collector.finish().expect("written");
        let names = std::fs::read_dir(dir.path()).expect("dir").map(|e| e.expect("entry").file_name());
        (entry, names.map(|name| name.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn the_list_is_the_same_in_memory_and_spilled_and_in_any_order() {
        let mut rng = Seed::from_number(5).stream(0);
        let mut packets: Vec<InstantPacket> = (0..1000)
            .map(|at| {
                let batch = BatchId(if at < 400 { 0 } else { 2 });
                let id = PacketId { build_tag: [3; 4], batch, serial: rng.next_u64() >> 16 };
                InstantPacket { id, amount: Fen::new(5 + at) }
            })
            .collect();
        let (held, names) = collect(&packets, 1 << 20);
        assert_eq!(names, vec!["instant.bin"]);
        packets.reverse();
        let (spilled, names) = collect(&packets, 10);
        assert_eq!(names, vec!["instant.bin"]);
        assert_eq!(held, spilled);
        assert_eq!(held.count, 1000);
    }
}
