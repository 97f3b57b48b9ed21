//! Operations on the control group of the KV.
//!
//! Values should be unique within a run (client and serial): then a read says which write it saw.
//!
//! Invariant: a `Refused` write is one of which the server said that it was not proposed; a
//! transaction whose conditions did not hold is `Done` with `succeeded: false`.
//!
//! Not here: data groups (`payment`'s rows and postings are compared with the crowd's memory).

use serde::{Deserialize, Serialize};

/// A pair as the server shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Pair {
    /// Its value.
    pub value: String,
    /// Revision at which the key came into being.
    pub create_revision: i64,
    /// Revision of the last write.
    pub mod_revision: i64,
    /// Writes since creation, from 1.
    pub version: i64,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and was last written at this revision.
    ModRevision(String, i64),
    /// The key exists and holds this value.
    Value(String, String),
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// Sets a key.
    Put(String, String),
    /// Removes a key; fine when it is not there.
    Delete(String),
}

/// What was asked. A compare-and-set is a transaction with one condition and one write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum KvCall {
    /// Sets a key.
    Put { key: String, value: String },
    /// A linearizable read.
    Get { key: String },
    /// Removes a key.
    Delete { key: String },
    /// All conditions hold and all writes are made, or none is.
    Txn { compares: Vec<Compare>, writes: Vec<Write> },
}

/// What was answered. `revision` is the one in the header: the store's revision after the operation
/// (for a read: at which it was read).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum KvReply {
    /// The key is set; its `mod_revision` is `revision`.
    Put { revision: i64 },
    /// The pair, if there is one.
    Get { revision: i64, pair: Option<Pair> },
    /// Whether there was anything to remove.
    Delete { revision: i64, deleted: bool },
    /// Whether the conditions held; if not, the keys of the conditions as they were, in order, when
    /// the server says so.
    Txn { revision: i64, succeeded: bool, found: Vec<Option<Pair>> },
}

impl KvCall {
    /// What it writes if it is carried out.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        match self {
            KvCall::Put { key, value } => vec![Write::Put(key.clone(), value.clone())],
            KvCall::Delete { key } => vec![Write::Delete(key.clone())],
            KvCall::Txn { writes, .. } => writes.clone(),
            KvCall::Get { .. } => Vec::new(),
        }
    }
}

impl KvReply {
    /// The revision in the header.
    #[must_use]
    pub fn revision(&self) -> i64 {
        match self {
            KvReply::Put { revision }
            | KvReply::Get { revision, .. }
            | KvReply::Delete { revision, .. }
            | KvReply::Txn { revision, .. } => *revision,
        }
    }

    /// Whether the call it answers changed anything: then the revision is new.
    #[must_use]
    pub fn wrote(&self, call: &KvCall) -> bool {
        match self {
            KvReply::Put { .. } => true,
            KvReply::Get { .. } => false,
            KvReply::Delete { deleted, .. } => *deleted,
            KvReply::Txn { succeeded, .. } => *succeeded && !call.writes().is_empty(),
        }
    }
}

/// One operation.
pub type KvOp = super::Op<KvCall, KvReply>;
/// A history of them.
pub type KvHistory = super::History<KvCall, KvReply>;

/// A pair as a final scan finds it, by key.
pub type KvContents = std::collections::BTreeMap<String, Pair>;

/// What a watcher was sent, in order of arrival.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum WatchItem {
    /// One message: the changes of one or more revisions.
    Events {
        /// When it arrived.
        at: super::Moment,
        /// In the order received.
        events: Vec<Change>,
    },
    /// Everything up to this revision has been sent.
    Progress { at: super::Moment, revision: i64 },
    /// The watch ended and was created again from `revision` (inclusive).
    Resumed { at: super::Moment, revision: i64 },
    /// The watch could not go on: history up to `compact_revision` is gone.
    Compacted { at: super::Moment, compact_revision: i64 },
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Revision of the change.
    pub revision: i64,
    /// The pair as it was written; `None` when the key was removed.
    pub pair: Option<Pair>,
    /// The pair before, when the watcher asked for it and there was one.
    pub before: Option<Pair>,
}

/// One watcher of a run, over all its connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watcher {
    /// Its name in reports.
    pub name: String,
    /// The keys it watches begin with this.
    pub prefix: String,
    /// The first revision it asked for.
    pub from_revision: i64,
    /// Whether it asked for the pairs before.
    pub with_before: bool,
    /// What it was sent.
    pub items: Vec<WatchItem>,
}
