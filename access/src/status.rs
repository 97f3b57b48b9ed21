//! What an access node says about itself, for people and for `reconcile`.
//!
//! Invariant: `issued` is an upper bound of what left: records skipped after a crash count in, so
//! `count - issued` certainly never left.
//!
//! Not here: sums of money. An access node does not know any.

use std::sync::Arc;

use serde::Serialize;
use ticket::id::{BuildId, FileNo, SlotNo};
use world::{NodeId, UnixMs};

use crate::counters::CounterReadings;
use crate::shelf::ShelfFile;

/// Where a file stands, from this node's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Held here, not claimed by anybody this node knows of.
    Waiting,
    /// Claimed by another node, or by another disk of this one.
    Elsewhere,
    /// Claimed and issued here.
    Issuing,
    /// Claimed here, and everything has left.
    Exhausted,
    /// Its zone was failed over: claimed here, and not continued.
    Frozen,
    /// Its slot is over.
    Ended,
    /// Something is wrong with the file or its cursor; see `fault`.
    Faulty,
}

/// One file as seen from this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Its slot.
    pub slot: SlotNo,
    /// Its number.
    pub file: FileNo,
    /// The node it was made for.
    pub home: NodeId,
    /// Who claimed it, as far as known.
    pub claimed_by: Option<NodeId>,
    /// Where it stands.
    pub state: FileState,
    /// Records in it.
    pub count: u32,
    /// Records that have left here, or were skipped after a crash.
    pub issued: u32,
    /// Where this run of the node went on.
    pub resumed_at: u32,
    /// The durable mark.
    pub reserved: u32,
    /// Records that certainly have not left here.
    pub remaining: u32,
    /// What is wrong.
    pub fault: Option<String>,
}

/// What an access node says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeStatus {
    /// Who it is.
    pub node: NodeId,
    /// The incarnation of its disk.
    pub incarnation: String,
    /// The epoch its tickets are sealed under; none while it cannot seal.
    pub boot_epoch: Option<u32>,
    /// Whether a later start of this node was seen; it then serves nothing.
    pub superseded: bool,
    /// The event it serves.
    pub event: Option<String>,
    /// The build it issues from.
    pub build: Option<BuildId>,
    /// How long ago it last read the store; none before the first time.
    pub view_age_ms: Option<u64>,
    /// The slot that runs.
    pub slot: Option<SlotNo>,
    /// When the next slot starts, between slots.
    pub next_slot_at: Option<UnixMs>,
    /// Files of the slots near now, and those of this run that ended, in order.
    pub files: Vec<FileStatus>,
    /// What is wrong at the moment, in sentences.
    pub problems: Vec<String>,
    /// What was counted.
    pub counters: CounterReadings,
}

/// One line of the board: a file's status, live while it is on the shelf.
#[derive(Clone)]
pub struct BoardLine {
    /// As of the last refresh.
    pub status: FileStatus,
    /// The file itself, for the numbers of this moment.
    pub live: Option<Arc<ShelfFile>>,
}

impl BoardLine {
    /// The line with the numbers of this moment.
    #[must_use]
    pub fn read(&self) -> FileStatus {
        let Some(file) = &self.live else { return self.status.clone() };
        let issued = file.position();
        let fault = self.status.fault.clone().or_else(|| file.fault());
        let state = match self.status.state {
            FileState::Issuing if issued == file.count() => FileState::Exhausted,
            FileState::Issuing if fault.is_some() => FileState::Faulty,
            state => state,
        };
        assert!(issued <= file.count(), "more left than there was");
        FileStatus {
            state,
            issued,
            resumed_at: file.resumed_at(),
            reserved: file.reserved(),
            remaining: file.count() - issued,
            fault,
            ..self.status.clone()
        }
    }
}
