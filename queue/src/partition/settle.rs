//! Ack, nack, extend, and burying what was delivered too often.
//!
//! Invariant: a lease is pinned from the check that it is held until the outcome of the command
//! is known. [`Pins`] ends that also when the future is dropped half way.

use std::time::Duration;

use super::{
    Command, Finish, Granted, Known, Partition, PartitionError, QueueError, QueueMachine, Receipt, Reply,
    Settle, Settled, Token, check_batch, unexpected,
};
use crate::command::{Fate, Return};
use crate::lease::LeaseError;
use crate::limits::{DELAY_MS_MAX, cut_reason};
use crate::receipt::LeaseId;

/// Leases that are being settled. Dropped without a word, their outcome is unknown.
struct Pins<'a> {
    partition: &'a Partition,
    token: Token,
    pinned: Vec<(u64, LeaseId)>,
    finish: Finish,
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let uptime = self.partition.clock.uptime();
        // Another leadership's table has other leases: then there is nothing to unpin.
        let _ = self.partition.with_leases(self.token, |leases| {
            for (seq, lease) in &self.pinned {
                leases.finish(*seq, *lease, self.finish, uptime);
            }
        });
    }
}

impl Partition {
    /// Marks leased messages as done, in one entry of the log; answers each.
    ///
    /// # Errors
    /// [`PartitionError`] for the whole call.
    pub async fn ack(&self, receipts: &[Receipt]) -> Result<Vec<Result<(), QueueError>>, PartitionError> {
        check_batch(receipts.len(), 0)?;
        let token = self.tenure().await?;
        let begun = self.begin(token, receipts)?;
        let held =
            || receipts.iter().zip(&begun).filter(|(_, begun)| begun.is_ok()).map(|(receipt, _)| receipt);
        let settles: Vec<Settle> = held().map(settle_of).collect();
        let pins = held().map(|receipt| (receipt.seq, receipt.lease)).collect();
        let mut settled = self.settle(token, pins, settles.len(), &Command::Ack(settles)).await?.into_iter();
        let answers = receipts.iter().zip(begun).map(|(receipt, begun)| match begun {
            Ok(_) => match settled.next().expect("one answer for each settle was checked") {
                Settled::Done => Ok(()),
                Settled::Gone | Settled::Fenced => Err(not_held()),
            },
            Err(LeaseError::NotHeld) => self.acked_before(receipt),
            Err(LeaseError::Busy) => Err(self.unavailable(&LeaseError::Busy.to_string())),
        });
        Ok(answers.collect())
    }

    /// Gives a leased message back; a dead letter after too many deliveries.
    ///
    /// # Errors
    /// [`PartitionError`]; refused when the lease is not held.
    pub async fn nack(&self, receipt: &Receipt, delay: Duration, reason: &str) -> Result<(), PartitionError> {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        if delay_ms > DELAY_MS_MAX {
            return Err(QueueError::Refused(format!(
                "a delay of {delay_ms} ms is longer than {DELAY_MS_MAX}"
            ))
            .into());
        }
        let token = self.tenure().await?;
        let begun = self.begin(token, std::slice::from_ref(receipt))?;
        let attempts = begun[0].map_err(|error| match error {
            LeaseError::NotHeld => not_held(),
            LeaseError::Busy => self.unavailable(&error.to_string()),
        })?;
        let worn_out = attempts >= self.config.attempts_max;
        let fate = if worn_out { Fate::Bury } else { Fate::Again { delay_ms } };
        let back =
            Return { settle: settle_of(receipt), attempts, fate, reason: cut_reason(reason).to_owned() };
        let pins = vec![(receipt.seq, receipt.lease)];
        match self.settle(token, pins, 1, &Command::Return(vec![back])).await?[0] {
            Settled::Done => Ok(()),
            Settled::Gone | Settled::Fenced => Err(not_held().into()),
        }
    }

    /// Holds a lease until `duration` from now.
    ///
    /// # Errors
    /// [`PartitionError`]; refused when the lease is not held.
    pub async fn extend(&self, receipt: &Receipt, duration: Duration) -> Result<(), PartitionError> {
        let duration = duration.min(self.config.lease_max);
        let token = self.tenure().await?;
        let uptime = self.clock.uptime();
        let extended =
            self.with_leases(token, |leases| leases.extend(receipt.seq, receipt.lease, duration, uptime))?;
        extended.map_err(|error| match error {
            LeaseError::NotHeld => not_held().into(),
            LeaseError::Busy => self.unavailable(&error.to_string()).into(),
        })
    }

    /// Moves messages that were delivered too often to the dead letters. They are pinned already.
    pub(super) async fn bury(&self, token: Token, worn_out: Vec<Granted>) -> Result<(), PartitionError> {
        let pins: Vec<(u64, LeaseId)> = worn_out.iter().map(|granted| (granted.seq, granted.lease)).collect();
        let returns: Vec<Return> = self.look(|machine, _| {
            let bury = |granted: &Granted| {
                let dedup_id = machine.backlog().get(granted.seq).map(|header| header.dedup_id.clone());
                let settle =
                    Settle { seq: granted.seq, lease: granted.lease, dedup_id: dedup_id.unwrap_or_default() };
                let reason = format!("delivered {} times and never answered", granted.attempts);
                Return { settle, attempts: granted.attempts, fate: Fate::Bury, reason }
            };
            worn_out.iter().map(bury).collect()
        });
        self.settle(token, pins, returns.len(), &Command::Return(returns)).await.map(|_| ())
    }

    fn begin(
        &self,
        token: Token,
        receipts: &[Receipt],
    ) -> Result<Vec<Result<u32, LeaseError>>, PartitionError> {
        if receipts.iter().any(|receipt| receipt.partition != self.number) {
            return Err(QueueError::Refused("a receipt of another partition".to_owned()).into());
        }
        let uptime = self.clock.uptime();
        self.with_leases(token, |leases| {
            receipts.iter().map(|receipt| leases.begin(receipt.seq, receipt.lease, uptime)).collect()
        })
    }

    /// Proposes a command that settles `pins`, and unpins them according to what became of it.
    async fn settle(
        &self,
        token: Token,
        pinned: Vec<(u64, LeaseId)>,
        count: usize,
        command: &Command,
    ) -> Result<Vec<Settled>, PartitionError> {
        assert!(pinned.len() == count, "every settle of a command pins its lease");
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut pins = Pins { partition: self, token, pinned, finish: Finish::Unknown };
        let outcome = self.propose(command).await;
        pins.finish = match &outcome {
            Ok(_) => Finish::Applied,
            Err(PartitionError::Queue(QueueError::Unknown(_))) => Finish::Unknown,
            Err(_) => Finish::NotProposed,
        };
        drop(pins);
        match outcome? {
            Reply::Settled(settled) if settled.len() == count => Ok(settled),
            other => Err(unexpected(&other)),
        }
    }

    /// An ack under a lease that is not in the table: fine if it was this lease that was acked,
    /// and its answer was lost.
    fn acked_before(&self, receipt: &Receipt) -> Result<(), QueueError> {
        let known = self.look(|_, view| QueueMachine::known(view, &receipt.dedup_id));
        match known.map_err(|error| self.storage(&error))? {
            Some(Known::Acked { seq, lease, .. }) if seq == receipt.seq && lease == receipt.lease => Ok(()),
            _ => Err(not_held()),
        }
    }
}

fn settle_of(receipt: &Receipt) -> Settle {
    Settle { seq: receipt.seq, lease: receipt.lease, dedup_id: receipt.dedup_id.clone() }
}

fn not_held() -> QueueError {
    QueueError::Refused(LeaseError::NotHeld.to_string())
}
