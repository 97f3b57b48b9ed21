//! `instant.bin`: the packets that are credited as they settle, with their amounts. Finance only.
//!
//! ```text
//!   off  len  field
//!     0    8  magic         "HBINSTNT"
//!     8    2  version       u16  1
//!    10    2  entry length  u16  16
//!    12    4  zero
//!    16   16  build id
//!    32    8  count         u64  entries
//!    40  16n  entries by ascending packet id: packet id (12) | amount u32 (fen)
//!         32  trailer: BLAKE3 of everything before it
//! ```
//! Numbers are big-endian. The digest in the manifest is BLAKE3 of the whole file. Being sorted, it
//! can be fed to the KV as ordered runs.
//!
//! Invariant: entries read from an [`InstantFile`] are those the signed manifest names.
//!
//! Not here: how the list is collected while files are minted in any order.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ticket::digest::Digest;
use ticket::id::{BuildId, PACKET_ID_LEN, PacketId};
use ticket::manifest::InstantEntry;
use ticket::money::Fen;
use world::disk::{Disk, Opened};

/// The first bytes of the file.
pub const MAGIC: [u8; 8] = *b"HBINSTNT";
/// The format number.
pub const VERSION: u16 = 1;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = 16;
const HEADER_LEN: usize = 40;
const DIGEST_LEN: usize = 32;
/// Entries read at once.
const BLOCK_ENTRIES: u64 = 65_536;

const _: () = assert!(ENTRY_LEN == PACKET_ID_LEN + 4);

/// One packet of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstantPacket {
    /// Which packet.
    pub id: PacketId,
    /// What it is worth.
    pub amount: Fen,
}

/// Why the list is not believed.
#[derive(Debug, thiserror::Error)]
pub enum InstantError {
    /// The disk said no.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// It is not the list that the manifest names.
    #[error("{path} is not the list in the signed manifest: {reason}; copy it again from where it was built", path = path.display())]
    Wrong {
        /// Which file.
        path: PathBuf,
        /// What differs.
        reason: &'static str,
    },
}

impl InstantPacket {
    /// The entry's bytes; they sort as packet ids do.
    #[must_use]
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let amount = u32::try_from(self.amount.get()).expect("a packet's amount has 24 bits");
        let mut bytes = [0u8; ENTRY_LEN];
        bytes[..PACKET_ID_LEN].copy_from_slice(&self.id.to_bytes());
        bytes[PACKET_ID_LEN..].copy_from_slice(&amount.to_be_bytes());
        bytes
    }

    /// Reads an entry.
    #[must_use]
    pub fn decode(bytes: [u8; ENTRY_LEN]) -> InstantPacket {
        let [id @ .., a0, a1, a2, a3] = bytes;
        let amount = Fen::new(u64::from(u32::from_be_bytes([a0, a1, a2, a3])));
        InstantPacket { id: PacketId::from_bytes(id), amount }
    }
}

/// Writes the list while hashing it.
pub(crate) struct InstantWriter<W: Write> {
    out: W,
    hasher: blake3::Hasher,
    left: u64,
    size_bytes: u64,
}

impl<W: Write> InstantWriter<W> {
    /// Begins a list of `count` entries.
    pub fn new(out: W, build: BuildId, count: u64) -> io::Result<InstantWriter<W>> {
        let mut writer = InstantWriter { out, hasher: blake3::Hasher::new(), left: count, size_bytes: 0 };
        let mut header = [0u8; HEADER_LEN];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&VERSION.to_be_bytes());
        header[10..12].copy_from_slice(&(ENTRY_LEN as u16).to_be_bytes());
        header[16..32].copy_from_slice(&build.0);
        header[32..40].copy_from_slice(&count.to_be_bytes());
        writer.put(&header)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Adds entries, which must be sorted and above all earlier ones.
    pub fn add(&mut self, entries: &[u128]) -> io::Result<()> {
        assert!(entries.is_sorted_by(|a, b| a < b), "a packet stands in the list twice");
        assert!(entries.len() as u64 <= self.left, "more entries than the header says");
        self.left -= entries.len() as u64;
        for block in entries.chunks(BLOCK_ENTRIES as usize) {
            let bytes: Vec<u8> = block.iter().flat_map(|entry| entry.to_be_bytes()).collect();
            self.put(&bytes)?;
        }
        Ok(())
    }

    /// Ends the list; the length and digest of the whole file.
    pub fn finish(mut self) -> io::Result<(u64, Digest)> {
        assert!(self.left == 0, "{} entries fewer than the header says", self.left);
        let trailer = self.hasher.finalize();
        self.put(trailer.as_bytes())?;
        self.out.flush()?;
        Ok((self.size_bytes, self.hasher.finalize().into()))
    }
}

/// A verified list.
pub struct InstantFile {
    path: PathBuf,
    file: Box<dyn Opened>,
    count: u64,
}

impl InstantFile {
    /// Loads the list and verifies it against the manifest: length, header, digest.
    ///
    /// # Errors
    /// [`InstantError`].
    pub fn load(
        disk: &dyn Disk,
        path: &Path,
        build: BuildId,
        entry: &InstantEntry,
    ) -> Result<InstantFile, InstantError> {
        let io_error = |source| InstantError::Io { path: path.to_owned(), source };
        let wrong = |reason| InstantError::Wrong { path: path.to_owned(), reason };
        let file = disk.load(path, false).map_err(io_error)?;
        let size_bytes = file.len().map_err(io_error)?;
        let expected = entry
            .count
            .checked_mul(ENTRY_LEN as u64)
            .and_then(|n| n.checked_add((HEADER_LEN + DIGEST_LEN) as u64));
        if size_bytes != entry.size_bytes || expected != Some(size_bytes) {
            return Err(wrong("its length differs"));
        }
        let mut header = [0u8; HEADER_LEN];
        file.read_exact_at(&mut header, 0).map_err(io_error)?;
        if header[..8] != MAGIC || header[8..10] != VERSION.to_be_bytes() {
            return Err(wrong("it is not such a list, or of another version"));
        }
        if header[16..32] != build.0 || header[32..40] != entry.count.to_be_bytes() {
            return Err(wrong("it is of another build"));
        }
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        let mut buffer = vec![0u8; BLOCK_ENTRIES as usize * ENTRY_LEN];
        while at < size_bytes {
            let length = (size_bytes - at).min(buffer.len() as u64);
            let part = &mut buffer[..length as usize];
            file.read_exact_at(part, at).map_err(io_error)?;
            hasher.update(part);
            at += length;
        }
        if Digest::from(hasher.finalize()) != entry.digest {
            return Err(wrong("its digest differs"));
        }
        Ok(InstantFile { path: path.to_owned(), file, count: entry.count })
    }

    /// How many packets it lists.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The packets by ascending id, in blocks.
    ///
    /// # Errors
    /// Each block: [`InstantError::Io`].
    pub fn blocks(&self) -> impl Iterator<Item = Result<Vec<InstantPacket>, InstantError>> + '_ {
        let starts = (0..self.count).step_by(BLOCK_ENTRIES as usize);
        starts.map(|start| {
            let entries = (self.count - start).min(BLOCK_ENTRIES) as usize;
            let mut bytes = vec![0u8; entries * ENTRY_LEN];
            let offset = HEADER_LEN as u64 + start * ENTRY_LEN as u64;
            let read = self.file.read_exact_at(&mut bytes, offset);
            read.map_err(|source| InstantError::Io { path: self.path.clone(), source })?;
            let entries = bytes.chunks_exact(ENTRY_LEN);
            Ok(entries.map(|entry| InstantPacket::decode(entry.try_into().expect("16 bytes"))).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticket::id::BatchId;
    use world::disk::RealDisk;

    fn packet(batch: u16, serial: u64, fen: u64) -> InstantPacket {
        let id = PacketId { build_tag: [1, 2, 3, 4], batch: BatchId(batch), serial };
        InstantPacket { id, amount: Fen::new(fen) }
    }

    fn written(packets: &[InstantPacket]) -> (Vec<u8>, InstantEntry) {
        let mut bytes = Vec::new();
        let mut writer =
            InstantWriter::new(&mut bytes, BuildId([1; 16]), packets.len() as u64).expect("memory");
        let entries: Vec<u128> = packets.iter().map(|packet| u128::from_be_bytes(packet.encode())).collect();
        writer.add(&entries).expect("memory");
        let (size_bytes, digest) = writer.finish().expect("memory");
        let amount_fen = ticket::money::sum(packets.iter().map(|packet| packet.amount)).expect("small");
        let count = packets.len() as u64;
        (bytes, InstantEntry { min_fen: Fen::new(1), count, amount_fen, size_bytes, digest })
    }

    #[test]
    fn the_bytes_are_frozen() {
        let (bytes, entry) = written(&[packet(1, 2, 500), packet(1, 3, 0x00ab_cdef)]);
        let head = [
            "4842494e53544e54 0001 0010 00000000",
            "01010101010101010101010101010101 0000000000000002",
            "01020304 0001 000000000002 000001f4",
            "01020304 0001 000000000003 00abcdef",
        ];
        let head: String = head.concat().split(' ').collect();
        let shown: String = bytes[..72].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, head);
        assert_eq!(bytes[72..], *blake3::hash(&bytes[..72]).as_bytes());
        assert_eq!(entry.digest, Digest::of(&bytes));
    }

    #[test]
    fn a_list_reads_back_and_a_flipped_bit_is_seen() {
        let packets: Vec<InstantPacket> = (0..100_000).map(|serial| packet(7, serial, serial + 1)).collect();
        let (bytes, entry) = written(&packets);
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("instant.bin");
        RealDisk.publish(&path, &bytes).expect("publish");
        let file = InstantFile::load(&RealDisk, &path, BuildId([1; 16]), &entry).expect("sound");
        let read: Vec<InstantPacket> = file.blocks().flat_map(|block| block.expect("readable")).collect();
        assert!(read == packets, "the list changed on the way");
        for at in [0, 9, 13, 20, 39, 40, 5000, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            RealDisk.publish(&path, &flipped).expect("publish");
            assert!(InstantFile::load(&RealDisk, &path, BuildId([1; 16]), &entry).is_err(), "byte {at}");
        }
    }
}
