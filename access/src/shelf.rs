//! The files this node issues from, in memory, and the one atomic step by which a record leaves.
//!
//! ```text
//!   0 ........... next ........ reserved ............ count
//!                 |  durable already  |  keeper moves this ahead of need
//!                 take: next < reserved and next < released  ->  next + 1
//! ```
//! A take is one compare-and-swap: no lock, no sync, no call to anybody. When half a block is left
//! the keeper is woken to reserve the next half, so a shaker waits for the disk only if a block
//! leaves faster than one sync takes. One counter per file rather than ranges per worker: the
//! counter is then exact at a clean stop (ranges would leave holes), and a node's files spread the
//! contention.
//!
//! Invariant: an index leaves once, and only while it is below a durable mark of the cursor.
//!
//! Not here: who may take (see `shake`), and when files come and go (see `node`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use ticket::file::TicketFile;
use ticket::id::{FileNo, SlotNo};
use ticket::record::Record;
use tokio::sync::Notify;
use world::NodeId;

use crate::cursor::{Cursor, CursorError};
use crate::shake::Stock;

/// Set in `next` when nothing may leave any more.
const CLOSED: u64 = 1 << 63;

/// One file, its cursor, and how far it has been issued.
pub struct ShelfFile {
    slot: SlotNo,
    file: FileNo,
    home: NodeId,
    resumed_at: u32,
    step: u32,
    records: TicketFile,
    /// The next index to leave; with [`CLOSED`] set, the first that never will.
    next: AtomicU64,
    /// The cursor's durable mark, readable without its lock.
    reserved: AtomicU32,
    /// Whether the keeper has been called already, so that it is called once.
    wanted: AtomicBool,
    keeper: Arc<Notify>,
    /// Gone once the file is closed.
    cursor: Mutex<Option<Cursor>>,
    /// Why nothing more can be reserved.
    fault: Mutex<Option<String>>,
    faulty: AtomicBool,
}

/// A record that has left.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Its slot.
    pub slot: SlotNo,
    /// Its file.
    pub file: FileNo,
    /// Its place in the file.
    pub index: u32,
}

impl ShelfFile {
    /// Puts a loaded file on the shelf; its first block is durable when this returns.
    ///
    /// # Errors
    /// When the cursor cannot reserve.
    pub fn place(
        (slot, file, home): (SlotNo, FileNo, NodeId),
        records: TicketFile,
        cursor: Cursor,
        keeper: Arc<Notify>,
    ) -> Result<ShelfFile, CursorError> {
        let resumed_at = cursor.reserved();
        assert!(resumed_at <= records.count(), "a cursor beyond its file");
        let shelf_file = ShelfFile {
            slot,
            file,
            home,
            resumed_at,
            step: cursor.step(),
            records,
            next: AtomicU64::new(u64::from(resumed_at)),
            reserved: AtomicU32::new(resumed_at),
            wanted: AtomicBool::new(false),
            keeper,
            cursor: Mutex::new(Some(cursor)),
            fault: Mutex::new(None),
            faulty: AtomicBool::new(false),
        };
        shelf_file.reserve()?;
        Ok(shelf_file)
    }

    /// The slot it belongs to.
    #[must_use]
    pub fn slot(&self) -> SlotNo {
        self.slot
    }

    /// Its number.
    #[must_use]
    pub fn file(&self) -> FileNo {
        self.file
    }

    /// The node it was made for.
    #[must_use]
    pub fn home(&self) -> NodeId {
        self.home
    }

    /// Records in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.records.count()
    }

    /// Everything below this has left, or was skipped after a crash.
    #[must_use]
    pub fn position(&self) -> u32 {
        u32::try_from(self.next.load(Ordering::Acquire) & !CLOSED).expect("an index within a file")
    }

    /// Where this run went on.
    #[must_use]
    pub fn resumed_at(&self) -> u32 {
        self.resumed_at
    }

    /// The durable mark.
    #[must_use]
    pub fn reserved(&self) -> u32 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.next.load(Ordering::Acquire) & CLOSED != 0
    }

    /// Why nothing more can be reserved, if so.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// What a take would find, when `released` records may be out by now.
    #[must_use]
    pub fn stock(&self, released: u32) -> Stock {
        let next = self.next.load(Ordering::Acquire);
        if next & CLOSED != 0 || u64::from(self.count()) <= next {
            Stock::Exhausted
        } else if u64::from(released) <= next {
            Stock::Paced
        } else if next < u64::from(self.reserved()) {
            Stock::Ready
        } else if self.faulty.load(Ordering::Relaxed) {
            Stock::Exhausted
        } else {
            Stock::Reserving
        }
    }

    /// Takes the next record, when `released` records may be out by now.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn take(&self, released: u32) -> Result<Taken, Stock> {
        let reserved = self.reserved();
        let ceiling = u64::from(reserved.min(released));
        let step = |next: u64| (next < ceiling).then_some(next + 1);
        let Ok(index) = self.next.fetch_update(Ordering::AcqRel, Ordering::Acquire, step) else {
            self.call_keeper(reserved);
            return Err(self.stock(released));
        };
        let index = u32::try_from(index).expect("an index below a u32 mark");
        assert!(index < reserved, "index {index} left beyond the durable mark {reserved}");
        assert!(index < self.count(), "index {index} left beyond the file");
        if reserved - index <= self.step {
            self.call_keeper(reserved);
        }
        Ok(Taken { slot: self.slot, file: self.file, index })
    }

    /// The record with this index.
    ///
    /// # Errors
    /// When the file does not hold it after all.
    pub fn record(&self, taken: &Taken) -> Result<Record, ticket::file::FileError> {
        assert_eq!((taken.slot, taken.file), (self.slot, self.file), "a record of another file");
        self.records.record(taken.index)
    }

    /// Reserves until a step and more is ahead of need. For the keeper; waits for the disk.
    ///
    /// # Errors
    /// When the cursor cannot reserve; the file then ends at what is durable.
    pub fn reserve(&self) -> Result<(), CursorError> {
        let mut held = self.cursor.lock();
        // Cleared before looking, so that a take after the look calls again.
        self.wanted.store(false, Ordering::Release);
        let Some(cursor) = held.as_mut() else { return Ok(()) };
        while cursor.reserved() < self.count() && cursor.reserved() - self.position() <= self.step {
            match cursor.reserve() {
                Ok(mark) => self.reserved.store(mark, Ordering::Release),
                Err(error) => {
                    self.faulty.store(true, Ordering::Relaxed);
                    // The first fault is the cause; what follows is only that nothing works any more.
                    self.fault.lock().get_or_insert_with(|| error.to_string());
                    return Err(error);
                }
            }
        }
        assert!(self.position() <= cursor.reserved(), "more left than was durable");
        Ok(())
    }

    /// Whether the keeper has something to do here.
    #[must_use]
    pub fn wants_reserve(&self) -> bool {
        self.wanted.load(Ordering::Acquire) && !self.faulty.load(Ordering::Relaxed)
    }

    /// Lets nothing leave any more and writes the exact count.
    ///
    /// # Errors
    /// When the cursor cannot be written; a restart then skips what was reserved.
    pub fn close(&self) -> Result<u32, CursorError> {
        let issued = u32::try_from(self.next.fetch_or(CLOSED, Ordering::AcqRel) & !CLOSED)
            .expect("an index within a file");
        match self.cursor.lock().take() {
            Some(cursor) => cursor.finish(issued).map(|()| issued),
            None => Ok(issued),
        }
    }

    fn call_keeper(&self, reserved: u32) {
        let needed = reserved < self.count() && !self.faulty.load(Ordering::Relaxed);
        if needed && !self.wanted.load(Ordering::Relaxed) && !self.wanted.swap(true, Ordering::AcqRel) {
            self.keeper.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
