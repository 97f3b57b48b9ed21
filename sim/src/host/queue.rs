//! Producers and consumers of the queue that record every call.
//!
//! ```text
//!   producer: enqueue, again under the same id when it does not know or just so
//!   consumer: lease -> ack | nack | forget (the lease runs out) | ack long after
//!             what is poison is given back until it is a dead letter
//! ```
//! Invariant: each dedup id always comes with the same key and body; a call is recorded before it
//! leaves and once its outcome is certain. A client whose device fails drops what is under way, which
//! stays unknown, and what it had in hand.
//!
//! Not here: settlers, which would take these messages: runs with these clients have no event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::demo::trouble::Luck;
use queue::api::{Delivery, Enqueued, NewMessage, Queue, QueueError, Stats};
use queue::receipt::Receipt;
use rand::RngExt;
use world::rng::Stream;

use crate::board::Board;
use crate::fabric::time;
use crate::history::queue::{Counts, QueueCall, QueueContents, QueueReply};
use crate::history::{Outcome, queue as recorded};

/// Keys of the messages: few, so that order within one is exercised.
const KEYS: u32 = 5;
/// One message in so many is one that nobody can do anything with: it becomes a dead letter.
const POISON_ONE_IN: u32 = 25;
/// How the keys of those begin.
const POISON: &str = "poison";
/// Times one message is enqueued at most.
const TRIES: u32 = 6;
/// Messages leased at once at most.
const LEASED_MOST: usize = 4;
/// How long a consumer waits for messages.
const WAIT: Duration = Duration::from_millis(500);
/// Pause before the counts are asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(700);
/// Pause before a consumer that is to stand still looks again.
const STAND_STILL: Duration = Duration::from_millis(50);
/// Messages looked at in one call.
const PEEKED_MOST: u32 = 200;

/// A client's connection, and the record of what went over it.
pub struct Line {
    /// The client's number.
    pub number: u32,
    /// The queue, through a client of its own.
    pub queue: Arc<dyn Queue>,
    /// Where it records.
    pub board: Arc<Board>,
}

/// One producer or consumer.
pub struct QueueClient {
    /// What it calls through.
    pub line: Line,
    /// Its choices.
    pub chance: Stream,
    /// Whether its device fails.
    pub luck: Luck,
}

impl QueueClient {
    /// Enqueues until then, or until it is sent home.
    pub async fn produce(mut self, until_ms: u64) {
        let mut serial = 0;
        while !self.line.board.going_home() && time::elapsed_ms() < until_ms {
            serial += 1;
            let poison = self.chance.random_ratio(1, POISON_ONE_IN);
            let key = match self.chance.random_range(0..KEYS) {
                // Of its own, so that it keeps nobody else waiting.
                _ if poison => format!("{POISON}{}-{serial}", self.line.number),
                number => format!("k{number}"),
            };
            let (dedup_id, body) =
                (format!("{}-{serial}", self.line.number), format!("b{}-{serial}", self.line.number));
            let delay_ms = if self.chance.random_ratio(1, 6) { self.chance.random_range(1..800) } else { 0 };
            for _ in 0..TRIES {
                let call = QueueCall::Enqueue {
                    key: key.clone(),
                    dedup_id: dedup_id.clone(),
                    body: body.clone(),
                    delay_ms,
                };
                let Some(outcome) = self.enqueue(call).await else { break };
                let again = !matches!(outcome, Outcome::Done(_)) || self.chance.random_ratio(1, 10);
                if !again || self.line.board.going_home() {
                    break;
                }
                self.think(20, 200).await;
            }
            self.think(20, 300).await;
        }
    }

    /// Consumes until everybody was sent home and the queue was found empty.
    pub async fn consume(mut self) {
        while self.line.board.queue.lock().1.is_none() {
            if time::elapsed_ms() < self.line.board.mischief.consumers_stand_until_ms() {
                tokio::time::sleep(STAND_STILL).await;
                continue;
            }
            let most = self.chance.random_range(1..=LEASED_MOST);
            let lease_ms = self.chance.random_range(400..3_000);
            let call = QueueCall::Lease { most: u32::try_from(most).unwrap_or(1), lease_ms };
            let outcome = self.record(call).await;
            let Some(Outcome::Done(QueueReply::Leased(deliveries))) = outcome else {
                self.think(20, 200).await;
                continue;
            };
            for delivery in deliveries {
                if self.handle(delivery, lease_ms).await.is_none() {
                    break;
                }
            }
        }
    }

    /// Answers `None` when the device has failed.
    async fn handle(&mut self, delivery: recorded::Delivery, lease_ms: u64) -> Option<()> {
        let receipt = delivery.receipt;
        if delivery.key.starts_with(POISON) {
            let delay_ms = self.chance.random_range(0..30);
            return self.record(QueueCall::Nack { receipt, delay_ms }).await.map(drop);
        }
        // Once everybody goes home messages are only acked, so that the queue runs empty.
        let kind = if self.line.board.going_home() { 0 } else { self.chance.random_range(0..20) };
        match kind {
            0..14 => {}
            14..16 => {
                return self.record(QueueCall::Nack { receipt, delay_ms: kind * 50 }).await.map(drop);
            }
            // It crashed with the message in its hands.
            16..18 => return Some(()),
            // It is slow: the lease has run out when it acks.
            _ => tokio::time::sleep(Duration::from_millis(lease_ms + kind * 20)).await,
        }
        self.record(QueueCall::Ack { receipt }).await.map(drop)
    }

    /// Enqueues; some requests arrive twice at the same time.
    async fn enqueue(&mut self, call: QueueCall) -> Option<Outcome<QueueReply>> {
        if !self.line.board.mischief.apps.is_sent_twice(&mut self.chance) {
            return self.record(call).await;
        }
        self.line.board.happened("enqueue-arrived-twice");
        let (one, other) = tokio::join!(self.line.call(call.clone()), self.line.call(call));
        Some(if matches!(one, Outcome::Done(_)) { one } else { other })
    }

    /// Makes a call; `None` when the device fails meanwhile: then its outcome stays unknown.
    async fn record(&mut self, call: QueueCall) -> Option<Outcome<QueueReply>> {
        tokio::select! {
            biased;
            () = self.luck.runs_out() => {
                self.line.board.happened("clients-failed");
                None
            }
            outcome = self.line.call(call) => Some(outcome),
        }
    }

    async fn think(&mut self, from_ms: u64, to_ms: u64) {
        let think_ms = self.chance.random_range(from_ms..=to_ms);
        tokio::time::sleep(Duration::from_millis(think_ms)).await;
    }
}

impl Line {
    async fn call(&self, call: QueueCall) -> Outcome<QueueReply> {
        let id = self.board.queue.lock().0.invoke(self.board.moment(), self.number, None, call.clone());
        let outcome = match self.make(&call).await {
            Ok(reply) => Outcome::Done(reply),
            Err(QueueError::Refused(reason)) => Outcome::Refused(reason),
            Err(QueueError::Unavailable { reason, .. }) => Outcome::Refused(reason),
            Err(QueueError::Unknown(_)) => Outcome::Unknown,
        };
        tracing::info!(target: "sim::queue", client = self.number, op = id.0, ?call, ?outcome);
        self.board.queue.lock().0.finish(self.board.moment(), id, outcome.clone());
        outcome
    }

    async fn make(&self, call: &QueueCall) -> Result<QueueReply, QueueError> {
        match call {
            QueueCall::Enqueue { key, dedup_id, body, delay_ms } => {
                let message = NewMessage {
                    key: Bytes::copy_from_slice(key.as_bytes()),
                    dedup_id: Bytes::copy_from_slice(dedup_id.as_bytes()),
                    body: Bytes::copy_from_slice(body.as_bytes()),
                    delay: Duration::from_millis(*delay_ms),
                };
                match one(self.queue.enqueue(vec![message]).await)? {
                    Enqueued::New => Ok(QueueReply::Accepted),
                    Enqueued::Duplicate { body } => {
                        Ok(QueueReply::Duplicate { body: body.as_deref().map(text) })
                    }
                }
            }
            QueueCall::Lease { most, lease_ms } => {
                let lease = Duration::from_millis(*lease_ms);
                let leased = self.queue.lease(*most as usize, lease, WAIT).await?;
                Ok(QueueReply::Leased(leased.iter().map(delivery_of).collect()))
            }
            QueueCall::Ack { receipt } => {
                one(self.queue.ack(vec![bytes_of(receipt)]).await)?;
                Ok(QueueReply::Settled)
            }
            QueueCall::Nack { receipt, delay_ms } => {
                let delay = Duration::from_millis(*delay_ms);
                self.queue.nack(bytes_of(receipt), delay, "the simulator says so").await?;
                Ok(QueueReply::Settled)
            }
        }
    }
}

/// Reads the counts again and again until everybody went home and nothing is ready, leased or
/// delayed any more; then writes down what is in the queue.
pub async fn count(queue: &queue::client::QueueClient, board: &Board) {
    loop {
        if let Ok(stats) = queue.stats().await {
            board.readings.lock().push((board.moment(), counts_of(&stats)));
            if board.going_home()
                && stats.ready + stats.in_flight + stats.delayed == 0
                && let Ok(contents) = contents(queue, &stats).await
            {
                tracing::info!(target: "sim::queue", ?stats, "the queue is empty");
                board.queue.lock().1 = Some(contents);
                return;
            }
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn contents(queue: &queue::client::QueueClient, stats: &Stats) -> Result<QueueContents, QueueError> {
    let mut found = [Vec::new(), Vec::new()];
    for partition in 0..queue.partitions() {
        for (dead, ids) in [false, true].into_iter().zip(&mut found) {
            let mut from = Some(0);
            while let Some(start) = from {
                let (messages, next) = queue.peek(partition, dead, start, PEEKED_MOST).await?;
                ids.extend(messages.iter().map(|message| text(&message.dedup_id)));
                from = next;
            }
        }
    }
    let [live, dead] = found;
    Ok(QueueContents { live, dead, counts: counts_of(stats) })
}

fn counts_of(stats: &Stats) -> Counts {
    Counts {
        ready: stats.ready,
        in_flight: stats.in_flight,
        delayed: stats.delayed,
        dead: stats.dead,
        acked: stats.acked,
        purged: stats.purged,
        accepted: stats.accepted,
    }
}

fn one<T>(answers: Vec<Result<T, QueueError>>) -> Result<T, QueueError> {
    let answer = answers.into_iter().next();
    answer.unwrap_or_else(|| Err(QueueError::Unknown("no answer".to_owned())))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Receipts are opaque bytes; in a history they are hexadecimal.
fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(hex: &str) -> Bytes {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("hexadecimal is text");
        u8::from_str_radix(pair, 16).expect("written by hex_of")
    };
    digits.map(byte).collect()
}

fn delivery_of(delivery: &Delivery) -> recorded::Delivery {
    recorded::Delivery {
        receipt: hex_of(&delivery.receipt),
        key: text(&delivery.key),
        dedup_id: text(&delivery.dedup_id),
        body: text(&delivery.body),
        attempts: delivery.attempts,
        tenure: Receipt::decode(&delivery.receipt).map_or(0, |receipt| receipt.lease.token.term),
    }
}
