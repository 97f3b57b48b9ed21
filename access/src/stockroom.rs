//! Where files come from: the build directory of this node's disk, and the cursors beside it.
//!
//! ```text
//!   DATA/tickets/<build>/roster.json, .sig     what this node holds, signed by the planner
//!   DATA/tickets/<build>/seal-<node>.key       this node's seal key of the build
//!   DATA/tickets/<build>/files/000012.hbt      the records
//!   DATA/access/cursors/<build>/<incarnation>/00003-0000000012.cursor
//! ```
//! A file is prepared before it is claimed: loaded and verified whole, and its cursor durable. So
//! no node claims what it cannot issue, and a claim of this disk without a cursor proves that the
//! cursor was lost: such a file is not resumed.
//!
//! Invariant: what leaves this room was checked against the signed roster.
//!
//! Not here: deploying files, and deciding which to claim.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use ticket::control::EventRecord;
use ticket::file::{FileError, TicketFile};
use ticket::id::{BuildId, FileNo, SlotNo};
use ticket::keys::{KeyFileError, NodeSealKey};
use ticket::manifest::{FileEntry, ManifestError, Roster, load_signed};
use ticket::seal::NodeSealer;
use ticket::sign::VerifyingKey;
use tokio::sync::Notify;
use world::NodeId;
use world::disk::Disk;
use world::mutant::{Mutant, armed};

use crate::claim::Holdings;
use crate::cursor::{Cursor, CursorError, CursorId};
use crate::incarnation::Incarnation;
use crate::node::{NodeConfig, build_dir, seal_key_path, trusted_key_path};
use crate::shelf::ShelfFile;

/// Why a build cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// No roster, or not the planner's.
    #[error(transparent)]
    Roster(#[from] ManifestError),
    /// The roster is of something else.
    #[error("the roster in {dir} is of build {found} of event {event}: deploy the right build there")]
    Other {
        /// Where it lies.
        dir: PathBuf,
        /// Its build.
        found: BuildId,
        /// Its event.
        event: String,
    },
    /// No seal key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// Another node's seal key.
    #[error("{path} is the seal key of {found}: deploy this node's own")]
    KeyOfAnother {
        /// The key file.
        path: PathBuf,
        /// Whose key it is.
        found: NodeId,
    },
}

/// Why a file cannot be issued.
#[derive(Debug, thiserror::Error)]
pub enum StockError {
    /// The file is not what the roster says.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its cursor cannot be used.
    #[error("file {file} of slot {slot} is not issued: {source}")]
    Cursor {
        /// The slot.
        slot: SlotNo,
        /// The file.
        file: FileNo,
        /// What is wrong.
        source: CursorError,
    },
}

/// A build's roster and key, not yet sealing.
pub struct BuildParts {
    roster: Roster,
    key: NodeSealKey,
}

/// A build this node can serve.
pub struct LoadedBuild {
    /// What the planner signed.
    pub roster: Roster,
    /// The part of it that concerns this node.
    pub holdings: Holdings,
    sealer: Arc<NodeSealer>,
}

impl BuildParts {
    /// The build, sealing under a boot epoch that was taken for it alone.
    #[must_use]
    pub fn with_epoch(self, node: NodeId, boot_epoch: u32) -> LoadedBuild {
        assert!(0 < boot_epoch, "sealing without a boot epoch");
        let holdings = Holdings::new(&self.roster, node);
        let boot_epoch = if armed(Mutant::BootEpochReused) { 1 } else { boot_epoch };
        let sealer = NodeSealer::new(self.key, node, boot_epoch, &self.roster.event, self.roster.build);
        LoadedBuild { roster: self.roster, holdings, sealer: Arc::new(sealer) }
    }
}

impl LoadedBuild {
    /// Whether this is what `event` issues from.
    #[must_use]
    pub fn is_of(&self, event: &EventRecord) -> bool {
        self.roster.build == event.build && self.roster.event == event.event
    }

    /// Seals its tickets.
    #[must_use]
    pub fn sealer(&self) -> Arc<NodeSealer> {
        Arc::clone(&self.sealer)
    }
}

/// Fetches files and cursors.
pub struct Stockroom {
    node: NodeId,
    data_dir: PathBuf,
    /// Half a block: what one reservation moves.
    step: u32,
    disk: Arc<dyn Disk>,
    keeper: Arc<Notify>,
    build: BuildId,
    /// Verified and waiting for their claim.
    prepared: BTreeMap<(SlotNo, FileNo), TicketFile>,
}

impl Stockroom {
    /// A stockroom over this node's disk; files call `keeper` when a block runs low.
    #[must_use]
    pub fn new(config: &NodeConfig, disk: Arc<dyn Disk>, keeper: Arc<Notify>) -> Stockroom {
        assert!(2 <= config.block, "a block is reserved in halves");
        Stockroom {
            node: config.node,
            data_dir: config.data_dir.clone(),
            step: config.block / 2,
            disk,
            keeper,
            build: BuildId([0; 16]),
            prepared: BTreeMap::new(),
        }
    }

    /// Loads roster and seal key of the event's build.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn load_build(&self, event: &EventRecord) -> Result<BuildParts, BuildError> {
        let dir = build_dir(&self.data_dir, event.build);
        let trusted = VerifyingKey::load(&*self.disk, &trusted_key_path(&self.data_dir, event.build))?;
        let roster: Roster = load_signed(&*self.disk, &dir.join("roster.json"), &trusted)?;
        if roster.build != event.build || roster.event != event.event {
            return Err(BuildError::Other { dir, found: roster.build, event: roster.event });
        }
        let path = seal_key_path(&self.data_dir, event.build, self.node);
        let key = NodeSealKey::load(&*self.disk, &path)?;
        if key.node() != self.node {
            return Err(BuildError::KeyOfAnother { path, found: key.node() });
        }
        Ok(BuildParts { roster, key })
    }

    /// Brings files of `build` from now on.
    pub fn serve(&mut self, build: BuildId) {
        self.build = build;
        self.prepared.clear();
    }

    /// Makes sure that the file could be issued once claimed.
    ///
    /// # Errors
    /// [`StockError`]; the file must then not be claimed.
    pub fn prepare(&mut self, entry: &FileEntry, incarnation: Incarnation) -> Result<(), StockError> {
        let key = (entry.slot, entry.no);
        if !self.prepared.contains_key(&key) {
            let records = self.load(entry)?;
            self.prepared.insert(key, records);
        }
        let id = self.cursor_id(entry, incarnation);
        Cursor::create(&*self.disk, &self.cursor_path(entry, incarnation), &id, self.step)
            .map_err(|source| StockError::Cursor { slot: entry.slot, file: entry.no, source })
    }

    /// Brings a claimed file: verified records and the cursor it goes on from.
    ///
    /// # Errors
    /// [`StockError`]; the file is then not issued.
    pub fn place(&mut self, entry: &FileEntry, incarnation: Incarnation) -> Result<ShelfFile, StockError> {
        let records = match self.prepared.remove(&(entry.slot, entry.no)) {
            Some(records) => records,
            None => self.load(entry)?,
        };
        let id = self.cursor_id(entry, incarnation);
        let of_cursor = |source| StockError::Cursor { slot: entry.slot, file: entry.no, source };
        let cursor = Cursor::load(&*self.disk, &self.cursor_path(entry, incarnation), &id, self.step)
            .map_err(of_cursor)?;
        let name = (entry.slot, entry.no, entry.home);
        ShelfFile::place(name, records, cursor, Arc::clone(&self.keeper)).map_err(of_cursor)
    }

    /// Lets go of a file somebody else claimed.
    pub fn drop_prepared(&mut self, key: (SlotNo, FileNo)) {
        self.prepared.remove(&key);
    }

    fn load(&self, entry: &FileEntry) -> Result<TicketFile, StockError> {
        let path = entry.path_in(&build_dir(&self.data_dir, self.build));
        let records = TicketFile::load(&*self.disk, &path, entry)?;
        assert_eq!(records.count(), entry.count, "a verified file of another length");
        assert_eq!(records.header().build, self.build, "a verified file of another build");
        Ok(records)
    }

    /// Each incarnation keeps its cursors apart: one that an earlier incarnation made ready for a
    /// file it then did not claim must not stand in its successor's way.
    fn cursor_path(&self, entry: &FileEntry, incarnation: Incarnation) -> PathBuf {
        let name = format!("{:05}-{:010}.cursor", entry.slot.0, entry.no.0);
        let cursors = self.data_dir.join("access").join("cursors");
        cursors.join(self.build.to_string()).join(incarnation.to_string()).join(name)
    }

    fn cursor_id(&self, entry: &FileEntry, incarnation: Incarnation) -> CursorId {
        CursorId { build: self.build, slot: entry.slot, file: entry.no, count: entry.count, incarnation }
    }
}
