//! The settler: takes openings from the queue and makes them rows and postings in the KV, once
//! each, whatever dies in between.
//!
//! ```text
//!   lease --> read rows, instant set, claims, closing mark      one linearizable read
//!               |
//!               v  decide (pure)
//!         users' units: claims document (CAS) + wallet index    one write
//!               |
//!               v  decide again
//!         packets' units: row or rejection + postings           one write
//!               |
//!               v  durable
//!              ack
//! ```
//! A unit that was not plainly `Done` is never assumed to have failed: the next round reads again
//! and decides from what is there. So is a message whose settler died: it is delivered again.
//!
//! Invariant: a message is acked only when its row or rejection was read or written here; the
//! closing mark is read after the message was leased (refund.rs builds on that).
//!
//! Not here: crediting what is pending (reconcile), moving money outside (ledger::backend).

pub mod check;
pub mod counters;
pub mod decide;
mod round;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvsvr::api::{Kv, KvError};
use queue::api::{Delivery, Queue, QueueError};
use ticket::id::BuildId;
use ticket::open::OpenKeyring;
use tokio::sync::watch;
use world::mutant::{Mutant, armed};

use crate::keyspace;
use counters::Counters;
use decide::Rules;
use round::Round;

/// How a settler works.
#[derive(Clone, Debug)]
pub struct SettlerConfig {
    /// Messages leased at a time.
    pub batch_max: usize,
    /// How long they are leased. Much longer than a batch takes.
    pub lease: Duration,
    /// How long to wait for the first message.
    pub wait: Duration,
    /// Rounds of read, decide, write before a message is given back.
    pub rounds_max: u32,
    /// Pause after a round that did not finish its messages; doubles each time.
    pub pause: Duration,
    /// After how long a message that could not be settled is delivered again.
    pub nack_delay: Duration,
}

impl Default for SettlerConfig {
    fn default() -> SettlerConfig {
        SettlerConfig {
            batch_max: 256,
            lease: Duration::from_secs(30),
            wait: Duration::from_millis(500),
            rounds_max: 8,
            pause: Duration::from_millis(20),
            nack_delay: Duration::from_secs(1),
        }
    }
}

/// Why a batch could not be taken or finished. Nothing is lost: it is delivered again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The queue gave nothing.
    #[error("the queue: {0}")]
    Queue(#[from] QueueError),
    /// The KV could not be read.
    #[error("the KV: {0}")]
    Kv(#[from] KvError),
}

/// What one batch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Messages taken.
    pub leased: usize,
    /// Of these: settled and acked.
    pub acked: usize,
}

/// Settles one build's openings.
pub struct Settler {
    kv: Arc<dyn Kv>,
    queue: Arc<dyn Queue>,
    keys: watch::Receiver<Arc<OpenKeyring>>,
    build: BuildId,
    rules: Rules,
    config: SettlerConfig,
    counters: Counters,
    /// Whether the KV failed us last: then it is asked before messages are leased, so that an
    /// outage does not use up their attempts.
    doubtful: AtomicBool,
}

impl Settler {
    /// A settler; any number may run at once.
    #[must_use]
    pub fn new(
        kv: Arc<dyn Kv>,
        queue: Arc<dyn Queue>,
        keys: watch::Receiver<Arc<OpenKeyring>>,
        build: BuildId,
        rules: Rules,
        config: SettlerConfig,
    ) -> Settler {
        assert!(0 < config.batch_max, "a settler takes at least one message at a time");
        assert!(2 <= config.rounds_max, "settling needs a round to write and one to look again");
        Settler {
            kv,
            queue,
            keys,
            build,
            rules,
            config,
            counters: Counters::default(),
            doubtful: AtomicBool::new(false),
        }
    }

    /// What became of the messages this settler saw.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Settles batches until `stop` resolves; finishes the batch it has begun.
    pub async fn run(&self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            // Only the wait for work is cut short by `stop`; a leased batch is finished.
            let pause = match self.settle_once().await {
                Ok(_) => Duration::ZERO,
                Err(error) => {
                    tracing::warn!(%error, "settling paused");
                    self.config.nack_delay
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Takes one batch, settles it, acks what is durable.
    ///
    /// # Errors
    /// [`SettleError`] when no batch could be taken, or the KV could not be read at all.
    pub async fn settle_once(&self) -> Result<Settled, SettleError> {
        if self.doubtful.load(Ordering::Relaxed) {
            self.kv.read(vec![keyspace::closing(self.build.tag())]).await?;
            self.doubtful.store(false, Ordering::Relaxed);
        }
        let deliveries = self.queue.lease(self.config.batch_max, self.config.lease, self.config.wait).await?;
        let leased = deliveries.len();
        if leased == 0 {
            return Ok(Settled::default());
        }
        if armed(Mutant::AckBeforeRow) {
            self.ack(deliveries.iter().map(|delivery| delivery.receipt.clone()).collect()).await;
        }
        let (outcome, done, left) = self.settle(deliveries).await;
        let acked = self.ack(done).await;
        for receipt in left {
            // Best effort: a lease that is not given back runs out.
            let _ = self.queue.nack(receipt, self.config.nack_delay, "not settled yet").await;
        }
        outcome?;
        assert!(acked <= leased, "only leased messages are acked");
        Ok(Settled { leased, acked })
    }

    /// Works in rounds until every message is finished or the rounds are used up. Answers the
    /// receipts that may be acked and those that may not.
    async fn settle(&self, deliveries: Vec<Delivery>) -> (Result<(), SettleError>, Vec<Bytes>, Vec<Bytes>) {
        let keys = self.keys.borrow().clone();
        let mut batch = round::Batch::new(deliveries, &keys, self.build);
        let mut outcome = Ok(());
        let mut pause = self.config.pause;
        for number in 0..self.config.rounds_max {
            if batch.finished() {
                break;
            }
            if 0 < number {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            let round =
                Round { kv: &*self.kv, build: self.build, rules: &self.rules, counters: &self.counters };
            outcome = round.run(&mut batch).await.map_err(SettleError::from);
        }
        if !batch.finished() {
            self.doubtful.store(true, Ordering::Relaxed);
        }
        let (done, left) = batch.receipts();
        (outcome, done, left)
    }

    async fn ack(&self, receipts: Vec<Bytes>) -> usize {
        if receipts.is_empty() {
            return 0;
        }
        // An ack that was refused or lost means one more delivery, which finds everything done.
        self.queue.ack(receipts).await.iter().filter(|outcome| outcome.is_ok()).count()
    }
}

#[cfg(test)]
mod tests;
