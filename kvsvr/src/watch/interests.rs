//! Who wants to hear of a key: watches by the keys they watch.
//!
//! Watches of one key are found by that key, whatever their number. Ranges are looked through one
//! by one, those that begin behind the key left out; equal ranges count once.
//!
//! Invariant: an id is found for a key exactly when it was added with a span that holds the key.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::span::Span;

/// Ids by span.
#[derive(Debug)]
pub(super) struct Interests<Id> {
    keys: BTreeMap<Bytes, BTreeSet<Id>>,
    // By where the range begins, then by where it ends; `None` is no end.
    ranges: BTreeMap<Bytes, BTreeMap<Option<Bytes>, BTreeSet<Id>>>,
}

impl<Id> Default for Interests<Id> {
    fn default() -> Interests<Id> {
        Interests { keys: BTreeMap::new(), ranges: BTreeMap::new() }
    }
}

fn bounds(span: &Span) -> Option<(&Bytes, Option<Bytes>)> {
    match span {
        Span::One(_) => None,
        Span::Between(from, to) => Some((from, Some(to.clone()))),
        Span::From(from) => Some((from, None)),
    }
}

impl<Id: Ord + Copy> Interests<Id> {
    pub(super) fn add(&mut self, span: &Span, id: Id) {
        match (span, bounds(span)) {
            (Span::One(key), _) => self.keys.entry(key.clone()).or_default().insert(id),
            (_, Some((from, end))) => {
                self.ranges.entry(from.clone()).or_default().entry(end).or_default().insert(id)
            }
            (_, None) => unreachable!("a span is a key or has bounds"),
        };
    }

    pub(super) fn remove(&mut self, span: &Span, id: Id) {
        if let Span::One(key) = span {
            if let Some(ids) = self.keys.get_mut(key) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.keys.remove(key);
                }
            }
            return;
        }
        let Some((from, end)) = bounds(span) else { return };
        let Some(ends) = self.ranges.get_mut(from) else { return };
        if let Some(ids) = ends.get_mut(&end) {
            ids.remove(&id);
            if ids.is_empty() {
                ends.remove(&end);
            }
        }
        if ends.is_empty() {
            self.ranges.remove(from);
        }
    }

    /// Calls `found` for every id that wants to hear of `key`; once per span that holds it.
    pub(super) fn each(&self, key: &Bytes, found: &mut impl FnMut(Id)) {
        for id in self.keys.get(key).into_iter().flatten() {
            found(*id);
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
        (key(), prop_oneof![Just(Bytes::new()), Just(Bytes::from_static(b"\0")), key()])
            .prop_filter_map("empty", |(from, end)| Span::of_watch(&from, &end))
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
