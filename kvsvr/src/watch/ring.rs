//! The newest part of history, in memory: what watches that keep up are served from.
//!
//! Invariant: it holds every event of the revisions `from..=head`. What makes room is whole
//! revisions, the oldest first.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Change, Page};

/// The newest revisions, as many as fit.
#[derive(Debug)]
pub(super) struct Ring {
    changes: VecDeque<Arc<Change>>,
    from: i64,
    head: i64,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    /// Holds nothing, and knows of nothing after `head`.
    pub(super) fn new(head: i64, bytes_max: usize) -> Ring {
        Ring { changes: VecDeque::new(), from: head + 1, head, bytes: 0, bytes_max }
    }

    /// The newest revision it knows of.
    pub(super) fn head(&self) -> i64 {
        self.head
    }

    /// Adds the revisions after the head, through the page's last.
    pub(super) fn push(&mut self, page: &Page) {
        assert!(page.through >= self.head, "history does not go back");
        let fits = page.changes.first().is_none_or(|first| first.revision() > self.head);
        assert!(fits, "a page follows what is there");
        for change in &page.changes {
            self.bytes += change.bytes();
            self.changes.push_back(Arc::clone(change));
        }
        self.head = page.through;
        while self.bytes > self.bytes_max {
            let oldest = self.changes.front().expect("nothing takes no room").revision();
            let count = self.changes.partition_point(|change| change.revision() <= oldest);
            for change in self.changes.drain(..count) {
                self.bytes -= change.bytes();
            }
            self.from = oldest + 1;
        }
    }

    /// The events from revision `from` on, about `bytes_max` bytes of them; `None` when some of
    /// them had to make room.
    pub(super) fn read(&self, from: i64, bytes_max: usize) -> Option<Page> {
        if from < self.from {
            return None;
        }
        let first = self.changes.partition_point(|change| change.revision() < from);
        let mut page = Page { changes: Vec::new(), through: self.head };
        let mut bytes = 0;
        for change in self.changes.iter().skip(first) {
            let last = page.changes.last().map_or(i64::MAX, |last| last.revision());
            if bytes >= bytes_max && last < change.revision() {
                page.through = last;
                break;
            }
            bytes += change.bytes();
            page.changes.push(Arc::clone(change));
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::control::Event;
    use crate::wire::mvccpb::KeyValue;

    fn page(revisions: &[i64], through: i64) -> Page {
        let change = |revision: &i64| {
            let pair = KeyValue { key: "k".into(), mod_revision: *revision, ..KeyValue::default() };
            Change::new(Event { pair, tombstone: false })
        };
        Page { changes: revisions.iter().map(change).collect(), through }
    }

    fn revisions(page: &Page) -> Vec<i64> {
        page.changes.iter().map(|change| change.revision()).collect()
    }

    #[test]
    fn what_is_read_is_what_was_added_in_whole_revisions() {
        let mut ring = Ring::new(1, usize::MAX);
        ring.push(&page(&[2, 3, 3, 3, 4], 5));
        let read = ring.read(2, 1).expect("held");
        assert_eq!((revisions(&read), read.through), (vec![2], 2));
        let read = ring.read(3, 1).expect("held");
        assert_eq!((revisions(&read), read.through), (vec![3, 3, 3], 3));
        let read = ring.read(4, 1).expect("held");
        assert_eq!((revisions(&read), read.through), (vec![4], 5));
        let read = ring.read(6, 1).expect("nothing yet");
        assert_eq!((revisions(&read), read.through), (vec![], 5));
        assert!(ring.read(1, 1).is_none(), "what was before it began is elsewhere");
    }

    #[test]
    fn the_oldest_revisions_make_room_as_a_whole() {
        let one = page(&[2], 2).changes[0].bytes();
        let mut ring = Ring::new(1, one * 3);
        ring.push(&page(&[2, 2, 3], 3));
        ring.push(&page(&[4], 4));
        assert!(ring.read(2, usize::MAX).is_none(), "both events of revision 2 are gone");
        assert_eq!(revisions(&ring.read(3, usize::MAX).expect("held")), [3, 4]);
        ring.push(&page(&[5, 5, 5, 5], 5));
        assert!(ring.read(5, usize::MAX).is_none(), "a revision larger than the ring is not held in part");
        assert_eq!(ring.read(6, usize::MAX).expect("empty").through, 5);
    }
}
