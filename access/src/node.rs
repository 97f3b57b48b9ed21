//! An access node as a service: start it, shake at it, ask how it is, stop it.
//!
//! ```text
//!   edge ── shake ──> desk <── offer ── driver ── polls ──> KV
//!                      |                  |   └─ claims, loads, freezes, retires files
//!                      └── keeper <───────┘      (reserves blocks ahead of need)
//! ```
//! Invariant: nothing is sealed before the store gave a boot epoch, and nothing leaves a file
//! before the store showed this node's claim of it.
//!
//! Not here: sockets (see `edge`) and opening (the edge passes tickets on to an `Opener`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use kvsvr::api::Kv;
use parking_lot::Mutex;
use ticket::id::{BuildId, UserId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use world::disk::Disk;
use world::{Clock, NodeId};

use crate::blocking::off_the_path;
use crate::claim::ClaimTiming;
use crate::counters::Counters;
use crate::desk::{Desk, Shaken};
use crate::driver::{Board, Driver};
use crate::incarnation::{DiskIdentity, IncarnationError};
use crate::rules::{Rules, RulesError};
use crate::shake::{Phase, phase};
use crate::status::NodeStatus;

/// What an access node is told at its start.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Who it is.
    pub node: NodeId,
    /// Everything it keeps stands below this: `tickets/<build>/` as deployed, `access/` of its own.
    pub data_dir: PathBuf,
    /// Shared by all nodes of the event: authenticates claim histories.
    pub history_key: [u8; 32],
    /// Records a restart may skip per file, at least 2.
    pub block: u32,
    /// When files may be claimed.
    pub timing: ClaimTiming,
    /// The rules while the store names none.
    pub rules: Rules,
    /// Users remembered at most.
    pub users_max: usize,
    /// How often the store is read.
    pub poll: Duration,
}

impl NodeConfig {
    /// A configuration with everything usual; change what should differ.
    #[must_use]
    pub fn new(node: NodeId, data_dir: PathBuf, history_key: [u8; 32]) -> NodeConfig {
        NodeConfig {
            node,
            data_dir,
            history_key,
            block: 256,
            timing: ClaimTiming::default(),
            rules: Rules::default(),
            users_max: 1 << 20,
            poll: Duration::from_millis(200),
        }
    }

    /// Where the node expects the files of `build`: a build directory without what finance keeps.
    #[must_use]
    pub fn build_dir(&self, build: BuildId) -> PathBuf {
        build_dir(&self.data_dir, build)
    }

    /// Where the node expects its seal key for `build`.
    #[must_use]
    pub fn seal_key_path(&self, build: BuildId) -> PathBuf {
        seal_key_path(&self.data_dir, build, self.node)
    }
}

/// Where a node with this data directory expects the files of `build`: `roster.json` with its
/// signature, and `files/`.
#[must_use]
pub fn build_dir(data_dir: &Path, build: BuildId) -> PathBuf {
    data_dir.join("tickets").join(build.to_string())
}

/// Where a node with this data directory expects the key that verifies the roster of `build`. It
/// is installed with the node's other secrets, never pushed with what it verifies.
#[must_use]
pub fn trusted_key_path(data_dir: &Path, build: BuildId) -> PathBuf {
    data_dir.join("secrets").join(build.to_string()).join("sign.pub")
}

/// Where a node with this data directory expects its seal key for `build`.
#[must_use]
pub fn seal_key_path(data_dir: &Path, build: BuildId, node: NodeId) -> PathBuf {
    build_dir(data_dir, build).join(format!("seal-{node}.key"))
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its disk does not know who it is.
    #[error(transparent)]
    Identity(#[from] IncarnationError),
    /// Its own rules cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A block must be large enough to be reserved in halves.
    #[error("the block is {block} records; give at least 2")]
    Block {
        /// What was given.
        block: u32,
    },
}

/// A running access node. Dropping it without [`AccessNode::stop`] is a crash: nothing is written.
pub struct AccessNode {
    node: NodeId,
    desk: Arc<Desk>,
    counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    board: Arc<ArcSwap<Board>>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl AccessNode {
    /// Starts a node: it serves as soon as the store answers and a slot runs.
    ///
    /// # Errors
    /// [`StartError`] for what will not mend itself.
    pub fn start(
        config: NodeConfig,
        kv: Arc<dyn Kv>,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<AccessNode>, StartError> {
        if config.block < 2 {
            return Err(StartError::Block { block: config.block });
        }
        let config = NodeConfig { rules: config.rules.clone().validate()?, ..config };
        let identity = off_the_path(|| DiskIdentity::load(&*disk, &config.data_dir.join("access")))?;
        let counters = Arc::new(Counters::default());
        let salt = u64::from(config.node.as_u16());
        let desk = Arc::new(Desk::new(Arc::clone(&clock), Arc::clone(&counters), config.users_max, salt));
        let board = Arc::new(ArcSwap::from_pointee(Board::default()));
        let keeper = Arc::new(Notify::new());
        let (stop, stopped) = watch::channel(false);
        let node = config.node;
        let driver = Driver::new(
            config,
            (kv, disk, Arc::clone(&clock)),
            identity,
            (Arc::clone(&desk), Arc::clone(&board), Arc::clone(&keeper)),
        );
        let tasks = vec![
            tokio::spawn(driver.run(stopped.clone())),
            tokio::spawn(keep(Arc::clone(&desk), keeper, stopped)),
        ];
        Ok(Arc::new(AccessNode { node, desk, counters, clock, board, stop, tasks: Mutex::new(tasks) }))
    }

    /// Serves one shake.
    pub fn shake(&self, user: UserId, history: Option<&str>) -> Shaken {
        self.desk.shake(user, history)
    }

    /// Who it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What it counts.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How it is.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let board = self.board.load();
        let offer = self.desk.offer();
        let phase = offer.as_ref().map(|offer| phase(&offer.event, self.clock.now()));
        let (slot, next_slot_at) = match phase {
            Some(Phase::Running(window)) => (Some(window.slot), None),
            Some(Phase::Closed { next_slot_at }) => (None, next_slot_at),
            None => (None, None),
        };
        let age = |at: Duration| self.clock.uptime().saturating_sub(at).as_millis();
        NodeStatus {
            node: self.node,
            incarnation: board.incarnation.clone(),
            boot_epoch: board.boot_epoch,
            superseded: board.superseded,
            event: board.event.clone(),
            build: board.build,
            view_age_ms: board.viewed_at.map(|at| u64::try_from(age(at)).unwrap_or(u64::MAX)),
            slot,
            next_slot_at,
            files: board.lines.iter().map(|line| line.read()).collect(),
            problems: board.problems.clone(),
            counters: self.counters.read(),
        }
    }

    /// Lets nothing leave any more, writes the exact counts, and ends.
    pub async fn stop(&self) {
        // Nobody listening means that the tasks have ended already.
        let _ = self.stop.send(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the access node ended badly");
            }
        }
    }
}

impl Drop for AccessNode {
    fn drop(&mut self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

/// Reserves blocks ahead of need, whenever a file calls.
async fn keep(desk: Arc<Desk>, called: Arc<Notify>, mut stopped: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => return,
            () = called.notified() => {}
        }
        let Some(offer) = desk.offer() else { continue };
        for file in offer.files.iter().filter(|file| file.wants_reserve()) {
            if let Err(error) = off_the_path(|| file.reserve()) {
                tracing::error!(slot = %file.slot(), file = %file.file(), %error, "a block was not reserved");
            }
        }
    }
}

#[cfg(test)]
mod tests;
