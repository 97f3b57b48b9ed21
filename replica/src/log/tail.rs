//! What a group's log holds, and its newest entries in memory.
//!
//! ```text
//!   purged | first ...................... base ............ next
//!          |  only in the engine, durable  |  cached, the end |
//!                                             perhaps not durable
//! ```
//!
//! Invariant: the log holds the indexes `first..next` without a hole, the cache holds
//! `base..next`, and everything below `base` is durable. So an entry is always in at least one of
//! the two places, whatever the writer is doing.
//!
//! Not here: the engine, and locks.

use std::collections::VecDeque;

use openraft::entry::RaftEntry;

use crate::log::footprint::Footprint;
use crate::types::{Entry, LogId, Vote};

/// The state of one group's log.
#[derive(Debug, Default)]
pub(super) struct Tail {
    pub(super) first: u64,
    pub(super) base: u64,
    pub(super) next: u64,
    pub(super) last: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) footprint: Footprint,
    entries: VecDeque<(Entry, usize)>,
    cached_bytes: usize,
}

impl Tail {
    /// A log as it was found on disk: `entries` from `first`, the last being `last`.
    pub(super) fn recovered(purged: Option<LogId>, span: Option<(u64, LogId)>) -> Tail {
        let empty = purged.map_or(0, |id| id.index + 1);
        let (first, next) = span.map_or((empty, empty), |(first, last)| (first, last.index + 1));
        assert!(first <= next, "the first entry stands before the last");
        Tail {
            first,
            base: next,
            next,
            last: span.map(|(_, last)| last).or(purged),
            purged,
            ..Tail::default()
        }
    }

    /// Whether an entry at `index` may come next.
    pub(super) fn accepts(&self, index: u64) -> bool {
        let fresh = self.first == self.next && self.purged.is_none();
        fresh || index == self.next
    }

    /// Adds the next entry, which takes `size` bytes on disk.
    pub(super) fn push(&mut self, entry: Entry, size: usize) {
        let index = entry.index();
        assert!(self.accepts(index), "a hole before entry {index}, expected {}", self.next);
        if self.first == self.next {
            (self.first, self.base) = (index, index);
        }
        self.next = index + 1;
        self.last = Some(entry.log_id());
        self.footprint.push(index, size);
        self.cached_bytes += size;
        self.entries.push_back((entry, size));
        self.check();
    }

    /// Drops the oldest cached entries beyond `bytes_max`, but only durable ones: those below
    /// `durable_next`.
    pub(super) fn evict(&mut self, bytes_max: usize, durable_next: u64) {
        while self.cached_bytes > bytes_max && self.base < durable_next && self.base < self.next {
            self.pop_front();
        }
        self.check();
    }

    /// Forgets everything after `keep`. Returns the range of indexes that went.
    pub(super) fn truncate_after(&mut self, keep: Option<LogId>) -> Option<std::ops::Range<u64>> {
        let end = keep.map_or(0, |id| id.index + 1).max(self.first);
        if end >= self.next {
            return None;
        }
        let gone = end..self.next;
        self.footprint.truncate(end);
        while self.next > end.max(self.base) {
            let (_, size) = self.entries.pop_back().expect("the cache reaches to the end");
            self.cached_bytes -= size;
            self.next -= 1;
        }
        self.next = end;
        self.base = self.base.min(end);
        self.last = if self.first < end { keep } else { self.purged };
        self.check();
        Some(gone)
    }

    /// Forgets everything up to and including `upto`. Returns the range of indexes to delete, or
    /// `None` when that much was purged before.
    pub(super) fn purge(&mut self, upto: LogId) -> Option<std::ops::Range<u64>> {
        if self.purged >= Some(upto) {
            return None;
        }
        let end = upto.index + 1;
        let gone = self.first..end.max(self.first);
        self.purged = Some(upto);
        self.first = self.first.max(end);
        self.footprint.purge(self.first);
        while self.base < self.first && self.base < self.next {
            self.pop_front();
        }
        self.base = self.base.max(self.first);
        self.next = self.next.max(self.first);
        if self.first == self.next {
            self.last = self.purged;
        }
        self.check();
        Some(gone)
    }

    /// Cached entries of `range` and their sizes, oldest first.
    pub(super) fn cached(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = (&Entry, usize)> {
        assert!(self.base <= range.start && range.end <= self.next, "asked beyond the cache");
        let from = usize::try_from(range.start - self.base).expect("a cache fits in memory");
        let count = usize::try_from(range.end - range.start).expect("a cache fits in memory");
        self.entries.range(from..from + count).map(|(entry, size)| (entry, *size))
    }

    fn pop_front(&mut self) {
        if let Some((_, size)) = self.entries.pop_front() {
            self.cached_bytes -= size;
        }
        self.base += 1;
    }

    fn check(&self) {
        assert!(self.first <= self.base && self.base <= self.next, "the cache left the log");
        assert!(self.entries.len() as u64 == self.next - self.base, "the cache has a hole");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::LeaderId;
    use openraft::vote::RaftLeaderId;

    fn id(index: u64) -> LogId {
        LogId::new(LeaderId::new(1, 1), index)
    }

    fn filled(range: std::ops::Range<u64>) -> Tail {
        let mut tail = Tail::default();
        for index in range {
            tail.push(Entry::new_blank(id(index)), 10);
        }
        tail
    }

    fn cached(tail: &Tail) -> Vec<u64> {
        tail.cached(tail.base..tail.next).map(|(entry, _)| entry.index()).collect()
    }

    #[test]
    fn only_durable_entries_are_evicted() {
        let mut tail = filled(0..10);
        tail.evict(0, 4);
        assert_eq!(cached(&tail), (4..10).collect::<Vec<_>>());
        tail.evict(30, 10);
        assert_eq!(cached(&tail), [7, 8, 9]);
        assert_eq!((tail.first, tail.next), (0, 10));
    }

    #[test]
    fn truncation_below_the_cache_empties_it() {
        let mut tail = filled(0..10);
        tail.evict(0, 8);
        assert_eq!(tail.truncate_after(Some(id(4))), Some(5..10));
        assert_eq!((tail.base, tail.next, tail.last), (5, 5, Some(id(4))));
        tail.push(Entry::new_blank(id(5)), 10);
        assert_eq!(cached(&tail), [5]);
        assert_eq!(tail.truncate_after(Some(id(9))), None);
        assert_eq!(tail.truncate_after(None), Some(0..6));
        assert_eq!(tail.last, None);
    }

    #[test]
    fn a_purge_beyond_the_end_moves_the_log_there() {
        let mut tail = filled(0..3);
        assert_eq!(tail.purge(id(0)), Some(0..1));
        assert_eq!(tail.purge(id(0)), None);
        assert_eq!(tail.purge(id(20)), Some(1..21));
        assert_eq!((tail.first, tail.next, tail.last), (21, 21, Some(id(20))));
        assert!(!tail.accepts(20) && tail.accepts(21) && !tail.accepts(22));
    }

    #[test]
    fn a_recovered_log_knows_its_ends() {
        let tail = Tail::recovered(Some(id(4)), Some((5, id(9))));
        assert_eq!((tail.first, tail.base, tail.next, tail.last), (5, 10, 10, Some(id(9))));
        let empty = Tail::recovered(Some(id(4)), None);
        assert_eq!((empty.first, empty.next, empty.last), (5, 5, Some(id(4))));
    }
}
