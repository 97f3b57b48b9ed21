//! A simulated engine: a disk that forgets what was not synced, and can fail in the usual ways.
//!
//! ```text
//!   SimEngine --write--> live map        SimDisk::crash(rng): live = durable
//!       |                  + unsynced batches                  + a random prefix of unsynced
//!       +------sync------> durable map                         (the batch after it was torn: gone)
//! ```
//!
//! The disk outlives the engine, as a platter outlives a process: [`SimDisk::crash`] cuts off every
//! engine opened before it.
//!
//! Invariant: it keeps the promises of [`Engine`] as long as no fault is asked for, takes no time,
//! starts no thread and draws chance only from the generator handed to it.
//!
//! Not here: how long a sync takes. Delays belong to whoever calls (`log::LogWriter::start_task`).

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::engine::{Batch, Engine, EngineError, Op, View, Visit};

/// Stored bytes and the checksum they were written with.
#[derive(Clone, Debug)]
struct Stored {
    value: Bytes,
    digest: u64,
}

type Keys = BTreeMap<Bytes, Stored>;

/// What goes wrong, until it is set otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The next sync fails.
    pub fail_next_sync: bool,
    /// Syncs claim success and do nothing: the lie that every test of durability must notice.
    pub ignore_syncs: bool,
    /// Writes fail once this many bytes of keys and values were written in total.
    pub full_after_bytes: Option<u64>,
}

/// How much the disk was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Batches written.
    pub batches: u64,
    /// Durable points asked for.
    pub syncs: u64,
    /// Bytes of keys and values written.
    pub bytes: u64,
    /// Batches lost in crashes.
    pub lost_batches: u64,
}

#[derive(Default)]
struct Platter {
    /// Counts crashes; an engine of an older epoch is a dead process.
    epoch: u64,
    durable: Keys,
    /// Shared with pinned views; copied on the first write after one was taken.
    live: Arc<Keys>,
    unsynced: Vec<Batch>,
    faults: Faults,
    usage: Usage,
}

/// A disk that survives crashes of the process that uses it.
#[derive(Clone, Default)]
pub struct SimDisk {
    platter: Arc<Mutex<Platter>>,
}

impl SimDisk {
    /// An empty disk without faults.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.platter.lock().faults = faults;
    }

    /// How much the disk was used so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.platter.lock().usage
    }

    /// Batches written and not yet durable.
    #[must_use]
    pub fn unsynced_count(&self) -> usize {
        self.platter.lock().unsynced.len()
    }

    /// What a power cut at this moment could not take away: the durable value of `key`.
    #[must_use]
    pub fn durable_value(&self, key: &[u8]) -> Option<Bytes> {
        self.platter.lock().durable.get(key).map(|stored| stored.value.clone())
    }

    /// Another disk that holds what this one could not lose now: a copy for a backup, or a swap.
    #[must_use]
    pub fn image(&self) -> SimDisk {
        let durable = self.platter.lock().durable.clone();
        let live = Arc::new(durable.clone());
        SimDisk { platter: Arc::new(Mutex::new(Platter { durable, live, ..Platter::default() })) }
    }

    /// Cuts the power: of the unsynced batches a random prefix was on its way to the disk and
    /// stays, the one after it is torn and discarded, the rest is gone. `draw(n)` answers a random
    /// number below `n`. Returns how many batches were lost.
    pub fn crash(&self, draw: &mut dyn FnMut(usize) -> usize) -> usize {
        let mut platter = self.platter.lock();
        let unsynced = std::mem::take(&mut platter.unsynced);
        let kept = draw(unsynced.len() + 1);
        assert!(kept <= unsynced.len(), "draw(n) answers less than n");
        for batch in &unsynced[..kept] {
            apply(&mut platter.durable, batch);
        }
        let lost = unsynced.len() - kept;
        platter.usage.lost_batches += lost as u64;
        platter.live = Arc::new(platter.durable.clone());
        platter.epoch += 1;
        lost
    }

    /// Flips one bit of a stored value. Returns the key, or `None` when there is nothing to flip.
    pub fn rot(&self, draw: &mut dyn FnMut(usize) -> usize) -> Option<Bytes> {
        let mut platter = self.platter.lock();
        let filled: Vec<Bytes> = platter
            .durable
            .iter()
            .filter(|(_, stored)| !stored.value.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        if filled.is_empty() {
            return None;
        }
        let key = filled[draw(filled.len())].clone();
        let stored = platter.durable.get_mut(&key).expect("the key was just listed");
        let mut value = stored.value.to_vec();
        let bit = draw(value.len() * 8);
        value[bit / 8] ^= 1 << (bit % 8);
        stored.value = value.into();
        let rotten = stored.clone();
        let live = Arc::make_mut(&mut platter.live);
        if let Some(current) = live.get_mut(&key)
            && current.digest == rotten.digest
        {
            *current = rotten;
        }
        Some(key)
    }
}

/// One process's use of a [`SimDisk`].
pub struct SimEngine {
    platter: Arc<Mutex<Platter>>,
    epoch: u64,
    failed: Mutex<Option<EngineError>>,
}

impl SimEngine {
    /// Opens the disk as a fresh process would. Engines opened before must not be used any more.
    #[must_use]
    pub fn open(disk: &SimDisk) -> Arc<SimEngine> {
        let epoch = disk.platter.lock().epoch;
        Arc::new(SimEngine { platter: Arc::clone(&disk.platter), epoch, failed: Mutex::new(None) })
    }

    /// Opens the disk as RocksDB opens one with a write-ahead log: what it reads there it writes into a
    /// table with a sync of its own. So whatever the new process has read, a sync that failed in the
    /// old one included, is durable before anything is written behind it.
    #[must_use]
    pub fn recover(disk: &SimDisk) -> Arc<SimEngine> {
        let mut platter = disk.platter.lock();
        if !platter.faults.ignore_syncs {
            platter.durable = Keys::clone(&platter.live);
            platter.unsynced.clear();
        }
        drop(platter);
        SimEngine::open(disk)
    }

    fn stage(&self, platter: &mut Platter, batch: Batch) -> Result<(), EngineError> {
        let bytes = platter.usage.bytes + batch.size_bytes() as u64;
        if platter.faults.full_after_bytes.is_some_and(|limit| bytes > limit) {
            return Err(EngineError::Failed("no space left on device".to_owned()));
        }
        platter.usage.bytes = bytes;
        platter.usage.batches += 1;
        apply(Arc::make_mut(&mut platter.live), &batch);
        platter.unsynced.push(batch);
        Ok(())
    }

    fn sync(platter: &mut Platter) -> Result<(), EngineError> {
        platter.usage.syncs += 1;
        if platter.faults.ignore_syncs {
            return Ok(());
        }
        if std::mem::take(&mut platter.faults.fail_next_sync) {
            // What the kernel does: the dirty pages are marked clean and their content is lost.
            platter.usage.lost_batches += platter.unsynced.len() as u64;
            platter.unsynced.clear();
            return Err(EngineError::Failed("sync: input/output error".to_owned()));
        }
        for batch in std::mem::take(&mut platter.unsynced) {
            apply(&mut platter.durable, &batch);
        }
        Ok(())
    }

    /// Runs `act` unless this engine has failed or crashed, and remembers its failure.
    fn run<T>(&self, act: impl FnOnce(&mut Platter) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let mut failed = self.failed.lock();
        if let Some(error) = failed.as_ref() {
            return Err(error.clone());
        }
        let mut platter = self.platter.lock();
        let result = if platter.epoch == self.epoch {
            act(&mut platter)
        } else {
            Err(EngineError::Failed("this process crashed".to_owned()))
        };
        if let Err(error) = &result {
            *failed = Some(error.clone());
        }
        result
    }

    fn keys(&self) -> Result<Arc<Keys>, EngineError> {
        self.run(|platter| Ok(Arc::clone(&platter.live)))
    }
}

impl View for SimEngine {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        // Outside `run`: a value that cannot be read does not fail the engine.
        get(&*self.keys()?, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        // Not under the lock: the visitor may read the engine again.
        scan(&*self.keys()?, from, to, reverse, visit)
    }
}

impl Engine for SimEngine {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.run(|platter| self.stage(platter, batch))
    }

    fn write_durable(&self, batch: Batch) -> Result<(), EngineError> {
        self.run(|platter| {
            self.stage(platter, batch)?;
            SimEngine::sync(platter)
        })
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.run(SimEngine::sync)
    }

    fn snapshot(&self) -> Arc<dyn View> {
        Arc::new(Pinned(self.keys()))
    }
}

/// The key space at one moment, or why it could not be had.
struct Pinned(Result<Arc<Keys>, EngineError>);

impl View for Pinned {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(self.0.as_ref().map_err(Clone::clone)?, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        scan(self.0.as_ref().map_err(Clone::clone)?, from, to, reverse, visit)
    }
}

fn apply(keys: &mut Keys, batch: &Batch) {
    for op in batch.ops() {
        match op {
            Op::Put(key, value) => {
                let stored = Stored { value: value.clone(), digest: digest(value) };
                keys.insert(key.clone(), stored);
            }
            Op::Delete(key) => {
                keys.remove(key);
            }
            Op::DeleteRange(from, to) => {
                let inside: Vec<Bytes> =
                    keys.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
                for key in inside {
                    keys.remove(&key);
                }
            }
        }
    }
}

fn get(keys: &Keys, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
    keys.get(key).map(|stored| verified(key, stored).cloned()).transpose()
}

fn scan(keys: &Keys, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
    if !to.is_empty() && from >= to {
        return Ok(());
    }
    let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
    let mut inside = keys.range::<[u8], _>((Bound::Included(from), upper));
    while let Some((key, stored)) = if reverse { inside.next_back() } else { inside.next() } {
        if visit(key, verified(key, stored)?).is_break() {
            break;
        }
    }
    Ok(())
}

fn verified<'s>(key: &[u8], stored: &'s Stored) -> Result<&'s Bytes, EngineError> {
    if digest(&stored.value) == stored.digest {
        return Ok(&stored.value);
    }
    Err(EngineError::Corrupt(format!("checksum mismatch under key {key:02x?}")))
}

fn digest(value: &[u8]) -> u64 {
    let hash = blake3::hash(value);
    u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
}

#[cfg(test)]
mod tests;
