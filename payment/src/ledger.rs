//! Double entry in integer fen. Every movement of money is one transfer between two accounts of
//! one batch; the sum over all accounts is zero, always.
//!
//! ```text
//!             fund               hold                 credit
//!   Sponsor --------> Escrow --------------> Held --------------> Payable
//!                       |  '------------- instant -------------->   ^
//!                       |                     '--- release (back end refused) --> Escrow
//!                       '---- refund ----> Refunded
//! ```
//! Sponsor goes negative by what the sponsor paid in; the others never do. Per batch, at rest:
//! Payable = credited, Held = pending, Refunded = refunded, Escrow = unissued.
//!
//! On the KV an account is one counter per data group (`acct/<tag><batch><kind>`, see
//! keyspace.rs), its balance the sum over the groups: the sponsors' hot accounts are so split
//! over all groups and booked inside each packet's own unit. The transfer's id is the packet id;
//! the row in the same unit is what makes it happen once. Transfers of whole batches (fund,
//! refund) have their own insert-if-absent record.
//!
//! Invariant: a transfer's legs sum to zero and no balance leaves i64.
//!
//! Not here: which transfers are due (settle, reconcile, refund decide), and any IO
//! ([`backend`] does that).

pub mod backend;

use std::collections::BTreeMap;

use bytes::Bytes;
use kvsvr::api::DataOp;
use ticket::id::{BatchId, PacketId};
use ticket::money::Fen;

use crate::keyspace::{self, BuildTag};

/// What money is doing. The numbers are stored: frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AccountKind {
    /// Deposited and not yet given away.
    Escrow = 1,
    /// Opened, waiting to be compared with the plan.
    Held = 2,
    /// The users'.
    Payable = 3,
    /// Gone back to the sponsor.
    Refunded = 4,
    /// The outside: where the deposit came from.
    Sponsor = 5,
}

impl AccountKind {
    /// All of them, in the order of their numbers.
    pub const ALL: [AccountKind; 5] = [
        AccountKind::Escrow,
        AccountKind::Held,
        AccountKind::Payable,
        AccountKind::Refunded,
        AccountKind::Sponsor,
    ];

    /// Reads the stored number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<AccountKind> {
        AccountKind::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// One account of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account {
    /// The build the batch belongs to.
    pub tag: BuildTag,
    /// The sponsor's order.
    pub batch: BatchId,
    /// What its money is doing.
    pub kind: AccountKind,
}

/// One movement of money within a batch. Balanced by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    tag: BuildTag,
    batch: BatchId,
    from: AccountKind,
    to: AccountKind,
    amount_fen: i64,
}

/// A movement of money that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Nothing is moved by nothing.
    #[error("a transfer of batch {0} moves no money")]
    Zero(BatchId),
    /// More than any account can hold.
    #[error("a transfer of batch {batch} moves {amount_fen} fen, more than an account can hold")]
    TooLarge {
        /// The batch.
        batch: BatchId,
        /// The amount asked for.
        amount_fen: u64,
    },
    /// The balance would leave its range.
    #[error("account {0:?} would overflow")]
    Overflow(Account),
}

impl Transfer {
    fn new(
        tag: BuildTag,
        batch: BatchId,
        from: AccountKind,
        to: AccountKind,
        amount: Fen,
    ) -> Result<Transfer, LedgerError> {
        assert!(from != to, "money moves between two accounts");
        if amount.get() == 0 {
            return Err(LedgerError::Zero(batch));
        }
        let too_large = LedgerError::TooLarge { batch, amount_fen: amount.get() };
        let amount_fen = i64::try_from(amount.get()).map_err(|_| too_large)?;
        Ok(Transfer { tag, batch, from, to, amount_fen })
    }

    /// The sponsor's money comes in.
    ///
    /// # Errors
    /// An amount of zero, or larger than an account.
    pub fn fund(tag: BuildTag, batch: BatchId, amount: Fen) -> Result<Transfer, LedgerError> {
        Transfer::new(tag, batch, AccountKind::Sponsor, AccountKind::Escrow, amount)
    }

    /// A packet was opened and waits for the plan.
    ///
    /// # Errors
    /// An amount of zero, or larger than an account.
    pub fn hold(packet: PacketId, amount: Fen) -> Result<Transfer, LedgerError> {
        Transfer::new(packet.build_tag, packet.batch, AccountKind::Escrow, AccountKind::Held, amount)
    }

    /// A packet of the instant set was opened.
    ///
    /// # Errors
    /// An amount of zero, or larger than an account.
    pub fn instant(packet: PacketId, amount: Fen) -> Result<Transfer, LedgerError> {
        Transfer::new(packet.build_tag, packet.batch, AccountKind::Escrow, AccountKind::Payable, amount)
    }

    /// A held packet matched the plan.
    ///
    /// # Errors
    /// An amount of zero, or larger than an account.
    pub fn credit(packet: PacketId, amount: Fen) -> Result<Transfer, LedgerError> {
        Transfer::new(packet.build_tag, packet.batch, AccountKind::Held, AccountKind::Payable, amount)
    }

    /// A held packet will not be paid: its money is the batch's again.
    ///
    /// # Errors
    /// An amount of zero, or larger than an account.
    pub fn release(packet: PacketId, amount: Fen) -> Result<Transfer, LedgerError> {
        Transfer::new(packet.build_tag, packet.batch, AccountKind::Held, AccountKind::Escrow, amount)
    }

    /// What nobody got goes back.
    ///
    /// # Errors
    /// An amount of zero, or larger than an account.
    pub fn refund(tag: BuildTag, batch: BatchId, amount: Fen) -> Result<Transfer, LedgerError> {
        Transfer::new(tag, batch, AccountKind::Escrow, AccountKind::Refunded, amount)
    }

    /// Both sides: what is taken, what is given.
    #[must_use]
    pub fn legs(&self) -> [(Account, i64); 2] {
        let side = |kind| Account { tag: self.tag, batch: self.batch, kind };
        let legs = [(side(self.from), -self.amount_fen), (side(self.to), self.amount_fen)];
        assert!(legs[0].1 + legs[1].1 == 0, "a transfer balances");
        assert!(legs[1].1 > 0, "a transfer moves something");
        legs
    }

    /// The same as operations of a unit of the KV.
    #[must_use]
    pub fn ops(&self) -> [DataOp; 2] {
        self.legs().map(|(account, delta)| DataOp::Add { key: keyspace::account(account), delta })
    }
}

/// Balances in memory: what the KV's accounts must add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    balances: BTreeMap<Account, i64>,
}

impl Ledger {
    /// Makes a transfer.
    ///
    /// # Errors
    /// [`LedgerError::Overflow`]; nothing is then changed.
    pub fn post(&mut self, transfer: &Transfer) -> Result<(), LedgerError> {
        let mut after = [(0i64, 0i64); 2];
        for (place, (account, delta)) in transfer.legs().into_iter().enumerate() {
            let balance = self.balance(account);
            let sum = balance.checked_add(delta).ok_or(LedgerError::Overflow(account))?;
            after[place] = (balance, sum);
        }
        for ((account, delta), (before, sum)) in transfer.legs().into_iter().zip(after) {
            assert!(sum - before == delta, "{account:?} moves by its leg");
            self.balances.insert(account, sum);
        }
        Ok(())
    }

    /// Adds one sub-account's balance as found in the KV.
    ///
    /// # Errors
    /// [`LedgerError::Overflow`].
    pub fn add_found(&mut self, account: Account, balance: i64) -> Result<(), LedgerError> {
        let sum = self.balance(account).checked_add(balance).ok_or(LedgerError::Overflow(account))?;
        self.balances.insert(account, sum);
        Ok(())
    }

    /// An account's balance; 0 for one never used.
    #[must_use]
    pub fn balance(&self, account: Account) -> i64 {
        self.balances.get(&account).copied().unwrap_or(0)
    }

    /// All accounts ever used, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Account, i64)> + '_ {
        self.balances.iter().map(|(account, balance)| (*account, *balance))
    }

    /// The sum over all accounts: zero unless money came from nowhere.
    #[must_use]
    pub fn total(&self) -> i128 {
        self.balances.values().map(|balance| i128::from(*balance)).sum()
    }
}

/// A unit that also makes `transfer`.
#[must_use]
pub fn unit(partition: Bytes, mut ops: Vec<DataOp>, transfer: &Transfer) -> kvsvr::api::Unit {
    assert!(!ops.is_empty(), "a posting stands beside the record that makes it happen once");
    ops.extend(transfer.ops());
    kvsvr::api::Unit { partition, ops }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TAG: BuildTag = [1, 2, 3, 4];

    fn account(kind: AccountKind) -> Account {
        Account { tag: TAG, batch: BatchId(1), kind }
    }

    fn packet(serial: u64) -> PacketId {
        PacketId { build_tag: TAG, batch: BatchId(1), serial }
    }

    #[test]
    fn a_packet_runs_through_the_accounts() {
        let mut ledger = Ledger::default();
        let fen = Fen::new;
        for transfer in [
            Transfer::fund(TAG, BatchId(1), fen(1000)),
            Transfer::hold(packet(1), fen(30)),
            Transfer::instant(packet(2), fen(500)),
            Transfer::credit(packet(1), fen(30)),
            Transfer::refund(TAG, BatchId(1), fen(470)),
        ] {
            ledger.post(&transfer.expect("an amount")).expect("room");
            assert_eq!(ledger.total(), 0);
        }
        let balances = AccountKind::ALL.map(|kind| ledger.balance(account(kind)));
        assert_eq!(balances, [0, 0, 530, 470, -1000]);
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert_eq!(Transfer::hold(packet(1), Fen::new(0)), Err(LedgerError::Zero(BatchId(1))));
        assert!(matches!(Transfer::hold(packet(1), Fen::new(u64::MAX)), Err(LedgerError::TooLarge { .. })));
    }

    #[test]
    fn an_overflow_changes_nothing() {
        let mut ledger = Ledger::default();
        ledger.add_found(account(AccountKind::Payable), i64::MAX).expect("room");
        let before = ledger.clone();
        let transfer = Transfer::instant(packet(1), Fen::new(1)).expect("an amount");
        assert_eq!(ledger.post(&transfer), Err(LedgerError::Overflow(account(AccountKind::Payable))));
        assert_eq!(ledger, before);
    }

    #[test]
    fn account_numbers_are_frozen() {
        assert_eq!(AccountKind::ALL.map(|kind| kind as u8), [1, 2, 3, 4, 5]);
        for kind in AccountKind::ALL {
            assert_eq!(AccountKind::from_u8(kind as u8), Some(kind));
        }
        assert_eq!(AccountKind::from_u8(0), None);
        assert_eq!(AccountKind::from_u8(6), None);
    }

    proptest! {
        #[test]
        fn the_books_balance_after_any_transfers(moves in prop::collection::vec((0u8..6, 1u64..1 << 40, 0u64..9), 0..64)) {
            let mut ledger = Ledger::default();
            for (which, amount, serial) in moves {
                let (packet, amount) = (packet(serial), Fen::new(amount));
                let transfer = match which {
                    0 => Transfer::fund(TAG, packet.batch, amount),
                    1 => Transfer::hold(packet, amount),
                    2 => Transfer::instant(packet, amount),
                    3 => Transfer::credit(packet, amount),
                    4 => Transfer::release(packet, amount),
                    _ => Transfer::refund(TAG, packet.batch, amount),
                };
                ledger.post(&transfer.expect("an amount")).expect("room");
                prop_assert_eq!(ledger.total(), 0);
            }
        }
    }
}
