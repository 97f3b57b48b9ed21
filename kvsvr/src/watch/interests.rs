//! Who wants to hear of a key: watches by the keys they watch.
//!
//! ```text
//!   key "ab/7":  keys["ab/7"]                     watches of that key
//!                prefixes[""], ["ab/"] ...        one look for each length that some prefix has
//!                ranges that begin at or before   one by one; equal ranges count once
//! ```
//! Nearly all watches are of keys and prefixes; those are found by a few looks, whatever their
//! number.
//!
//! Invariant: an id is found for a key exactly when it was added with a span that holds the key.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::span::Span;

/// Ids by span.
#[derive(Debug)]
pub(super) struct Interests<Id> {
    keys: BTreeMap<Bytes, BTreeSet<Id>>,
    prefixes: BTreeMap<Bytes, BTreeSet<Id>>,
    // How many of the prefixes have each length.
    lengths: BTreeMap<usize, usize>,
    // By where the range begins, then by where it ends; `None` is no end.
    ranges: BTreeMap<Bytes, BTreeMap<Option<Bytes>, BTreeSet<Id>>>,
}

impl<Id> Default for Interests<Id> {
    fn default() -> Interests<Id> {
        Interests {
            keys: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            lengths: BTreeMap::new(),
            ranges: BTreeMap::new(),
        }
    }
}

/// How a span is looked up.
enum Place {
    Key(Bytes),
    Prefix(Bytes),
    Range(Bytes, Option<Bytes>),
}

fn place(span: &Span) -> Place {
    match (span, span.prefix()) {
        (Span::One(key), _) => Place::Key(key.clone()),
        (_, Some(prefix)) => Place::Prefix(prefix),
        (Span::Between(from, to), None) => Place::Range(from.clone(), Some(to.clone())),
        (Span::From(from), None) => Place::Range(from.clone(), None),
    }
}

// Removes an id, and the whole entry with the last one. Answers whether the entry is gone.
fn remove_from<K: Ord, Id: Ord>(map: &mut BTreeMap<K, BTreeSet<Id>>, key: &K, id: Id) -> bool {
    let Some(ids) = map.get_mut(key) else { return false };
    ids.remove(&id);
    ids.is_empty() && map.remove(key).is_some()
}

impl<Id: Ord + Copy> Interests<Id> {
    pub(super) fn add(&mut self, span: &Span, id: Id) {
        match place(span) {
            Place::Key(key) => {
                self.keys.entry(key).or_default().insert(id);
            }
            Place::Prefix(prefix) => {
                let length = prefix.len();
                let ids = self.prefixes.entry(prefix).or_default();
                if ids.is_empty() {
                    *self.lengths.entry(length).or_insert(0) += 1;
                }
                ids.insert(id);
            }
            Place::Range(from, end) => {
                self.ranges.entry(from).or_default().entry(end).or_default().insert(id);
            }
        }
    }

    pub(super) fn remove(&mut self, span: &Span, id: Id) {
        match place(span) {
            Place::Key(key) => {
                remove_from(&mut self.keys, &key, id);
            }
            Place::Prefix(prefix) => {
                if remove_from(&mut self.prefixes, &prefix, id) {
                    let count = self.lengths.get_mut(&prefix.len()).expect("every prefix is counted");
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            Place::Range(from, end) => {
                let Some(ends) = self.ranges.get_mut(&from) else { return };
                remove_from(ends, &end, id);
                if ends.is_empty() {
                    self.ranges.remove(&from);
                }
            }
        }
    }

    /// Calls `found` for every id that wants to hear of `key`; once per span that holds it.
    pub(super) fn each(&self, key: &Bytes, found: &mut impl FnMut(Id)) {
        for id in self.keys.get(key).into_iter().flatten() {
            found(*id);
        }
        for length in self.lengths.keys().take_while(|length| **length <= key.len()) {
            for id in self.prefixes.get(&key[..*length]).into_iter().flatten() {
                found(*id);
            }
        }
        for (_, ends) in self.ranges.range::<Bytes, _>(..=key) {
            for (end, ids) in ends {
                if end.as_ref().is_none_or(|end| key < end) {
                    ids.iter().for_each(|id| found(*id));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(0u8..3, 1..3).prop_map(Bytes::from)
    }

    fn span() -> impl Strategy<Value = Span> {
        let range = (key(), prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(b"\0")), key()]);
        let prefix = key().prop_map(|prefix| {
            let mut end = prefix.to_vec();
            *end.last_mut().expect("a key is not empty") += 1;
            (prefix, Bytes::from(end))
        });
        prop_oneof![range, prefix].prop_filter_map("empty", |(from, end)| Span::of_watch(&from, &end))
    }

    proptest! {
        #[test]
        fn those_and_only_those_whose_span_holds_the_key_are_found(
            added in prop::collection::vec((span(), 0u8..6), 0..12),
            removed in prop::collection::vec(any::<bool>(), 12),
            key in key(),
        ) {
            let mut interests = Interests::default();
            let mut expected: BTreeSet<(Span, u8)> = added.iter().cloned().collect();
            added.iter().for_each(|(span, id)| interests.add(span, *id));
            for ((span, id), gone) in added.iter().zip(removed) {
                if gone {
                    interests.remove(span, *id);
                    expected.remove(&(span.clone(), *id));
                }
            }
            let mut found = Vec::new();
            interests.each(&key, &mut |id| found.push(id));
            found.sort_unstable();
            let mut wanted: Vec<u8> =
                expected.iter().filter(|(span, _)| span.contains(&key)).map(|(_, id)| *id).collect();
            wanted.sort_unstable();
            prop_assert_eq!(found, wanted);
        }
    }
}
