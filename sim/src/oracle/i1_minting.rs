//! I1: what was minted equals the budget, per batch and per scheme, to the fen.
//!
//! Evidence: the budget as the sponsors wrote it, and every record of the build, decrypted, one by
//! one. The two meet here for the first time: the minter's own sums are not looked at.
//!
//! Invariant: every record is counted once, and a batch without any record is noticed.
//!
//! Limits: it sees the records it is given; that those are the ones in the files is up to the caller.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Findings, Verdict};

/// One sponsor's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its batch.
    pub batch: u16,
    /// Packets.
    pub count: u64,
    /// Money, all packets together.
    pub fen: u64,
    /// The least a packet may hold.
    pub min_fen: u64,
    /// The most.
    pub max_fen: u64,
}

#[derive(Clone, Debug, Default)]
struct Minted {
    serials: BTreeSet<u64>,
    again: u64,
    outside: u64,
    fen: u64,
}

/// Records of one or more schemes as they come.
#[derive(Clone, Debug)]
pub struct Minting {
    budget: BTreeMap<u16, Order>,
    minted: BTreeMap<(String, u16), Minted>,
}

impl Minting {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(budget: &[Order]) -> Minting {
        Minting {
            budget: budget.iter().map(|order| (order.batch, *order)).collect(),
            minted: BTreeMap::new(),
        }
    }

    /// A scheme that was built, before its records: one without any record is a violation.
    pub fn scheme(&mut self, scheme: &str) {
        for batch in self.budget.keys() {
            self.minted.entry((scheme.to_owned(), *batch)).or_default();
        }
    }

    /// One record of a build.
    pub fn record(&mut self, scheme: &str, batch: u16, serial: u64, fen: u64) {
        let minted = self.minted.entry((scheme.to_owned(), batch)).or_default();
        minted.again += u64::from(!minted.serials.insert(serial));
        minted.fen = minted.fen.saturating_add(fen);
        let order = self.budget.get(&batch);
        minted.outside +=
            u64::from(order.is_some_and(|order| !(order.min_fen..=order.max_fen).contains(&fen)));
    }

    /// Compares.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let mut findings = Findings::new("I1", "minted amounts and counts equal the budget");
        for ((scheme, batch), minted) in &self.minted {
            let at = format!("scheme {scheme}, batch {batch}");
            let Some(order) = self.budget.get(batch) else {
                findings.violation(None, format!("{at}: minted and not in the budget"));
                continue;
            };
            let count = minted.serials.len() as u64;
            findings.must(minted.again == 0, None, || {
                format!("{at}: {} records have a serial that another has", minted.again)
            });
            findings.must(count == order.count, None, || {
                format!("{at}: {count} packets minted, {} ordered", order.count)
            });
            findings.must(minted.fen == order.fen, None, || {
                format!("{at}: {} fen minted, {} ordered", minted.fen, order.fen)
            });
            findings.must(minted.outside == 0, None, || {
                let (least, most) = (order.min_fen, order.max_fen);
                format!("{at}: {} packets hold less than {least} or more than {most} fen", minted.outside)
            });
        }
        let records: usize = self.minted.values().map(|minted| minted.serials.len()).sum();
        findings.verdict(|_| format!("{records} records minted as ordered"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(records: &[(&str, u16, u64, u64)], expected: &[&str]) {
        let order = Order { batch: 1, count: 3, fen: 60, min_fen: 10, max_fen: 30 };
        let mut minting = Minting::new(&[order]);
        minting.scheme("A");
        for (scheme, batch, serial, fen) in records {
            minting.record(scheme, *batch, *serial, *fen);
        }
        let verdict = minting.verdict();
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    #[test]
    fn what_was_ordered_is_accepted() {
        check(&[("A", 1, 0, 10), ("A", 1, 1, 20), ("A", 1, 2, 30)], &[]);
    }

    #[test]
    fn a_fen_too_much_is_seen() {
        check(
            &[("A", 1, 0, 11), ("A", 1, 1, 20), ("A", 1, 2, 30)],
            &["scheme A, batch 1: 61 fen minted, 60 ordered"],
        );
    }

    #[test]
    fn a_packet_out_of_its_bounds_is_seen_though_the_sum_is_right() {
        check(
            &[("A", 1, 0, 9), ("A", 1, 1, 21), ("A", 1, 2, 30)],
            &["scheme A, batch 1: 1 packets hold less than 10 or more than 30 fen"],
        );
    }

    #[test]
    fn a_serial_used_twice_is_seen() {
        check(
            &[("A", 1, 0, 10), ("A", 1, 0, 20), ("A", 1, 2, 30)],
            &[
                "scheme A, batch 1: 1 records have a serial that another has",
                "scheme A, batch 1: 2 packets minted, 3 ordered",
            ],
        );
    }

    #[test]
    fn a_scheme_without_records_and_a_batch_without_an_order_are_seen() {
        check(
            &[("B", 1, 0, 10), ("B", 1, 1, 20), ("B", 1, 2, 30), ("B", 2, 0, 10)],
            &[
                "scheme A, batch 1: 0 packets minted, 3 ordered",
                "scheme A, batch 1: 0 fen minted, 60 ordered",
                "scheme B, batch 2: minted and not in the budget",
            ],
        );
    }
}
