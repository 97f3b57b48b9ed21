//! The door to a node's engines: where Raft logs and applied state are kept, and who writes the log.
//!
//! Invariant: what is opened here keeps the promises of `replica::engine`; an acknowledgement
//! rests on the log writer's durable points and on nothing else.
//!
//! Not here: ticket files and secrets, which go through `world::disk`.

use std::path::Path;

use replica::engine::EngineError;
use replica::engine::rocks::{Memory, Mode, RocksEngine};
use replica::host::Engines;
use replica::identity::{LOG_DIR, STATE_DIR};
use replica::log::LogWriter;

use crate::failure::{Context, Exit, Failure};

/// Opens the engines of one node.
pub trait Storage: Send + Sync + 'static {
    /// Opens what an earlier run left in `data_dir`, or begins anew. Called inside the runtime
    /// that will run the node.
    ///
    /// # Errors
    /// When the storage is damaged, or another process holds it.
    fn open(&self, data_dir: &Path) -> Result<Engines, Failure>;

    /// How much room the state of all groups takes, a figure to look at; 0 where it takes none.
    fn state_bytes(&self, _data_dir: &Path) -> u64 {
        0
    }
}

/// RocksDB, its log written by a thread of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksStorage;

impl Storage for RocksStorage {
    fn open(&self, data_dir: &Path) -> Result<Engines, Failure> {
        let open = |name: &str, mode: Mode| {
            let path = data_dir.join(name);
            RocksEngine::open(&path, mode, Memory::default()).map_err(|error| {
                let exit = match error {
                    EngineError::Corrupt(_) => Exit::Unverified,
                    EngineError::Failed(_) => Exit::Error,
                };
                Failure::new(exit, format!("opening {}: {error}", path.display()))
            })
        };
        let log = open(LOG_DIR, Mode::Log)?;
        let state = open(STATE_DIR, Mode::State)?;
        let log_writer =
            LogWriter::start_thread(log.clone()).context(Exit::Error, "starting the log writer")?;
        Ok(Engines { log, log_writer, state })
    }

    // What vanishes meanwhile or cannot be read counts as nothing.
    fn state_bytes(&self, data_dir: &Path) -> u64 {
        let Ok(files) = std::fs::read_dir(data_dir.join(STATE_DIR)) else { return 0 };
        files.flatten().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
    }
}
