//! The records of a RocksDB log file. Pure.
//!
//! ```text
//!   file     = blocks of 32 KiB
//!   block    = fragments; fewer than 7 bytes at its end are filled with zeros
//!   fragment = masked crc32c of type and data u32 le | length of data u16 le | type u8 | data
//!   record   = one whole fragment, or first, middles, last: one fragment a block
//!   data of a record = a write batch: sequence u64 le | count u32 le | operations
//! ```
//! Invariant: a fragment is taken for one only when its sum is right.
//!
//! Not here: recycled and compressed logs, which we do not write.

use super::crc::{crc32c, mask};

pub(super) const BLOCK: usize = 32 << 10;
pub(super) const HEADER: usize = 7;
/// A type with this bit may be skipped by who does not know it.
const IGNORABLE: u8 = 0x80;

/// A fragment's place in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    First,
    Middle,
    Last,
    /// Belongs to no record.
    Skipped,
}

impl Part {
    pub(super) fn of(kind: u8) -> Option<Part> {
        match kind {
            1 => Some(Part::Whole),
            2 => Some(Part::First),
            3 => Some(Part::Middle),
            4 => Some(Part::Last),
            _ if kind & IGNORABLE != 0 => Some(Part::Skipped),
            _ => None,
        }
    }

    /// Whether a record begins with it.
    pub(super) fn begins(self) -> bool {
        matches!(self, Part::Whole | Part::First)
    }
}

/// A fragment whose sum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment<'b> {
    pub(super) part: Part,
    pub(super) data: &'b [u8],
}

impl Fragment<'_> {
    pub(super) fn size(&self) -> usize {
        HEADER + self.data.len()
    }

    /// The sequence number and the count at the beginning of a record's batch.
    pub(super) fn sequence(&self) -> Option<(u64, u32)> {
        let sequence = self.data.first_chunk::<8>()?;
        let count = self.data.get(8..12)?.first_chunk::<4>()?;
        Some((u64::from_le_bytes(*sequence), u32::from_le_bytes(*count)))
    }
}

/// Why bytes are no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// They end before the fragment does.
    Short,
    /// No such type.
    Kind,
    /// The sum does not fit.
    Sum,
}

/// The header's fields, whether or not they make sense: stored sum, length, type.
pub(super) fn header(bytes: &[u8]) -> Option<(u32, usize, u8)> {
    let header = bytes.first_chunk::<HEADER>()?;
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    Some((stored, usize::from(u16::from_le_bytes([header[4], header[5]])), header[6]))
}

/// The fragment at the beginning of `bytes`, which end with their block or with the file.
pub(super) fn fragment(bytes: &[u8]) -> Result<Fragment<'_>, Bad> {
    let (stored, length, kind) = header(bytes).ok_or(Bad::Short)?;
    let part = Part::of(kind).ok_or(Bad::Kind)?;
    let summed = bytes.get(HEADER - 1..HEADER + length).ok_or(Bad::Short)?;
    if mask(crc32c(summed)) != stored {
        return Err(Bad::Sum);
    }
    Ok(Fragment { part, data: &summed[1..] })
}
