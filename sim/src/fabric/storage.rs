//! A node's engines, on platters that outlive it; syncs take as long as the seed says.
//!
//! ```text
//!   Running::start -> open -> the engine on the log platter  <- a writer task that pauses
//!                             the engine on the state platter
//! ```
//! Invariant: a log entry becomes durable only after the pause, so a crash in between loses it;
//! pauses are longer than a network round trip often enough that an acknowledgement which does
//! not wait for them is found out.
//!
//! Not here: what engines there are (platter.rs).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deploy::failure::{Exit, Failure};
use deploy::serve::storage::Storage;
use parking_lot::Mutex;
use rand::RngExt;
use replica::engine::EngineError;
use replica::engine::rocks::Mode;
use replica::host::Engines;
use replica::identity::{LOG_DIR, STATE_DIR};
use replica::log::LogWriter;
use world::rng::Stream;

use super::platter::Platter;
use super::rocks::Scratch;

/// How long a sync takes.
#[derive(Clone, Copy, Debug)]
pub struct SyncTimes {
    /// At least.
    pub min_ms: u64,
    /// At most, when nothing stalls.
    pub max_ms: u64,
    /// One sync in so many stalls...
    pub stall_one_in: u32,
    /// ...for up to this long.
    pub stall_ms: u64,
}

struct Pace {
    times: SyncTimes,
    /// On top of every sync, while a disk is slow.
    slower_by_ms: u64,
    chance: Stream,
}

/// The engines of one node.
#[derive(Clone)]
pub struct SimStorage {
    /// What Raft logs are on.
    pub log: Platter,
    /// What applied state is on.
    pub state: Platter,
    /// Why they do not open: a file of one is not what it should be.
    broken: Arc<Mutex<Option<String>>>,
    pace: Arc<Mutex<Pace>>,
}

impl SimStorage {
    /// Empty engines; RocksDB, if there is a directory to work in.
    #[must_use]
    pub fn new(times: SyncTimes, chance: Stream, scratch: Option<&Arc<Scratch>>) -> SimStorage {
        assert!(times.min_ms <= times.max_ms && times.stall_one_in > 0, "times that can be drawn: {times:?}");
        let pace = Arc::new(Mutex::new(Pace { times, slower_by_ms: 0, chance }));
        let (log, state) = (Platter::new(scratch, Mode::Log), Platter::new(scratch, Mode::State));
        SimStorage { log, state, broken: Arc::default(), pace }
    }

    /// Engines on other disks, as fast as these.
    #[must_use]
    pub fn on(&self, log: Platter, state: Platter) -> SimStorage {
        SimStorage { log, state, broken: Arc::default(), pace: Arc::clone(&self.pace) }
    }

    /// Cuts a file of the log or the state short, so that they do not open any more. The engines in memory
    /// have no files: they say what RocksDB says. Answers whether there was a file.
    pub fn break_file(&self, of: &str, draw: &mut dyn FnMut(usize) -> usize) -> bool {
        let platter = if of == LOG_DIR { &self.log } else { &self.state };
        if let Platter::Rocks(disk) = platter {
            return disk.truncate(draw);
        }
        let reason = format!("opening {of}: Corruption: a file is shorter than the manifest says");
        *self.broken.lock() = Some(reason);
        true
    }

    /// Makes every sync longer by this, until it is set otherwise.
    pub fn slow_down(&self, by_ms: u64) {
        self.pace.lock().slower_by_ms = by_ms;
    }

    /// Cuts the power of both; answers how many batches were lost. What each keeps is drawn apart,
    /// so the state may come back older or newer than the log.
    #[must_use]
    pub fn crash(&self, draw: &mut dyn FnMut(usize) -> usize) -> usize {
        self.state.crash(draw) + self.log.crash(draw)
    }
}

impl Pace {
    fn next(&mut self) -> Duration {
        let SyncTimes { min_ms, max_ms, stall_one_in, stall_ms } = self.times;
        let mut pause_ms = self.chance.random_range(min_ms..=max_ms) + self.slower_by_ms;
        if self.chance.random_ratio(1, stall_one_in) {
            pause_ms += self.chance.random_range(0..=stall_ms);
        }
        Duration::from_millis(pause_ms)
    }
}

impl Storage for SimStorage {
    fn open(&self, _data_dir: &Path) -> Result<Engines, Failure> {
        if let Some(reason) = &*self.broken.lock() {
            return Err(Failure::new(Exit::Error, reason.clone()));
        }
        let refused = |of: &str| {
            let of = of.to_owned();
            move |error: EngineError| Failure::new(Exit::Error, format!("opening {of}: {error}"))
        };
        let log = self.log.open_log().map_err(refused(LOG_DIR))?;
        let state = self.state.open_state().map_err(refused(STATE_DIR))?;
        let pace = Arc::clone(&self.pace);
        let pause = Arc::new(move || {
            let pause = pace.lock().next();
            Box::pin(tokio::time::sleep(pause)) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>
        });
        let log_writer = LogWriter::start_task(log.clone(), pause);
        Ok(Engines { log, log_writer, state })
    }
}
