//! The ticket file (`.hbt`): the records of one slot for one home node.
//!
//! ```text
//!   off  len  field
//!     0    8  magic         "HBTICKET"
//!     8    2  version       u16  1
//!    10    2  record length u16  26
//!    12    4  chunk         u32  records per chunk, 4096
//!    16    8  event tag     u64
//!    24   16  build id
//!    40    2  slot          u16
//!    42    2  home node     u16
//!    44    4  file number   u32
//!    48    4  count         u32  records
//!    52   12  zero
//!    64  26n  records
//!        32c  BLAKE3 of each chunk of records; c = ceil(n / 4096)
//!         32  trailer: BLAKE3 of everything before it
//! ```
//! Numbers are big-endian. The digest in the roster is BLAKE3 of the whole file, trailer included,
//! so `b3sum` can check a copy.
//!
//! Invariant: a [`TicketFile`] in memory is byte for byte the file the roster names, which is
//! signed. It is read once and never mapped, so a file replaced later changes nothing.
//!
//! Not here: sums of money. Whoever steals a file learns how many packets it holds, not their worth.

use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use world::NodeId;
use world::disk::{self, Disk};

use crate::digest::Digest;
use crate::id::{BuildId, EventTag, FileNo, SlotNo};
use crate::limits::{CHUNK_LEN, CHUNK_RECORDS, DIGEST_LEN, FILE_HEADER_LEN, FILE_RECORDS_MAX, RECORD_LEN};
use crate::manifest::FileEntry;
use crate::record::Record;

/// The first bytes of every ticket file.
pub const MAGIC: [u8; 8] = *b"HBTICKET";
/// The format number.
pub const FILE_VERSION: u16 = 1;

/// What a ticket file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketFileHeader {
    /// The event, as a tag.
    pub event: EventTag,
    /// The build it belongs to.
    pub build: BuildId,
    /// The slot its records are issued in.
    pub slot: SlotNo,
    /// The node it is made for.
    pub home: NodeId,
    /// Its number in the build.
    pub no: FileNo,
    /// How many records it holds.
    pub count: u32,
}

/// What was written: goes into the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the file in bytes.
    pub size_bytes: u64,
    /// BLAKE3 of the whole file.
    pub digest: Digest,
}

/// Why a ticket file was not written, or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The disk said no.
    #[error("ticket file {path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Shorter or longer than it must be.
    #[error("ticket file {path} has {found} bytes, the roster says {expected}: it was cut or grew; copy it again from another holder", path = path.display())]
    Length {
        /// Which file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length it must have.
        expected: u64,
    },
    /// Something else than a ticket file.
    #[error("{path} is not a ticket file: remove it and copy the right one from another holder", path = path.display())]
    Magic {
        /// Which file.
        path: PathBuf,
    },
    /// Written by another version of this program.
    #[error("ticket file {path} has version {found}, this program reads {FILE_VERSION}: use the version that built it", path = path.display())]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: u16,
    },
    /// A field of the header is not what the roster says.
    #[error("ticket file {path} is another one: its {field} is {found}, the roster says {expected}; put the right file in its place", path = path.display())]
    Header {
        /// Which file.
        path: PathBuf,
        /// Which field.
        field: &'static str,
        /// What the file says.
        found: String,
        /// What the roster says.
        expected: String,
    },
    /// The header's count is not the roster's.
    #[error("ticket file {path} says it holds {found} records, the roster says {expected}: copy it again from another holder", path = path.display())]
    Count {
        /// Which file.
        path: PathBuf,
        /// What the file says.
        found: u32,
        /// What the roster says.
        expected: u32,
    },
    /// Records were altered.
    #[error("ticket file {path} is damaged in records {first} to {last}: copy it again from another holder", path = path.display())]
    Chunk {
        /// Which file.
        path: PathBuf,
        /// The first record that may be altered.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// The header, the digests or the trailer were altered.
    #[error("ticket file {path} is damaged outside its records: copy it again from another holder", path = path.display())]
    Trailer {
        /// Which file.
        path: PathBuf,
    },
    /// A sound file, but not the one that was signed.
    #[error("ticket file {path} is sound but not the one in the signed roster (it is of build {build}): copy the right one from another holder", path = path.display())]
    NotInRoster {
        /// Which file.
        path: PathBuf,
        /// The build it says it is of.
        build: BuildId,
    },
    /// The roster's entry cannot be of any file.
    #[error("the roster's entry of {path} cannot be: {count} records make {expected} bytes, not {found}; build the plan again", path = path.display())]
    Entry {
        /// Which file.
        path: PathBuf,
        /// Its count in the roster.
        count: u32,
        /// The length in the roster.
        found: u64,
        /// The length so many records make.
        expected: u64,
    },
    /// A record was asked for that the file does not hold.
    #[error("ticket file {path} has no record {index}: it holds {count}", path = path.display())]
    Index {
        /// Which file.
        path: PathBuf,
        /// The record asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
}

fn chunk_count(count: u32) -> usize {
    count.div_ceil(CHUNK_RECORDS) as usize
}

/// The length of a file of so many records.
#[must_use]
pub fn file_size(count: u32) -> u64 {
    let body = u64::from(count) * RECORD_LEN as u64;
    let digests = (chunk_count(count) as u64 + 1) * DIGEST_LEN as u64;
    FILE_HEADER_LEN as u64 + body + digests
}

impl TicketFileHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; FILE_HEADER_LEN] {
        assert!(self.count <= FILE_RECORDS_MAX, "{} records are too many for one file", self.count);
        let mut bytes = [0u8; FILE_HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&FILE_VERSION.to_be_bytes());
        bytes[10..12].copy_from_slice(&(RECORD_LEN as u16).to_be_bytes());
        bytes[12..16].copy_from_slice(&CHUNK_RECORDS.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.event.to_bytes());
        bytes[24..40].copy_from_slice(&self.build.0);
        bytes[40..42].copy_from_slice(&self.slot.0.to_be_bytes());
        bytes[42..44].copy_from_slice(&self.home.as_u16().to_be_bytes());
        bytes[44..48].copy_from_slice(&self.no.0.to_be_bytes());
        bytes[48..52].copy_from_slice(&self.count.to_be_bytes());
        bytes
    }
}

/// Streams a ticket file; `records` must give exactly `header.count` of them.
///
/// # Errors
/// Whatever the writer says.
///
/// # Panics
/// When `records` gives more or fewer than the header says.
pub fn write_to(
    out: &mut impl Write,
    header: &TicketFileHeader,
    records: impl IntoIterator<Item = Record>,
) -> io::Result<Written> {
    let mut whole = blake3::Hasher::new();
    let mut size_bytes = 0u64;
    let mut put = |bytes: &[u8], whole: &mut blake3::Hasher| {
        whole.update(bytes);
        size_bytes += bytes.len() as u64;
        out.write_all(bytes)
    };
    put(&header.encode(), &mut whole)?;

    let mut digests = Vec::with_capacity(chunk_count(header.count) * DIGEST_LEN);
    let mut chunk = Vec::with_capacity(CHUNK_LEN);
    let mut written = 0u32;
    for record in records {
        assert!(written < header.count, "more records than the header's {}", header.count);
        written += 1;
        chunk.extend_from_slice(record.as_bytes());
        if chunk.len() == CHUNK_LEN || written == header.count {
            digests.extend_from_slice(blake3::hash(&chunk).as_bytes());
            put(&chunk, &mut whole)?;
            chunk.clear();
        }
    }
    assert!(written == header.count, "{written} records, the header says {}", header.count);
    put(&digests, &mut whole)?;
    let trailer = whole.finalize();
    put(trailer.as_bytes(), &mut whole)?;
    assert!(size_bytes == file_size(header.count), "the drawing and the writer disagree");
    Ok(Written { size_bytes, digest: whole.finalize().into() })
}

/// Publishes a ticket file, streaming it to the operating system's disk.
///
/// # Errors
/// [`FileError::Io`].
pub fn write_file(
    path: &Path,
    header: &TicketFileHeader,
    records: impl IntoIterator<Item = Record>,
) -> Result<Written, FileError> {
    let mut written = None;
    disk::publish_with(path, |file| {
        let mut out = io::BufWriter::with_capacity(CHUNK_LEN, file);
        written = Some(write_to(&mut out, header, records)?);
        out.flush()
    })
    .map_err(|source| FileError::Io { path: path.to_owned(), source })?;
    Ok(written.expect("publishing succeeded, so the closure ran to its end"))
}

/// Publishes a ticket file through any disk; it is built in memory first.
///
/// # Errors
/// [`FileError::Io`].
pub fn publish_file(
    disk: &dyn Disk,
    path: &Path,
    header: &TicketFileHeader,
    records: impl IntoIterator<Item = Record>,
) -> Result<Written, FileError> {
    let mut bytes =
        Vec::with_capacity(usize::try_from(file_size(header.count)).expect("at most half a gigabyte"));
    let written = write_to(&mut bytes, header, records).expect("memory takes every byte");
    disk.publish(path, &bytes).map_err(|source| FileError::Io { path: path.to_owned(), source })?;
    Ok(written)
}

/// A ticket file in memory, checked against the roster. Cheap to clone.
#[derive(Clone)]
pub struct TicketFile {
    path: Arc<Path>,
    header: TicketFileHeader,
    bytes: Arc<[u8]>,
}

impl TicketFile {
    /// Reads a file and checks, in this order: length, magic, version, header fields, count, chunk
    /// digests, trailer, and the roster's digest of the whole.
    ///
    /// # Errors
    /// [`FileError`]; its sentence says how to mend it.
    pub fn load(disk: &dyn Disk, path: &Path, entry: &FileEntry) -> Result<TicketFile, FileError> {
        let bytes = read_checked_length(disk, path, entry)?;
        let header = check_header(path, &bytes, entry)?;
        check_digests(path, &bytes, &header, entry)?;
        Ok(TicketFile { path: path.into(), header, bytes: bytes.into() })
    }

    /// What it says about itself.
    #[must_use]
    pub fn header(&self) -> &TicketFileHeader {
        &self.header
    }

    /// How many records it holds.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.header.count
    }

    /// Where it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One record.
    ///
    /// # Errors
    /// [`FileError::Index`] when there is none at `index`.
    pub fn record(&self, index: u32) -> Result<Record, FileError> {
        if index >= self.header.count {
            return Err(self.no_record(index));
        }
        let start = FILE_HEADER_LEN + index as usize * RECORD_LEN;
        let bytes = self.bytes[start..start + RECORD_LEN].try_into().expect("26 bytes");
        Ok(Record(bytes))
    }

    /// Many records in order.
    ///
    /// # Errors
    /// [`FileError::Index`] when the range ends past the file.
    pub fn records(
        &self,
        range: Range<u32>,
    ) -> Result<impl ExactSizeIterator<Item = Record> + '_, FileError> {
        if range.end > self.header.count || range.start > range.end {
            return Err(self.no_record(range.end.saturating_sub(1)));
        }
        let at = |index: u32| FILE_HEADER_LEN + index as usize * RECORD_LEN;
        let bytes = &self.bytes[at(range.start)..at(range.end)];
        Ok(bytes.chunks_exact(RECORD_LEN).map(|record| Record(record.try_into().expect("26 bytes"))))
    }

    fn no_record(&self, index: u32) -> FileError {
        FileError::Index { path: self.path.to_path_buf(), index, count: self.header.count }
    }
}

/// Reads the file only after its length was seen to be right, so that a wrong one costs no memory.
fn read_checked_length(disk: &dyn Disk, path: &Path, entry: &FileEntry) -> Result<Vec<u8>, FileError> {
    let io_error = |source| FileError::Io { path: path.to_owned(), source };
    let expected = file_size(entry.count);
    if entry.size_bytes != expected || entry.count > FILE_RECORDS_MAX {
        let (count, found) = (entry.count, entry.size_bytes);
        return Err(FileError::Entry { path: path.to_owned(), count, found, expected });
    }
    let file = disk.load(path, false).map_err(io_error)?;
    let found = file.len().map_err(io_error)?;
    if found != expected {
        return Err(FileError::Length { path: path.to_owned(), found, expected });
    }
    let mut bytes = vec![0u8; usize::try_from(expected).expect("at most half a gigabyte")];
    file.read_exact_at(&mut bytes, 0).map_err(io_error)?;
    Ok(bytes)
}

fn check_header(path: &Path, bytes: &[u8], entry: &FileEntry) -> Result<TicketFileHeader, FileError> {
    assert!(bytes.len() >= FILE_HEADER_LEN, "every file is longer than a header");
    let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    if bytes[..8] != MAGIC {
        return Err(FileError::Magic { path: path.to_owned() });
    }
    if u16_at(8) != FILE_VERSION {
        return Err(FileError::Version { path: path.to_owned(), found: u16_at(8) });
    }
    let home = NodeId::from_u16(u16_at(42))
        .map_or_else(|| format!("number {}", u16_at(42)), |node| node.to_string());
    let fields = [
        ("record length", u16_at(10).to_string(), RECORD_LEN.to_string()),
        ("chunk size", u32_at(12).to_string(), CHUNK_RECORDS.to_string()),
        ("slot", u16_at(40).to_string(), entry.slot.to_string()),
        ("home node", home, entry.home.to_string()),
        ("file number", u32_at(44).to_string(), entry.no.to_string()),
    ];
    for (field, found, expected) in fields {
        if found != expected {
            return Err(FileError::Header { path: path.to_owned(), field, found, expected });
        }
    }
    if u32_at(48) != entry.count {
        return Err(FileError::Count { path: path.to_owned(), found: u32_at(48), expected: entry.count });
    }
    Ok(TicketFileHeader {
        event: EventTag::from_bytes(bytes[16..24].try_into().expect("eight bytes")),
        build: BuildId(bytes[24..40].try_into().expect("sixteen bytes")),
        slot: entry.slot,
        home: entry.home,
        no: entry.no,
        count: entry.count,
    })
}

fn check_digests(
    path: &Path,
    bytes: &[u8],
    header: &TicketFileHeader,
    entry: &FileEntry,
) -> Result<(), FileError> {
    assert!(bytes.len() as u64 == file_size(header.count), "the length was checked first");
    let body_end = FILE_HEADER_LEN + header.count as usize * RECORD_LEN;
    let trailer_start = bytes.len() - DIGEST_LEN;
    let body = &bytes[FILE_HEADER_LEN..body_end];
    let digests = &bytes[body_end..trailer_start];
    for ((chunk, digest), first) in body
        .chunks(CHUNK_LEN)
        .zip(digests.chunks_exact(DIGEST_LEN))
        .zip((0u32..).step_by(CHUNK_RECORDS as usize))
    {
        if blake3::hash(chunk).as_bytes() != digest {
            let last = first + (chunk.len() / RECORD_LEN) as u32 - 1;
            return Err(FileError::Chunk { path: path.to_owned(), first, last });
        }
    }
    let mut whole = blake3::Hasher::new();
    whole.update(&bytes[..trailer_start]);
    if whole.finalize().as_bytes() != &bytes[trailer_start..] {
        return Err(FileError::Trailer { path: path.to_owned() });
    }
    whole.update(&bytes[trailer_start..]);
    if Digest::from(whole.finalize()) != entry.digest {
        return Err(FileError::NotInRoster { path: path.to_owned(), build: header.build });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
