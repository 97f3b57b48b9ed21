//! Whether a file and two marks are what this node left behind. Pure.
//!
//! ```text
//!   a start:   file n, marked n-1  ->  log n  ->  state n  ->  file n, marked n
//! ```
//! A crash between two of these steps leaves an engine one start behind, and the file says that this
//! may be so. Everything else was not left by this node.
//!
//! Invariant: what is allowed is exactly what a crash at any moment of a start can leave.

use std::fmt;

use world::NodeId;

use super::mark::Marked;
use super::{FILE_NAME, LOG_DIR, STATE_DIR};
use crate::member_id::MemberId;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) cluster: String,
    pub(super) member: MemberId,
    pub(super) starts: u64,
    pub(super) marked: u64,
}

/// How to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing was ever kept here.
    First,
    /// A disk that was started before; `unmarked` when its last start did not mark both engines.
    Again { unmarked: bool },
}

/// Why a data directory is not what this node left there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It belongs to another cluster.
    Cluster {
        /// The one it belongs to.
        found: String,
        /// The one this node serves.
        own: String,
    },
    /// It belongs to another node.
    Node {
        /// The one it belongs to.
        found: NodeId,
        /// This node.
        own: NodeId,
    },
    /// There is data, and no identity beside it.
    NoFile,
    /// An engine is empty although the disk was started before.
    Emptied {
        /// Which engine.
        engine: &'static str,
        /// Whose disk it was.
        member: MemberId,
    },
    /// An engine is another disk's.
    Exchanged {
        /// Which engine.
        engine: &'static str,
        /// Whose disk it should be.
        member: MemberId,
        /// Whose it is.
        found: Option<MemberId>,
    },
    /// An engine, or the file, is of an earlier start than the rest.
    RolledBack {
        /// Which part.
        part: &'static str,
        /// Its last start.
        found: u64,
        /// The last start of the rest.
        expected: u64,
    },
}

pub(super) fn decide(
    kept: Option<&Kept>,
    log: &Marked,
    state: &Marked,
    cluster: &str,
    node: NodeId,
) -> Result<Plan, Misfit> {
    let Some(kept) = kept else {
        let nothing = *log == Marked::Empty && *state == Marked::Empty;
        return if nothing { Ok(Plan::First) } else { Err(Misfit::NoFile) };
    };
    if kept.cluster != cluster {
        return Err(Misfit::Cluster { found: kept.cluster.clone(), own: cluster.to_owned() });
    }
    if kept.member.node != node {
        return Err(Misfit::Node { found: kept.member.node, own: node });
    }
    check_engine(kept, LOG_DIR, log)?;
    check_engine(kept, STATE_DIR, state)?;
    Ok(Plan::Again { unmarked: kept.marked < kept.starts })
}

fn check_engine(kept: &Kept, engine: &'static str, marked: &Marked) -> Result<(), Misfit> {
    let member = kept.member;
    let mark = match marked {
        // The very first start was cut off before it marked this engine.
        Marked::Empty if kept.marked == 0 => return Ok(()),
        Marked::Empty => return Err(Misfit::Emptied { engine, member }),
        Marked::Nameless => return Err(Misfit::Exchanged { engine, member, found: None }),
        Marked::As(mark) => mark,
    };
    if mark.member != member || mark.cluster != kept.cluster {
        return Err(Misfit::Exchanged { engine, member, found: Some(mark.member) });
    }
    if mark.starts > kept.starts {
        return Err(Misfit::RolledBack { part: FILE_NAME, found: kept.starts, expected: mark.starts });
    }
    if mark.starts < kept.marked {
        return Err(Misfit::RolledBack { part: engine, found: mark.starts, expected: kept.marked });
    }
    Ok(())
}

/// What to do when a disk can no longer vouch for what its member promised.
pub(crate) const REPLACE: &str = "Move the whole data directory away, start the node on an empty one, and run \
                       `hongbao kv member replace` for it; the other zones hold the data";

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Misfit::Cluster { found, own } => write!(
                f,
                "this is a disk of cluster {found:?}, and this node serves cluster {own:?}. Name the right \
                 data_dir in cluster.toml, or mount the right disk there"
            ),
            Misfit::Node { found, own } => write!(
                f,
                "this is the disk of node {found}, and this node is {own}. Put the disks back where they \
                 belong, or name the right data_dir in cluster.toml"
            ),
            Misfit::NoFile => write!(
                f,
                "there is a log or state here, and no {FILE_NAME} that says whose. Put the file back if you \
                 have it. Otherwise: {REPLACE}"
            ),
            Misfit::Emptied { engine, member } => write!(
                f,
                "{engine} of disk {member} is empty, although the disk was in use: what {member} has \
                 promised is lost. {REPLACE}"
            ),
            Misfit::Exchanged { engine, member, found: Some(found) } => write!(
                f,
                "{engine} belongs to disk {found}, and {FILE_NAME} to disk {member}. Put back what belongs \
                 together. If that is lost: {REPLACE}"
            ),
            Misfit::Exchanged { engine, member, found: None } => write!(
                f,
                "{engine} holds data that bears no mark, and {FILE_NAME} belongs to disk {member}. Put back \
                 what belongs together. If that is lost: {REPLACE}"
            ),
            Misfit::RolledBack { part, found, expected } => write!(
                f,
                "{part} is an older copy: it has seen start {found} of this disk, the rest start {expected}. \
                 Votes and entries this node has promised may be missing. {REPLACE}"
            ),
        }
    }
}
