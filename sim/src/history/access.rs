//! Shakes and opens, as the crowd and the nodes saw them.
//!
//! Invariant: an [`Issue`] is recorded where the record is handed out, before the answer leaves: what
//! the user then hears of it is another matter, and may be nothing.
//!
//! Not here: amounts before they are opened (nobody outside the plan knows them).

use serde::{Deserialize, Serialize};
use world::NodeId;

/// The place of a record: no two records have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordPlace {
    /// The slot, from 0.
    pub slot: u16,
    /// The file.
    pub file: u32,
    /// The record within the file, from 0.
    pub index: u32,
}

/// A record that left its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    /// When.
    pub at: super::Moment,
    /// Which.
    pub place: RecordPlace,
    /// The node that handed it out.
    pub node: NodeId,
    /// The identity of the node's disk.
    pub incarnation: String,
    /// How often the node had started.
    pub boot: u64,
    /// How many tickets it had sealed since then.
    pub counter: u64,
    /// The user it was sealed to.
    pub user: u64,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum AccessCall {
    /// A user shakes.
    Shake { user: u64 },
    /// A user opens a ticket.
    Open { user: u64, ticket: String, attempt: OpenAttempt },
}

/// How honest an open is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenAttempt {
    /// The user's own ticket, as it was given out.
    Honest,
    /// A byte of it was changed.
    Altered,
    /// It is somebody else's.
    Stolen,
    /// Its record was sealed under a key that had been revoked before the open began.
    Revoked,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum AccessReply {
    /// A sealed record.
    Packet { ticket: String },
    /// A page and no packet, or nothing.
    NoPacket,
    /// Come back later.
    Throttled,
    /// No slot is open.
    Closed,
    /// The packet is the user's.
    Opened { packet: String, fen: u64 },
}

/// One operation.
pub type AccessOp = super::Op<AccessCall, AccessReply>;
/// A history of them.
pub type AccessHistory = super::History<AccessCall, AccessReply>;
