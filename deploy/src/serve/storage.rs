//! The door to a node's engines: where Raft logs and applied state are kept, and who writes the log.
//!
//! Invariant: what is opened here keeps the promises of `replica::engine`; an acknowledgement
//! rests on the log writer's durable points and on nothing else.
//!
//! Not here: ticket files and secrets, which go through `world::disk`.

use std::path::Path;

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
}

/// RocksDB, its log written by a thread of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksStorage;

impl Storage for RocksStorage {
    fn open(&self, data_dir: &Path) -> Result<Engines, Failure> {
        let open = |name: &str, mode: Mode| {
            let path = data_dir.join(name);
            RocksEngine::open(&path, mode, Memory::default())
                .context(Exit::Error, format!("opening {}", path.display()))
        };
        let log = open(LOG_DIR, Mode::Log)?;
        let state = open(STATE_DIR, Mode::State)?;
        let log_writer =
            LogWriter::start_thread(log.clone()).context(Exit::Error, "starting the log writer")?;
        Ok(Engines { log, log_writer, state })
    }
}
