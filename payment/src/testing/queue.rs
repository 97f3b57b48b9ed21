//! A queue in memory whose leases end when the test says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use queue::api::{Delivery, Enqueued, NewMessage, Queue, QueueError, Stats};

use super::faults::Injector;

#[derive(Default)]
struct State {
    /// By order of arrival. Acked ones stay as tombstones without body.
    messages: BTreeMap<u64, Message>,
    ids: BTreeMap<Bytes, u64>,
    next_lease: u64,
    stats: Stats,
    /// Multiplies message numbers before leasing in order, so that the order varies.
    stir: u64,
}

struct Message {
    key: Bytes,
    dedup_id: Bytes,
    body: Option<Bytes>,
    lease: Option<u64>,
    attempts: u32,
}

/// Shared by all connections.
#[derive(Clone, Default)]
pub struct MemQueue {
    state: Arc<Mutex<State>>,
    faults: Injector,
}

impl MemQueue {
    /// The same queue, seen through another process's connection.
    pub fn through(&self, faults: Injector) -> MemQueue {
        MemQueue { state: self.state.clone(), faults }
    }

    /// All leases run out: whatever is not acked is delivered again.
    pub fn expire(&self) {
        for message in self.state.lock().messages.values_mut() {
            message.lease = None;
        }
    }

    /// From now on messages are leased in another order.
    pub fn stir(&self, stir: u64) {
        self.state.lock().stir = stir | 1;
    }

    /// Puts a message in as no opener would, without deduplication.
    pub fn force(&self, body: Bytes) {
        let mut state = self.state.lock();
        let number = state.messages.len() as u64;
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        state.messages.insert(
            number,
            Message { key: key.clone(), dedup_id: key, body: Some(body), lease: None, attempts: 0 },
        );
        state.stats.accepted += 1;
    }

    /// Whether nothing is left to deliver.
    pub fn drained(&self) -> bool {
        self.state.lock().messages.values().all(|message| message.body.is_none())
    }
}

fn lost<T>(plainly_not: bool) -> Result<T, QueueError> {
    let (reason, retry_after) = ("injected".to_owned(), Duration::ZERO);
    if plainly_not {
        Err(QueueError::Unavailable { reason, retry_after })
    } else {
        Err(QueueError::Unknown(reason))
    }
}

impl State {
    fn enqueue(&mut self, message: NewMessage) -> Enqueued {
        if let Some(number) = self.ids.get(&message.dedup_id) {
            self.stats.duplicates += 1;
            return Enqueued::Duplicate { body: self.messages[number].body.clone() };
        }
        let number = self.messages.len() as u64;
        self.ids.insert(message.dedup_id.clone(), number);
        let NewMessage { key, dedup_id, body, .. } = message;
        self.messages.insert(number, Message { key, dedup_id, body: Some(body), lease: None, attempts: 0 });
        self.stats.accepted += 1;
        Enqueued::New
    }

    fn lease(&mut self, most: usize) -> Vec<Delivery> {
        let mut order: Vec<u64> = self.messages.keys().copied().collect();
        let stir = self.stir;
        order.sort_by_key(|number| (number.wrapping_mul(stir.wrapping_mul(0x9e37_79b9_7f4a_7c15)), *number));
        let mut busy: BTreeSet<Bytes> = self
            .messages
            .values()
            .filter(|message| message.lease.is_some())
            .map(|message| message.key.clone())
            .collect();
        let mut leased = Vec::new();
        for number in order {
            let message = self.messages.get_mut(&number).expect("a known number");
            let Some(body) = message.body.clone() else { continue };
            if leased.len() == most || !busy.insert(message.key.clone()) {
                continue;
            }
            self.next_lease += 1;
            message.lease = Some(self.next_lease);
            message.attempts += 1;
            let receipt = [number.to_be_bytes(), self.next_lease.to_be_bytes()].concat();
            leased.push(Delivery {
                receipt: Bytes::from(receipt),
                key: message.key.clone(),
                dedup_id: message.dedup_id.clone(),
                body,
                attempts: message.attempts,
                enqueued_ms: 0,
            });
        }
        leased
    }

    fn held(&mut self, receipt: &[u8]) -> Option<&mut Message> {
        let (number, lease) = receipt.split_first_chunk::<8>()?;
        let lease = u64::from_be_bytes(lease.try_into().ok()?);
        let message = self.messages.get_mut(&u64::from_be_bytes(*number))?;
        (message.lease == Some(lease)).then_some(message)
    }

    fn ack(&mut self, receipt: &[u8]) -> Result<(), QueueError> {
        let refused = || QueueError::Refused("the lease is not held".to_owned());
        let message = self.held(receipt).ok_or_else(refused)?;
        message.body = None;
        message.lease = None;
        self.stats.acked += 1;
        Ok(())
    }
}

#[async_trait]
impl Queue for MemQueue {
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Vec<Result<Enqueued, QueueError>> {
        tokio::task::yield_now().await;
        let verdict = self.faults.next();
        let mut outcomes = Vec::new();
        for (place, message) in messages.into_iter().enumerate() {
            let outcome = (verdict.does)(place).then(|| self.state.lock().enqueue(message));
            outcomes.push(match outcome {
                Some(outcome) if verdict.heard => Ok(outcome),
                _ => lost(verdict.plainly_not),
            });
        }
        outcomes
    }

    async fn lease(
        &self,
        most: usize,
        _lease: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        tokio::task::yield_now().await;
        let verdict = self.faults.next();
        let leased = if (verdict.does)(0) { self.state.lock().lease(most) } else { Vec::new() };
        if leased.is_empty() {
            // Without this a settler with nothing to do would keep a paused clock from moving.
            tokio::time::sleep(wait).await;
        }
        if verdict.heard { Ok(leased) } else { lost(verdict.plainly_not) }
    }

    async fn ack(&self, receipts: Vec<Bytes>) -> Vec<Result<(), QueueError>> {
        tokio::task::yield_now().await;
        let verdict = self.faults.next();
        let mut outcomes = Vec::new();
        for (place, receipt) in receipts.iter().enumerate() {
            let outcome = (verdict.does)(place).then(|| self.state.lock().ack(receipt));
            outcomes.push(match outcome {
                Some(outcome) if verdict.heard => outcome,
                _ => lost(verdict.plainly_not),
            });
        }
        outcomes
    }

    async fn nack(&self, receipt: Bytes, _delay: Duration, _reason: &str) -> Result<(), QueueError> {
        let verdict = self.faults.next();
        if (verdict.does)(0)
            && let Some(message) = self.state.lock().held(&receipt)
        {
            message.lease = None;
        }
        if verdict.heard { Ok(()) } else { lost(verdict.plainly_not) }
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        if !self.faults.next().heard {
            return lost(true);
        }
        let state = self.state.lock();
        let live = state.messages.values().filter(|message| message.body.is_some());
        let (leased, ready): (Vec<&Message>, Vec<&Message>) =
            live.partition(|message| message.lease.is_some());
        Ok(Stats { ready: ready.len() as u64, in_flight: leased.len() as u64, ..state.stats })
    }
}
