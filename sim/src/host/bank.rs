//! The payment back end: a host of its own that pays what it is asked to, once per packet, and has
//! moods.
//!
//! ```text
//!   operator: credit_through(BankLine) --> {"verb":"pay","packet":..,"user":..,"amount_fen":..}  one a line
//!             paid | refused           <-- {"packet":..,"paid":true}                             or silence
//! ```
//! Invariant: a packet is paid at most once and refused for good or never: the bank keeps its side of
//! `payment::ledger::backend` in every mood. What it did, it never forgets.
//!
//! Not here: booking what it says (`payment::reconcile::credit`), and judging it (oracle/bank.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use payment::ledger::backend::{Payment, PaymentBackend, Payout};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use ticket::id::{PacketId, UserId};
use ticket::money::Fen;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, WriteHalf};
use tokio::sync::Mutex as AsyncMutex;
use world::net::{Connection, Incoming, Net};
use world::rng::Stream;

use super::BANK;
use crate::board::Board;
use crate::fabric::net::SimNet;
use crate::fabric::time;
use crate::schedule::BankFault;

/// Where it listens.
const PORT: u16 = 9_000;
/// How long whoever asks waits for the last answer.
const ANSWERED_WITHIN: Duration = Duration::from_millis(1_500);
/// How long a late bank does not know of what it paid.
const LATE_BY_MS: u64 = 4_000;
/// How long a slow bank takes, at most: some have given up by then.
const SLOW_MS_MAX: u64 = 3_000;

/// What the bank did about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// To whom.
    pub user: UserId,
    /// How much.
    pub amount: Fen,
    /// Whether it was paid; otherwise it was refused.
    pub paid: bool,
    /// The bank says so from this moment on.
    known_at_ms: u64,
}

#[cfg(test)]
impl Entry {
    /// One that the bank knows of from the beginning.
    pub(crate) fn of(user: UserId, amount: Fen, paid: bool) -> Entry {
        Entry { user, amount, paid, known_at_ms: 0 }
    }
}

/// All the bank did.
#[derive(Clone, Debug, Default)]
pub struct BankBooks {
    /// By packet.
    pub entries: BTreeMap<PacketId, Entry>,
    /// Packets that were asked for again with another user or amount. Must be none.
    pub changed: BTreeSet<PacketId>,
}

/// How it behaves, towards how many in a hundred, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mood {
    /// How.
    pub fault: BankFault,
    /// Towards so many in a hundred.
    pub percent: u32,
    /// Simulated milliseconds since the start of the run.
    pub until_ms: u64,
}

/// The bank's books and mood; they outlive every connection.
#[derive(Default)]
pub struct Bank {
    books: Mutex<BankBooks>,
    mood: Mutex<Option<Mood>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    Pay,
    Cancel,
}

#[derive(Serialize, Deserialize)]
struct Asked {
    verb: Verb,
    packet: PacketId,
    user: u64,
    amount_fen: Fen,
}

#[derive(Serialize, Deserialize)]
struct Told {
    packet: PacketId,
    paid: bool,
}

/// What it answers: after so long, paid or refused. `None` is silence.
type Reply = Option<(Duration, bool)>;

impl Bank {
    /// How it behaves from now on.
    pub fn set_mood(&self, mood: Option<Mood>) {
        *self.mood.lock() = mood;
    }

    /// What it did so far.
    #[must_use]
    pub fn books(&self) -> BankBooks {
        self.books.lock().clone()
    }

    /// Whether it reports payments to two workers at the same time now.
    #[must_use]
    pub fn reports_twice(&self) -> bool {
        self.mood(time::elapsed_ms()).is_some_and(|mood| mood.fault == BankFault::DoubleCallback)
    }

    fn mood(&self, now_ms: u64) -> Option<Mood> {
        self.mood.lock().filter(|mood| now_ms < mood.until_ms)
    }

    /// Does what it is asked, as it feels. `name` is what it did wrong, if anything.
    fn act(&self, verb: Verb, payment: Payment, chance: &mut Stream) -> (Reply, Option<&'static str>) {
        let now_ms = time::elapsed_ms();
        let hit = chance.random_range(0..100);
        let fault = self.mood(now_ms).filter(|mood| hit < mood.percent).map(|mood| mood.fault);
        let mut books = self.books.lock();
        let known = books.entries.get(&payment.packet).copied();
        if known.is_some_and(|entry| entry.user != payment.user || entry.amount != payment.amount) {
            books.changed.insert(payment.packet);
            return (None, None);
        }
        if fault == Some(BankFault::TimeoutNotPaid) {
            return (None, Some("bank-did-not-pay-nor-answer"));
        }
        let refused = verb == Verb::Cancel || fault == Some(BankFault::Refused);
        let late = if fault == Some(BankFault::LateCallback) { LATE_BY_MS } else { 0 };
        let entry = *books.entries.entry(payment.packet).or_insert(Entry {
            user: payment.user,
            amount: payment.amount,
            paid: !refused,
            known_at_ms: now_ms + late,
        });
        let answer = (entry.known_at_ms <= now_ms).then_some((Duration::ZERO, entry.paid));
        match (fault, known) {
            (Some(BankFault::TimeoutButPaid), _) => (None, Some("bank-paid-silently")),
            (Some(BankFault::LateCallback), None) => (None, Some("bank-knew-late")),
            (Some(BankFault::Refused), None) => (answer, Some("bank-refused")),
            (Some(BankFault::DoubleCallback), Some(_)) => (answer, Some("bank-reported-twice")),
            (Some(BankFault::Slow), _) => {
                let takes = Duration::from_millis(chance.random_range(200..=SLOW_MS_MAX));
                (answer.map(|(_, paid)| (takes, paid)), Some("bank-was-slow"))
            }
            _ => (answer, None),
        }
    }
}

/// The bank's host.
pub async fn run(board: Arc<Board>, chance: Stream) -> turmoil::Result {
    use futures_util::StreamExt;
    let chance = Arc::new(Mutex::new(chance));
    let mut incoming: Incoming = SimNet.listen(&format!("{BANK}:{PORT}")).await?;
    while let Some(accepted) = incoming.next().await {
        tokio::spawn(serve(accepted?, Arc::clone(&board), Arc::clone(&chance)));
    }
    Ok(())
}

async fn serve(connection: Connection, board: Arc<Board>, chance: Arc<Mutex<Stream>>) {
    let (reading, writing) = tokio::io::split(connection);
    let writing = Arc::new(AsyncMutex::new(writing));
    let mut lines = BufReader::new(reading).lines();
    // An error means that whoever asked is gone.
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(asked) = serde_json::from_str::<Asked>(&line) else { return };
        let payment = Payment { packet: asked.packet, user: UserId(asked.user), amount: asked.amount_fen };
        let (reply, wrong) = board.mischief.bank.act(asked.verb, payment, &mut chance.lock());
        tracing::info!(target: "sim::bank", packet = %payment.packet, verb = ?asked.verb, ?reply, wrong);
        if let Some(wrong) = wrong {
            board.happened(wrong);
        }
        if let Some((after, paid)) = reply {
            tokio::spawn(answer(Arc::clone(&writing), after, Told { packet: payment.packet, paid }));
        }
    }
}

async fn answer(writing: Arc<AsyncMutex<WriteHalf<Connection>>>, after: Duration, told: Told) {
    tokio::time::sleep(after).await;
    let Ok(mut line) = serde_json::to_vec(&told) else { return };
    line.push(b'\n');
    // Nobody there means that whoever asked has given up.
    let _ = writing.lock().await.write_all(&line).await;
}

/// The bank, from where payments are made.
pub struct BankLine;

impl BankLine {
    /// Asks for all, and hears what is answered until it is too late.
    async fn ask(
        &self,
        verb: Verb,
        payments: &[Payment],
        heard: &mut BTreeMap<PacketId, bool>,
    ) -> std::io::Result<()> {
        let (reading, mut writing) = tokio::io::split(SimNet.connect(&format!("{BANK}:{PORT}")).await?);
        let mut text = Vec::new();
        for Payment { packet, user, amount } in payments {
            let asked = Asked { verb, packet: *packet, user: user.0, amount_fen: *amount };
            text.extend(serde_json::to_vec(&asked)?);
            text.push(b'\n');
        }
        writing.write_all(&text).await?;
        let mut lines = BufReader::new(reading).lines();
        while heard.len() < payments.len()
            && let Some(line) = lines.next_line().await?
        {
            let told: Told = serde_json::from_str(&line)?;
            heard.insert(told.packet, told.paid);
        }
        Ok(())
    }

    async fn call(&self, verb: Verb, payments: Vec<Payment>) -> Vec<Payout> {
        let mut heard = BTreeMap::new();
        let asked = tokio::time::timeout(ANSWERED_WITHIN, self.ask(verb, &payments, &mut heard)).await;
        if let Ok(Err(error)) = asked {
            tracing::info!(target: "sim::bank", %error, "the line broke");
        }
        let payout = |payment: &Payment| match heard.get(&payment.packet) {
            Some(true) => Payout::Paid,
            Some(false) => Payout::Refused,
            None => Payout::Unknown,
        };
        payments.iter().map(payout).collect()
    }
}

#[async_trait]
impl PaymentBackend for BankLine {
    async fn pay(&self, payments: Vec<Payment>) -> Vec<Payout> {
        self.call(Verb::Pay, payments).await
    }

    async fn cancel(&self, payments: Vec<Payment>) -> Vec<Payout> {
        self.call(Verb::Cancel, payments).await
    }
}

#[cfg(test)]
mod tests {
    use ticket::id::BatchId;
    use world::rng::Seed;

    use super::*;

    fn payment(serial: u64, fen: u64) -> Payment {
        let packet = PacketId { build_tag: [1; 4], batch: BatchId(1), serial };
        Payment { packet, user: UserId(7), amount: Fen::new(fen) }
    }

    fn in_a_mood(fault: BankFault) -> Bank {
        let bank = Bank::default();
        bank.set_mood(Some(Mood { fault, percent: 100, until_ms: 1 }));
        bank
    }

    /// What is answered in the mood, and to the same request when it is over.
    fn check(fault: BankFault, then: Option<bool>, later: Option<bool>, paid: Option<bool>) {
        time::enter(1);
        let (bank, mut chance) = (in_a_mood(fault), Seed::from_number(1).stream(1));
        let said = |reply: Reply| reply.map(|(_, paid)| paid);
        assert_eq!(said(bank.act(Verb::Pay, payment(1, 5), &mut chance).0), then, "{fault:?}");
        assert_eq!(bank.books().entries.values().next().map(|entry| entry.paid), paid, "{fault:?}");
        time::advance(Duration::from_millis(LATE_BY_MS));
        assert_eq!(said(bank.act(Verb::Pay, payment(1, 5), &mut chance).0), later, "{fault:?}");
        time::leave();
    }

    #[test]
    fn a_bank_pays_once_in_every_mood_and_tells_in_the_end() {
        check(BankFault::TimeoutButPaid, None, Some(true), Some(true));
        check(BankFault::TimeoutNotPaid, None, Some(true), None);
        check(BankFault::LateCallback, None, Some(true), Some(true));
        check(BankFault::Slow, Some(true), Some(true), Some(true));
        check(BankFault::Refused, Some(false), Some(false), Some(false));
    }

    #[test]
    fn what_was_cancelled_is_never_paid_and_what_was_paid_cannot_be_cancelled() {
        time::enter(1);
        let (bank, mut chance) = (Bank::default(), Seed::from_number(1).stream(1));
        let mut said = |verb, serial| bank.act(verb, payment(serial, 5), &mut chance).0.map(|(_, paid)| paid);
        assert_eq!((said(Verb::Cancel, 1), said(Verb::Pay, 1)), (Some(false), Some(false)));
        assert_eq!((said(Verb::Pay, 2), said(Verb::Cancel, 2)), (Some(true), Some(true)));
        time::leave();
    }

    #[test]
    fn a_payment_that_changes_its_amount_is_not_made_and_is_remembered() {
        time::enter(1);
        let (bank, mut chance) = (Bank::default(), Seed::from_number(1).stream(1));
        assert!(bank.act(Verb::Pay, payment(1, 5), &mut chance).0.is_some());
        assert_eq!(bank.act(Verb::Pay, payment(1, 6), &mut chance).0, None);
        assert_eq!(bank.books().changed.len(), 1);
        time::leave();
    }
}
