//! What a producer or consumer of the queue says and hears.
//!
//! [`Queue`] is implemented by the network client and by an in-memory queue that runs the same
//! machine, for tests.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// A message to enqueue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    /// Messages of one key keep their order and share a partition.
    pub key: Bytes,
    /// Enqueueing the same id again is acknowledged and changes nothing, for as long as the
    /// message or its tombstone is retained. It must always come with the same `key`.
    pub dedup_id: Bytes,
    /// What is carried. The queue does not look inside.
    pub body: Bytes,
    /// Not delivered before this has passed.
    pub delay: Duration,
}

/// What became of an enqueue: it is durable on two zones either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// Accepted now.
    New,
    /// This dedup id was accepted before; `body` is what it carried then, while still retained
    /// (`None` once the message was acked).
    Duplicate {
        /// As it was accepted.
        body: Option<Bytes>,
    },
}

/// A message in the hands of one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Names the message and this lease of it; needed to ack. Opaque.
    pub receipt: Bytes,
    /// As enqueued.
    pub key: Bytes,
    /// As enqueued.
    pub dedup_id: Bytes,
    /// As enqueued.
    pub body: Bytes,
    /// How often it was delivered, this time included.
    pub attempts: u32,
    /// The log's clock at enqueue, milliseconds since the Unix epoch.
    pub enqueued_ms: u64,
}

/// Counts of one queue, all partitions together. `ready + in_flight + delayed + dead + acked +
/// purged = accepted` at any moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Due and not leased; of one key only the first is deliverable.
    pub ready: u64,
    /// Leased to a consumer.
    pub in_flight: u64,
    /// Waiting for their delay.
    pub delayed: u64,
    /// Given up after too many attempts; kept until redriven or purged.
    pub dead: u64,
    /// Done.
    pub acked: u64,
    /// Dead letters an operator gave up.
    pub purged: u64,
    /// Ever accepted, duplicates not counted.
    pub accepted: u64,
    /// Enqueues answered as duplicates.
    pub duplicates: u64,
    /// Age of the oldest message that is not acked or dead, milliseconds.
    pub oldest_age_ms: u64,
}

impl Stats {
    /// The counts of both; the age of the older.
    #[must_use]
    pub fn plus(&self, other: &Stats) -> Stats {
        Stats {
            ready: self.ready + other.ready,
            in_flight: self.in_flight + other.in_flight,
            delayed: self.delayed + other.delayed,
            dead: self.dead + other.dead,
            acked: self.acked + other.acked,
            purged: self.purged + other.purged,
            accepted: self.accepted + other.accepted,
            duplicates: self.duplicates + other.duplicates,
            oldest_age_ms: self.oldest_age_ms.max(other.oldest_age_ms),
        }
    }

    /// Whether no message appeared or vanished.
    #[must_use]
    pub fn conserves(&self) -> bool {
        let sum = self.ready + self.in_flight + self.delayed + self.dead + self.acked + self.purged;
        sum == self.accepted
    }
}

/// How a call can fail.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// Not done, and never will be: bad request, a limit, or a lease that is no longer held.
    #[error("refused: {0}")]
    Refused(String),
    /// Not done: the queue is past its high-water mark or nobody leads it. Repeat after `retry_after`.
    #[error("unavailable: {reason}; retry after {retry_after:?}")]
    Unavailable {
        /// For people.
        reason: String,
        /// For programs.
        retry_after: Duration,
    },
    /// An enqueue or ack whose outcome is not known. Repeating is safe: both are idempotent.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// The queue as its users see it.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Accepts messages; answered in order, each on its own. An `Ok` is durable on two zones.
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Vec<Result<Enqueued, QueueError>>;

    /// Leases up to `most` deliverable messages for `lease`; waits up to `wait` for the first one.
    /// At most one message of a key is in flight at a time, so that order within it holds.
    async fn lease(&self, most: usize, lease: Duration, wait: Duration) -> Result<Vec<Delivery>, QueueError>;

    /// Marks leased messages as done; answered in order. Refused when the lease is no longer held.
    async fn ack(&self, receipts: Vec<Bytes>) -> Vec<Result<(), QueueError>>;

    /// Gives a leased message back, deliverable after `delay`; a dead letter after too many attempts.
    async fn nack(&self, receipt: Bytes, delay: Duration, reason: &str) -> Result<(), QueueError>;

    /// Counts over all partitions.
    async fn stats(&self) -> Result<Stats, QueueError>;
}
