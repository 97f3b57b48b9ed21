//! RocksDB beneath a simulated node: real files, in a directory of the run's own.
//!
//! ```text
//!   disk-3/0  <- RocksDB, opened, written and synced by the simulating thread
//!      |  crash: what a kill leaves, or a power cut: write-ahead files end where the last sync ended,
//!      v         perhaps with a part of the batch behind it
//!   disk-3/1  <- RocksDB, opened by the next process
//! ```
//! The process that died may still close its instance: it does so in the old directory, which nobody
//! reads any more.
//!
//! Invariant: what a view shows and what a crash leaves follow from the calls alone. Nothing is compacted
//! and no memtable fills up by itself, so RocksDB's threads decide nothing; paths are relative, so no line
//! of a trace names the machine.
//!
//! Not here: rot (blocks are read again when RocksDB likes), and lost tables: RocksDB syncs a table before
//! its manifest names it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use deploy::failure::{Context, Exit, Failure};
use parking_lot::Mutex;
use replica::engine::rocks::{Memory, Mode, RocksEngine};
use replica::engine::sim::Faults;
use replica::engine::{Batch, Engine, EngineError, View, Visit};

/// Larger than the log of any run: a memtable that is full is written by another thread.
const LOG_MEMORY: Memory = Memory { write_buffer_bytes: 16 << 20, block_cache_bytes: 8 << 20 };
/// The same for the state.
const STATE_MEMORY: Memory = Memory { write_buffer_bytes: 64 << 20, block_cache_bytes: 8 << 20 };
/// The file that says which manifest is in force.
const CURRENT: &str = "CURRENT";

/// The directory of a run, and the process's working directory from the moment it is entered.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// What disks' paths begin with: nothing, once the directory is entered.
    base: PathBuf,
    disks: AtomicU64,
}

impl Scratch {
    /// Where a run of this process may write when nobody says where: in memory, if there is such a place.
    #[must_use]
    pub fn place() -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let shared = PathBuf::from("/dev/shm");
        let parent = if shared.is_dir() { shared } else { std::env::temp_dir() };
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        parent.join(format!("hongbao-sim-{}-{number}", std::process::id()))
    }

    /// Makes a directory that is not there yet, and makes it the working directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn enter(path: PathBuf) -> Result<Arc<Scratch>, Failure> {
        fs::create_dir(&path).context(Exit::Error, format!("making {}", path.display()))?;
        std::env::set_current_dir(&path).context(Exit::Error, format!("entering {}", path.display()))?;
        Ok(Arc::new(Scratch { path, base: PathBuf::new(), disks: AtomicU64::new(0) }))
    }

    /// Removes everything.
    pub fn clear(&self) {
        // Whoever started this process removes what is left.
        let _ = fs::remove_dir_all(&self.path);
    }

    fn next(&self) -> PathBuf {
        self.base.join(format!("disk-{}", self.disks.fetch_add(1, Ordering::Relaxed)))
    }
}

/// A directory that outlives the processes which open it. Clones are the same disk.
#[derive(Clone)]
pub struct RocksDisk {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    scratch: Arc<Scratch>,
    mode: Mode,
    place: PathBuf,
    /// Counts crashes; an engine of an earlier life is a dead process.
    life: u32,
    process: Weak<RocksEngine>,
    /// How long the write-ahead files were at the last sync.
    synced: BTreeMap<String, u64>,
    /// The file and its length behind each batch since then.
    unsynced: Vec<(String, u64)>,
    written_bytes: u64,
    faults: Faults,
}

impl RocksDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(scratch: &Arc<Scratch>, mode: Mode) -> RocksDisk {
        let inner = Inner {
            scratch: Arc::clone(scratch),
            mode,
            place: scratch.next(),
            life: 0,
            process: Weak::new(),
            synced: BTreeMap::new(),
            unsynced: Vec::new(),
            written_bytes: 0,
            faults: Faults::default(),
        };
        RocksDisk { inner: Arc::new(Mutex::new(inner)) }
    }

    /// An empty disk for the same use, in the same run.
    #[must_use]
    pub fn blank(&self) -> RocksDisk {
        let inner = self.inner.lock();
        RocksDisk::new(&inner.scratch, inner.mode)
    }

    /// Another disk that holds what this one could not lose now.
    #[must_use]
    pub fn image(&self) -> RocksDisk {
        let copy = self.blank();
        let inner = self.inner.lock();
        inner.copy_to(&copy.inner.lock().dir(), &inner.kept(0, &mut |_| 0));
        copy
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.lock().faults = faults;
    }

    /// Ends every process that has it open, and keeps so many of the batches that were not synced:
    /// `draw(n)` answers a number below `n`. The batch after those is there in part. The state keeps what
    /// was flushed, and nothing else. Returns how many batches were lost.
    pub fn crash(&self, draw: &mut dyn FnMut(usize) -> usize) -> usize {
        let mut inner = self.inner.lock();
        let unsynced = inner.unsynced.len();
        let (kept, lost) = match inner.mode {
            Mode::State => (0, unsynced),
            Mode::Log => {
                let kept = draw(unsynced + 1);
                (kept, unsynced - kept)
            }
        };
        let lengths = inner.kept(kept, draw);
        let next = inner.place.join((inner.life + 1).to_string());
        inner.copy_to(&next, &lengths);
        inner.life += 1;
        inner.unsynced.clear();
        inner.process = Weak::new();
        lost
    }

    /// Cuts a file short that RocksDB needs to open. Answers whether there was one.
    pub fn truncate(&self, draw: &mut dyn FnMut(usize) -> usize) -> bool {
        let path = self.inner.lock().dir().join(CURRENT);
        let Ok(content) = fs::read(&path) else { return false };
        let kept = draw(content.len().max(1));
        fs::write(&path, &content[..kept]).unwrap_or_else(|error| broken(&path, &error));
        true
    }

    /// What the process that runs now sees.
    #[must_use]
    pub fn view(&self) -> Option<Arc<dyn View>> {
        self.inner.lock().process.upgrade().map(|engine| engine as Arc<dyn View>)
    }

    /// Opens what is there, as a new process does.
    ///
    /// # Errors
    /// As RocksDB and `replica` say.
    pub fn open(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let mut inner = self.inner.lock();
        for dead in 0..inner.life {
            // There may have been none, or it was removed before.
            let _ = fs::remove_dir_all(inner.place.join(dead.to_string()));
        }
        let memory = if inner.mode == Mode::Log { LOG_MEMORY } else { STATE_MEMORY };
        let engine = RocksEngine::open_uncompacted(&inner.dir(), inner.mode, memory)?;
        inner.process = Arc::downgrade(&engine);
        // What it read is in a table by now.
        inner.unsynced.clear();
        inner.synced = wals(&inner.dir());
        let (disk, life) = (self.clone(), inner.life);
        Ok(Arc::new(Process { disk, life, engine, failed: Mutex::new(None) }))
    }
}

impl Inner {
    fn dir(&self) -> PathBuf {
        self.place.join(self.life.to_string())
    }

    /// How long each write-ahead file is when `batches` of those that were not synced are there, and a
    /// part of the next.
    fn kept(&self, batches: usize, draw: &mut dyn FnMut(usize) -> usize) -> BTreeMap<String, u64> {
        let mut lengths = self.synced.clone();
        for (name, length) in &self.unsynced[..batches] {
            lengths.insert(name.clone(), *length);
        }
        if self.mode == Mode::Log
            && let Some((name, length)) = self.unsynced.get(batches)
        {
            let whole = lengths.entry(name.clone()).or_default();
            let part = usize::try_from(length.saturating_sub(*whole)).unwrap_or(0);
            *whole += draw(part.max(1)) as u64;
        }
        lengths
    }

    /// Copies the directory as it is now, write-ahead files up to these lengths.
    fn copy_to(&self, to: &Path, lengths: &BTreeMap<String, u64>) {
        let from = self.dir();
        let Ok(files) = fs::read_dir(&from) else { return };
        fs::create_dir_all(to).unwrap_or_else(|error| broken(to, &error));
        for file in files {
            let file = file.unwrap_or_else(|error| broken(&from, &error)).file_name();
            let name = file.to_string_lossy().into_owned();
            // Locks, and what RocksDB writes about its work.
            if name == "LOCK" || name == "HELD" || name.starts_with("LOG") {
                continue;
            }
            let (source, copy) = (from.join(&name), to.join(&name));
            // A table never changes.
            let copied = if name.ends_with(".sst") {
                fs::hard_link(&source, &copy)
            } else {
                fs::copy(&source, &copy).map(drop)
            };
            match copied {
                // RocksDB removes what it does not need any more when it likes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                copied => copied.unwrap_or_else(|error| broken(&source, &error)),
            }
            if is_wal(&name) {
                let kept = lengths.get(&name).copied().unwrap_or(0);
                let file = fs::OpenOptions::new().write(true).open(&copy);
                let cut = file.and_then(|file| file.set_len(kept.min(file.metadata()?.len())));
                cut.unwrap_or_else(|error| broken(&copy, &error));
            }
        }
    }

    /// The newest write-ahead file, and how long it is.
    fn end(&self) -> (String, u64) {
        wals(&self.dir()).pop_last().unwrap_or_default()
    }
}

fn is_wal(name: &str) -> bool {
    name.ends_with(".log")
}

/// Write-ahead files and their lengths.
fn wals(dir: &Path) -> BTreeMap<String, u64> {
    let Ok(files) = fs::read_dir(dir) else { return BTreeMap::new() };
    files
        .flatten()
        .filter_map(|file| Some((file.file_name().into_string().ok()?, file.metadata().ok()?.len())))
        .filter(|(name, _)| is_wal(name))
        .collect()
}

/// The machine that simulates failed, not one that is simulated.
fn broken(path: &Path, error: &io::Error) -> ! {
    panic!("the simulator cannot work in {}: {error}", path.display())
}

/// One process's use of a disk.
struct Process {
    disk: RocksDisk,
    life: u32,
    engine: Arc<RocksEngine>,
    failed: Mutex<Option<EngineError>>,
}

impl Process {
    /// Runs `act` unless this process has failed or crashed, and remembers its failure.
    fn run<T>(&self, act: impl FnOnce(&mut Inner) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let mut failed = self.failed.lock();
        if let Some(error) = failed.as_ref() {
            return Err(error.clone());
        }
        let mut inner = self.disk.inner.lock();
        let result = if inner.life == self.life {
            act(&mut inner)
        } else {
            Err(EngineError::Failed("this process crashed".to_owned()))
        };
        if let Err(error) = &result {
            *failed = Some(error.clone());
        }
        result
    }

    fn stage(&self, inner: &mut Inner, batch: Batch) -> Result<(), EngineError> {
        let bytes = inner.written_bytes + batch.size_bytes() as u64;
        if inner.faults.full_after_bytes.is_some_and(|limit| bytes > limit) {
            return Err(EngineError::Failed("no space left on device".to_owned()));
        }
        self.engine.write(batch)?;
        inner.written_bytes = bytes;
        let end = if inner.mode == Mode::Log { inner.end() } else { Default::default() };
        inner.unsynced.push(end);
        Ok(())
    }

    fn sync(&self, inner: &mut Inner) -> Result<(), EngineError> {
        if inner.faults.ignore_syncs {
            return Ok(());
        }
        if std::mem::take(&mut inner.faults.fail_next_sync) {
            // What was written stays where a kill leaves it, and only there.
            return Err(EngineError::Failed("sync: input/output error".to_owned()));
        }
        self.engine.flush()?;
        inner.unsynced.clear();
        inner.synced = wals(&inner.dir());
        Ok(())
    }
}

impl View for Process {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.run(|_| Ok(()))?;
        self.engine.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        self.run(|_| Ok(()))?;
        self.engine.scan(from, to, reverse, visit)
    }
}

impl Engine for Process {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.run(|inner| self.stage(inner, batch))
    }

    fn write_durable(&self, batch: Batch) -> Result<(), EngineError> {
        self.run(|inner| {
            self.stage(inner, batch)?;
            self.sync(inner)
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.run(|inner| self.sync(inner))
    }

    fn snapshot(&self) -> Arc<dyn View> {
        self.engine.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removed when a test ends well.
    fn with_disk(mode: Mode, test: impl FnOnce(RocksDisk)) {
        let path = Scratch::place();
        fs::create_dir(&path).expect("a directory of our own");
        let scratch = Scratch { path: path.clone(), base: path, disks: AtomicU64::new(0) };
        let scratch = Arc::new(scratch);
        test(RocksDisk::new(&scratch, mode));
        scratch.clear();
    }

    fn put(number: u8) -> Batch {
        let mut batch = Batch::new();
        batch.put(vec![number], vec![number; 100]);
        batch
    }

    /// What a new process finds.
    fn found(disk: &RocksDisk) -> Vec<u8> {
        let engine = disk.open().expect("what is left opens");
        let mut keys = Vec::new();
        let scanned = engine.scan(&[], &[], false, &mut |key, _| {
            keys.push(key[0]);
            std::ops::ControlFlow::Continue(())
        });
        scanned.expect("healthy");
        keys
    }

    /// Writes 1 and syncs, then writes 2, 3 and 4; answers the process.
    fn four(disk: &RocksDisk) -> Arc<dyn Engine> {
        let engine = disk.open().expect("empty");
        engine.write_durable(put(1)).expect("healthy");
        for number in 2..=4 {
            engine.write(put(number)).expect("healthy");
        }
        engine
    }

    #[test]
    fn a_kill_takes_nothing_of_a_log_and_a_power_cut_what_was_not_synced() {
        with_disk(Mode::Log, |disk| {
            let _dead = four(&disk);
            assert_eq!(disk.crash(&mut |n| n - 1), 0);
            assert_eq!(found(&disk), [1, 2, 3, 4]);
        });
        with_disk(Mode::Log, |disk| {
            let _dead = four(&disk);
            assert_eq!(disk.crash(&mut |_| 0), 3);
            assert_eq!(found(&disk), [1]);
        });
    }

    #[test]
    fn a_power_cut_that_tears_a_batch_keeps_those_before_it_and_nothing_of_it() {
        for torn in [1, 20, 100] {
            with_disk(Mode::Log, |disk| {
                let _dead = four(&disk);
                // One batch is whole, and so much of the next.
                let mut draws = [1, torn].into_iter();
                assert_eq!(disk.crash(&mut |n| draws.next().expect("two draws").min(n - 1)), 2);
                assert_eq!(found(&disk), [1, 2], "{torn} bytes of the third");
            });
        }
    }

    #[test]
    fn whatever_ends_the_process_a_state_is_as_it_was_flushed_last() {
        with_disk(Mode::State, |disk| {
            let _dead = four(&disk);
            assert_eq!(disk.crash(&mut |n| n - 1), 3);
            assert_eq!(found(&disk), [1]);
        });
    }

    #[test]
    fn a_process_that_died_changes_nothing_any_more() {
        with_disk(Mode::Log, |disk| {
            let dead = four(&disk);
            disk.crash(&mut |n| n - 1);
            assert!(dead.write_durable(put(5)).is_err() && dead.get(&[1]).is_err());
            drop(dead);
            assert_eq!(found(&disk), [1, 2, 3, 4]);
        });
    }

    #[test]
    fn a_sync_that_fails_ends_the_process_and_a_power_cut_takes_what_it_was_to_sync() {
        with_disk(Mode::Log, |disk| {
            let engine = four(&disk);
            disk.set_faults(Faults { fail_next_sync: true, ..Faults::default() });
            assert!(engine.flush().is_err() && engine.flush().is_err() && engine.write(put(5)).is_err());
            disk.crash(&mut |_| 0);
            assert_eq!(found(&disk), [1]);
        });
    }

    #[test]
    fn an_image_is_what_could_not_be_lost_and_a_file_cut_short_is_refused() {
        with_disk(Mode::Log, |disk| {
            let _process = four(&disk);
            let image = disk.image();
            assert_eq!(found(&image), [1]);
            image.crash(&mut |n| n - 1);
            assert!(image.truncate(&mut |n| n / 2));
            assert!(matches!(image.open().err(), Some(EngineError::Corrupt(_))));
            assert!(!disk.blank().truncate(&mut |n| n - 1), "an empty disk has no files");
        });
    }
}
