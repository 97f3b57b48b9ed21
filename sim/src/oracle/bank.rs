//! What the bank paid is what the books say was paid, packet by packet, whatever its answers were.
//!
//! Evidence: the bank's own books, which it never loses; all rows at the end.
//!
//! Invariant: a payment that was made is one credited row of that user and amount; one that was refused
//! is a row that was turned down; and no row is credited that the bank has not paid, but those that are credited
//! as they settle.
//!
//! Limits: a bank that pays twice is not shown; it keeps its side of the contract (`host::bank`).

use std::collections::BTreeMap;

use payment::row::{Reason, Row, RowState};
use ticket::id::PacketId;
use ticket::money::Fen;

use super::{Findings, Verdict};
use crate::host::bank::BankBooks;

/// Judges the rows. `instant_from` is the amount from which packets are credited without the bank.
#[must_use]
pub fn check(bank: &BankBooks, rows: &BTreeMap<PacketId, Row>, instant_from: Option<Fen>) -> Verdict {
    let mut findings = Findings::new("PB", "what the bank paid is what the books say");
    for packet in &bank.changed {
        findings.violation(None, format!("{packet} was to be paid with one amount or user, then another"));
    }
    for (packet, entry) in &bank.entries {
        let row = rows.get(packet);
        let same = row.is_some_and(|row| row.user == entry.user && row.amount == entry.amount);
        let fits = |row: &Row| match (entry.paid, row.state) {
            (paid, RowState::Credited) => paid,
            // It refuses what was cancelled, too.
            (paid, RowState::Rejected(Reason::Refused | Reason::KeyRevoked | Reason::KeyUnlisted)) => !paid,
            (_, RowState::Rejected(_) | RowState::Pending) => false,
        };
        findings.must(same && row.is_some_and(fits), None, || {
            let did = if entry.paid { "paid" } else { "refused" };
            format!(
                "the bank {did} {packet} with {} to user {}, and the row is {row:?}",
                entry.amount, entry.user
            )
        });
    }
    for (packet, row) in rows.iter().filter(|(_, row)| row.state == RowState::Credited) {
        let instant = instant_from.is_some_and(|least| least <= row.amount);
        let paid = bank.entries.get(packet).is_some_and(|entry| entry.paid);
        findings.must(instant || paid, None, || {
            format!("{packet} is credited to user {}, and the bank has not paid it", row.user)
        });
    }
    findings.verdict(|_| {
        let paid = bank.entries.values().filter(|entry| entry.paid).count();
        format!("{paid} packets paid by the bank, {} refused, as the rows say", bank.entries.len() - paid)
    })
}

#[cfg(test)]
mod tests {
    use ticket::id::{BatchId, FileNo, KeyId, SlotNo, UserId};
    use world::UnixMs;

    use super::*;
    use crate::host::bank::Entry;

    fn packet() -> PacketId {
        PacketId { build_tag: [1; 4], batch: BatchId(1), serial: 7 }
    }

    fn row(fen: u64, state: RowState) -> Row {
        Row {
            packet: packet(),
            user: UserId(3),
            amount: Fen::new(fen),
            state,
            slot: SlotNo(0),
            file: FileNo(0),
            index: 0,
            key: KeyId(1),
            node: "a1".parse().expect("a node"),
            issued_ms: UnixMs(1),
            opened_ms: UnixMs(2),
        }
    }

    /// One row against one entry of the bank: `None` when it was never asked, else whether it paid.
    fn check_one(paid: Option<bool>, fen: u64, row: Option<Row>, expected: Option<&str>) {
        let mut bank = BankBooks::default();
        if let Some(paid) = paid {
            bank.entries.insert(packet(), Entry::of(UserId(3), Fen::new(fen), paid));
        }
        let rows = row.map(|row| (packet(), row)).into_iter().collect();
        let verdict = check(&bank, &rows, Some(Fen::new(200))).or_nothing_to_see();
        assert_eq!(verdict.held, expected.is_none(), "{}", verdict.detail);
        assert!(expected.is_none_or(|part| verdict.detail.contains(part)), "{}", verdict.detail);
    }

    #[test]
    fn a_payment_without_its_credit_and_a_credit_without_its_payment_are_seen() {
        let credited = || Some(row(5, RowState::Credited));
        check_one(Some(true), 5, credited(), None);
        check_one(Some(true), 5, Some(row(5, RowState::Pending)), Some("the bank paid"));
        check_one(Some(true), 5, Some(row(5, RowState::Rejected(Reason::KeyRevoked))), Some("the bank paid"));
        check_one(Some(true), 6, credited(), Some("the bank paid"));
        check_one(Some(true), 5, None, Some("the bank paid"));
        check_one(None, 5, credited(), Some("has not paid it"));
        check_one(Some(false), 5, credited(), Some("the bank refused"));
        check_one(Some(false), 5, Some(row(5, RowState::Rejected(Reason::Refused))), None);
    }

    #[test]
    fn what_is_credited_as_it_settles_needs_no_bank() {
        check_one(None, 0, Some(row(200, RowState::Credited)), None);
        check_one(None, 0, Some(row(199, RowState::Credited)), Some("has not paid it"));
    }
}
