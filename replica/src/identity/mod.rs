//! Which disk this is: the guard against a wiped, swapped, foreign or rolled-back data directory.
//!
//! ```text
//!   DIR/member.json   cluster, node, disk, starts, marked     published whole, with a check (`world::checked`)
//!   log engine        mark: cluster, member, starts           durable
//!   state engine      mark: cluster, member, starts           durable
//! ```
//! A disk is numbered once, when it is first used. Every start counts up in all three places, so
//! that an engine that was emptied, exchanged, or put back from an older copy does not fit the file
//! beside it. The number is part of the node's Raft id ([`crate::member_id`]).
//!
//! Invariant: a node takes part in Raft only with the disk on which that member's promises lie, all
//! of it. In doubt it refuses to start and says which part does not fit.
//!
//! Not here: what peers do about another disk (`network`), and a whole directory put back from a
//! backup, which fits itself (docs/adr/0012).

mod decide;
mod mark;

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use world::NodeId;
use world::checked::{self, Line};
use world::disk::Disk;
use world::rng::EntropyError;

use crate::engine::{Engine, EngineError};
use crate::member_id::{DiskNo, MemberId};

pub use decide::Misfit;
pub(crate) use decide::REPLACE;
use decide::{Kept, Plan};
pub(crate) use mark::HOST_GROUP;
use mark::Mark;

/// The identity's file in the data directory.
pub const FILE_NAME: &str = "member.json";
/// The log engine's place in the data directory.
pub const LOG_DIR: &str = "log-db";
/// The state engine's place in the data directory.
pub const STATE_DIR: &str = "state-db";

const FORMAT: u32 = 2;
/// Without a check. Such a file is taken, and written with one at the start that takes it.
const FORMAT_BARE: u32 = 1;
const CHECK_CONTEXT: &str = "hongbao 2026 disk identity";

/// Who this node is, with this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster the disk belongs to.
    pub cluster: String,
    /// The node and its disk.
    pub member: MemberId,
    /// How often the disk was started, this time included.
    pub starts: u64,
}

/// Why a node does not start on its data directory.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory is not this node's, or not all of it is what this node left.
    #[error("{dir}: {misfit}")]
    Misfit {
        /// The data directory.
        dir: PathBuf,
        /// What does not fit, and the cure.
        misfit: Misfit,
    },
    /// The file is there and makes no sense.
    #[error(
        "{path} is not a disk's identity: {reason}. Without it nobody knows whose log this is: move the \
         data directory away, start the node, and run `hongbao kv member replace`"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk said no.
    #[error("the disk's identity cannot be kept in {path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// An engine could not be read or written.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    cluster: String,
    node: NodeId,
    disk: String,
    /// How often the disk was started.
    starts: u64,
    /// The last start of which both engines bear the mark.
    marked: u64,
}

/// Makes sure that `dir`, with the two engines kept in it, is this node's disk and complete, and
/// counts this start. A directory without anything in it becomes a new disk.
///
/// # Errors
/// [`IdentityError`]; the node must not take part in any group then.
pub fn settle(
    disk: &dyn Disk,
    dir: &Path,
    cluster: &str,
    node: NodeId,
    log: &dyn Engine,
    state: &dyn Engine,
) -> Result<Identity, IdentityError> {
    let path = dir.join(FILE_NAME);
    let kept = load(disk, &path)?;
    let marks = (mark::read(log)?, mark::read(state)?);
    let plan = decide::decide(kept.as_ref(), &marks.0, &marks.1, cluster, node)
        .map_err(|misfit| IdentityError::Misfit { dir: dir.to_owned(), misfit })?;
    let (mut kept, unmarked) = match plan {
        Plan::First => {
            let member = MemberId { node, disk: DiskNo::draw()? };
            tracing::info!(%member, cluster, dir = %dir.display(), "a new disk");
            (Kept { cluster: cluster.to_owned(), member, starts: 0, marked: 0 }, false)
        }
        Plan::Again { unmarked } => (kept.expect("a disk that was started before has a file"), unmarked),
    };
    if unmarked {
        // The last start was cut off between its marks. Finished first, so that never more than
        // one start lies between any two of the three.
        put_marks(&kept, log, state)?;
        kept.marked = kept.starts;
    }
    kept.starts += 1;
    publish(disk, &path, &kept)?;
    put_marks(&kept, log, state)?;
    kept.marked = kept.starts;
    publish(disk, &path, &kept)?;
    Ok(Identity { cluster: kept.cluster, member: kept.member, starts: kept.starts })
}

fn put_marks(kept: &Kept, log: &dyn Engine, state: &dyn Engine) -> Result<(), EngineError> {
    let mark = Mark { cluster: kept.cluster.clone(), member: kept.member, starts: kept.starts };
    mark::put(log, &mark)?;
    mark::put(state, &mark)
}

fn load(disk: &dyn Disk, path: &Path) -> Result<Option<Kept>, IdentityError> {
    let bytes = match disk.read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Disk { path: path.to_owned(), source }),
    };
    let damaged = |reason: String| IdentityError::Damaged { path: path.to_owned(), reason };
    let (line, format) =
        match checked::open(CHECK_CONTEXT, &bytes).map_err(|error| damaged(error.to_string()))? {
            Line::Checked(line) => (line, FORMAT),
            Line::Bare(line) => (line, FORMAT_BARE),
        };
    let document: Document = serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
    if document.format != format {
        let found = document.format;
        return Err(damaged(format!("its format is {found}, and what stands in it is of format {format}")));
    }
    let disk_no = DiskNo::parse(&document.disk)
        .ok_or_else(|| damaged(format!("disk {:?} is not 12 hex digits", document.disk)))?;
    let consistent =
        document.starts > 0 && (document.marked == document.starts || document.marked + 1 == document.starts);
    if !consistent {
        return Err(damaged(format!("{} starts, {} of them marked", document.starts, document.marked)));
    }
    let member = MemberId { node: document.node, disk: disk_no };
    Ok(Some(Kept { cluster: document.cluster, member, starts: document.starts, marked: document.marked }))
}

fn publish(disk: &dyn Disk, path: &Path, kept: &Kept) -> Result<(), IdentityError> {
    let document = Document {
        format: FORMAT,
        cluster: kept.cluster.clone(),
        node: kept.member.node,
        disk: kept.member.disk.to_string(),
        starts: kept.starts,
        marked: kept.marked,
    };
    let bytes = serde_json::to_vec(&document).expect("six plain fields are always valid JSON");
    let sealed = checked::seal(CHECK_CONTEXT, &bytes);
    disk.publish(path, &sealed).map_err(|source| IdentityError::Disk { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
