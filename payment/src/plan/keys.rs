//! Which data key seals which packets.
//!
//! ```text
//!   the money line:   slot 0: batch 1 (file 0, file 1, ...), batch 2 (...), ... | slot 1: ...
//!   keys along it:    |-- key 1 --|-- key 2 --|- key 3 -|                       |-- key 4 --|
//! ```
//! The rule: cells stand in a line, slot by slot, in a slot batch by batch, in a batch file by
//! file. A key takes consecutive cells while they fit its budget; a slot begins a new key, so keys
//! can be activated slot by slot. A cell that is worth more than one key may protect has keys of
//! its own, and its packets take them one after another in the same way.
//!
//! Invariant: no key protects more money than the budget of a key.
//!
//! Not here: key material (crate `ticket` derives it from the build's secret).

use ticket::money::Fen;

use super::budget::Batch;
use super::deal::Cell;
use super::error::BuildError;
use super::limits::KEY_COUNT_MAX;

/// The keys while they are given out.
pub(crate) struct KeyLine {
    budget_fen: u64,
    /// Keys given out so far; the last is the current one. May pass the limit: `finish` tells.
    given: u64,
    /// What the current key protects; `None`: it takes no more.
    spent_fen: Option<u64>,
}

impl KeyLine {
    /// No keys yet; each may protect `budget`.
    pub fn new(budget: Fen) -> KeyLine {
        assert!(budget.get() > 0, "the script was checked to give keys a budget");
        KeyLine { budget_fen: budget.get(), given: 0, spent_fen: None }
    }

    /// The next cell begins a new key.
    pub fn begin_slot(&mut self) {
        self.spent_fen = None;
    }

    /// Gives the next cell on the line its keys.
    pub fn assign(&mut self, cell: &mut Cell, batch: &Batch) {
        if cell.total_fen > self.budget_fen {
            let keys = keys_within(self.budget_fen, cell, batch);
            self.put(cell, self.given + 1, keys);
            self.given += keys;
            self.spent_fen = None;
            return;
        }
        match self.spent_fen {
            Some(spent) if spent + cell.total_fen <= self.budget_fen => {
                self.spent_fen = Some(spent + cell.total_fen);
            }
            _ => {
                self.given += 1;
                self.spent_fen = Some(cell.total_fen);
            }
        }
        self.put(cell, self.given, 1);
    }

    fn put(&self, cell: &mut Cell, first: u64, count: u64) {
        assert!(first >= 1 && count >= 1, "key ids begin at 1");
        // Numbers past the limit are never used: `finish` refuses them.
        cell.key_first = u16::try_from(first).unwrap_or(u16::MAX);
        cell.key_count = u16::try_from(count).unwrap_or(u16::MAX);
    }

    /// How many keys the build has.
    ///
    /// # Errors
    /// [`BuildError::Layout`] when there are more than key ids.
    pub fn finish(self) -> Result<u16, BuildError> {
        u16::try_from(self.given).map_err(|_| {
            BuildError::Layout(format!(
                "the event needs {} data keys of {} yuan each, at most {KEY_COUNT_MAX} can be had: raise seal.key_budget_yuan",
                self.given,
                Fen::new(self.budget_fen)
            ))
        })
    }
}

/// How many keys a cell's packets need at most when each takes packets until the next one would
/// be too much: a key that is full holds more than its budget less one packet, and two in a row
/// hold more than one budget.
fn keys_within(budget_fen: u64, cell: &Cell, batch: &Batch) -> u64 {
    let max = batch.max.get();
    assert!(max <= budget_fen, "batch {} was checked to have packets a key can hold", batch.id);
    let by_packet = cell.total_fen / (budget_fen - max + 1) + 1;
    let by_pairs = cell.total_fen / (budget_fen + 1) * 2 + 1;
    by_packet.min(by_pairs)
}

/// The keys of one cell while its packets are sealed.
pub(crate) struct CellKeys {
    budget_fen: u64,
    last: u16,
    key: u16,
    spent_fen: u64,
}

impl CellKeys {
    /// Begins with the cell's first key.
    pub fn new(cell: &Cell, budget: Fen) -> CellKeys {
        assert!(cell.key_first >= 1 && cell.key_count >= 1, "the dealer gave every cell its keys");
        let last = cell.key_first + (cell.key_count - 1);
        CellKeys { budget_fen: budget.get(), last, key: cell.key_first, spent_fen: 0 }
    }

    /// The key of the next packet.
    #[inline]
    pub fn next(&mut self, amount_fen: u64) -> u16 {
        if self.spent_fen + amount_fen > self.budget_fen {
            assert!(self.key < self.last, "the dealer reserved too few keys");
            self.key += 1;
            self.spent_fen = 0;
        }
        self.spent_fen += amount_fen;
        self.key
    }
}
