//! What one engine of a node is kept on: memory, or RocksDB. It outlives the process.
//!
//! Invariant: both keep what was made durable, lose what a kill or a power cut loses, and are used by the
//! same code of a node.
//!
//! Not here: the two (`replica::engine::sim`, rocks.rs).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use replica::engine::rocks::Mode;
use replica::engine::sim::{Faults, SimDisk, SimEngine};
use replica::engine::{Engine, EngineError, View};
use serde::Serialize;

use super::rocks::{RocksDisk, Scratch};
use crate::schedule::Class;

/// What the engines of a run are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// Those of `replica::engine::sim`.
    #[default]
    Memory,
    /// RocksDB, in a directory of the run's own.
    Rocks,
}

impl EngineKind {
    /// Whether this class of faults can be played on them: RocksDB reads a block again when it likes, so
    /// when rot is noticed would not follow from the seed.
    #[must_use]
    pub fn plays(self, class: Class) -> bool {
        self == EngineKind::Memory || class != Class::BitRot
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EngineKind::Memory => "memory",
            EngineKind::Rocks => "rocks",
        })
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(text: &str) -> Result<EngineKind, String> {
        let kinds = [EngineKind::Memory, EngineKind::Rocks];
        let found = kinds.into_iter().find(|kind| kind.to_string() == text);
        found.ok_or_else(|| format!("no engine is called {text:?}; there are memory and rocks"))
    }
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub enum Platter {
    /// In memory.
    Memory(SimDisk),
    /// RocksDB.
    Rocks(RocksDisk),
}

impl Platter {
    /// An empty one: of RocksDB if there is a directory to work in.
    #[must_use]
    pub fn new(scratch: Option<&Arc<Scratch>>, mode: Mode) -> Platter {
        match scratch {
            None => Platter::Memory(SimDisk::new()),
            Some(scratch) => Platter::Rocks(RocksDisk::new(scratch, mode)),
        }
    }

    /// An empty one of the same kind.
    #[must_use]
    pub fn blank(&self) -> Platter {
        match self {
            Platter::Memory(_) => Platter::Memory(SimDisk::new()),
            Platter::Rocks(disk) => Platter::Rocks(disk.blank()),
        }
    }

    /// Another one that holds what this one could not lose now.
    #[must_use]
    pub fn image(&self) -> Platter {
        match self {
            Platter::Memory(disk) => Platter::Memory(disk.image()),
            Platter::Rocks(disk) => Platter::Rocks(disk.image()),
        }
    }

    /// Ends every process that uses it; of what was not synced a part stays, up to what `draw` says.
    /// Returns how many batches were lost.
    pub fn crash(&self, draw: &mut dyn FnMut(usize) -> usize) -> usize {
        match self {
            Platter::Memory(disk) => disk.crash(draw),
            Platter::Rocks(disk) => disk.crash(draw),
        }
    }

    /// What goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        match self {
            Platter::Memory(disk) => disk.set_faults(faults),
            Platter::Rocks(disk) => disk.set_faults(faults),
        }
    }

    /// Flips one bit of what is durable. Answers whether one was flipped: see [`EngineKind::plays`].
    pub fn rot(&self, draw: &mut dyn FnMut(usize) -> usize) -> bool {
        match self {
            Platter::Memory(disk) => disk.rot(draw).is_some(),
            Platter::Rocks(_) => false,
        }
    }

    /// Opens a log as RocksDB opens one: what is read is made durable.
    ///
    /// # Errors
    /// As the engine says.
    pub fn open_log(&self) -> Result<Arc<dyn Engine>, EngineError> {
        match self {
            Platter::Memory(disk) => Ok(SimEngine::recover(disk)),
            Platter::Rocks(disk) => disk.open(),
        }
    }

    /// Opens a state.
    ///
    /// # Errors
    /// As the engine says.
    pub fn open_state(&self) -> Result<Arc<dyn Engine>, EngineError> {
        match self {
            Platter::Memory(disk) => Ok(SimEngine::open(disk)),
            Platter::Rocks(disk) => disk.open(),
        }
    }

    /// What the process that runs now sees; `None` when none does.
    #[must_use]
    pub fn view(&self) -> Option<Arc<dyn View>> {
        match self {
            Platter::Memory(disk) => Some(SimEngine::open(disk)),
            Platter::Rocks(disk) => disk.view(),
        }
    }
}
