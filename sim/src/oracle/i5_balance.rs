//! I5: credited + pending + refunded + unissued = budget, per batch, to the fen, at every reconcile;
//! and between reconciles no fen appears, vanishes or goes back where it came from.
//!
//! ```text
//!   Sponsor --fund--> Escrow --hold--> Held --credit--> Payable        the sum over all is 0
//!                        '----------refund-----------> Refunded        only Sponsor is below 0
//! ```
//! Evidence: the accounts of each batch, read at many moments of a run, and the lines of every
//! reconcile. Money is conserved at each moment, not only at the end: a fen that vanished and came
//! back is a violation too.
//!
//! Invariant: accounts and lines are judged apart and against each other's budget.
//!
//! Limits: an account is the sum of one counter in each data group. Each transfer is inside one
//! group, so the sum over the accounts is 0 even when the groups are read one after the other; that
//! an account is not below 0 may be judged only by a reading of one moment ([`Reading::at_once`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Findings, Verdict};
use crate::history::Moment;

/// The accounts of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounts {
    /// Where the deposit came from: minus what the sponsor paid in.
    pub sponsor: i64,
    /// Deposited and not given away.
    pub escrow: i64,
    /// Opened, waiting to be compared with the plan.
    pub held: i64,
    /// The users'.
    pub payable: i64,
    /// Gone back to the sponsor.
    pub refunded: i64,
}

/// All accounts at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// When.
    pub at: Moment,
    /// Whether all groups were read at the same moment.
    pub at_once: bool,
    /// By batch. A batch that is not funded yet is not there.
    pub accounts: BTreeMap<u16, Accounts>,
}

/// One batch in one reconcile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// What the sponsor ordered.
    pub budget: u64,
    /// What users have.
    pub credited: u64,
    /// What is opened and not compared yet.
    pub pending: u64,
    /// What went back.
    pub refunded: u64,
    /// The rest.
    pub unissued: u64,
}

/// One reconcile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reconcile {
    /// When it ended.
    pub at: Moment,
    /// By batch.
    pub lines: BTreeMap<u16, Line>,
    /// Differences between plan, rows, ledger and queue that it found.
    pub mismatches: u64,
    /// Some of them.
    pub examples: Vec<String>,
    /// Packets that were turned down and not yet given back: an interrupted crediting.
    pub to_release: u64,
}

/// Judges all readings and reconciles, each in order of time. `budgets`: by batch, in fen, from the
/// sponsors' orders.
#[must_use]
pub fn check(budgets: &BTreeMap<u16, u64>, readings: &[Reading], reconciles: &[Reconcile]) -> Verdict {
    let mut findings = Findings::new("I5", "money is conserved, to the fen");
    let mut before: BTreeMap<u16, Accounts> = BTreeMap::new();
    for reading in readings {
        for batch in before.keys().filter(|batch| !reading.accounts.contains_key(batch)) {
            findings.violation(Some(reading.at), format!("the accounts of batch {batch} vanished"));
        }
        for (batch, now) in &reading.accounts {
            let last = before.insert(*batch, *now).unwrap_or_default();
            one_batch(*batch, *now, last, reading, budgets.get(batch).copied(), &mut findings);
        }
    }
    for reconcile in reconciles {
        one_reconcile(budgets, reconcile, &mut findings);
    }
    if let Some(last) = reconciles.last() {
        findings.must(last.to_release == 0, Some(last.at), || {
            format!("the last reconcile left {} packets to be given back", last.to_release)
        });
    }
    let (moments, reports) = (readings.len(), reconciles.len());
    findings.verdict(|_| format!("balanced at {moments} moments and in {reports} reconciles"))
}

/// Judges readings alone, whatever the sponsors ordered.
#[must_use]
pub fn sums(readings: &[Reading]) -> Verdict {
    let mut findings = Findings::new("I5", "money is conserved, to the fen");
    for reading in readings {
        for (batch, now) in &reading.accounts {
            let all = [now.sponsor, now.escrow, now.held, now.payable, now.refunded];
            let sum: i128 = all.iter().map(|fen| i128::from(*fen)).sum();
            findings.must(sum == 0, Some(reading.at), || {
                format!("the accounts of batch {batch} add up to {sum} fen")
            });
        }
    }
    let moments = readings.len();
    findings.verdict(|_| format!("balanced at {moments} moments"))
}

/// Whether the users' accounts hold what the rows say was credited, at the end.
#[must_use]
pub fn paid(last: Option<&Reading>, credited: &BTreeMap<u16, u64>) -> Verdict {
    let mut findings = Findings::new("I5", "users have what they were credited, to the fen");
    for (batch, accounts) in last.iter().flat_map(|reading| &reading.accounts) {
        let rows = i128::from(credited.get(batch).copied().unwrap_or(0));
        findings.must(rows == i128::from(accounts.payable), last.map(|reading| reading.at), || {
            format!("the users of batch {batch} have {} fen, and the rows credit {rows}", accounts.payable)
        });
    }
    findings.verdict(|batches| format!("the accounts of {batches} batches hold what the rows credit"))
}

fn one_batch(
    batch: u16,
    now: Accounts,
    last: Accounts,
    reading: &Reading,
    budget: Option<u64>,
    findings: &mut Findings,
) {
    let at = Some(reading.at);
    let all = [now.sponsor, now.escrow, now.held, now.payable, now.refunded];
    let sum: i128 = all.iter().map(|fen| i128::from(*fen)).sum();
    findings.must(sum == 0, at, || format!("the accounts of batch {batch} add up to {sum} fen"));
    let paid_in = -i128::from(now.sponsor);
    findings.must(paid_in == 0 || Some(paid_in) == budget.map(i128::from), at, || {
        format!("the sponsor of batch {batch} paid in {paid_in} fen, not {budget:?}")
    });
    if reading.at_once {
        for (name, fen) in
            [("escrow", now.escrow), ("held", now.held), ("payable", now.payable), ("refunded", now.refunded)]
        {
            findings.must(fen >= 0, at, || format!("account {name} of batch {batch} stands at {fen} fen"));
        }
    }
    for (name, was, is) in [("payable", last.payable, now.payable), ("refunded", last.refunded, now.refunded)]
    {
        findings
            .must(was <= is, at, || format!("account {name} of batch {batch} fell from {was} to {is} fen"));
    }
    if last.refunded > 0 {
        findings.must(last.refunded == now.refunded, at, || {
            format!("batch {batch} was refunded {} fen and then {}", last.refunded, now.refunded)
        });
    }
}

fn one_reconcile(budgets: &BTreeMap<u16, u64>, reconcile: &Reconcile, findings: &mut Findings) {
    let at = Some(reconcile.at);
    findings.must(reconcile.mismatches == 0, at, || {
        let examples = reconcile.examples.join("; ");
        format!("the reconcile found {} differences: {examples}", reconcile.mismatches)
    });
    for (batch, budget) in budgets {
        let Some(line) = reconcile.lines.get(batch) else {
            findings.violation(at, format!("the reconcile does not know batch {batch}"));
            continue;
        };
        let parts = [line.credited, line.pending, line.refunded, line.unissued];
        let sum: u128 = parts.iter().map(|fen| u128::from(*fen)).sum();
        findings.must(line.budget == *budget, at, || {
            format!("the reconcile says batch {batch} has {} fen, the sponsor ordered {budget}", line.budget)
        });
        findings.must(sum == u128::from(*budget), at, || {
            let [credited, pending, refunded, unissued] = parts;
            format!(
                "batch {batch}: {credited} credited + {pending} pending + {refunded} refunded + {unissued} unissued = {sum} fen, not {budget}"
            )
        });
    }
    for batch in reconcile.lines.keys().filter(|batch| !budgets.contains_key(batch)) {
        findings.violation(at, format!("the reconcile has a batch {batch} that nobody ordered"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moments;

    const FUNDED: Accounts = Accounts { sponsor: -100, escrow: 100, held: 0, payable: 0, refunded: 0 };

    fn check_accounts(readings: &[Accounts], expected: &[&str]) {
        let mut moments = Moments::default();
        let reading = |accounts: &Accounts| Reading {
            at: moments.next(0),
            at_once: true,
            accounts: BTreeMap::from([(1, *accounts)]),
        };
        let readings: Vec<Reading> = readings.iter().map(reading).collect();
        said(&check(&BTreeMap::from([(1, 100)]), &readings, &[]), expected);
    }

    fn check_line(line: Line, mismatches: u64, expected: &[&str]) {
        let reconcile = Reconcile {
            at: Moments::default().next(0),
            lines: BTreeMap::from([(1, line)]),
            mismatches,
            examples: vec!["a row too many".to_owned()],
            to_release: 0,
        };
        said(&check(&BTreeMap::from([(1, 100)]), &[], &[reconcile]), expected);
    }

    fn said(verdict: &Verdict, expected: &[&str]) {
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    #[test]
    fn money_that_moves_along_is_accepted() {
        let half = Accounts { escrow: 40, held: 10, payable: 50, ..FUNDED };
        let done = Accounts { escrow: 0, held: 0, payable: 60, refunded: 40, ..FUNDED };
        check_accounts(&[Accounts::default(), FUNDED, half, done, done], &[]);
    }

    #[test]
    fn a_fen_that_appears_is_seen_though_it_is_gone_at_the_end() {
        let more = Accounts { payable: 1, ..FUNDED };
        let less = Accounts { payable: 1, escrow: 99, ..FUNDED };
        check_accounts(&[FUNDED, more, less], &["the accounts of batch 1 add up to 1 fen"]);
    }

    #[test]
    fn money_that_comes_back_from_a_user_is_seen() {
        let paid = Accounts { escrow: 70, payable: 30, ..FUNDED };
        check_accounts(&[paid, FUNDED], &["account payable of batch 1 fell from 30 to 0 fen"]);
    }

    #[test]
    fn a_second_refund_is_seen() {
        let once = Accounts { escrow: 60, refunded: 40, ..FUNDED };
        let twice = Accounts { escrow: 20, refunded: 80, ..FUNDED };
        check_accounts(&[once, twice], &["batch 1 was refunded 40 fen and then 80"]);
    }

    #[test]
    fn an_overdrawn_account_and_a_wrong_deposit_are_seen() {
        let over = Accounts { escrow: -10, payable: 110, ..FUNDED };
        check_accounts(&[over], &["account escrow of batch 1 stands at -10 fen"]);
        let twice = Accounts { sponsor: -200, escrow: 200, ..FUNDED };
        check_accounts(&[twice], &["the sponsor of batch 1 paid in 200 fen, not Some(100)"]);
    }

    #[test]
    fn a_reconcile_that_adds_up_is_accepted_and_one_that_does_not_is_seen() {
        let line = Line { budget: 100, credited: 50, pending: 5, refunded: 0, unissued: 45 };
        check_line(line, 0, &[]);
        check_line(
            Line { unissued: 44, ..line },
            0,
            &["batch 1: 50 credited + 5 pending + 0 refunded + 44 unissued = 99 fen, not 100"],
        );
        check_line(line, 2, &["the reconcile found 2 differences: a row too many"]);
        check_line(
            Line { budget: 99, unissued: 44, ..line },
            0,
            &[
                "the reconcile says batch 1 has 99 fen, the sponsor ordered 100",
                "batch 1: 50 credited + 5 pending + 0 refunded + 44 unissued = 99 fen, not 100",
            ],
        );
    }
}
