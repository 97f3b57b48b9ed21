//! Transactions and prefix views against a plain map.

use super::*;
use proptest::prelude::*;

/// A map as a view.
struct MapView(BTreeMap<Vec<u8>, Vec<u8>>);

impl View for MapView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).map(|value| Bytes::copy_from_slice(value)))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        let inside =
            self.0.iter().filter(|(key, _)| from <= key.as_slice() && (to.is_empty() || key.as_slice() < to));
        let pairs: Vec<_> = if reverse { inside.rev().collect() } else { inside.collect() };
        for (key, value) in pairs {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn pairs(view: &dyn View, from: &[u8], to: &[u8], reverse: bool, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    view.scan(from, to, reverse, &mut |key, value| {
        assert!(found.len() < limit, "visited after a break");
        found.push((key.to_vec(), value.to_vec()));
        if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .expect("a map does not fail");
    found
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>, u8),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few distinct keys, so that steps meet; 255 so that bounds carry.
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(2), Just(255)], 0..3)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (key(), any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        1 => key().prop_map(Step::Delete),
        1 => (key(), key()).prop_map(|(from, to)| Step::DeleteRange(from, to)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn a_transaction_reads_like_a_map_that_was_changed(
        base in prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 1), 0..12),
        steps in prop::collection::vec(step(), 0..12),
        from in key(), to in key(), reverse in any::<bool>(), limit in 1usize..9,
    ) {
        let view = MapView(base.clone());
        let mut txn = Txn::new(&view);
        let mut model = base.clone();
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    txn.put(key.clone(), vec![value]);
                    model.insert(key, vec![value]);
                }
                Step::Delete(key) => {
                    txn.delete(key.clone());
                    model.remove(&key);
                }
                Step::DeleteRange(from, to) => {
                    txn.delete_range(from.clone(), to.clone());
                    model.retain(|key, _| !(from <= *key && *key < to));
                }
            }
        }
        let model = MapView(model);
        prop_assert_eq!(
            pairs(&txn, &from, &to, reverse, limit),
            pairs(&model, &from, &to, reverse, limit)
        );
        prop_assert_eq!(txn.get(&from), model.get(&from));

        // Applying the parts to the base gives what the transaction showed.
        let writes = txn.into_parts();
        let mut applied = base;
        for (from, to) in &writes.ranges {
            applied.retain(|key, _| !(from.as_ref() <= key.as_slice() && key.as_slice() < to.as_ref()));
        }
        for (key, value) in writes.points {
            match value {
                Some(value) => { applied.insert(key.to_vec(), value.to_vec()); }
                None => { applied.remove(key.as_ref()); }
            }
        }
        prop_assert_eq!(applied, model.0);
    }

    #[test]
    fn a_prefix_view_shows_its_keys_and_no_others(
        base in prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 1), 0..20),
        prefix in key(), from in key(), to in key(), reverse in any::<bool>(),
    ) {
        let view = MapView(base.clone());
        let cut = PrefixView::new(&view, prefix.clone().into());
        let model = MapView(
            base.iter()
                .filter_map(|(key, value)| Some((key.strip_prefix(prefix.as_slice())?.to_vec(), value.clone())))
                .collect(),
        );
        prop_assert_eq!(
            pairs(&cut, &from, &to, reverse, 99),
            pairs(&model, &from, &to, reverse, 99)
        );
        prop_assert_eq!(cut.get(&from), model.get(&from));
    }
}

#[test]
fn a_long_key_is_found_behind_its_prefix() {
    let long = vec![7u8; 300];
    let stored = [b"pp".as_slice(), &long].concat();
    let view = MapView(BTreeMap::from([(stored, b"v".to_vec())]));
    let cut = PrefixView::new(&view, Bytes::from_static(b"pp"));
    assert_eq!(cut.get(&long), Ok(Some(Bytes::from_static(b"v"))));
}

#[test]
fn the_end_of_a_prefix_carries() {
    assert_eq!(prefix_end(&[1, 2]).as_ref(), [1, 3]);
    assert_eq!(prefix_end(&[1, 255]).as_ref(), [2]);
    assert_eq!(prefix_end(&[255, 255]).as_ref(), [0u8; 0]);
}
