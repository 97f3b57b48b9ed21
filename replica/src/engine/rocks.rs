//! RocksDB behind the [`Engine`] trait, in the two ways a node uses it.
//!
//! ```text
//!            WAL    write          write_durable   flush
//!   Log      on     buffered       fsync           fsync of the WAL
//!   State    off    memory only    write + flush   memtable to disk (all of it, atomically)
//! ```
//!
//! Invariant: the log is opened only if every record up to its torn end reads back as it was
//! written ([`wal`]). RocksDB's default recovery would stop at the first bad record and open what is
//! before it, silently dropping acknowledged entries or a vote; here such a log is refused.
//!
//! Not here: compression (entries are opaque and short-lived; no C library more), column families
//! (one key space, cut by prefixes), background tuning by hand.

mod pinned;
pub mod wal;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, DBRecoveryMode, LogLevel, Options,
    ReadOptions, WriteBatch, WriteOptions,
};

use crate::engine::{Batch, Engine, EngineError, Op, View, Visit};
use crate::identity::REPLACE;

/// What the instance holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Raft logs and votes: a write-ahead log, recovered strictly.
    Log,
    /// Applied state: no write-ahead log, the Raft log is one.
    State,
}

/// Memory an instance may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// One memtable; up to four exist while flushes lag.
    pub write_buffer_bytes: usize,
    /// Cache of blocks read from disk.
    pub block_cache_bytes: usize,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory { write_buffer_bytes: 64 << 20, block_cache_bytes: 128 << 20 }
    }
}

/// Bytes of write-ahead log beyond which RocksDB flushes memtables to shorten it.
const WAL_BYTES_MAX: u64 = 512 << 20;
const WRITE_BUFFERS_MAX: i32 = 4;
/// Of a memtable, for the filter that answers "not in it": some ten bits a record of 50 bytes.
const MEMTABLE_FILTER_SHARE: f64 = 0.025;

/// A RocksDB instance.
pub struct RocksEngine {
    db: Arc<DB>,
    mode: Mode,
    failed: OnceLock<EngineError>,
    /// Dropped last.
    _hold: wal::Hold,
}

impl RocksEngine {
    /// Opens or creates the instance in directory `path`.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] with what to do about it; [`EngineError::Failed`] otherwise.
    pub fn open(path: &Path, mode: Mode, memory: Memory) -> Result<Arc<RocksEngine>, EngineError> {
        RocksEngine::open_with(path, mode, options(mode, memory))
    }

    /// As [`RocksEngine::open`], and nothing is compacted in the background: which files there are, and
    /// their numbers, follows from the calls alone. For hosts of the simulator.
    ///
    /// # Errors
    /// As for [`RocksEngine::open`].
    pub fn open_uncompacted(
        path: &Path,
        mode: Mode,
        memory: Memory,
    ) -> Result<Arc<RocksEngine>, EngineError> {
        let mut options = options(mode, memory);
        options.set_disable_auto_compactions(true);
        RocksEngine::open_with(path, mode, options)
    }

    fn open_with(path: &Path, mode: Mode, options: Options) -> Result<Arc<RocksEngine>, EngineError> {
        let failed = |error: std::io::Error| EngineError::Failed(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(path).map_err(failed)?;
        let hold = wal::Hold::take(path).map_err(failed)?.ok_or_else(|| {
            let path = path.display();
            EngineError::Failed(format!("another process holds {path}; two nodes cannot share a data_dir"))
        })?;
        match mode {
            Mode::Log if lost_its_wal(path) => return Err(damage(path, mode, "its write-ahead log is gone")),
            Mode::Log => wal::mend(path, &hold)?,
            Mode::State => wal::refuse_any_record(path)?,
        }
        let db = DB::open(&options, path).map_err(|error| refusal(path, mode, &error))?;
        Ok(Arc::new(RocksEngine { db: Arc::new(db), mode, failed: OnceLock::new(), _hold: hold }))
    }

    fn healthy(&self) -> Result<(), EngineError> {
        self.failed.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Remembers the first failure of a write or sync for ever.
    fn sticky(&self, result: Result<(), rocksdb::Error>) -> Result<(), EngineError> {
        result.map_err(|error| self.failed.get_or_init(|| engine_error(&error)).clone())
    }

    fn write_with(&self, batch: Batch, sync: bool) -> Result<(), EngineError> {
        self.healthy()?;
        let mut options = WriteOptions::default();
        // A batch's keys lie near each other: the next is looked for from where the last went.
        options.set_memtable_insert_hint_per_batch(true);
        match self.mode {
            Mode::Log => options.set_sync(sync),
            Mode::State => options.disable_wal(true),
        }
        self.sticky(self.db.write_opt(write_batch(&batch), &options))
    }
}

impl View for RocksEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.healthy()?;
        let found = self.db.get_pinned(key).map_err(|error| engine_error(&error))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        self.healthy()?;
        let Some(options) = bounds(from, to) else { return Ok(()) };
        walk(self.db.raw_iterator_opt(options), reverse, visit)
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.write_with(batch, false)
    }

    fn write_durable(&self, batch: Batch) -> Result<(), EngineError> {
        match self.mode {
            Mode::Log => self.write_with(batch, true),
            Mode::State => {
                self.write_with(batch, false)?;
                self.flush()
            }
        }
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.healthy()?;
        let flushed = match self.mode {
            Mode::Log => self.db.flush_wal(true),
            Mode::State => off_the_scheduler(|| self.db.flush()),
        };
        self.sticky(flushed)
    }

    fn snapshot(&self) -> Arc<dyn View> {
        Arc::new(pinned::Pinned::take(&self.db))
    }
}

/// Runs work that may take long. A worker thread of a multi-threaded runtime hands its other tasks
/// away first; elsewhere (plain threads, the simulator) there is nothing to hand away.
fn off_the_scheduler<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(work)
        }
        _ => work(),
    }
}

fn options(mode: Mode, memory: Memory) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(memory.write_buffer_bytes);
    options.set_max_write_buffer_number(WRITE_BUFFERS_MAX);
    options.set_max_background_jobs(2);
    options.set_max_open_files(1024);
    options.set_bytes_per_sync(1 << 20);
    // RocksDB's own log files: short, few, and no periodic statistics.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(memory.block_cache_bytes));
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    match mode {
        Mode::Log => {
            options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
            options.set_recycle_log_file_num(0);
            options.set_track_and_verify_wals_in_manifest(true);
            options.set_max_total_wal_size(WAL_BYTES_MAX);
        }
        Mode::State => {
            options.set_atomic_flush(true);
            // A new key is looked up before it is written: without this, among all of the memtable.
            options.set_memtable_whole_key_filtering(true);
            options.set_memtable_prefix_bloom_ratio(MEMTABLE_FILTER_SHARE);
            table.set_bloom_filter(10.0, false);
        }
    }
    options.set_block_based_table_factory(&table);
    options
}

fn write_batch(batch: &Batch) -> WriteBatch {
    // Twelve bytes of header, and at most eleven for kind and lengths of an operation.
    let mut ops = WriteBatch::with_capacity_bytes(12 + batch.size_bytes() + 11 * batch.ops().len());
    for op in batch.ops() {
        match op {
            Op::Put(key, value) => ops.put(key, value),
            Op::Delete(key) => ops.delete(key),
            Op::DeleteRange(from, to) => ops.delete_range(from, to),
        }
    }
    ops
}

/// Read options for `[from, to)`; `None` when the range is empty.
fn bounds(from: &[u8], to: &[u8]) -> Option<ReadOptions> {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    if !to.is_empty() {
        if from >= to {
            return None;
        }
        options.set_iterate_upper_bound(to);
    }
    Some(options)
}

fn walk(mut at: DBRawIterator<'_>, reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
    if reverse {
        at.seek_to_last()
    } else {
        at.seek_to_first()
    }
    while let Some((key, value)) = at.item() {
        if visit(key, value).is_break() {
            return Ok(());
        }
        if reverse { at.prev() } else { at.next() }
    }
    // An iterator also ends when it cannot read on: that is not the end of the range.
    at.status().map_err(|error| engine_error(&error))
}

fn engine_error(error: &rocksdb::Error) -> EngineError {
    let text = error.to_string();
    if is_damage(error, &text) { EngineError::Corrupt(text) } else { EngineError::Failed(text) }
}

/// Besides the explicit kind: a file that the manifest knows and the directory lacks, or that is
/// shorter than what was synced.
fn is_damage(error: &rocksdb::Error, text: &str) -> bool {
    error.kind() == rocksdb::ErrorKind::Corruption
        || ["Corruption", "checksum mismatch", "No such file"].iter().any(|sign| text.contains(sign))
}

/// The manifest of an instance that was never opened to the end: the first one that was replaces it,
/// after it has made its write-ahead log.
const MANIFEST_OF_NONE: &str = "MANIFEST-000001";

/// Whether `path` holds an instance without any write-ahead log file. RocksDB always keeps one, and
/// yet opens without complaint when the newest is missing: its manifest knows the closed ones only.
/// Only a process that was killed in its very first start leaves none, and nothing else either.
fn lost_its_wal(path: &Path) -> bool {
    let Ok(files) = std::fs::read_dir(path) else { return false };
    let is_wal = |file: &std::fs::DirEntry| file.path().extension().is_some_and(|end| end == "log");
    let current = std::fs::read_to_string(path.join("CURRENT"));
    let was_open = current.is_ok_and(|manifest| manifest.trim_end() != MANIFEST_OF_NONE);
    was_open && !files.flatten().any(|file| is_wal(&file))
}

fn refusal(path: &Path, mode: Mode, error: &rocksdb::Error) -> EngineError {
    let error_text = error.to_string();
    let damaged = is_damage(error, &error_text);
    if !damaged {
        return EngineError::Failed(format!("cannot open {}: {error_text}", path.display()));
    }
    damage(path, mode, &error_text)
}

fn damage(path: &Path, mode: Mode, error_text: &str) -> EngineError {
    let path = path.display();
    let what = match mode {
        Mode::Log => "the Raft log",
        Mode::State => "the state",
    };
    EngineError::Corrupt(format!(
        "{what} in {path} is damaged ({error_text}). What this node has acknowledged may be missing, so it \
         must not go on with it. {REPLACE}"
    ))
}

#[cfg(test)]
mod tests;
