//! What a client of the KV says and hears. Two surfaces:
//!
//! - *control*: the etcd data model (revisions, transactions) on the system group, for coordination;
//!   etcd's clients have a group of their own and see nothing of it;
//! - *data*: atomic units of conditional operations on groups 1..N, for volume.
//!
//! [`Kv`] is implemented by the network client and by an in-memory store that runs the same
//! machines, for tests.

use async_trait::async_trait;
use bytes::Bytes;

/// One key of the control group, as etcd shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// Revision at which the key came into being.
    pub create_revision: i64,
    /// Revision of the last write.
    pub mod_revision: i64,
    /// Writes since creation, from 1.
    pub version: i64,
    /// The lease that keeps it, 0 for none.
    pub lease: i64,
}

/// A condition of a control transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Bytes),
    /// The key exists and was last written at this revision.
    ModRevision(Bytes, i64),
    /// The key exists and holds this value.
    Value(Bytes, Bytes),
}

/// A write of a control transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlOp {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key; fine when it is not there.
    Delete(Bytes),
}

/// What became of a control transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether all conditions held and the writes were made.
    pub succeeded: bool,
    /// The store's revision after the transaction.
    pub revision: i64,
    /// When it did not succeed: the keys of the conditions as they were, in order; `None` if absent.
    pub found: Vec<Option<KeyValue>>,
}

/// A range of the control group at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangePage {
    /// The pairs in key order.
    pub pairs: Vec<KeyValue>,
    /// The revision they were read at.
    pub revision: i64,
}

/// One operation of a data unit. Keys of one unit live in one group: that of its partition key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataOp {
    /// Fails the unit when the key exists.
    InsertIfAbsent {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// Fails the unit unless the key holds exactly `expected`.
    CompareAndSet {
        /// The key.
        key: Bytes,
        /// What it must hold; `None`: it must be absent.
        expected: Option<Bytes>,
        /// Its new value.
        value: Bytes,
    },
    /// Adds to an 8-byte big-endian signed counter (absent counts as 0). Fails on overflow and
    /// when the value is not 8 bytes.
    Add {
        /// The counter's key.
        key: Bytes,
        /// What is added.
        delta: i64,
    },
    /// Sets the key whatever it holds.
    Put {
        /// The key.
        key: Bytes,
        /// Its value.
        value: Bytes,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// Operations that happen together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Chooses the group. Reads and writes of a key must always name the same partition key.
    pub partition: Bytes,
    /// At least one operation.
    pub ops: Vec<DataOp>,
}

/// What became of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitOutcome {
    /// All operations were made.
    Done,
    /// Nothing was made: operation `op` failed, and its key held `found`.
    Conflict {
        /// The operation's place in the unit, from 0.
        op: usize,
        /// What its key held; `None` when it was absent.
        found: Option<Bytes>,
    },
}

/// What became of an ingest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngestOutcome {
    /// Every pair is there.
    Done {
        /// Pairs that were written.
        written: u64,
        /// Pairs that were there already.
        present: u64,
    },
    /// This key holds another value. Nothing of its file was written; files before it were.
    Conflict {
        /// The key.
        key: Bytes,
        /// What it holds.
        found: Bytes,
    },
}

/// Names one value of a data group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataKey {
    /// Chooses the group.
    pub partition: Bytes,
    /// The key within the group.
    pub key: Bytes,
}

/// How a call can fail. `Unknown` is not a failure: the write may have happened or may still.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Not done, and never will be: bad request or a limit.
    #[error("refused: {0}")]
    Refused(String),
    /// Not done; nobody could take it in time. Repeating is safe.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A write whose outcome is not known.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The KV as its users see it. All reads are linearizable unless they say otherwise.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// One key of the control group.
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>, KvError>;

    /// All keys of the control group that begin with `prefix`, in order.
    async fn range(&self, prefix: &[u8]) -> Result<RangePage, KvError>;

    /// If all `compares` hold, makes all `writes`, atomically. Answers what it found otherwise.
    async fn txn(&self, compares: Vec<Compare>, writes: Vec<ControlOp>) -> Result<TxnOutcome, KvError>;

    /// Sets a key of the control group; answers the revision.
    async fn put(&self, key: &[u8], value: &[u8]) -> Result<i64, KvError> {
        let write = ControlOp::Put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        Ok(self.txn(Vec::new(), vec![write]).await?.revision)
    }

    /// Makes many units; they are independent of each other and answered in order. Each group
    /// gets one proposal per call. Repeating a unit is the caller's decision.
    async fn write(&self, units: Vec<Unit>) -> Vec<Result<UnitOutcome, KvError>>;

    /// Brings many pairs into the data groups: sorted files, each of which is there afterwards with all its
    /// pairs or with none. Ends with the first file that is not. No value that was there is replaced, so
    /// that an ingest may be repeated whatever became of it.
    async fn ingest(&self, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError>;

    /// Reads many values, answered in order.
    async fn read(&self, keys: Vec<DataKey>) -> Result<Vec<Option<Bytes>>, KvError>;

    /// How many data groups there are: `scan` takes 0..this.
    fn data_groups(&self) -> u32;

    /// A page of data group `group`: pairs whose key begins with `prefix` and is greater than
    /// `after` (when given), at most `limit`, in key order. An empty page is the end.
    async fn scan(
        &self,
        group: u32,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, KvError>;
}
