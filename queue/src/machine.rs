//! The replicated machine of one partition: accept, settle, bury, redrive.
//!
//! ```text
//!                 enqueue               ack
//!      (dedup) ------------>  live  ------------> tombstone
//!                            |    ^
//!         return, worn out   v    |  redrive
//!                             dead  ------------> tombstone
//!                                      purge
//! ```
//! Leases are not here: they live on the leader, in memory. A command that settles a message names
//! the lease it was handled under, and is refused unless the leadership that gave the lease is the
//! one that proposed the entry. So whatever a deposed leader still had in its hands cannot settle a
//! message that its successor has given to somebody else.
//!
//! Invariant: `live + dead + acked + purged = accepted`; a dedup id is accepted once for as long
//! as its message or tombstone is kept; everything durable is in the key space (`table`), and the
//! cache equals what `restore` would build from it.

use std::ops::ControlFlow;

use bytes::Bytes;
use replica::engine::{EngineError, View};
use replica::machine::{At, Machine, Txn};
use world::mutant::{Mutant, armed};

use crate::backlog::Backlog;
use crate::command::{Accepted, Command, Fate, Forget, Offer, Reply, Return, Settle, Settled, Span};
use crate::limits::{BODY_LEN_MAX, DEDUP_ID_LEN_MAX, DELAY_MS_MAX, KEY_LEN_MAX, cut_reason};
use crate::receipt::Token;
use crate::table::{self, Dead, Header, Known, Tally};

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueMachine {
    tally: Tally,
    backlog: Backlog,
}

impl Machine for QueueMachine {
    fn restore(&mut self, view: &dyn View) -> Result<(), EngineError> {
        *self = QueueMachine::load(view)?;
        Ok(())
    }

    fn apply(&mut self, txn: &mut Txn<'_>, at: At, command: &Bytes) -> Result<Bytes, EngineError> {
        let before = self.tally;
        let reply = match Command::decode(command) {
            Ok(command) => {
                let reply = self.run(txn, at, command)?;
                if !matches!(reply, Reply::Refused(_)) {
                    self.tally.as_of_ms = self.tally.as_of_ms.max(at.now.0);
                }
                reply
            }
            Err(error) => Reply::Refused(error.to_string()),
        };
        assert!(self.tally.conserves(), "messages appeared or vanished: {:?}", self.tally);
        assert!(self.tally.live == self.backlog.len(), "the backlog and its count differ");
        assert!(self.tally.live_bytes == self.backlog.bytes(), "the backlog and its bytes differ");
        if self.tally != before {
            txn.put(table::tally_key(), self.tally.encode());
        }
        Ok(reply.encode())
    }
}

impl QueueMachine {
    /// A partition that never held a message.
    #[must_use]
    pub fn new() -> QueueMachine {
        QueueMachine::default()
    }

    /// The counters.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// The live messages in order.
    #[must_use]
    pub fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// What is known of a dedup id.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn known(view: &dyn View, dedup_id: &[u8]) -> Result<Option<Known>, EngineError> {
        let found = view.get(&table::index_key(dedup_id))?;
        found.map(|bytes| Known::decode(&bytes)).transpose()
    }

    /// The body of a live or dead message.
    ///
    /// # Errors
    /// [`EngineError`], also when there is no such message.
    pub fn body(view: &dyn View, seq: u64) -> Result<Bytes, EngineError> {
        let found = view.get(&table::body_key(seq))?;
        found.ok_or_else(|| EngineError::Corrupt(format!("message {seq} has no body")))
    }

    /// Up to `most` dead letters with `from <= seq < to`, in order.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn dead(view: &dyn View, span: Span) -> Result<Vec<(u64, Dead)>, EngineError> {
        let most = usize::try_from(span.most).unwrap_or(usize::MAX);
        let to = table::dead_key(span.to);
        collect(view, &table::dead_key(span.from), &to, most, |key, value| {
            Ok((table::seq_of(key)?, Dead::decode(value)?))
        })
    }

    fn load(view: &dyn View) -> Result<QueueMachine, EngineError> {
        let tally = match view.get(&table::tally_key())? {
            Some(bytes) => Tally::decode(&bytes)?,
            None => Tally::default(),
        };
        let headers =
            collect(view, &table::header_key(0), &table::header_end(), usize::MAX, |key, value| {
                Ok((table::seq_of(key)?, Header::decode(value)?))
            })?;
        let mut backlog = Backlog::default();
        for (seq, header) in headers {
            backlog.insert(seq, header);
        }
        let agrees = tally.live == backlog.len() && tally.live_bytes == backlog.bytes();
        if !agrees || !tally.conserves() {
            let (count, bytes) = (backlog.len(), backlog.bytes());
            return Err(EngineError::Corrupt(format!(
                "{count} messages with {bytes} bytes do not match {tally:?}"
            )));
        }
        Ok(QueueMachine { tally, backlog })
    }

    fn run(&mut self, txn: &mut Txn<'_>, at: At, command: Command) -> Result<Reply, EngineError> {
        match command {
            Command::Enqueue(offers) => self.enqueue(txn, at, offers),
            Command::Ack(settles) => {
                let each = settles.iter().map(|settle| self.ack(txn, at, settle));
                Ok(Reply::Settled(each.collect::<Result<_, _>>()?))
            }
            Command::Return(returns) => {
                let settled = returns.iter().map(|back| self.give_back(txn, at, back)).collect();
                Ok(Reply::Settled(settled))
            }
            Command::Redrive(span) => self.redrive(txn, at, span),
            Command::PurgeDead(span) => self.purge_dead(txn, at, span),
            Command::Forget(forget) => forget_tombstones(txn, &forget),
            Command::Pause(paused) => {
                self.tally.paused = paused;
                Ok(Reply::Paused)
            }
        }
    }

    fn enqueue(&mut self, txn: &mut Txn<'_>, at: At, offers: Vec<Offer>) -> Result<Reply, EngineError> {
        // All or nothing: the service checked every message, so this is another program's command.
        if !offers.iter().all(fits) {
            return Ok(Reply::Refused("a message breaks a limit".to_owned()));
        }
        let mut accepted = Vec::with_capacity(offers.len());
        for offer in offers {
            let index_key = table::index_key(&offer.dedup_id);
            if txn.get(&index_key)?.is_some() && !armed(Mutant::DedupSkipped) {
                self.tally.duplicates += 1;
                accepted.push(Accepted::Duplicate);
                continue;
            }
            self.accept(txn, at, offer, index_key);
            accepted.push(Accepted::New);
        }
        Ok(Reply::Enqueued(accepted))
    }

    fn accept(&mut self, txn: &mut Txn<'_>, at: At, offer: Offer, index_key: Vec<u8>) {
        let seq = self.tally.next_seq;
        // Callers often use one id for both: then memory holds it once.
        let dedup_id = if offer.dedup_id == offer.key { offer.key.clone() } else { offer.dedup_id };
        let header = Header {
            enqueued_ms: at.now.0,
            deliver_at_ms: at.now.0.saturating_add(offer.delay_ms),
            attempts: 0,
            body_len: u32::try_from(offer.body.len()).expect("bodies are shorter than their limit"),
            key: offer.key,
            dedup_id,
        };
        txn.put(table::header_key(seq), header.encode());
        txn.put(table::body_key(seq), offer.body);
        txn.put(index_key, Known::Kept { seq }.encode());
        self.tally.next_seq += 1;
        self.tally.accepted += 1;
        self.insert_live(seq, header);
    }

    fn ack(&mut self, txn: &mut Txn<'_>, at: At, settle: &Settle) -> Result<Settled, EngineError> {
        if !self.is_live(settle) {
            let known = QueueMachine::known(txn, &settle.dedup_id)?;
            let repeated = matches!(known, Some(Known::Acked { seq, lease, .. })
                if seq == settle.seq && lease == settle.lease);
            return Ok(if repeated { Settled::Done } else { Settled::Gone });
        }
        if settle.lease.token != token_of(at) && !armed(Mutant::LeaseNotFenced) {
            return Ok(Settled::Fenced);
        }
        self.remove_live(settle.seq);
        self.tally.acked += 1;
        let tombstone = Known::Acked { seq: settle.seq, done_ms: at.now.0, lease: settle.lease };
        txn.delete(table::header_key(settle.seq));
        txn.delete(table::body_key(settle.seq));
        txn.put(table::index_key(&settle.dedup_id), tombstone.encode());
        Ok(Settled::Done)
    }

    fn give_back(&mut self, txn: &mut Txn<'_>, at: At, back: &Return) -> Settled {
        if !self.is_live(&back.settle) {
            return Settled::Gone;
        }
        if back.settle.lease.token != token_of(at) {
            return Settled::Fenced;
        }
        let seq = back.settle.seq;
        let mut header = self.remove_live(seq);
        header.attempts = back.attempts;
        match back.fate {
            Fate::Again { delay_ms } => {
                header.deliver_at_ms = at.now.0.saturating_add(delay_ms);
                txn.put(table::header_key(seq), header.encode());
                self.insert_live(seq, header);
            }
            Fate::Bury => {
                let reason = cut_reason(&back.reason).to_owned();
                let dead = Dead { header, dead_ms: at.now.0, reason };
                txn.delete(table::header_key(seq));
                self.tally.dead += 1;
                if !armed(Mutant::DeadLetterDropped) {
                    txn.put(table::dead_key(seq), dead.encode());
                }
            }
        }
        Settled::Done
    }

    fn redrive(&mut self, txn: &mut Txn<'_>, at: At, span: Span) -> Result<Reply, EngineError> {
        let (letters, next) = dead_page(txn, span)?;
        let count = u32::try_from(letters.len()).expect("at most `most` letters");
        for (seq, dead) in letters {
            let header = Header { attempts: 0, deliver_at_ms: at.now.0, ..dead.header };
            txn.delete(table::dead_key(seq));
            txn.put(table::header_key(seq), header.encode());
            self.tally.dead -= 1;
            self.insert_live(seq, header);
        }
        Ok(Reply::Moved { count, next })
    }

    fn purge_dead(&mut self, txn: &mut Txn<'_>, at: At, span: Span) -> Result<Reply, EngineError> {
        let (letters, next) = dead_page(txn, span)?;
        let count = u32::try_from(letters.len()).expect("at most `most` letters");
        for (seq, dead) in letters {
            let tombstone = Known::Purged { seq, done_ms: at.now.0 };
            txn.delete(table::dead_key(seq));
            txn.delete(table::body_key(seq));
            txn.put(table::index_key(&dead.header.dedup_id), tombstone.encode());
            self.tally.dead -= 1;
            self.tally.purged += 1;
        }
        Ok(Reply::Moved { count, next })
    }

    /// Whether the message is live and is the one that the receipt's dedup id names.
    fn is_live(&self, settle: &Settle) -> bool {
        self.backlog.get(settle.seq).is_some_and(|header| header.dedup_id == settle.dedup_id)
    }

    fn insert_live(&mut self, seq: u64, header: Header) {
        assert!(seq < self.tally.next_seq, "message {seq} has a number that was not given yet");
        self.tally.live += 1;
        self.tally.live_bytes += header.bytes();
        self.backlog.insert(seq, header);
    }

    fn remove_live(&mut self, seq: u64) -> Header {
        let header = self.backlog.remove(seq).expect("callers checked that the message is live");
        assert!(self.tally.live > 0 && self.tally.live_bytes >= header.bytes(), "fewer than none are live");
        self.tally.live -= 1;
        self.tally.live_bytes -= header.bytes();
        header
    }
}

fn token_of(at: At) -> Token {
    Token { term: at.term, node: at.leader }
}

fn fits(offer: &Offer) -> bool {
    (1..=KEY_LEN_MAX).contains(&offer.key.len())
        && (1..=DEDUP_ID_LEN_MAX).contains(&offer.dedup_id.len())
        && offer.body.len() <= BODY_LEN_MAX
        && offer.delay_ms <= DELAY_MS_MAX
}

/// Dead letters, and where to go on if there may be more.
type DeadPage = (Vec<(u64, Dead)>, Option<u64>);

/// Up to `most` dead letters of the span, and where to go on if there may be more.
fn dead_page(view: &dyn View, span: Span) -> Result<DeadPage, EngineError> {
    let letters = QueueMachine::dead(view, span)?;
    let full = u32::try_from(letters.len()).is_ok_and(|count| count == span.most);
    let next = letters.last().filter(|_| full).map(|(seq, _)| seq + 1);
    Ok((letters, next))
}

fn forget_tombstones(txn: &mut Txn<'_>, forget: &Forget) -> Result<Reply, EngineError> {
    let most = usize::try_from(forget.most).unwrap_or(usize::MAX);
    let page = collect(txn, &table::index_key(&forget.from), &table::index_end(), most, |key, value| {
        Ok((Bytes::copy_from_slice(table::dedup_id_of(key)), Known::decode(value)?))
    })?;
    let mut count = 0;
    for (dedup_id, known) in &page {
        let done_ms = match known {
            Known::Kept { .. } => continue,
            Known::Acked { done_ms, .. } | Known::Purged { done_ms, .. } => *done_ms,
        };
        if done_ms < forget.done_before_ms {
            txn.delete(table::index_key(dedup_id));
            count += 1;
        }
    }
    let next = page.last().filter(|_| page.len() == most).map(|(last, _)| {
        // The smallest id after `last`.
        let mut next = last.to_vec();
        next.push(0);
        Bytes::from(next)
    });
    Ok(Reply::Forgotten { count, next })
}

/// Reads up to `most` pairs of a range; the first one that cannot be read ends it with its error.
fn collect<T>(
    view: &dyn View,
    from: &[u8],
    to: &[u8],
    most: usize,
    read: impl Fn(&[u8], &[u8]) -> Result<T, EngineError>,
) -> Result<Vec<T>, EngineError> {
    let mut found = Vec::new();
    let mut failed = None;
    if most == 0 {
        return Ok(found);
    }
    view.scan(from, to, false, &mut |key, value| {
        match read(key, value) {
            Ok(one) => found.push(one),
            Err(error) => failed = Some(error),
        }
        let done = failed.is_some() || found.len() == most;
        if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests;
