//! One suite over every engine: any run of writes, durable points, crashes and reads must look
//! like a map, and a crash may take only a suffix of what was not durable.
//!
//! Not here: faults that only one engine can show (`sim::tests`, `rocks::tests`).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::engine::rocks::{Memory, Mode, RocksEngine};
use crate::engine::sim::{SimDisk, SimEngine};
use crate::engine::{Batch, Engine, View};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// An engine together with what survives its process.
trait Bed {
    fn engine(&self) -> &dyn Engine;
    /// Cuts the power and opens what is left.
    fn crash(&mut self, seed: usize);
}

struct SimBed(SimDisk, Arc<SimEngine>);

impl Bed for SimBed {
    fn engine(&self) -> &dyn Engine {
        &*self.1
    }

    fn crash(&mut self, seed: usize) {
        self.0.crash(&mut |below| seed % below);
        self.1 = SimEngine::open(&self.0);
    }
}

struct RocksBed {
    directory: tempfile::TempDir,
    life: usize,
    mode: Mode,
    engine: Arc<RocksEngine>,
}

pub(super) const SMALL: Memory = Memory { write_buffer_bytes: 64 << 10, block_cache_bytes: 1 << 20 };

impl RocksBed {
    fn new(mode: Mode) -> RocksBed {
        let directory = tempfile::tempdir().expect("a directory");
        let engine = RocksEngine::open(&directory.path().join("0"), mode, SMALL).expect("new");
        RocksBed { directory, life: 0, mode, engine }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join(self.life.to_string())
    }
}

/// Copies an instance as the disk holds it while the process still has it open: what a kill at
/// this moment would leave.
///
/// RocksDB flushes, compacts and deletes in the background meanwhile. A copy made across such a
/// change is the image of no moment, so it is made again until nothing changed around it.
pub(super) fn copy_image(from: &Path, to: &Path) {
    for _ in 0..1_000 {
        let before = listing(from);
        std::fs::create_dir(to).expect("a new directory");
        let copied = before.keys().all(|name| std::fs::copy(from.join(name), to.join(name)).is_ok());
        if copied && listing(from) == before {
            return;
        }
        std::fs::remove_dir_all(to).expect("removed");
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("{} does not come to rest", from.display());
}

/// Names and lengths of an instance's files. A file that vanishes meanwhile is left out.
fn listing(directory: &Path) -> BTreeMap<OsString, u64> {
    std::fs::read_dir(directory)
        .expect("readable")
        .map(|file| file.expect("readable"))
        .filter(|file| file.file_name() != "LOCK")
        .filter_map(|file| Some((file.file_name(), file.metadata().ok()?.len())))
        .collect()
}

impl Bed for RocksBed {
    fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    fn crash(&mut self, seed: usize) {
        let before = self.path();
        self.life += 1;
        if seed.is_multiple_of(2) {
            copy_image(&before, &self.path());
        } else {
            // An orderly end: drop, then open the same directory.
            let after = self.path();
            let spare = self.directory.path().join("spare");
            let spare_engine = RocksEngine::open(&spare, self.mode, SMALL).expect("new");
            self.engine = spare_engine;
            std::fs::rename(before, after).expect("renamed");
        }
        self.engine = RocksEngine::open(&self.path(), self.mode, SMALL).expect("what is left opens");
        let _ = std::fs::remove_dir_all(self.directory.path().join("spare"));
    }
}

#[derive(Clone, Debug)]
enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Vec<u8>),
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Change>),
    WriteDurable(Vec<Change>),
    Flush,
    Pin,
    Crash(usize),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(127), Just(255)], 0..4)
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (key(), prop::collection::vec(any::<u8>(), 0..5)).prop_map(|(k, v)| Change::Put(k, v)),
        1 => key().prop_map(Change::Delete),
        1 => (key(), key()).prop_map(|(from, to)| Change::DeleteRange(from, to)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let changes = || prop::collection::vec(change(), 0..6);
    prop_oneof![
        4 => changes().prop_map(Step::Write),
        2 => changes().prop_map(Step::WriteDurable),
        1 => Just(Step::Flush),
        1 => Just(Step::Pin),
        2 => any::<usize>().prop_map(Step::Crash),
    ]
}

fn apply(model: &mut Model, changes: &[Change]) -> Batch {
    let mut batch = Batch::new();
    for change in changes {
        match change.clone() {
            Change::Put(key, value) => {
                batch.put(key.clone(), value.clone());
                model.insert(key, value);
            }
            Change::Delete(key) => {
                batch.delete(key.clone());
                model.remove(&key);
            }
            Change::DeleteRange(from, to) => {
                batch.delete_range(from.clone(), to.clone());
                model.retain(|key, _| !(from <= *key && *key < to));
            }
        }
    }
    batch
}

fn read(view: &dyn View, from: &[u8], to: &[u8], reverse: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    view.scan(from, to, reverse, &mut |key, value| {
        found.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })
    .expect("healthy");
    found
}

fn check_reads(view: &dyn View, model: &Model, from: &[u8], to: &[u8]) {
    let inside = |key: &[u8]| from <= key && (to.is_empty() || key < to);
    let mut expected: Vec<_> =
        model.iter().filter(|(key, _)| inside(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(read(view, from, to, false), expected);
    expected.reverse();
    assert_eq!(read(view, from, to, true), expected);
    assert_eq!(view.get(from), Ok(model.get(from).map(|value| Bytes::copy_from_slice(value))));
}

fn check(bed: &mut dyn Bed, steps: &[Step], from: &[u8], to: &[u8]) {
    // The state after each batch that may still be lost; the first is durable.
    let mut states = vec![Model::new()];
    let mut pinned: Option<(Arc<dyn View>, Model)> = None;
    for step in steps {
        let mut model = states.last().expect("never empty").clone();
        match step {
            Step::Write(changes) => {
                bed.engine().write(apply(&mut model, changes)).expect("healthy");
                states.push(model);
            }
            Step::WriteDurable(changes) => {
                bed.engine().write_durable(apply(&mut model, changes)).expect("healthy");
                states = vec![model];
            }
            Step::Flush => {
                bed.engine().flush().expect("healthy");
                states = vec![model];
            }
            Step::Pin => pinned = Some((bed.engine().snapshot(), model)),
            Step::Crash(seed) => {
                pinned = None;
                bed.crash(*seed);
                let found: Model = read(bed.engine(), &[], &[], false).into_iter().collect();
                assert!(states.contains(&found), "{found:?} is none of {states:?}");
                states = vec![found];
            }
        }
        check_reads(bed.engine(), states.last().expect("never empty"), from, to);
        if let Some((view, model)) = &pinned {
            check_reads(&**view, model, from, to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_simulated_engine_is_a_map_that_loses_a_suffix(
        steps in prop::collection::vec(step(), 0..30), from in key(), to in key(),
    ) {
        let disk = SimDisk::new();
        let engine = SimEngine::open(&disk);
        check(&mut SimBed(disk, engine), &steps, &from, &to);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(16) })]

    #[test]
    fn rocksdb_with_a_log_is_a_map_that_loses_a_suffix(
        steps in prop::collection::vec(step(), 0..20), from in key(), to in key(),
    ) {
        check(&mut RocksBed::new(Mode::Log), &steps, &from, &to);
    }

    #[test]
    fn rocksdb_without_a_log_is_a_map_that_loses_a_suffix(
        steps in prop::collection::vec(step(), 0..20), from in key(), to in key(),
    ) {
        check(&mut RocksBed::new(Mode::State), &steps, &from, &to);
    }
}
