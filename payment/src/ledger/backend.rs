//! The door to whoever really pays. The embedded ledger pays by booking; a bank would pay first
//! and be booked afterwards.
//!
//! ```text
//!   pending row --pay-----> Paid    --> row Credited, Held -> Payable
//!               | or   '--> Refused --> row Rejected, Held -> Escrow
//!               '-cancel--> Unknown --> stays pending; asked again under the same packet id
//! ```
//! A row whose earlier payment is unknown may have been paid. So whoever turns a row down that could
//! have been paid before cancels it first, and turns it down only if it was not.
//!
//! Invariant: `pay` and `cancel` are idempotent by packet id, and whichever comes first decides; a
//! timeout is `Unknown`, never `Refused`.
//!
//! Not here: the booking (reconcile::credit).

use async_trait::async_trait;
use ticket::id::{PacketId, UserId};
use ticket::money::Fen;

/// One payment to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// Names the payment: the same packet is paid at most once.
    pub packet: PacketId,
    /// To whom.
    pub user: UserId,
    /// How much.
    pub amount: Fen,
}

/// What became of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payout {
    /// Made, now or before.
    Paid,
    /// Not made, and never will be.
    Refused,
    /// Perhaps made. Ask again.
    Unknown,
}

/// Whoever pays.
#[async_trait]
pub trait PaymentBackend: Send + Sync + 'static {
    /// Makes payments; answered in order, each on its own.
    async fn pay(&self, payments: Vec<Payment>) -> Vec<Payout>;

    /// Sees to it that payments are never made, unless they were; answered in order. `Refused` of what
    /// was not made and never will be.
    async fn cancel(&self, payments: Vec<Payment>) -> Vec<Payout>;
}

/// The ledger in the KV itself: to book a payment is to make it, so there is nothing to do before.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmbeddedLedger;

#[async_trait]
impl PaymentBackend for EmbeddedLedger {
    async fn pay(&self, payments: Vec<Payment>) -> Vec<Payout> {
        vec![Payout::Paid; payments.len()]
    }

    /// What is pending was not booked, and so not paid.
    async fn cancel(&self, payments: Vec<Payment>) -> Vec<Payout> {
        vec![Payout::Refused; payments.len()]
    }
}
