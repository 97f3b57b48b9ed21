//! Operations on the queue.
//!
//! Invariant: a `Refused` enqueue was not accepted and will not be; a `Refused` ack did not settle
//! the message. Each receipt names one lease of one message.
//!
//! Not here: extending a lease (it is in the leader's memory only and promises nothing).

use serde::{Deserialize, Serialize};

/// A message as it was delivered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Names this lease of the message.
    pub receipt: String,
    /// As enqueued.
    pub key: String,
    /// As enqueued.
    pub dedup_id: String,
    /// As enqueued.
    pub body: String,
    /// How often it was delivered, this time included.
    pub attempts: u32,
    /// Which leadership delivered it: greater numbers are later ones.
    pub tenure: u64,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum QueueCall {
    /// One message.
    Enqueue { key: String, dedup_id: String, body: String, delay_ms: u64 },
    /// Up to `most` due messages for `lease_ms`.
    Lease { most: u32, lease_ms: u64 },
    /// The message of this receipt is done.
    Ack { receipt: String },
    /// The message of this receipt is given back.
    Nack { receipt: String, delay_ms: u64 },
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum QueueReply {
    /// Accepted now.
    Accepted,
    /// The id was accepted before; what it carried, while that is retained.
    Duplicate { body: Option<String> },
    /// Messages, leased.
    Leased(Vec<Delivery>),
    /// The ack or nack is durable.
    Settled,
}

/// What the queue says of itself, all partitions together, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Due and not leased.
    pub ready: u64,
    /// Leased.
    pub in_flight: u64,
    /// Waiting for their delay.
    pub delayed: u64,
    /// Given up after too many attempts.
    pub dead: u64,
    /// Done.
    pub acked: u64,
    /// Dead and given up by an operator.
    pub purged: u64,
    /// Ever accepted.
    pub accepted: u64,
}

/// What is in the queue when the run is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueContents {
    /// Dedup ids of messages not yet settled.
    pub live: Vec<String>,
    /// Dedup ids of dead letters.
    pub dead: Vec<String>,
    /// The counts then.
    pub counts: Counts,
}

/// One operation.
pub type QueueOp = super::Op<QueueCall, QueueReply>;
/// A history of them.
pub type QueueHistory = super::History<QueueCall, QueueReply>;
