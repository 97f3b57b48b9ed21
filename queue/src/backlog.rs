//! The order in which live messages are due: what a partition keeps in memory.
//!
//! ```text
//!   live     seq -> header                     all messages that are not dead or done
//!   by_key   (key, seq)                        the first of a key is its head
//!   heads    (deliver at, seq) of every head   the only messages that may be delivered
//!   later    (deliver at, seq)                 messages that came with a delay, for counting
//! ```
//! A message waits for those of its key before it, so only heads are ever delivered; a head that
//! is delayed holds back its key and nothing else.
//!
//! Invariant: a function of the set of live headers alone: inserting them in any order, or
//! rebuilding from the key space, gives an equal backlog.
//!
//! Not here: leases (`lease` skips heads whose key is in flight) and bodies (read when leased).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::table::Header;

/// Live messages, ordered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    live: BTreeMap<u64, Header>,
    by_key: BTreeSet<(Bytes, u64)>,
    heads: BTreeSet<(u64, u64)>,
    later: BTreeSet<(u64, u64)>,
    bytes: u64,
}

impl Backlog {
    /// The header of a live message.
    #[must_use]
    pub fn get(&self, seq: u64) -> Option<&Header> {
        self.live.get(&seq)
    }

    /// Live messages from `seq` on, in order of acceptance.
    pub fn from(&self, seq: u64) -> impl Iterator<Item = (u64, &Header)> + '_ {
        self.live.range(seq..).map(|(seq, header)| (*seq, header))
    }

    /// How many are live.
    #[must_use]
    pub fn len(&self) -> u64 {
        u64::try_from(self.live.len()).expect("a count of things in memory")
    }

    /// Whether none is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Bytes of keys, dedup ids and bodies of all live messages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The oldest live message; sequence numbers follow acceptance.
    #[must_use]
    pub fn oldest(&self) -> Option<&Header> {
        self.live.values().next()
    }

    /// The heads of all keys with the time they are due, earliest first.
    pub fn heads(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.heads.iter().copied()
    }

    /// When the next head falls due that is not due at `now_ms`.
    #[must_use]
    pub fn next_due_ms(&self, now_ms: u64) -> Option<u64> {
        let from = (now_ms.checked_add(1)?, 0);
        self.heads.range(from..).next().map(|(due_ms, _)| *due_ms)
    }

    /// Messages that are not due at `now_ms`.
    pub fn later_than(&self, now_ms: u64) -> impl Iterator<Item = u64> + '_ {
        let from = (now_ms.saturating_add(1), 0);
        self.later.range(from..).map(|(_, seq)| *seq)
    }

    pub(crate) fn insert(&mut self, seq: u64, header: Header) {
        assert!(!self.live.contains_key(&seq), "message {seq} is in the backlog already");
        let old_head = self.head_of(&header.key);
        self.bytes += header.bytes();
        self.by_key.insert((header.key.clone(), seq));
        if header.deliver_at_ms > header.enqueued_ms {
            self.later.insert((header.deliver_at_ms, seq));
        }
        if old_head.is_none_or(|head| seq < head) {
            if let Some(head) = old_head {
                self.drop_head(head);
            }
            self.heads.insert((header.deliver_at_ms, seq));
        }
        self.live.insert(seq, header);
    }

    pub(crate) fn remove(&mut self, seq: u64) -> Option<Header> {
        let header = self.live.remove(&seq)?;
        let was_head = self.heads.remove(&(header.deliver_at_ms, seq));
        self.later.remove(&(header.deliver_at_ms, seq));
        let listed = self.by_key.remove(&(header.key.clone(), seq));
        assert!(listed, "message {seq} was live but not listed under its key");
        assert!(header.bytes() <= self.bytes, "the backlog counts fewer bytes than message {seq} has");
        self.bytes -= header.bytes();
        if was_head && let Some(next) = self.head_of(&header.key) {
            let due = self.live.get(&next).expect("by_key lists only live messages").deliver_at_ms;
            self.heads.insert((due, next));
        }
        Some(header)
    }

    fn head_of(&self, key: &Bytes) -> Option<u64> {
        let (found, seq) = self.by_key.range((key.clone(), 0)..).next()?;
        (found == key).then_some(*seq)
    }

    fn drop_head(&mut self, seq: u64) {
        let due = self.live.get(&seq).expect("a head is live").deliver_at_ms;
        let dropped = self.heads.remove(&(due, seq));
        assert!(dropped, "message {seq} heads its key but not the heads");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(key: u8, due: u64) -> Header {
        let key = Bytes::from(vec![key]);
        Header { enqueued_ms: 5, deliver_at_ms: due, attempts: 0, body_len: 3, dedup_id: key.clone(), key }
    }

    /// What the heads are, computed the slow way.
    fn naive_heads(backlog: &Backlog) -> Vec<(u64, u64)> {
        let mut first: BTreeMap<Bytes, (u64, u64)> = BTreeMap::new();
        for (seq, header) in &backlog.live {
            first.entry(header.key.clone()).or_insert((header.deliver_at_ms, *seq));
        }
        let mut heads: Vec<(u64, u64)> = first.into_values().collect();
        heads.sort_unstable();
        heads
    }

    proptest! {
        #[test]
        fn the_heads_are_the_first_of_each_key_whatever_happened(
            steps in proptest::collection::vec((any::<bool>(), 0u64..20, 0u8..4, 0u64..10), 0..80)
        ) {
            let mut backlog = Backlog::default();
            for (insert, seq, key, due) in steps {
                if !insert {
                    backlog.remove(seq);
                } else if backlog.get(seq).is_none() {
                    backlog.insert(seq, header(key, due));
                }
                prop_assert_eq!(backlog.heads().collect::<Vec<_>>(), naive_heads(&backlog));
                let mut rebuilt = Backlog::default();
                for (seq, header) in backlog.live.iter().rev() {
                    rebuilt.insert(*seq, header.clone());
                }
                prop_assert_eq!(&rebuilt, &backlog);
                prop_assert_eq!(backlog.bytes(), backlog.len() * 5);
            }
        }
    }

    #[test]
    fn only_delayed_messages_are_later() {
        let mut backlog = Backlog::default();
        backlog.insert(1, header(1, 5));
        backlog.insert(2, header(2, 9));
        assert_eq!(backlog.later_than(0).collect::<Vec<_>>(), vec![2]);
        assert_eq!(backlog.later_than(9).count(), 0);
    }
}
