//! The queue in one process's memory, for tests of what uses it.
//!
//! [`LocalQueue`] runs the very machine, lease table and partition code of the server; only the
//! log beneath is a `BTreeMap` behind a lock, where every proposal is applied at once. Tests can
//! make trouble: [`LocalQueue::depose`] changes the leadership (all leases are lost),
//! [`LocalQueue::fail_proposals`] makes writes fail, [`LocalQueue::lose_replies`] applies them and
//! loses the answer.
//!
//! Not here: durability. Nothing survives the value.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use replica::engine::{EngineError, View};
use replica::error::{ProposeError, ReadError};
use replica::machine::{At, Machine, Txn};
use tokio::sync::watch;
use tokio::time::Instant;
use world::pace::Pace;
use world::{Clock, NodeId, UnixMs};

use crate::api::{Delivery, Enqueued, NewMessage, Queue, QueueError, Stats};
use crate::log::{Changed, Log};
use crate::machine::QueueMachine;
use crate::partition::{Partition, PartitionConfig};
use crate::partitioner::partition_of;
use crate::receipt::{Receipt, Token};
use crate::wire::PartitionError;

/// An ordered key space in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryView(pub BTreeMap<Bytes, Bytes>);

impl MemoryView {
    /// Applies one command of `machine` to this key space.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn apply(
        &mut self,
        machine: &mut QueueMachine,
        at: At,
        command: &Bytes,
    ) -> Result<Bytes, EngineError> {
        let mut txn = Txn::new(&*self);
        let reply = machine.apply(&mut txn, at, command)?;
        for (key, value) in txn.into_writes() {
            match value {
                Some(value) => self.0.insert(key, value),
                None => self.0.remove(&key),
            };
        }
        Ok(reply)
    }
}

impl View for MemoryView {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        if !to.is_empty() && to <= from {
            return Ok(());
        }
        let end = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let mut range = self.0.range::<[u8], _>((Bound::Included(from), end));
        while let Some((key, value)) = if reverse { range.next_back() } else { range.next() } {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

struct Applied {
    view: MemoryView,
    machine: QueueMachine,
    index: u64,
    token: Token,
}

/// A log that applies what is proposed at once.
struct LocalLog {
    pace: Pace,
    applied: Mutex<Applied>,
    changes: watch::Sender<u64>,
    fail_next: AtomicU32,
    lose_next: AtomicU32,
}

impl LocalLog {
    fn new(clock: Arc<dyn Clock>) -> LocalLog {
        let node = NodeId::from_u16(1).expect("node 1 of the first zone");
        let (view, machine) = (MemoryView::default(), QueueMachine::new());
        let applied = Mutex::new(Applied { view, machine, index: 0, token: Token { term: 1, node } });
        let (fail_next, lose_next) = (AtomicU32::new(0), AtomicU32::new(0));
        LocalLog { pace: Pace::new(clock), applied, changes: watch::Sender::new(0), fail_next, lose_next }
    }

    fn depose(&self) {
        self.applied.lock().token.term += 1;
        self.changes.send_modify(|count| *count += 1);
    }
}

/// Takes one off a count of things to come.
fn take_one(count: &AtomicU32) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[async_trait]
impl Log for LocalLog {
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError> {
        if take_one(&self.fail_next) {
            return Err(ProposeError::Refused("a test wants this".to_owned()));
        }
        let reply = {
            let mut applied = self.applied.lock();
            let Applied { view, machine, index, token } = &mut *applied;
            *index += 1;
            let now = self.pace.now(UnixMs(machine.tally().as_of_ms));
            let at = At { index: *index, term: token.term, leader: token.node, now };
            view.apply(machine, at, &command).map_err(|error| ProposeError::Unknown(error.to_string()))?
        };
        self.changes.send_modify(|count| *count += 1);
        if take_one(&self.lose_next) {
            return Err(ProposeError::Unknown("a test wants this".to_owned()));
        }
        Ok(reply)
    }

    async fn read_barrier(&self) -> Result<(), ReadError> {
        Ok(())
    }

    fn read(&self, visit: &mut dyn FnMut(&QueueMachine, &dyn View)) {
        let applied = self.applied.lock();
        visit(&applied.machine, &applied.view);
    }

    fn token(&self) -> Option<Token> {
        Some(self.applied.lock().token)
    }

    // Proposals read the same pace, so what is applied is never behind it.
    fn now(&self) -> UnixMs {
        self.pace.now(UnixMs(0))
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.applied.lock().token.node)
    }

    fn changed(&self) -> Changed {
        let mut changes = self.changes.subscribe();
        Box::pin(async move {
            // The sender lives as long as the log; when it is gone the waiter's deadline ends it.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }
}

/// The queue, in memory.
pub struct LocalQueue {
    logs: Vec<Arc<LocalLog>>,
    partitions: Vec<Partition>,
    turn: AtomicUsize,
}

impl LocalQueue {
    /// A queue of `partitions` partitions on `clock`, with the default settings.
    ///
    /// # Panics
    /// When `partitions` is 0.
    #[must_use]
    pub fn new(partitions: u32, clock: Arc<dyn Clock>) -> LocalQueue {
        // A test's clock may jump without waking anybody, so waiters look often.
        let recheck_max = Duration::from_millis(5);
        LocalQueue::with_config(
            partitions,
            clock,
            PartitionConfig { recheck_max, ..PartitionConfig::default() },
        )
    }

    /// The same with settings.
    ///
    /// # Panics
    /// When `partitions` is 0.
    #[must_use]
    pub fn with_config(partitions: u32, clock: Arc<dyn Clock>, config: PartitionConfig) -> LocalQueue {
        assert!(partitions > 0, "a queue has at least one partition");
        let logs: Vec<Arc<LocalLog>> =
            (0..partitions).map(|_| Arc::new(LocalLog::new(Arc::clone(&clock)))).collect();
        let serve = |(number, log): (u32, &Arc<LocalLog>)| {
            let log: Arc<dyn Log> = Arc::<LocalLog>::clone(log);
            Partition::new(number, log, Arc::clone(&clock), config)
        };
        let partitions = (0..partitions).zip(&logs).map(serve).collect();
        LocalQueue { logs, partitions, turn: AtomicUsize::new(0) }
    }

    /// The partitions, for what the trait does not offer.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Another leadership begins on every partition: all leases are lost.
    pub fn depose(&self) {
        self.logs.iter().for_each(|log| log.depose());
    }

    /// The next `count` proposals of each partition fail without being proposed.
    pub fn fail_proposals(&self, count: u32) {
        self.logs.iter().for_each(|log| log.fail_next.store(count, Ordering::SeqCst));
    }

    /// The next `count` proposals of each partition are applied, but their answers are lost.
    pub fn lose_replies(&self, count: u32) {
        self.logs.iter().for_each(|log| log.lose_next.store(count, Ordering::SeqCst));
    }

    fn partition(&self, number: u32) -> Result<&Partition, QueueError> {
        let found = self.partitions.iter().find(|partition| partition.number() == number);
        found.ok_or_else(|| QueueError::Refused(format!("there is no partition {number}")))
    }

    async fn ack_one(&self, receipt: &[u8]) -> Result<(), QueueError> {
        let receipt = Receipt::decode(receipt).map_err(|error| QueueError::Refused(error.to_string()))?;
        let answers = self.partition(receipt.partition)?.ack(&[receipt]).await.map_err(plain)?;
        answers.into_iter().next().expect("one answer for one receipt")
    }
}

/// In one process there is nobody else to lead.
fn plain(error: PartitionError) -> QueueError {
    match error {
        PartitionError::Queue(error) => error,
        PartitionError::NotLeader { .. } => QueueError::Unavailable {
            reason: "the leadership changed during the call".to_owned(),
            retry_after: Duration::from_millis(1),
        },
    }
}

#[async_trait]
impl Queue for LocalQueue {
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Vec<Result<Enqueued, QueueError>> {
        let mut answers = Vec::with_capacity(messages.len());
        let count = u32::try_from(self.partitions.len()).expect("partitions are numbered by u32");
        for message in messages {
            let partition = &self.partitions[partition_of(&message.key, count) as usize];
            let answer = match partition.enqueue(vec![message]).await {
                Ok(mut one) => one.pop().expect("one answer for one message"),
                Err(error) => Err(plain(error)),
            };
            answers.push(answer);
        }
        answers
    }

    async fn lease(&self, most: usize, lease: Duration, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let deadline = Instant::now() + wait;
        let count = self.partitions.len();
        loop {
            // Another partition comes first each time, so that none starves.
            let first = self.turn.fetch_add(1, Ordering::Relaxed);
            let mut found = Vec::new();
            for offset in 0..count {
                let left = most - found.len();
                if left > 0 {
                    let partition = &self.partitions[(first + offset) % count];
                    found.extend(partition.lease(left, lease, Duration::ZERO).await.map_err(plain)?);
                }
            }
            if !found.is_empty() || deadline <= Instant::now() {
                return Ok(found);
            }
            let waits = self.partitions.iter().map(|partition| {
                let left = deadline.saturating_duration_since(Instant::now());
                Box::pin(partition.await_ready(left))
            });
            futures_util::future::select_all(waits).await.0.map_err(plain)?;
        }
    }

    async fn ack(&self, receipts: Vec<Bytes>) -> Vec<Result<(), QueueError>> {
        let mut answers = Vec::with_capacity(receipts.len());
        for receipt in receipts {
            answers.push(self.ack_one(&receipt).await);
        }
        answers
    }

    async fn nack(&self, receipt: Bytes, delay: Duration, reason: &str) -> Result<(), QueueError> {
        let receipt = Receipt::decode(&receipt).map_err(|error| QueueError::Refused(error.to_string()))?;
        self.partition(receipt.partition)?.nack(&receipt, delay, reason).await.map_err(plain)
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let mut sum = Stats::default();
        for partition in &self.partitions {
            sum = sum.plus(&partition.stats().await.map_err(plain)?);
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests;
