//! How far a file has been issued, so that a crash skips records and never repeats one.
//!
//! ```text
//!   index   0 ........... issued ........ reserved ............ count
//!           | handed out    | may be out     | certainly not out  |
//!
//!   file    | slot 0, 80 bytes | gap to 4096 | slot 1, 80 bytes | gap to 8192 |
//!
//!   slot    0  format id "hbcur\0\0\1"     8    sequence u64       16   reserved u32
//!           20 step u32                   24    count u32          28   file u32
//!           32 slot u16, 6 zero bytes     40    build 16           56   incarnation 8 (first half)
//!           64 BLAKE3 of bytes 0..64, first 16 bytes                             (big-endian)
//! ```
//! Before any index at or beyond `reserved` leaves, a higher mark is written to the slot that does
//! *not* hold the newest one, and synced. A torn write therefore destroys the older slot's bytes
//! only, in a disk block of their own. Both slots are valid from birth, so an unreadable one proves
//! a damaged write, and the mark it may have held is skipped too: at most one more `step`.
//!
//! Marks move by `step`, half of the block a restart may skip, and only when fewer than a step is
//! left; so what is reserved beyond what left never exceeds two steps, damaged slot included.
//!
//! Invariant: a loaded cursor starts at or beyond every index that ever left under it.
//!
//! Not here: a disk set back to an older state as a whole; see `incarnation` for what is caught.

use std::io;
use std::path::Path;

use ticket::id::{BuildId, FileNo, SlotNo};
use world::disk::{Disk, Opened};
use world::mutant::{Mutant, armed};

use crate::incarnation::Incarnation;

const FORMAT_ID: [u8; 8] = *b"hbcur\0\0\x01";
const BODY_LEN: usize = 64;
/// Bytes of one slot.
pub const SLOT_LEN: usize = 80;
/// The slots stand in different disk blocks.
const SLOT_STRIDE: u64 = 4_096;
/// Bytes of a cursor file.
pub const FILE_LEN: usize = 8_192;
/// The largest step: more than this would waste more than a restart may.
pub const STEP_MAX: u32 = 1 << 20;

const _: () = assert!(SLOT_LEN as u64 <= SLOT_STRIDE && 2 * SLOT_STRIDE as usize == FILE_LEN);

/// Which file a cursor belongs to, and whose disk it stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CursorId {
    /// The build.
    pub build: BuildId,
    /// The slot.
    pub slot: SlotNo,
    /// The file.
    pub file: FileNo,
    /// Records in the file.
    pub count: u32,
    /// The disk's incarnation when the cursor was made.
    pub incarnation: Incarnation,
}

/// Why a cursor cannot be used. Its file is then not issued any further.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    /// The disk said no. After a failed write nothing more is reserved.
    #[error("the cursor's disk failed: {0}")]
    Disk(#[from] io::Error),
    /// Neither slot can be read.
    #[error("both slots of the cursor are damaged")]
    Damaged,
    /// It belongs to another file, build or disk.
    #[error("the cursor belongs to another {0}")]
    Foreign(&'static str),
    /// An earlier write failed, so what the disk holds is not known.
    #[error("an earlier write of the cursor failed")]
    Poisoned,
}

/// The durable mark of one file.
pub struct Cursor {
    opened: Box<dyn Opened>,
    id: CursorId,
    step: u32,
    sequence: u64,
    reserved: u32,
    poisoned: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    sequence: u64,
    reserved: u32,
    step: u32,
}

impl Cursor {
    /// Makes the cursor of a file nothing of which has left. Must be durable before the claim is
    /// made: a claim of ours without a cursor then means that the disk was lost. Does nothing when
    /// one is already there.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn create(disk: &dyn Disk, path: &Path, id: &CursorId, step: u32) -> Result<(), CursorError> {
        if disk.exists(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            disk.create_dir_all(parent)?;
        }
        let mut bytes = vec![0u8; FILE_LEN];
        for sequence in [0, 1] {
            let at = offset(sequence) as usize;
            let slot = encode(id, &Mark { sequence, reserved: 0, step: clamp(step) });
            bytes[at..at + SLOT_LEN].copy_from_slice(&slot);
        }
        disk.publish(path, &bytes)?;
        Ok(())
    }

    /// Loads the cursor; [`Cursor::reserved`] is then where issuing may go on.
    ///
    /// # Errors
    /// [`CursorError`]; the file must then not be issued from.
    pub fn load(disk: &dyn Disk, path: &Path, id: &CursorId, step: u32) -> Result<Cursor, CursorError> {
        let opened = disk.load(path, true)?;
        let mut slots = [[0u8; SLOT_LEN]; 2];
        for (number, slot) in slots.iter_mut().enumerate() {
            opened.read_exact_at(slot, number as u64 * SLOT_STRIDE)?;
        }
        let (newest, damaged) = match (decode(&slots[0], id)?, decode(&slots[1], id)?) {
            (Some(one), Some(other)) if one.sequence < other.sequence => (other, false),
            (Some(one), Some(_)) => (one, false),
            (Some(only), None) | (None, Some(only)) => (only, true),
            (None, None) => return Err(CursorError::Damaged),
        };
        let skipped = if damaged { newest.step } else { 0 };
        let mut reserved = newest.reserved.saturating_add(skipped).min(id.count);
        if armed(Mutant::CursorReused) {
            reserved = reserved.saturating_sub(newest.step);
        }
        let mut cursor = Cursor {
            opened,
            id: *id,
            step: clamp(step),
            sequence: newest.sequence,
            reserved,
            poisoned: false,
        };
        // Repairs a damaged slot and records this run's step before any mark moves by it.
        cursor.write(reserved)?;
        let whole = newest.reserved <= cursor.reserved || armed(Mutant::CursorReused);
        assert!(whole, "a loaded cursor went back");
        Ok(cursor)
    }

    /// Indices below this may have left.
    #[must_use]
    pub fn reserved(&self) -> u32 {
        self.reserved
    }

    /// How far one reservation moves the mark.
    #[must_use]
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Moves the mark by one step, durably, and answers where it stands.
    ///
    /// # Errors
    /// [`CursorError`]; the mark then stands where it stood and never moves again.
    pub fn reserve(&mut self) -> Result<u32, CursorError> {
        let next = self.reserved.saturating_add(self.step).min(self.id.count);
        if next == self.reserved {
            return Ok(next);
        }
        self.write(next)?;
        Ok(next)
    }

    /// Writes the exact count at a clean stop, after which nothing may leave under this cursor.
    ///
    /// # Errors
    /// [`CursorError`]; a restart then skips what was reserved.
    pub fn finish(mut self, issued: u32) -> Result<(), CursorError> {
        assert!(issued <= self.reserved, "{issued} issued of {} reserved", self.reserved);
        self.write(issued)
    }

    fn write(&mut self, reserved: u32) -> Result<(), CursorError> {
        assert!(reserved <= self.id.count, "a mark beyond the file");
        if self.poisoned {
            return Err(CursorError::Poisoned);
        }
        let mark = Mark { sequence: self.sequence + 1, reserved, step: self.step };
        self.poisoned = true;
        self.opened.write_all_at(&encode(&self.id, &mark), offset(mark.sequence))?;
        if !armed(Mutant::CursorNotSynced) {
            self.opened.sync()?;
        }
        self.poisoned = false;
        (self.sequence, self.reserved) = (mark.sequence, reserved);
        Ok(())
    }
}

fn clamp(step: u32) -> u32 {
    step.clamp(1, STEP_MAX)
}

fn offset(sequence: u64) -> u64 {
    (sequence % 2) * SLOT_STRIDE
}

fn encode(id: &CursorId, mark: &Mark) -> [u8; SLOT_LEN] {
    let mut slot = [0u8; SLOT_LEN];
    slot[..8].copy_from_slice(&FORMAT_ID);
    slot[8..16].copy_from_slice(&mark.sequence.to_be_bytes());
    slot[16..20].copy_from_slice(&mark.reserved.to_be_bytes());
    slot[20..24].copy_from_slice(&mark.step.to_be_bytes());
    slot[24..28].copy_from_slice(&id.count.to_be_bytes());
    slot[28..32].copy_from_slice(&id.file.0.to_be_bytes());
    slot[32..34].copy_from_slice(&id.slot.0.to_be_bytes());
    slot[40..56].copy_from_slice(&id.build.0);
    slot[56..64].copy_from_slice(&id.incarnation.short());
    let digest = blake3::hash(&slot[..BODY_LEN]);
    slot[BODY_LEN..].copy_from_slice(&digest.as_bytes()[..SLOT_LEN - BODY_LEN]);
    slot
}

/// The slot's mark; nothing when the slot is damaged.
fn decode(slot: &[u8; SLOT_LEN], id: &CursorId) -> Result<Option<Mark>, CursorError> {
    let digest = blake3::hash(&slot[..BODY_LEN]);
    if slot[BODY_LEN..] != digest.as_bytes()[..SLOT_LEN - BODY_LEN] || slot[..8] != FORMAT_ID {
        return Ok(None);
    }
    let word = |at: usize| u32::from_be_bytes([slot[at], slot[at + 1], slot[at + 2], slot[at + 3]]);
    if slot[56..64] != id.incarnation.short() {
        return Err(CursorError::Foreign("disk"));
    }
    if slot[40..56] != id.build.0 {
        return Err(CursorError::Foreign("build"));
    }
    if word(28) != id.file.0 || slot[32..34] != id.slot.0.to_be_bytes() || word(24) != id.count {
        return Err(CursorError::Foreign("file"));
    }
    let sequence = u64::from(word(8)) << 32 | u64::from(word(12));
    Ok(Some(Mark { sequence, reserved: word(16).min(id.count), step: clamp(word(20)) }))
}

#[cfg(test)]
mod tests;
