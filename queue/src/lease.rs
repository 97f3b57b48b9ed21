//! Who holds which message: the leader's lease table of one partition.
//!
//! ```text
//!                 grant                    begin               finish(Done)
//!   due head  ------------->  held  ------------->  settling  -------------> gone from the table
//!      ^                        |                       |
//!      +------------------------+                       +--> held again (not proposed, unknown)
//!            expires, counted
//! ```
//! A lease in `settling` has a command in the log or on the way there; it cannot expire, because
//! giving the message to somebody else while its ack may still be applied would make two holders.
//! If the outcome stays unknown the lease is held for [`UNKNOWN_GRACE`] more. In the same term the
//! entry is applied long before that; in another term there is another table.
//!
//! Invariant: at most one message of a key is in flight, and no message is held twice; a table
//! belongs to one leadership ([`Token`]) and is never carried to another.
//!
//! Not here: which messages exist (`backlog`), and anything durable. Losing the table means
//! redelivery, never loss.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use world::UnixMs;
use world::mutant::{Mutant, armed};

use crate::backlog::Backlog;
use crate::limits::BATCH_BYTES_MAX;
use crate::receipt::{LeaseId, Token};

/// How long a lease stays with its holder after the outcome of its ack or nack became unknown.
pub const UNKNOWN_GRACE: Duration = Duration::from_secs(30);

/// The two readings of clocks that decide about leases.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The log's clock: decides whether a message is due.
    pub now: UnixMs,
    /// The leader's own: decides whether a lease has expired; a jump of the wall clock must not end leases.
    pub uptime: Duration,
}

/// A message given to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The message.
    pub seq: u64,
    /// The lease of it.
    pub lease: LeaseId,
    /// Deliveries, this one included.
    pub attempts: u32,
}

/// What a round of granting found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// For the consumer.
    pub granted: Vec<Granted>,
    /// Delivered too often without an answer: to be buried by the caller, which holds them
    /// settling. `attempts` are the deliveries so far.
    pub worn_out: Vec<Granted>,
}

/// How a command that settles a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Applied: the message is done, dead, returned, or was not there.
    Applied,
    /// Never proposed: the lease goes on as before.
    NotProposed,
    /// Perhaps applied, perhaps yet to be.
    Unknown,
}

/// Why a lease cannot be settled or extended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// It expired, was settled, or belongs to another leadership.
    #[error("the lease is no longer held")]
    NotHeld,
    /// An ack or nack of it is on its way; its outcome decides.
    #[error("an earlier ack or nack of this lease is still under way")]
    Busy,
}

#[derive(Debug)]
struct Held {
    number: u64,
    expires: Duration,
    attempts: u32,
    key: Bytes,
    settling: bool,
}

/// All leases of one leadership of one partition.
#[derive(Debug)]
pub struct LeaseTable {
    token: Token,
    attempts_max: u32,
    in_flight_max: usize,
    last_number: u64,
    held: BTreeMap<u64, Held>,
    keys: BTreeSet<Bytes>,
    expiries: BTreeSet<(Duration, u64)>,
    /// Deliveries that ended by expiry, which the header does not know yet.
    tries: BTreeMap<u64, u32>,
}

impl LeaseTable {
    /// An empty table. `attempts_max` deliveries make a dead letter; at most `in_flight_max`
    /// messages are held at once.
    ///
    /// # Panics
    /// When a limit is 0.
    #[must_use]
    pub fn new(token: Token, attempts_max: u32, in_flight_max: usize) -> LeaseTable {
        assert!(attempts_max > 0, "a message is delivered at least once");
        assert!(in_flight_max > 0, "something must be allowed in flight");
        LeaseTable {
            token,
            attempts_max,
            in_flight_max,
            last_number: 0,
            held: BTreeMap::new(),
            keys: BTreeSet::new(),
            expiries: BTreeSet::new(),
            tries: BTreeMap::new(),
        }
    }

    /// The leadership it belongs to.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// Deliveries that make a dead letter.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        self.attempts_max
    }

    /// The messages in flight.
    pub fn in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        self.held.keys().copied()
    }

    /// Whether the message is in flight.
    #[must_use]
    pub fn holds(&self, seq: u64) -> bool {
        self.held.contains_key(&seq)
    }

    /// Leases up to `most` due messages for `duration`, earliest due first; stops once they hold
    /// [`BATCH_BYTES_MAX`] bytes.
    pub fn grant(&mut self, backlog: &Backlog, most: usize, duration: Duration, moment: Moment) -> Round {
        self.expire(moment.uptime);
        let mut round = Round::default();
        let mut left_bytes = BATCH_BYTES_MAX as u64;
        for (due_ms, seq) in backlog.heads() {
            let in_flight_full = self.held.len() >= self.in_flight_max;
            let full = round.granted.len() == most || left_bytes == 0 || in_flight_full;
            if moment.now.0 < due_ms || full {
                break;
            }
            let header = backlog.get(seq).expect("heads are live");
            if self.keys.contains(&header.key) {
                continue;
            }
            let tried = self.tries.get(&seq).copied().unwrap_or(0).max(header.attempts);
            let worn_out = tried >= self.attempts_max;
            let attempts = if worn_out { tried } else { tried + 1 };
            let lease = self.hold(seq, header.key.clone(), attempts, moment.uptime.saturating_add(duration));
            let granted = Granted { seq, lease, attempts };
            if worn_out {
                self.pin(seq);
                round.worn_out.push(granted);
            } else {
                left_bytes = left_bytes.saturating_sub(header.bytes());
                round.granted.push(granted);
            }
        }
        round
    }

    /// Whether [`LeaseTable::grant`] would find something to give or to bury.
    pub fn may_grant(&mut self, backlog: &Backlog, moment: Moment) -> bool {
        self.expire(moment.uptime);
        let mut due = backlog.heads().take_while(|(due_ms, _)| *due_ms <= moment.now.0);
        let free =
            due.any(|(_, seq)| backlog.get(seq).is_some_and(|header| !self.keys.contains(&header.key)));
        free && self.held.len() < self.in_flight_max
    }

    /// Ends leases whose time is up; their messages may be granted again.
    pub fn expire(&mut self, uptime: Duration) {
        while let Some((expires, seq)) = self.expiries.first().copied() {
            if uptime < expires {
                break;
            }
            let held = self.release(seq).expect("every expiry belongs to a held lease");
            self.tries.insert(seq, held.attempts);
        }
    }

    /// Takes a lease that is about to be settled: it cannot expire until [`LeaseTable::finish`].
    /// Answers the deliveries so far.
    ///
    /// # Errors
    /// [`LeaseError`] when the lease is not held, or is being settled already.
    pub fn begin(&mut self, seq: u64, lease: LeaseId, uptime: Duration) -> Result<u32, LeaseError> {
        self.expire(uptime);
        let held = self.find(seq, lease).map(|held| held.attempts);
        if held == Err(LeaseError::NotHeld) && armed(Mutant::LeaseNotFenced) {
            return Ok(1);
        }
        let attempts = held?;
        self.pin(seq);
        Ok(attempts)
    }

    /// Says how the settling of a lease ended.
    pub fn finish(&mut self, seq: u64, lease: LeaseId, finish: Finish, uptime: Duration) {
        let current = lease.token == self.token;
        let Some(held) = self.held.get_mut(&seq).filter(|held| current && held.number == lease.number) else {
            return;
        };
        assert!(held.settling, "message {seq} was not being settled");
        held.settling = false;
        if finish == Finish::Unknown {
            held.expires = held.expires.max(uptime.saturating_add(UNKNOWN_GRACE));
        }
        self.expiries.insert((held.expires, seq));
        if finish == Finish::Applied {
            let released = self.release(seq);
            assert!(released.is_some(), "message {seq} was held a moment ago");
            // What the header says now counts.
            self.tries.remove(&seq);
        }
    }

    /// Holds a lease until `duration` from now.
    ///
    /// # Errors
    /// [`LeaseError`] when the lease is not held, or is being settled.
    pub fn extend(
        &mut self,
        seq: u64,
        lease: LeaseId,
        duration: Duration,
        uptime: Duration,
    ) -> Result<(), LeaseError> {
        self.expire(uptime);
        let expires = self.find(seq, lease)?.expires;
        let moved = self.expiries.remove(&(expires, seq));
        assert!(moved, "a lease that is held and not settling has an expiry");
        let expires = uptime.saturating_add(duration);
        self.expiries.insert((expires, seq));
        self.held.get_mut(&seq).expect("it was found above").expires = expires;
        Ok(())
    }

    /// How long until something may become grantable by time alone: a lease expires, or a delayed
    /// head falls due.
    #[must_use]
    pub fn next_event(&self, backlog: &Backlog, moment: Moment) -> Option<Duration> {
        let expiry = self.expiries.first().map(|(expires, _)| expires.saturating_sub(moment.uptime));
        let due = backlog.next_due_ms(moment.now.0).map(|due_ms| UnixMs(due_ms).since(moment.now));
        match (expiry, due) {
            (Some(expiry), Some(due)) => Some(expiry.min(due)),
            (expiry, due) => expiry.or(due),
        }
    }

    fn hold(&mut self, seq: u64, key: Bytes, attempts: u32, expires: Duration) -> LeaseId {
        self.last_number += 1;
        let number = self.last_number;
        let new_key = self.keys.insert(key.clone());
        assert!(new_key, "a message of this key is in flight already");
        let old = self.held.insert(seq, Held { number, expires, attempts, key, settling: false });
        assert!(old.is_none(), "message {seq} is in flight already");
        self.expiries.insert((expires, seq));
        LeaseId { token: self.token, number }
    }

    fn find(&self, seq: u64, lease: LeaseId) -> Result<&Held, LeaseError> {
        if lease.token != self.token {
            return Err(LeaseError::NotHeld);
        }
        match self.held.get(&seq) {
            Some(held) if held.number != lease.number => Err(LeaseError::NotHeld),
            Some(held) if held.settling => Err(LeaseError::Busy),
            Some(held) => Ok(held),
            None => Err(LeaseError::NotHeld),
        }
    }

    fn pin(&mut self, seq: u64) {
        let held = self.held.get_mut(&seq).expect("callers found it held");
        assert!(!held.settling, "message {seq} is being settled already");
        held.settling = true;
        self.expiries.remove(&(held.expires, seq));
    }

    fn release(&mut self, seq: u64) -> Option<Held> {
        let held = self.held.remove(&seq)?;
        self.expiries.remove(&(held.expires, seq));
        let listed = self.keys.remove(&held.key);
        assert!(listed, "the key of message {seq} was not in flight");
        Some(held)
    }
}

#[cfg(test)]
mod tests;
