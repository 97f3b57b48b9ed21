//! What is kept is what the engine holds, whatever is read, written and removed in between, and
//! however little memory there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Hot, HotView};
use crate::engine::sim::{SimDisk, SimEngine};
use crate::engine::{Batch, Engine, EngineError, View, Visit};

#[derive(Clone, Debug)]
enum Step {
    Read(u8),
    Put(u8, u16),
    Delete(u8),
    DeleteRange(u8, u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any::<u8>().prop_map(|key| Step::Read(key % 32)),
        3 => any::<(u8, u16)>().prop_map(|(key, value)| Step::Put(key % 32, value)),
        1 => any::<u8>().prop_map(|key| Step::Delete(key % 32)),
        1 => any::<(u8, u8)>().prop_map(|(from, to)| Step::DeleteRange(from % 32, to % 32)),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn a_hot_view_answers_as_its_engine(steps in steps(), bytes_max in 200_u64..8_000) {
        let engine: Arc<dyn Engine> = SimEngine::open(&SimDisk::default());
        let hot = Hot::new(bytes_max);
        for step in steps {
            let mut batch = Batch::with_capacity(1);
            match step {
                Step::Read(_) => {}
                Step::Put(key, value) => batch.put(vec![key], value.to_be_bytes().to_vec()),
                Step::Delete(key) => batch.delete(vec![key]),
                Step::DeleteRange(from, to) => batch.delete_range(vec![from], vec![to]),
            }
            hot.write(&batch);
            engine.write(batch).expect("healthy");
            let view = HotView::new(&*engine, &hot);
            let looked_at: Vec<u8> = if let Step::Read(key) = step { vec![key] } else { (0..32).collect() };
            for key in looked_at {
                prop_assert_eq!(view.get(&[key]).expect("healthy"), engine.get(&[key]).expect("healthy"));
            }
        }
    }
}

/// Counts what is asked of an engine that holds one pair.
#[derive(Default)]
struct Asked(AtomicUsize);

impl View for Asked {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok((key == b"key").then(|| Bytes::from_static(b"value")))
    }

    fn scan(&self, _: &[u8], _: &[u8], _: bool, _: Visit<'_>) -> Result<(), EngineError> {
        Ok(())
    }
}

#[test]
fn what_is_read_again_is_not_asked_of_the_engine() {
    let (engine, hot) = (Asked::default(), Hot::new(100_000));
    let view = HotView::new(&engine, &hot);
    for _ in 0..3 {
        assert_eq!(view.get(b"key").expect("healthy"), Some(Bytes::from_static(b"value")));
        assert_eq!(view.get(b"none").expect("healthy"), None);
    }
    assert_eq!(engine.0.load(Ordering::Relaxed), 2, "once for the pair, once for the lack of one");
    hot.clear();
    view.get(b"key").expect("healthy");
    assert_eq!(engine.0.load(Ordering::Relaxed), 3);
}

#[test]
fn what_is_written_and_never_read_takes_no_room() {
    let hot = Hot::new(10_000);
    let mut batch = Batch::with_capacity(100);
    (0..100_u8).for_each(|key| batch.put(vec![key], &b"value"[..]));
    hot.write(&batch);
    assert_eq!(hot.pairs.len(), 0);
}
