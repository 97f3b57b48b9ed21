//! One partition as its leader serves it: the machine behind a log, and the lease table beside it.
//!
//! ```text
//!   enqueue ----> propose -------------------------------> machine (replicated)
//!   lease   ----> machine's backlog + lease table --------> deliveries, nothing replicated
//!   ack     ----> lease table: held? pin it ----> propose -> machine -> unpin
//! ```
//! A tenure begins with a read barrier: from then on everything that earlier leaders committed is
//! applied here, so an empty lease table is a correct one, and a lease of an earlier leadership
//! that is not settled by now never will be.
//!
//! Invariant: a message is delivered only under a lease of this leadership, and settled only by a
//! command proposed while that lease was held. Dropping any of these futures at any point leaves
//! no lease pinned.
//!
//! Not here: the wire (`service`) and choosing a partition (`client`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use replica::engine::{EngineError, View};
use replica::error::{ProposeError, ReadError};
use tokio::time::Instant;
use world::mutant::{Mutant, armed};
use world::{Clock, UnixMs};

use crate::api::{Delivery, Enqueued, NewMessage, QueueError, Stats};
use crate::codec::CodecError;
use crate::command::{Accepted, Command, Offer, Reply, Settle, Settled};
use crate::lease::{Finish, Granted, LeaseTable, Moment};
use crate::limits::{BATCH_BYTES_MAX, BATCH_LEN_MAX, check_message, message_bytes};
use crate::log::Log;
use crate::machine::QueueMachine;
use crate::receipt::{Receipt, Token};
use crate::table::Known;
use crate::wire::PartitionError;

mod letters;
mod settle;

pub use letters::{Page, Peeked, Which};

/// What an operator may tune.
#[derive(Clone, Copy, Debug)]
pub struct PartitionConfig {
    /// Deliveries without an ack that make a dead letter.
    pub attempts_max: u32,
    /// Messages in flight at once.
    pub in_flight_max: usize,
    /// Enqueueing is refused for now while this many messages are ready, delayed or in flight.
    pub high_water_messages: u64,
    /// The same for their bytes.
    pub high_water_bytes: u64,
    /// What a refused producer is told to wait.
    pub retry_after: Duration,
    /// The longest a waiting consumer sleeps before it looks again.
    pub recheck_max: Duration,
    /// The longest lease; longer requests are cut.
    pub lease_max: Duration,
    /// The longest wait for a message; longer requests are cut.
    pub wait_max: Duration,
}

impl Default for PartitionConfig {
    fn default() -> PartitionConfig {
        PartitionConfig {
            attempts_max: 20,
            in_flight_max: 20_000,
            high_water_messages: 500_000,
            high_water_bytes: 1 << 30,
            retry_after: Duration::from_millis(500),
            recheck_max: Duration::from_secs(1),
            lease_max: Duration::from_secs(12 * 3600),
            wait_max: Duration::from_secs(30),
        }
    }
}

/// One partition, served while this member leads it.
pub struct Partition {
    number: u32,
    log: Arc<dyn Log>,
    clock: Arc<dyn Clock>,
    config: PartitionConfig,
    leases: Mutex<Option<LeaseTable>>,
}

impl Partition {
    /// Partition `number` of the queue, over its log.
    #[must_use]
    pub fn new(number: u32, log: Arc<dyn Log>, clock: Arc<dyn Clock>, config: PartitionConfig) -> Partition {
        Partition { number, log, clock, config, leases: Mutex::new(None) }
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Accepts messages in one entry of the log; answers each.
    ///
    /// # Errors
    /// [`PartitionError`] for the whole call; then no outcome of any message is known to be good.
    pub async fn enqueue(
        &self,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<Result<Enqueued, QueueError>>, PartitionError> {
        check_batch(messages.len(), messages.iter().map(message_bytes).sum())?;
        if self.log.token().is_none() {
            return Err(self.not_leader());
        }
        self.check_high_water()?;
        let checks: Vec<Result<(), String>> = messages.iter().map(check_message).collect();
        let dedup_ids: Vec<Bytes> = messages.iter().map(|message| message.dedup_id.clone()).collect();
        let offers: Vec<Offer> = messages
            .into_iter()
            .zip(&checks)
            .filter(|(_, check)| check.is_ok())
            .map(|(message, _)| offer_of(message))
            .collect();
        let mut accepted = self.propose_offers(offers).await?.into_iter();
        self.look(|_, view| {
            let mut left_bytes = BATCH_BYTES_MAX;
            let answers = checks.into_iter().zip(&dedup_ids).map(|(check, dedup_id)| {
                check.map_err(QueueError::Refused)?;
                match accepted.next().expect("one answer for each offer was checked") {
                    Accepted::New => Ok(Enqueued::New),
                    Accepted::Duplicate => self.duplicate(view, dedup_id, &mut left_bytes),
                }
            });
            Ok(answers.collect())
        })
    }

    async fn propose_offers(&self, offers: Vec<Offer>) -> Result<Vec<Accepted>, PartitionError> {
        if offers.is_empty() {
            return Ok(Vec::new());
        }
        let count = offers.len();
        let reply = match self.propose(&Command::Enqueue(offers)).await {
            Err(PartitionError::Queue(QueueError::Unknown(_))) if armed(Mutant::UnknownIsSuccess) => {
                return Ok(vec![Accepted::New; count]);
            }
            reply => reply?,
        };
        match reply {
            Reply::Enqueued(accepted) if accepted.len() == count => Ok(accepted),
            other => Err(unexpected(&other)),
        }
    }

    /// A duplicate's body, while the message is kept. Bodies of other sizes may have been enqueued
    /// under these ids before, so the answer is bounded here.
    fn duplicate(
        &self,
        view: &dyn View,
        dedup_id: &[u8],
        left_bytes: &mut usize,
    ) -> Result<Enqueued, QueueError> {
        let known = QueueMachine::known(view, dedup_id).map_err(|error| self.storage(&error))?;
        let Some(Known::Kept { seq }) = known else {
            return Ok(Enqueued::Duplicate { body: None });
        };
        let body = QueueMachine::body(view, seq).map_err(|error| self.storage(&error))?;
        if *left_bytes == 0 {
            return Err(self.unavailable("the answer would carry too many bodies"));
        }
        *left_bytes = left_bytes.saturating_sub(body.len());
        Ok(Enqueued::Duplicate { body: Some(body) })
    }

    /// Leases up to `most` messages; waits up to `wait` for the first one.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn lease(
        &self,
        most: usize,
        duration: Duration,
        wait: Duration,
    ) -> Result<Vec<Delivery>, PartitionError> {
        let most = most.min(BATCH_LEN_MAX);
        let duration = duration.min(self.config.lease_max);
        if most == 0 || duration.is_zero() {
            return Err(QueueError::Refused("a lease of nothing, or for no time".to_owned()).into());
        }
        let deadline = Instant::now() + wait.min(self.config.wait_max);
        loop {
            let changed = self.log.changed();
            let token = self.tenure().await?;
            let (deliveries, worn_out) = self.grant(token, most, duration)?;
            let buried = if worn_out.is_empty() { Ok(()) } else { self.bury(token, worn_out).await };
            if !deliveries.is_empty() {
                return Ok(deliveries);
            }
            buried?;
            if !self.nap(token, changed, deadline).await? {
                return Ok(deliveries);
            }
        }
    }

    /// Returns when there may be something to lease (`true`), or after `wait`. Leases nothing, so
    /// giving up on it costs nothing: the client waits on many partitions at once this way.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn await_ready(&self, wait: Duration) -> Result<bool, PartitionError> {
        let deadline = Instant::now() + wait.min(self.config.wait_max);
        loop {
            let changed = self.log.changed();
            let token = self.tenure().await?;
            let ready = self.look(|machine, _| {
                let moment = self.moment(machine);
                self.with_leases(token, |leases| leases.may_grant(machine.backlog(), moment))
                    .map(|may| may && !machine.tally().paused)
            })?;
            if ready || !self.nap(token, changed, deadline).await? {
                return Ok(ready);
            }
        }
    }

    /// Sleeps until something may have changed; `false` when the deadline has passed.
    async fn nap(
        &self,
        token: Token,
        changed: crate::log::Changed,
        deadline: Instant,
    ) -> Result<bool, PartitionError> {
        let now = Instant::now();
        if deadline <= now {
            return Ok(false);
        }
        let event = self.look(|machine, _| {
            let moment = self.moment(machine);
            self.with_leases(token, |leases| leases.next_event(machine.backlog(), moment))
        })?;
        // At least a timer tick, so that an event that is due but blocked cannot spin.
        let event = event.unwrap_or(self.config.recheck_max).max(Duration::from_millis(1));
        let wake = (now + event.min(self.config.recheck_max)).min(deadline);
        tokio::select! {
            biased;
            () = changed => {}
            () = tokio::time::sleep_until(wake) => {}
        }
        Ok(true)
    }

    fn grant(
        &self,
        token: Token,
        most: usize,
        duration: Duration,
    ) -> Result<(Vec<Delivery>, Vec<Granted>), PartitionError> {
        self.look(|machine, view| {
            if machine.tally().paused {
                return Ok((Vec::new(), Vec::new()));
            }
            let moment = self.moment(machine);
            let round =
                self.with_leases(token, |leases| leases.grant(machine.backlog(), most, duration, moment))?;
            let deliveries = round.granted.iter().map(|granted| self.deliver(machine, view, granted));
            // On an error the leases run out by themselves.
            let deliveries: Result<Vec<Delivery>, EngineError> = deliveries.collect();
            Ok((deliveries.map_err(|error| self.storage(&error))?, round.worn_out))
        })
    }

    fn deliver(
        &self,
        machine: &QueueMachine,
        view: &dyn View,
        granted: &Granted,
    ) -> Result<Delivery, EngineError> {
        let header = machine.backlog().get(granted.seq).expect("only live messages are granted");
        let body = QueueMachine::body(view, granted.seq)?;
        let receipt = Receipt {
            partition: self.number,
            seq: granted.seq,
            lease: granted.lease,
            dedup_id: header.dedup_id.clone(),
        };
        Ok(Delivery {
            receipt: receipt.encode(),
            key: header.key.clone(),
            dedup_id: header.dedup_id.clone(),
            body,
            attempts: granted.attempts,
            enqueued_ms: header.enqueued_ms,
        })
    }

    /// Counts of this partition, linearizable.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn stats(&self) -> Result<Stats, PartitionError> {
        let token = self.tenure().await?;
        self.barrier().await?;
        self.look(|machine, _| {
            let moment = self.moment(machine);
            let (tally, backlog) = (machine.tally(), machine.backlog());
            self.with_leases(token, |leases| {
                leases.expire(moment.uptime);
                // A message whose ack is applied may be in the table a moment longer.
                let in_flight = leases.in_flight().filter(|seq| backlog.get(*seq).is_some()).count() as u64;
                let delayed =
                    backlog.later_than(moment.now.0).filter(|seq| !leases.holds(*seq)).count() as u64;
                assert!(in_flight + delayed <= tally.live, "more in flight and delayed than live");
                let oldest = backlog.oldest().map_or(moment.now, |header| UnixMs(header.enqueued_ms));
                Stats {
                    ready: tally.live - in_flight - delayed,
                    in_flight,
                    delayed,
                    dead: tally.dead,
                    acked: tally.acked,
                    purged: tally.purged,
                    accepted: tally.accepted,
                    duplicates: tally.duplicates,
                    oldest_age_ms: moment.now.0.saturating_sub(oldest.0),
                }
            })
        })
    }

    /// Makes sure that this member leads, with a lease table of this very leadership.
    async fn tenure(&self) -> Result<Token, PartitionError> {
        let Some(token) = self.log.token() else { return Err(self.not_leader()) };
        if self.leases.lock().as_ref().is_some_and(|leases| leases.token() == token) {
            return Ok(token);
        }
        self.barrier().await?;
        // The barrier speaks for the leadership it ended under.
        if self.log.token() != Some(token) {
            return Err(self.not_leader());
        }
        let mut leases = self.leases.lock();
        // A slower caller must not replace the table of a later leadership, nor this one's again.
        if leases.as_ref().is_none_or(|leases| leases.token().term < token.term) {
            *leases = Some(LeaseTable::new(token, self.config.attempts_max, self.config.in_flight_max));
        }
        Ok(token)
    }

    async fn barrier(&self) -> Result<(), PartitionError> {
        self.log.read_barrier().await.map_err(|error| match error {
            ReadError::NotLeader { hint } => PartitionError::NotLeader { hint },
            ReadError::Unavailable(reason) => self.unavailable(&reason).into(),
        })
    }

    async fn propose(&self, command: &Command) -> Result<Reply, PartitionError> {
        let reply = self.log.propose(command.encode()).await.map_err(|error| match error {
            ProposeError::NotLeader { hint } => PartitionError::NotLeader { hint },
            ProposeError::Refused(reason) => self.unavailable(&reason).into(),
            ProposeError::Unknown(reason) => QueueError::Unknown(reason).into(),
        })?;
        match Reply::decode(&reply) {
            Ok(Reply::Refused(why)) => Err(QueueError::Refused(why).into()),
            Ok(reply) => Ok(reply),
            Err(error) => Err(unreadable(&error)),
        }
    }

    fn check_high_water(&self) -> Result<(), QueueError> {
        let (messages, bytes) = self.look(|machine, _| (machine.backlog().len(), machine.backlog().bytes()));
        let below = messages < self.config.high_water_messages && bytes < self.config.high_water_bytes;
        if below { Ok(()) } else { Err(self.unavailable("the partition is past its high-water mark")) }
    }

    /// Runs `visit` on the machine and its key space at one applied index.
    fn look<R>(&self, visit: impl FnOnce(&QueueMachine, &dyn View) -> R) -> R {
        let mut visit = Some(visit);
        let mut seen = None;
        self.log.read(&mut |machine, view| seen = visit.take().map(|visit| visit(machine, view)));
        seen.expect("a log shows its machine once for each read")
    }

    /// Runs `act` on the lease table of `token`. Inside `look`, never around it: one lock order.
    fn with_leases<R>(
        &self,
        token: Token,
        act: impl FnOnce(&mut LeaseTable) -> R,
    ) -> Result<R, PartitionError> {
        let mut leases = self.leases.lock();
        match leases.as_mut() {
            Some(leases) if leases.token() == token => Ok(act(leases)),
            _ => Err(self.not_leader()),
        }
    }

    fn moment(&self, machine: &QueueMachine) -> Moment {
        let now = self.log.now();
        assert!(now.0 >= machine.tally().as_of_ms, "the log's clock is not before what is applied");
        Moment { now, uptime: self.clock.uptime() }
    }

    fn not_leader(&self) -> PartitionError {
        PartitionError::NotLeader { hint: self.log.leader() }
    }

    fn unavailable(&self, reason: &str) -> QueueError {
        QueueError::Unavailable { reason: reason.to_owned(), retry_after: self.config.retry_after }
    }

    fn storage(&self, error: &EngineError) -> QueueError {
        self.unavailable(&error.to_string())
    }
}

fn offer_of(message: NewMessage) -> Offer {
    let delay_ms = u64::try_from(message.delay.as_millis()).expect("the delay was checked against its limit");
    Offer { key: message.key, dedup_id: message.dedup_id, body: message.body, delay_ms }
}

fn check_batch(len: usize, bytes: usize) -> Result<(), QueueError> {
    if len <= BATCH_LEN_MAX && bytes <= BATCH_BYTES_MAX {
        return Ok(());
    }
    let allowed = format!("{BATCH_LEN_MAX} and {BATCH_BYTES_MAX} bytes are allowed");
    Err(QueueError::Refused(format!("a batch of {len} with {bytes} bytes; {allowed}")))
}

/// The machine answered something that belongs to another command: this host's own fault, and
/// what was applied is not known.
fn unexpected(reply: &Reply) -> PartitionError {
    QueueError::Unknown(format!("the machine answered {reply:?}")).into()
}

fn unreadable(error: &CodecError) -> PartitionError {
    QueueError::Unknown(error.to_string()).into()
}
