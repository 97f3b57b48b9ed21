//! How many openings came to what; read by the metrics page.
//!
//! Invariant: only what a unit of this settler plainly did is counted, so the counts may lag the
//! rows after unknown outcomes and crashes; reconcile counts the rows themselves.
//!
//! Not here: queue depths and ages (the queue's own statistics).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::row::{Reason, RowState};

/// Counters of one settler.
#[derive(Debug, Default)]
pub struct Counters {
    credited: AtomicU64,
    pending: AtomicU64,
    unread: AtomicU64,
    again: AtomicU64,
    rejected: [AtomicU64; Reason::ALL.len()],
}

impl Counters {
    pub(super) fn row(&self, state: RowState) {
        let counter = match state {
            RowState::Credited => &self.credited,
            RowState::Pending => &self.pending,
            RowState::Rejected(reason) => return self.rejected(reason),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self, reason: Reason) {
        self.rejected[reason as usize - 1].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unread(&self) {
        self.unread.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn again(&self) {
        self.again.fetch_add(1, Ordering::Relaxed);
    }

    /// All counts by name: `credited`, `pending`, `again` (found settled), `unread` (no openings),
    /// and every reason of rejection.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = vec![
            ("credited", read(&self.credited)),
            ("pending", read(&self.pending)),
            ("again", read(&self.again)),
            ("unread", read(&self.unread)),
        ];
        counts.extend(
            Reason::ALL.iter().zip(&self.rejected).map(|(reason, counter)| (reason.code(), read(counter))),
        );
        counts
    }
}
