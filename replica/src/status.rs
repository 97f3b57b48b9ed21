//! What a group can say about itself: for routing, for watching, for an operator.
//!
//! Invariant: a status is a report, not a permission. Only a proposal or a read barrier proves
//! leadership; a status that says "leader" may already be old.
//!
//! Not here: rates and histograms; who watches computes those from the counts.

use std::sync::atomic::{AtomicU64, Ordering};

use world::{GroupId, NodeId};

use crate::member_id::MemberId;

/// One member's view of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Which group.
    pub group: GroupId,
    /// Which member says so.
    pub node: NodeId,
    /// Why the member stopped, when it did: storage failed, or it was shut down.
    pub stopped: Option<String>,
    /// Who leads, as far as this member knows.
    pub leader: Option<NodeId>,
    /// Whether this member believes that it leads.
    pub is_leader: bool,
    /// The term this member is in.
    pub term: u64,
    /// Index of the last log entry; 0 when there is none.
    pub last_index: u64,
    /// Index of the last entry known to be committed.
    pub committed_index: u64,
    /// Index of the last entry the machine has applied.
    pub applied_index: u64,
    /// Index of the last entry covered by a snapshot.
    pub snapshot_index: u64,
    /// Index of the last entry removed from the log.
    pub purged_index: u64,
    /// Who votes, in order.
    pub voters: Vec<NodeId>,
    /// Who follows without a vote, in order.
    pub learners: Vec<NodeId>,
    /// Whether a change of members is under way.
    pub joint: bool,
    /// Every member, in order.
    pub members: Vec<MemberStatus>,
    /// On a leader: milliseconds since a quorum last confirmed it.
    pub quorum_acked_ms_ago: Option<u64>,
    /// What happened since the member started.
    pub counts: Counts,
}

/// Where a member of a group stands, for headers and status answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Who leads, as far as this member knows.
    pub leader: Option<NodeId>,
    /// The term it is in.
    pub term: u64,
    /// Last index of its log.
    pub last_index: u64,
    /// Last index it knows to be committed.
    pub committed_index: u64,
    /// Last index it has applied.
    pub applied_index: u64,
}

/// One member of a group as another one knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its node and its disk.
    pub member: MemberId,
    /// Whether it votes.
    pub votes: bool,
    /// Its peers address.
    pub address: String,
    /// On a leader: whether it answered within two election timeouts.
    pub alive: bool,
    /// On a leader: the last log index it is known to hold.
    pub matched: Option<u64>,
}

/// What happened since the member started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that were answered with a reply.
    pub commands: u64,
    /// Proposals (log entries) that carried them.
    pub proposals: u64,
    /// Commands refused before they were proposed, leadership aside.
    pub refused: u64,
    /// Commands whose outcome was given as unknown.
    pub unknown: u64,
    /// Read barriers that were passed.
    pub reads: u64,
    /// Rounds to a quorum that those barriers took.
    pub read_rounds: u64,
}

/// The running counts behind [`Counts`].
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commands: AtomicU64,
    pub(crate) proposals: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) read_rounds: AtomicU64,
}

impl Counters {
    /// Adds to one of the counts.
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The counts now.
    pub(crate) fn read(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            commands: load(&self.commands),
            proposals: load(&self.proposals),
            refused: load(&self.refused),
            unknown: load(&self.unknown),
            reads: load(&self.reads),
            read_rounds: load(&self.read_rounds),
        }
    }
}
