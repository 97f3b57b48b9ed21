//! How many bytes the log takes, and from which entry on it takes at most so many.
//!
//! ```text
//!   entries   1 2 3 4 5 6 7 8 9 ...
//!   marks     |       |   |       one for each 256 KiB: (index, bytes of everything before it)
//! ```
//!
//! Invariant: what it says is right to one mark, and too much rather than too little: a log that was
//! truncated is thought longer, so it is shortened sooner.
//!
//! Not here: shortening it ([`crate::retention`]).

use std::collections::VecDeque;

/// Bytes between marks.
const STRIDE_BYTES: u64 = 256 << 10;

/// The sizes of a log's entries, roughly.
#[derive(Clone, Debug, Default)]
pub(super) struct Footprint {
    /// Bytes of all entries that were ever added.
    total: u64,
    marks: VecDeque<(u64, u64)>,
}

impl Footprint {
    /// The entry at `index` was added.
    pub(super) fn push(&mut self, index: u64, size: usize) {
        if self.marks.back().is_none_or(|(_, before)| self.total - before >= STRIDE_BYTES) {
            self.marks.push_back((index, self.total));
        }
        self.total += size as u64;
    }

    /// The entries from `next` on are gone.
    pub(super) fn truncate(&mut self, next: u64) {
        while self.marks.back().is_some_and(|(index, _)| *index >= next) {
            self.marks.pop_back();
        }
    }

    /// The entries before `first` are gone.
    pub(super) fn purge(&mut self, first: u64) {
        // The last mark before `first` stays: the bytes behind it are counted from there.
        while self.marks.get(1).is_some_and(|(index, _)| *index <= first) {
            self.marks.pop_front();
        }
    }

    /// Bytes of the entries from `index` on.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        let after = self.marks.partition_point(|(marked, _)| *marked <= index);
        let before = after.checked_sub(1).and_then(|at| self.marks.get(at)).or(self.marks.front());
        before.map_or(0, |(_, before)| self.total - before)
    }

    /// The first marked index from which on the entries take at most `bytes`; `None` when not even
    /// the last mark is near enough to the end.
    pub(super) fn first_within(&self, bytes: u64) -> Option<u64> {
        let from = self.marks.partition_point(|(_, before)| self.total - before > bytes);
        self.marks.get(from).map(|(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_right_to_one_mark_and_never_too_small(
            sizes in prop::collection::vec(1usize..400_000, 1..200),
            purged in 0usize..100,
            bytes in 0u64..20_000_000,
        ) {
            let mut footprint = Footprint::default();
            for (index, size) in sizes.iter().enumerate() {
                footprint.push(index as u64, *size);
            }
            let purged = purged.min(sizes.len() - 1);
            footprint.purge(purged as u64);
            let real = |from: usize| sizes[from..].iter().map(|size| *size as u64).sum::<u64>();
            for from in purged..sizes.len() {
                let said = footprint.bytes_from(from as u64);
                prop_assert!(said >= real(from), "{said} of {} from {from}", real(from));
                prop_assert!(said <= real(from) + STRIDE_BYTES + 400_000);
            }
            if let Some(first) = footprint.first_within(bytes) {
                let first = usize::try_from(first).expect("small").max(purged);
                prop_assert!(real(first) <= bytes, "{} from {first}", real(first));
            }
        }
    }

    #[test]
    fn a_truncated_log_is_thought_longer_never_shorter() {
        let mut footprint = Footprint::default();
        for index in 0..10 {
            footprint.push(index, 1 << 20);
        }
        footprint.truncate(4);
        footprint.push(4, 10);
        assert!(footprint.bytes_from(0) >= 4 << 20);
        assert_eq!(footprint.first_within(10), Some(4));
    }
}
