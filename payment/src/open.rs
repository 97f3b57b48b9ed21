//! The opener: turns a sealed ticket in a user's hand into a durable opening.
//!
//! ```text
//!   (user, sealed bytes, now)
//!     event view --> seal (user, event, node) --> window --> key lists --> record --> Opening
//!       --> enqueue (key = dedup id = packet id) --> packet id, amount
//! ```
//! Stateless: any opener may get any ticket, and the same open again gets the same answer, from
//! the queue's memory of the packet id or, once that message is settled, from the packet's row.
//!
//! Invariant: `Ok` means the opening is durable on two zones under this user's name.
//!
//! Not here: money (settle), admission and pacing (the edges).

pub mod counters;
pub mod decide;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvsvr::api::Kv;
use queue::api::{NewMessage, Queue};
use ticket::id::{PacketId, UserId};
use ticket::money::Fen;
use ticket::open::OpenKeyring;
use ticket::opening::Opening;
use ticket::seal::Unsealer;
use tokio::sync::watch;
use world::UnixMs;

use crate::keyspace;
use crate::row::Row;
use counters::Counters;
use decide::{Answer, Code, EventView};

/// What the user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The packet.
    pub packet: PacketId,
    /// What it is worth.
    pub amount: Fen,
    /// Whether it had been opened before, by the same user.
    pub again: bool,
}

/// What an opener must be told of a changing world.
#[derive(Clone)]
pub struct OpenerWatches {
    /// The event; `None` until first read. Sent again at least twice per `stale_ms_max`.
    pub event: watch::Receiver<Option<Arc<EventView>>>,
    /// The build's data keys under the current key list.
    pub keys: watch::Receiver<Arc<OpenKeyring>>,
}

/// How old the event view may be before nothing is opened any more.
pub const STALE_MS_MAX: u64 = 30_000;

/// Opens tickets of one build.
pub struct PacketOpener {
    queue: Arc<dyn Queue>,
    kv: Arc<dyn Kv>,
    unsealer: Unsealer,
    watches: OpenerWatches,
    counters: Counters,
}

impl PacketOpener {
    /// An opener. `kv` is asked only when a packet is opened again after it was settled.
    #[must_use]
    pub fn new(
        queue: Arc<dyn Queue>,
        kv: Arc<dyn Kv>,
        unsealer: Unsealer,
        watches: OpenerWatches,
    ) -> PacketOpener {
        PacketOpener { queue, kv, unsealer, watches, counters: Counters::default() }
    }

    /// How many opens went how.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Opens `sealed` for `user`. Repeating is safe, whatever the answer was.
    ///
    /// # Errors
    /// A [`Code`]; after `Unknown` the opening may have been accepted.
    pub async fn open(&self, user: UserId, sealed: &[u8], now: UnixMs) -> Result<Opened, Code> {
        let outcome = self.try_open(user, sealed, now).await;
        match &outcome {
            Ok(opened) => self.counters.opened(opened.again),
            Err(code) => self.counters.refused(*code),
        }
        outcome
    }

    async fn try_open(&self, user: UserId, sealed: &[u8], now: UnixMs) -> Result<Opened, Code> {
        let opening = self.verify(user, sealed, now)?;
        let message = NewMessage {
            key: keyspace::packet_partition(opening.packet),
            dedup_id: keyspace::packet_partition(opening.packet),
            body: Bytes::copy_from_slice(&opening.encode()),
            delay: Duration::ZERO,
        };
        let outcomes = self.queue.enqueue(vec![message]).await;
        assert!(outcomes.len() == 1, "the queue answers the one message, not {}", outcomes.len());
        let mut answer = decide::answer(&opening, &outcomes[0]);
        if answer == Answer::AskRow {
            answer = self.ask_row(&opening).await;
        }
        match answer {
            Answer::Opened { again } => Ok(Opened { packet: opening.packet, amount: opening.amount, again }),
            Answer::Refused(code) => Err(code),
            Answer::AskRow => unreachable!("the row answers in full"),
        }
    }

    /// Everything that needs no one else: cryptography and the clock.
    fn verify(&self, user: UserId, sealed: &[u8], now: UnixMs) -> Result<Opening, Code> {
        let keys = self.watches.keys.borrow().clone();
        let view = self.watches.event.borrow().clone();
        let event = decide::admit(view.as_deref(), keys.build(), STALE_MS_MAX, now)?;
        let (issue, node) = self.unsealer.open(user, sealed).map_err(|_| Code::BadTicket)?;
        decide::window(event, issue.slot, now)?;
        let packet = keys.open(issue.slot, &issue.record).map_err(|error| decide::record_code(&error))?;
        assert!(packet.id == issue.record.packet_id(keys.build()), "the keyring opened another packet");
        assert!(packet.key == issue.record.key_id(), "the keyring used another key");
        Ok(Opening {
            packet: packet.id,
            user,
            amount: packet.amount,
            slot: issue.slot,
            file: issue.file,
            index: issue.index,
            key: packet.key,
            record: issue.record,
            issued_ms: issue.issued_ms,
            opened_ms: now,
            node,
        })
    }

    /// The queue has forgotten what it carried: it was settled, so the packet has a row, or its
    /// opening was evidence of a forgery and has none.
    async fn ask_row(&self, opening: &Opening) -> Answer {
        let found = match self.kv.read(vec![keyspace::row(opening.packet)]).await {
            Ok(found) => found.into_iter().next().flatten(),
            Err(_) => return Answer::Refused(Code::Unknown),
        };
        match found.map(|bytes| Row::decode(opening.packet, &bytes)) {
            Some(Ok(row)) => decide::owner(opening, row.user),
            Some(Err(error)) => {
                tracing::error!(%error, "an open cannot be answered");
                Answer::Refused(Code::Unknown)
            }
            None => Answer::Refused(Code::AlreadyOpened),
        }
    }
}

#[cfg(test)]
mod tests;
