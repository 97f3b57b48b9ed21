//! The process that is killed: three groups, each doing what Raft does to its log and state, over one
//! log writer; it says what it begins and what was acknowledged.
//!
//! ```text
//!   @begin GROUP SEQUENCE append FIRST COUNT TERM | vote TERM | cut LAST | purge UPTO
//!   @done GROUP SEQUENCE          durable, as the log says
//!   @flushed GROUP NEXT           the state is durable below NEXT, as it says
//!   @synced FILE:LENGTH ...       after each durable point, before anybody hears of it
//! ```
//! Each line is one write to the pipe: it is there whole or not at all.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder};
use parking_lot::Mutex;
use rand::RngExt;
use replica::engine::rocks::{Memory, Mode, RocksEngine};
use replica::engine::{Batch, Engine, EngineError, View, Visit};
use replica::log::{LogStore, LogWriter};
use replica::state::StateStore;
use replica::testing::Sums;
use replica::types::{Entry, LeaderId, LogId, Proposal, TypeConfig, Vote};
use world::GroupId;
use world::rng::{Seed, Stream};

pub const DIR_VARIABLE: &str = "CRASH_CHILD_DIR";
pub const SEED_VARIABLE: &str = "CRASH_CHILD_SEED";
pub const GROUPS: u32 = 3;
pub const LOG: &str = "log";

/// Disk 7 of node b1.
const LEADER: u64 = 0x0101_0000_0000_0007;
/// Small, so that memtables are flushed and files are compacted all the time.
const MEMORY: Memory = Memory { write_buffer_bytes: 96 << 10, block_cache_bytes: 1 << 20 };

/// Where the child speaks.
#[derive(Clone)]
pub struct Out(Arc<Mutex<File>>);

impl Out {
    pub fn stdout() -> Out {
        let stdout = std::io::stdout().as_fd().try_clone_to_owned().expect("a descriptor");
        let mut stdout = File::from(stdout);
        // The test harness has begun a line of its own.
        let _ = stdout.write_all(b"\n");
        Out(Arc::new(Mutex::new(stdout)))
    }

    pub fn file(path: &Path) -> Out {
        let file = File::options().create(true).append(true).open(path).expect("a file");
        Out(Arc::new(Mutex::new(file)))
    }

    fn say(&self, line: &str) {
        // The parent may have gone; then nobody is left to check anything.
        let _ = self.0.lock().write_all(format!("@{line}\n").as_bytes());
    }
}

/// RocksDB that says after every durable point how much of its write-ahead log is synced.
struct Told {
    inner: Arc<RocksEngine>,
    dir: PathBuf,
    out: Out,
}

impl Told {
    fn say_synced(&self) {
        let mut line = "synced".to_owned();
        for (name, length) in wals(&self.dir) {
            line.push_str(&format!(" {name}:{length}"));
        }
        self.out.say(&line);
    }
}

/// Write-ahead files and their lengths.
pub fn wals(dir: &Path) -> Vec<(String, u64)> {
    let files = std::fs::read_dir(dir).expect("readable").flatten();
    let mut wals: Vec<(String, u64)> = files
        .filter(|file| file.path().extension().is_some_and(|end| end == "log"))
        .filter_map(|file| Some((file.file_name().into_string().ok()?, file.metadata().ok()?.len())))
        .collect();
    wals.sort();
    wals
}

impl View for Told {
    fn get(&self, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
        self.inner.get(key)
    }
    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        self.inner.scan(from, to, reverse, visit)
    }
}

impl Engine for Told {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.inner.write(batch)
    }
    fn write_durable(&self, batch: Batch) -> Result<(), EngineError> {
        // Files that are there now and grow meanwhile grow by this batch alone: there is one writer.
        self.inner.write_durable(batch)?;
        self.say_synced();
        Ok(())
    }
    fn flush(&self) -> Result<(), EngineError> {
        self.inner.flush()?;
        self.say_synced();
        Ok(())
    }
    fn snapshot(&self) -> Arc<dyn View> {
        self.inner.snapshot()
    }
}

type Shared = Arc<dyn Engine>;

/// Log and state as they are on disk.
pub fn open_engines(dir: &Path) -> Result<(Shared, Shared), EngineError> {
    std::fs::create_dir_all(dir).expect("a directory");
    let log = RocksEngine::open(&dir.join(LOG), Mode::Log, MEMORY)?;
    let state = RocksEngine::open(&dir.join("state"), Mode::State, MEMORY)?;
    Ok((log, state))
}

fn log_id(index: u64, term: u64) -> LogId {
    LogId::new(LeaderId::new(term, LEADER), index)
}

/// The one entry that can stand at an index in a term.
pub fn entry(group: u32, index: u64, term: u64) -> Entry {
    let mut chance = Seed::from_number(index).stream(term << 8 | u64::from(group));
    let commands: Vec<_> = (0..chance.random_range(1..40u32))
        .map(|_| {
            Sums::add(&format!("k{:03}", chance.random_range(0..200u32)), chance.random_range(0..1 << 40))
        })
        .collect();
    let proposal = Proposal::pack(index, commands.iter().map(AsRef::as_ref));
    Entry { log_id: log_id(index, term), payload: EntryPayload::Normal(proposal) }
}

struct Driver {
    group: u32,
    log: LogStore,
    state: StateStore<Sums>,
    chance: Stream,
    out: Out,
    sequence: u64,
    next: u64,
    term: u64,
    applied_next: u64,
    flushed_next: u64,
    purged_next: u64,
}

/// Works until it is killed, or for as long as it is told.
pub fn run(dir: &Path, seed: u64, out: &Out, within: Option<Duration>) {
    let (log, state) = open_engines(dir).expect("what a crash leaves opens");
    drop(log);
    let inner = RocksEngine::open(&dir.join(LOG), Mode::Log, MEMORY).expect("it opened a moment ago");
    let log: Arc<dyn Engine> = Arc::new(Told { inner, dir: dir.join(LOG), out: out.clone() });
    let writer = LogWriter::start_thread(Arc::clone(&log)).expect("a thread");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut drivers = tokio::task::JoinSet::new();
        for group in 0..GROUPS {
            let id = GroupId(group);
            let store = LogStore::open(id, Arc::clone(&log), writer.clone()).expect("sound");
            let state = StateStore::open(id, Arc::clone(&state), Sums::default()).expect("sound");
            let store = store.guarded_by(state.handle().flushed_next()).with_cache_bytes_max(8 << 10);
            let chance = Seed::from_number(seed).stream(u64::from(group));
            let driver = Driver::new(group, store, state, chance, out.clone()).await;
            drivers.spawn(driver.work(within));
        }
        out.say("ready");
        while let Some(ended) = drivers.join_next().await {
            ended.expect("a driver that does not panic");
        }
    });
    writer.stop();
}

impl Driver {
    async fn new(group: u32, mut log: LogStore, state: StateStore<Sums>, chance: Stream, out: Out) -> Driver {
        let found = log.get_log_state().await.expect("known");
        let vote = log.get_log_reader().await.read_vote().await.expect("known");
        let applied_next = state.handle().applied().map_or(0, |id| id.index + 1);
        Driver {
            group,
            next: found.last_log_id.map_or(0, |id| id.index + 1),
            term: vote.map_or(0, |vote| vote.leader_id.term),
            purged_next: found.last_purged_log_id.map_or(0, |id| id.index + 1),
            log,
            state,
            chance,
            out,
            sequence: 0,
            applied_next,
            flushed_next: applied_next,
        }
    }

    async fn work(mut self, within: Option<Duration>) {
        let started = tokio::time::Instant::now();
        self.vote().await;
        while within.is_none_or(|within| started.elapsed() < within) {
            match self.chance.random_range(0..100u32) {
                0..60 => self.append().await,
                60..80 => self.apply().await,
                80..86 => self.vote().await,
                86..91 => self.cut().await,
                91..96 => self.flush().await,
                _ => self.purge().await,
            }
        }
    }

    fn begin(&mut self, what: &str) -> u64 {
        self.sequence += 1;
        self.out.say(&format!("begin {} {} {what}", self.group, self.sequence));
        self.sequence
    }

    fn done(&self, sequence: u64) {
        self.out.say(&format!("done {} {sequence}", self.group));
    }

    /// Several appends under way at once, as from a leader with a window.
    async fn append(&mut self) {
        let mut waiting = Vec::new();
        for _ in 0..self.chance.random_range(1..6u32) {
            let count = self.chance.random_range(1..5u64);
            let first = self.next;
            let sequence = self.begin(&format!("append {first} {count} {}", self.term));
            let entries = (first..first + count).map(|index| entry(self.group, index, self.term));
            let (sender, flushed) = TypeConfig::oneshot();
            let entries: Vec<Entry> = entries.collect();
            self.log.append(entries, IOFlushed::signal(sender)).await.expect("accepted");
            self.next += count;
            waiting.push((sequence, flushed));
        }
        for (sequence, flushed) in waiting {
            flushed.await.expect("fired").expect("durable");
            self.done(sequence);
        }
        if self.next > 0 {
            self.log.save_committed(Some(log_id(self.next - 1, self.term))).await.expect("queued");
        }
    }

    async fn vote(&mut self) {
        self.term += 1;
        let sequence = self.begin(&format!("vote {}", self.term));
        let vote = Vote { leader_id: LeaderId::new(self.term, LEADER), committed: false };
        self.log.save_vote(&vote).await.expect("saved");
        self.done(sequence);
    }

    /// A new leader's log differs from some index on; nothing that was applied does.
    async fn cut(&mut self) {
        let lowest = self.applied_next.max(self.purged_next);
        if self.next <= lowest + 1 {
            return;
        }
        self.vote().await;
        let keep_next = self.chance.random_range(lowest.max(1)..self.next);
        let last = keep_next - 1;
        let mut reader = self.log.get_log_reader().await;
        let Some(kept) = reader.try_get_log_entries(last..keep_next).await.expect("no hole").pop() else {
            return;
        };
        let sequence = self.begin(&format!("cut {last}"));
        self.log.truncate_after(Some(kept.log_id)).await.expect("cut");
        self.next = keep_next;
        self.done(sequence);
    }

    async fn apply(&mut self) {
        let to = self.next.min(self.applied_next + self.chance.random_range(1..30u64));
        if to <= self.applied_next {
            return;
        }
        let mut reader = self.log.get_log_reader().await;
        let entries = reader.try_get_log_entries(self.applied_next..to).await.expect("no hole");
        let stream = futures_util::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
        self.state.apply(stream).await.expect("applied");
        self.applied_next = to;
    }

    async fn flush(&mut self) {
        let applied_next = self.applied_next;
        self.state.get_snapshot_builder().await.build_snapshot().await.expect("flushed");
        self.flushed_next = applied_next;
        self.out.say(&format!("flushed {} {applied_next}", self.group));
    }

    async fn purge(&mut self) {
        if self.flushed_next <= self.purged_next {
            return;
        }
        let upto = self.chance.random_range(self.purged_next..self.flushed_next);
        let mut reader = self.log.get_log_reader().await;
        let Some(purged) = reader.try_get_log_entries(upto..upto + 1).await.expect("no hole").pop() else {
            return;
        };
        let sequence = self.begin(&format!("purge {upto}"));
        self.log.purge(purged.log_id).await.expect("purged");
        self.purged_next = upto + 1;
        self.done(sequence);
    }
}
