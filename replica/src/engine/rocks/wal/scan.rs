//! What one log file holds, and what is wrong with its end. Pure: blocks come from a function.
//!
//! ```text
//!    whole records | damaged record | what follows it
//!                  ^from  ^at (the first fragment that is not right)
//!
//!    a record begins after it                            -> Followed   rot: what follows was synced later
//!    the file ends inside it, or all is zero from a
//!      sector's boundary (or from `at`) to the end       -> Torn       a write that a power cut took apart
//!    anything else, and where one bit explains it        -> Unclear    perhaps torn, perhaps rot
//! ```
//! The one writer of a log syncs each record before it begins the next (`log::writer`). So only the last
//! record can be one that nobody was told of.
//!
//! Invariant: `Torn` is never said of a record that one flipped bit explains, nor where a record
//! begins later; every byte of the file but padding is accounted for, by a right sum or as damage.
//!
//! Not here: what is done about it (`mend`).

use std::io;

use super::crc::{Flip, crc32c, mask, one_flipped_bit};
use super::record::{BLOCK, Bad, Fragment, HEADER, Part, fragment, header};

/// The unit in which disks write: whole or not at all.
const SECTOR: u64 = 512;
/// A record later in the log has a later sequence number, and not one that is absurd: data that looks like a
/// record inside a record is not taken for one.
const SEQUENCES_AHEAD_MAX: u64 = 1 << 40;

/// What kind of damage the end of a file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The last write did not reach the disk as a whole, and nobody was told that it had.
    Torn,
    /// The last record is full of something else: torn, or rotten.
    Unclear,
    /// A sound record follows the damage: what is damaged was synced.
    Followed {
        /// Where the next sound record begins; in a later file when it is not in this one.
        at: Option<u64>,
    },
}

/// A record that does not read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where the damaged record begins: all before is sound.
    pub from: u64,
    /// The first bytes that do not check out.
    pub at: u64,
    /// How it looks.
    pub kind: Kind,
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scan {
    /// Records that read back.
    pub(super) records: u64,
    /// The sequence number after the last of them; 0 when not known.
    pub(super) next_sequence: u64,
    /// Empty, or nothing but zeros.
    pub(super) blank: bool,
    pub(super) damage: Option<Damage>,
}

/// A file as numbered blocks, the last of which may be short.
pub(super) struct Blocks<R> {
    pub(super) length: u64,
    pub(super) read: R,
}

impl<R: FnMut(u64) -> io::Result<Vec<u8>>> Blocks<R> {
    fn count(&self) -> u64 {
        self.length.div_ceil(BLOCK as u64)
    }

    /// Reads a whole file. `next_sequence` is what the file before ended with.
    pub(super) fn scan(&mut self, next_sequence: u64) -> io::Result<Scan> {
        let mut walk = Walk { records: 0, next_sequence, open: None, ended: 0 };
        for number in 0..self.count() {
            let block = (self.read)(number)?;
            if let Err(stop) = walk.block(number * BLOCK as u64, &block) {
                let (damage, zeros_from) = self.judge(&walk, &stop, &block)?;
                return Ok(Scan { damage: Some(damage), blank: zeros_from == 0, ..walk.scan() });
            }
        }
        let mut scan = Scan { blank: self.length == 0, ..walk.scan() };
        if let Some(from) = walk.open {
            scan.damage = Some(Damage { from, at: self.length, kind: Kind::Torn });
        }
        Ok(scan)
    }

    /// The damage where the walk stopped, and from where on everything is zero.
    fn judge(&mut self, walk: &Walk, stop: &Stop, block: &[u8]) -> io::Result<(Damage, u64)> {
        let from = walk.open.unwrap_or(stop.at);
        let bytes = &block[stop.at as usize % BLOCK..];
        let mut damage = Damage { from, at: stop.at, kind: Kind::Unclear };
        let (follower, zeros_from) = self.look_behind(walk, stop, block)?;
        if follower.is_some() {
            damage.kind = Kind::Followed { at: follower };
            return Ok((damage, zeros_from));
        }
        let torn_at = if zeros_from <= stop.at { stop.at } else { zeros_from.next_multiple_of(SECTOR) };
        // Before the tear everything is as it was written: the tear is in what is wrong, or it is none.
        let torn_within = |size: usize| torn_at < self.length.min(stop.at + size as u64);
        let torn = match stop.bad {
            Some(Bad::Short) => block.len() < BLOCK && !sound_but_for_its_length(bytes),
            Some(Bad::Kind) => torn_within(HEADER),
            Some(Bad::Sum) => {
                let size = HEADER + header(bytes).map_or(0, |(_, length, _)| length);
                let rotten = sound_but_for_its_length(bytes) || flipped_before(bytes, torn_at - stop.at);
                torn_within(size) && !rotten
            }
            None => false,
        };
        if torn {
            damage.kind = Kind::Torn;
        }
        Ok((damage, zeros_from))
    }

    /// The first sound beginning of a later record, at any offset; and from where on all is zero.
    fn look_behind(&mut self, walk: &Walk, stop: &Stop, first: &[u8]) -> io::Result<(Option<u64>, u64)> {
        let mut zeros_from = stop.at;
        let mut start = stop.at as usize % BLOCK;
        // A fragment that is sound and yet out of place is itself the beginning of a later record.
        let mut look_from = start + usize::from(stop.bad.is_some());
        for number in stop.at / BLOCK as u64..self.count() {
            let base = number * BLOCK as u64;
            let read;
            let block = if base == stop.at - stop.at % BLOCK as u64 {
                first
            } else {
                read = (self.read)(number)?;
                &read
            };
            if let Some(last) = block[start..].iter().rposition(|byte| *byte != 0) {
                zeros_from = base + (start + last + 1) as u64;
                let found = (look_from..block.len()).find(|at| walk.may_follow(&block[*at..]));
                if let Some(at) = found {
                    return Ok((Some(base + at as u64), zeros_from));
                }
            }
            (start, look_from) = (0, 0);
        }
        Ok((None, zeros_from))
    }
}

/// Whether the fragment is sound and all there, if only its length were another: by one bit, or up to the
/// end.
fn sound_but_for_its_length(bytes: &[u8]) -> bool {
    let Some((stored, length, _)) = header(bytes) else { return false };
    let lengths = (0..16).map(|bit| length ^ 1 << bit).chain([bytes.len() - HEADER]);
    lengths
        .filter_map(|length| bytes.get(HEADER - 1..HEADER + length))
        .any(|data| mask(crc32c(data)) == stored)
}

/// Whether one flipped bit before `torn_at` (counted from the fragment's beginning) is all that is wrong.
fn flipped_before(bytes: &[u8], torn_at: u64) -> bool {
    let Some((stored, length, _)) = header(bytes) else { return false };
    match one_flipped_bit(&bytes[HEADER - 1..HEADER + length], stored) {
        Some(Flip::InSum) => true,
        Some(Flip::InByte(at)) => ((at + HEADER - 1) as u64) < torn_at,
        None => false,
    }
}

/// Where reading stopped, and why; `bad` is `None` for a sound fragment in a place where it cannot be.
struct Stop {
    at: u64,
    bad: Option<Bad>,
}

struct Walk {
    records: u64,
    next_sequence: u64,
    /// Where the record that is not yet complete begins.
    open: Option<u64>,
    /// The sequence number after the record that is not yet complete.
    ended: u64,
}

impl Walk {
    fn scan(&self) -> Scan {
        Scan { records: self.records, next_sequence: self.next_sequence, blank: false, damage: None }
    }

    fn block(&mut self, base: u64, block: &[u8]) -> Result<(), Stop> {
        let mut at = 0;
        while BLOCK - at >= HEADER && at < block.len() {
            let here = base + at as u64;
            let found = fragment(&block[at..]).map_err(|bad| Stop { at: here, bad: Some(bad) })?;
            self.take(here, &found).map_err(|()| Stop { at: here, bad: None })?;
            at += found.size();
        }
        Ok(())
    }

    fn take(&mut self, at: u64, found: &Fragment<'_>) -> Result<(), ()> {
        match (found.part, self.open) {
            (Part::Skipped, _) => return Ok(()),
            (Part::Whole | Part::First, None) => {
                let next = found.sequence().map(|(sequence, count)| sequence.saturating_add(count.into()));
                self.ended = next.unwrap_or(self.next_sequence);
                self.open = Some(at);
            }
            (Part::Middle | Part::Last, Some(_)) => {}
            _ => return Err(()),
        }
        if matches!(found.part, Part::Whole | Part::Last) {
            self.open = None;
            self.records += 1;
            self.next_sequence = self.ended;
        }
        Ok(())
    }

    /// Whether a record that was written later begins here. `bytes` end with their block or with the file.
    fn may_follow(&self, bytes: &[u8]) -> bool {
        let begins = |kind: u8| Part::of(kind).is_some_and(Part::begins);
        if !header(bytes).is_some_and(|(_, _, kind)| begins(kind)) {
            return false;
        }
        let Ok(found) = fragment(bytes) else { return false };
        let until = self.next_sequence.saturating_add(SEQUENCES_AHEAD_MAX);
        match (found.part, found.sequence()) {
            // The first of several fills its block, and may be too short to show a number.
            (Part::First, _) if found.size() < bytes.len() => false,
            (Part::First, None) => true,
            (_, None) => false,
            (_, Some((sequence, _))) => {
                self.next_sequence == 0 || (self.next_sequence..until).contains(&sequence)
            }
        }
    }
}
