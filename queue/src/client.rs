//! The queue over the network.
//!
//! ```text
//!   enqueue  -> by key      -> one lane per partition, batches form while others are on the way
//!   ack      -> by receipt  -> one call per partition, all at once
//!   lease    -> sweep all partitions, a fair share of each; nothing? wait at all of them, and sweep
//! ```
//! Waiting and leasing are separate calls: a wait that is given up costs nothing, whereas a lease
//! that is given up while its answer is under way would hide messages until it runs out.
//!
//! Invariant: an outcome that may have happened is never reported as refused or unavailable.
//! Enqueue and ack are idempotent, so they are repeated until their deadline and only then
//! `Unknown`.
//!
//! Not here: which node leads (`route`), how enqueues share a call (`lane`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;
use world::NodeId;
use world::net::{AddressError, Net};

use crate::api::{Delivery, Enqueued, NewMessage, Queue, QueueError, Stats};
use crate::limits::{BATCH_LEN_MAX, check_message};
use crate::partitioner::partition_of;
use crate::receipt::Receipt;
use crate::wire::{ms, pb};

mod lane;
mod operate;
mod route;

use lane::Lane;
use route::{Routes, Terms};

/// What a user of the client may set.
#[derive(Clone, Copy, Debug)]
pub struct ClientConfig {
    /// How long an enqueue or ack is tried before its outcome is `Unknown` or `Unavailable`.
    pub deadline: Duration,
    /// How long one attempt at one node may take.
    pub attempt: Duration,
    /// How long one sweep for messages may take; a partition that fails it is left alone for a
    /// moment.
    pub sweep: Duration,
}

impl Default for ClientConfig {
    fn default() -> ClientConfig {
        ClientConfig {
            deadline: Duration::from_secs(10),
            attempt: Duration::from_secs(2),
            sweep: Duration::from_secs(1),
        }
    }
}

/// How long a partition that did not answer is left out of sweeps.
const LEFT_OUT: Duration = Duration::from_millis(250);
/// The longest single wait at a partition; servers cut longer ones.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Between attempts at receipts whose earlier ack is still under way.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// The queue over the network. Shared by reference; connects when first used.
pub struct QueueClient {
    routes: Arc<Routes>,
    lanes: Vec<Arc<Lane>>,
    config: ClientConfig,
    /// Where the next sweep begins, so that no partition starves.
    turn: AtomicUsize,
}

impl QueueClient {
    /// A client of the queue with this many partitions, whose members are reached at `endpoints`:
    /// the nearest first, all zones among them.
    ///
    /// # Errors
    /// [`AddressError`] for an address that is not `host:port`.
    ///
    /// # Panics
    /// Without partitions or endpoints.
    pub fn new(
        net: &Arc<dyn Net>,
        partitions: u32,
        endpoints: &[(NodeId, String)],
        config: ClientConfig,
    ) -> Result<QueueClient, AddressError> {
        assert!(partitions > 0, "a queue has at least one partition");
        let routes = Arc::new(Routes::new(net, partitions, endpoints)?);
        let lane = |partition| Arc::new(Lane::new(partition, Arc::clone(&routes), config));
        let lanes = (0..partitions).map(lane).collect();
        Ok(QueueClient { lanes, routes, config, turn: AtomicUsize::new(0) })
    }

    /// How many partitions the queue has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.routes.partitions()
    }

    fn terms(&self) -> Terms {
        Terms { deadline: Instant::now() + self.config.deadline, attempt: self.config.attempt, patient: true }
    }

    /// Leases up to `most` from all partitions without waiting, beginning at `first`.
    async fn sweep(&self, first: usize, most: usize, lease: Duration) -> Result<Vec<Delivery>, QueueError> {
        let order = self.routes.healthy(first);
        if order.is_empty() {
            return Err(no_partition());
        }
        let mut found = Vec::new();
        let mut failed = 0;
        let mut more: Vec<u32> = order.clone();
        if order.len() <= most {
            more.clear();
            let len = order.len();
            let shares = order.iter().enumerate().map(|(place, partition)| async move {
                let share = most / len + usize::from(place < most % len);
                (*partition, share, self.lease_at(*partition, share, lease).await)
            });
            for (partition, share, answer) in join_all(shares).await {
                match answer {
                    Ok(deliveries) if deliveries.len() == share => {
                        more.push(partition);
                        found.extend(deliveries);
                    }
                    Ok(deliveries) => found.extend(deliveries),
                    Err(_) => failed += 1,
                }
            }
        }
        // What others left over, from those that gave their full share.
        for partition in more {
            let left = most - found.len();
            if left == 0 {
                break;
            }
            match self.lease_at(partition, left, lease).await {
                Ok(deliveries) => found.extend(deliveries),
                Err(_) => failed += 1,
            }
        }
        assert!(found.len() <= most, "leased more than was asked for");
        if found.is_empty() && failed == order.len() { Err(no_partition()) } else { Ok(found) }
    }

    async fn lease_at(
        &self,
        partition: u32,
        most: usize,
        lease: Duration,
    ) -> Result<Vec<Delivery>, QueueError> {
        let most = u32::try_from(most.min(BATCH_LEN_MAX)).expect("at most a batch");
        let request = pb::LeaseRequest { partition, most, lease_ms: ms(lease), wait_ms: 0 };
        let deadline = Instant::now() + self.config.sweep;
        let terms = Terms { deadline, attempt: self.config.attempt, patient: true };
        let leased =
            self.routes.call(partition, terms, |mut rpc| async move { rpc.lease(request).await }).await;
        match leased {
            Ok(answer) => Ok(answer.reply.deliveries.into_iter().map(Into::into).collect()),
            Err(error) => {
                self.routes.leave_out(partition, LEFT_OUT);
                Err(error)
            }
        }
    }

    /// Waits at all partitions until one may have something, or until `deadline`. Answers which.
    async fn await_any(&self, deadline: Instant) -> Option<u32> {
        let healthy = self.routes.healthy(0);
        let all = healthy.len() == self.lanes.len();
        // A partition that is left out is looked at again soon.
        let soon = Instant::now() + if all { WAIT_MAX } else { LEFT_OUT };
        let until = deadline.min(soon);
        let mut waits: FuturesUnordered<_> =
            healthy.iter().map(|partition| self.await_one(*partition, until)).collect();
        while let Some(ready) = waits.next().await {
            if ready.is_some() {
                return ready;
            }
        }
        // All of them failed, or answered early: not a reason to spin.
        let pause = Instant::now() + BUSY_PAUSE;
        tokio::time::sleep_until(pause.min(until)).await;
        None
    }

    async fn await_one(&self, partition: u32, until: Instant) -> Option<u32> {
        let wait = until.saturating_duration_since(Instant::now());
        let request = pb::AwaitReadyRequest { partition, wait_ms: ms(wait) };
        let attempt = wait + self.config.attempt;
        let terms = Terms { deadline: Instant::now() + attempt, attempt, patient: false };
        let call =
            self.routes.call(partition, terms, |mut rpc| async move { rpc.await_ready(request).await });
        match call.await {
            Ok(answer) => answer.reply.ready.then_some(partition),
            Err(_) => {
                self.routes.leave_out(partition, LEFT_OUT);
                None
            }
        }
    }

    /// Acks receipts of one partition; answers them in order.
    async fn ack_at(&self, partition: u32, receipts: &[Bytes]) -> Vec<Result<(), QueueError>> {
        let terms = self.terms();
        let mut answers: Vec<Option<Result<(), QueueError>>> = vec![None; receipts.len()];
        loop {
            let open: Vec<usize> =
                (0..receipts.len()).filter(|place| is_open(answers[*place].as_ref())).collect();
            if open.is_empty() || terms.deadline <= Instant::now() {
                let unasked = || Err(unavailable("the deadline passed before it was sent"));
                return answers.into_iter().map(|answer| answer.unwrap_or_else(unasked)).collect();
            }
            if open.iter().any(|place| answers[*place].is_some()) {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            for chunk in open.chunks(BATCH_LEN_MAX) {
                let some = chunk.iter().map(|place| receipts[*place].clone()).collect();
                for (place, answer) in chunk.iter().zip(self.ack_once(partition, some, terms).await) {
                    answers[*place] = Some(answer);
                }
            }
        }
    }

    async fn ack_once(
        &self,
        partition: u32,
        receipts: Vec<Bytes>,
        terms: Terms,
    ) -> Vec<Result<(), QueueError>> {
        let count = receipts.len();
        let request = &pb::AckRequest { partition, receipts };
        match self
            .routes
            .call(partition, terms, |mut rpc| async move { rpc.ack(request.clone()).await })
            .await
        {
            Ok(answer) if answer.reply.results.len() == count => {
                let read = |result: pb::AckResult| match result.failure.map(QueueError::from) {
                    None => Ok(()),
                    // An earlier attempt may yet be applied.
                    Some(QueueError::Refused(reason)) if answer.repeated => Err(QueueError::Unknown(reason)),
                    Some(error) => Err(error),
                };
                answer.reply.results.into_iter().map(read).collect()
            }
            Ok(_) => {
                vec![Err(QueueError::Unknown("the server answered another number of acks".to_owned())); count]
            }
            Err(error) => vec![Err(error); count],
        }
    }
}

/// Not asked yet, or asked too early.
fn is_open(answer: Option<&Result<(), QueueError>>) -> bool {
    matches!(answer, None | Some(Err(QueueError::Unavailable { .. })))
}

fn unavailable(reason: &str) -> QueueError {
    QueueError::Unavailable { reason: reason.to_owned(), retry_after: LEFT_OUT }
}

fn no_partition() -> QueueError {
    unavailable("no partition can be reached")
}

#[async_trait]
impl Queue for QueueClient {
    async fn enqueue(&self, messages: Vec<NewMessage>) -> Vec<Result<Enqueued, QueueError>> {
        let mut answers = vec![Err(QueueError::Unknown("no answer".to_owned())); messages.len()];
        let mut parts: BTreeMap<u32, (Vec<usize>, Vec<NewMessage>)> = BTreeMap::new();
        for (place, message) in messages.into_iter().enumerate() {
            match check_message(&message) {
                Ok(()) => {
                    let part = parts.entry(partition_of(&message.key, self.partitions())).or_default();
                    part.0.push(place);
                    part.1.push(message);
                }
                Err(reason) => answers[place] = Err(QueueError::Refused(reason)),
            }
        }
        let sends = parts.into_iter().map(|(partition, (places, messages))| {
            let lane = &self.lanes[partition as usize];
            async move { (places, lane.enqueue(messages).await) }
        });
        for (places, results) in join_all(sends).await {
            assert!(places.len() == results.len(), "a lane answers every message");
            for (place, result) in places.into_iter().zip(results) {
                answers[place] = result;
            }
        }
        answers
    }

    async fn lease(&self, most: usize, lease: Duration, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        if most == 0 || ms(lease) == 0 {
            return Err(QueueError::Refused("a lease of nothing, or for no time".to_owned()));
        }
        let deadline = Instant::now() + wait;
        let mut first = self.turn.fetch_add(1, Ordering::Relaxed);
        loop {
            let swept = self.sweep(first, most, lease).await;
            match swept {
                Ok(found) if found.is_empty() && Instant::now() < deadline => {}
                Err(_) if Instant::now() < deadline => {}
                swept => return swept,
            }
            if let Some(ready) = self.await_any(deadline).await {
                first = ready as usize;
            }
        }
    }

    async fn ack(&self, receipts: Vec<Bytes>) -> Vec<Result<(), QueueError>> {
        let mut answers =
            vec![Err(QueueError::Refused("not a receipt of this queue".to_owned())); receipts.len()];
        let mut parts: BTreeMap<u32, (Vec<usize>, Vec<Bytes>)> = BTreeMap::new();
        for (place, bytes) in receipts.into_iter().enumerate() {
            match Receipt::decode(&bytes) {
                Ok(receipt) if receipt.partition < self.partitions() => {
                    let part = parts.entry(receipt.partition).or_default();
                    part.0.push(place);
                    part.1.push(bytes);
                }
                _ => {}
            }
        }
        let sends = parts.iter().map(|(partition, (places, receipts))| async move {
            (places, self.ack_at(*partition, receipts).await)
        });
        for (places, results) in join_all(sends).await {
            for (place, result) in places.iter().zip(results) {
                answers[*place] = result;
            }
        }
        answers
    }

    async fn nack(&self, receipt: Bytes, delay: Duration, reason: &str) -> Result<(), QueueError> {
        let partition = self.partition_of_receipt(&receipt)?;
        let request = &pb::NackRequest { receipt, delay_ms: ms(delay), reason: reason.to_owned() };
        let call = self
            .routes
            .call(partition, self.terms(), |mut rpc| async move { rpc.nack(request.clone()).await });
        call.await.map(|_| ())
    }

    async fn stats(&self) -> Result<Stats, QueueError> {
        let each = (0..self.partitions()).map(|partition| self.partition_stats(partition));
        let mut sum = Stats::default();
        for stats in join_all(each).await {
            sum = sum.plus(&stats?);
        }
        Ok(sum)
    }
}
