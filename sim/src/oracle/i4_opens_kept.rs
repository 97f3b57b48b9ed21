//! I4: every acknowledged open becomes exactly one packet row and exactly one credit or one explained
//! rejection.
//!
//! Evidence: what the crowd was told (packet and amount), against the rows, the rejections and the
//! credits as the data groups hold them at the end.
//!
//! Invariant: an acknowledgement is a promise to that user of that amount; a row of another user or
//! amount does not keep it.
//!
//! Limits: before the last reconcile an open may be pending; the caller says whether that has been.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Findings, Verdict};
use crate::history::access::{AccessCall, AccessHistory, AccessReply};

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Not yet compared with the plan.
    Pending,
    /// The user's.
    Credited,
    /// It earned nothing, and why.
    Rejected(String),
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacketRow {
    /// Who opened it.
    pub user: u64,
    /// What it holds.
    pub fen: u64,
    /// What became of it.
    pub fate: Fate,
}

/// The books at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Books {
    /// Rows by packet. The store has one row per packet by construction.
    pub rows: BTreeMap<String, PacketRow>,
    /// Openings that got no row, by packet and user, with the reason.
    pub rejections: BTreeMap<String, BTreeMap<u64, String>>,
    /// Every credit: packet, user, fen. A packet credited twice stands here twice.
    pub credits: Vec<(String, u64, u64)>,
}

/// Judges the books by what the crowd was told. `settled`: the last reconcile is over.
#[must_use]
pub fn check(crowd: &AccessHistory, books: &Books, settled: bool) -> Verdict {
    let mut findings = Findings::new("I4", "every acknowledged open is credited once, or explained");
    let mut credits: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for (packet, user, fen) in &books.credits {
        credits.entry(packet).or_default().push((*user, *fen));
    }
    let mut promised = BTreeSet::new();
    let (mut credited, mut explained, mut pending) = (0u64, 0u64, 0u64);
    for op in crowd.ops() {
        let (AccessCall::Open { user, .. }, Some(AccessReply::Opened { packet, fen })) =
            (&op.call, op.reply())
        else {
            continue;
        };
        if !promised.insert((packet.as_str(), *user)) {
            continue;
        }
        let paid = credits.get(packet.as_str()).map_or(&[][..], Vec::as_slice);
        let told = format!("user {user} was told that packet {packet} of {fen} fen is theirs");
        let found = books.rows.get(packet);
        let refused = books.rejections.get(packet).and_then(|users| users.get(user));
        let wrong = match found {
            Some(row) if row.user == *user && row.fen == *fen => match &row.fate {
                Fate::Credited if paid == [(*user, *fen)] => {
                    credited += 1;
                    None
                }
                Fate::Credited => Some(format!("its credits are {paid:?}")),
                Fate::Rejected(reason) if reason.is_empty() => {
                    Some("it was rejected without a reason".to_owned())
                }
                Fate::Rejected(_) if !paid.is_empty() => Some("it was rejected and credited".to_owned()),
                Fate::Rejected(_) => {
                    explained += 1;
                    None
                }
                Fate::Pending if settled => Some("it is still pending after the last reconcile".to_owned()),
                Fate::Pending => {
                    pending += 1;
                    None
                }
            },
            _ if refused.is_some_and(|reason| !reason.is_empty()) => {
                explained += 1;
                None
            }
            Some(row) => Some(format!("its row says {} fen for user {}", row.fen, row.user)),
            None => Some("there is no row and no rejection".to_owned()),
        };
        findings.must(wrong.is_none(), op.returned, || format!("{told}; {}", wrong.unwrap_or_default()));
    }
    for (packet, paid) in credits.iter().filter(|(_, paid)| paid.len() > 1) {
        findings.violation(None, format!("packet {packet} was credited {} times", paid.len()));
    }
    let opens = promised.len();
    findings.verdict(|_| {
        format!("{opens} opens acknowledged: {credited} credited, {explained} explained, {pending} pending")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::access::OpenAttempt;
    use crate::history::{Moments, Outcome};

    /// The crowd: user 7 was told that packet p of 30 fen is theirs, twice.
    fn crowd() -> AccessHistory {
        let (mut moments, mut history) = (Moments::default(), AccessHistory::default());
        for outcome in [
            Outcome::Done(AccessReply::Opened { packet: "p".to_owned(), fen: 30 }),
            Outcome::Unknown,
            Outcome::Done(AccessReply::Opened { packet: "p".to_owned(), fen: 30 }),
        ] {
            let call = AccessCall::Open { user: 7, ticket: "t".to_owned(), attempt: OpenAttempt::Honest };
            let id = history.invoke(moments.next(9), 7, None, call);
            history.finish(moments.next(9), id, outcome);
        }
        history
    }

    fn books(row: Option<(u64, u64, Fate)>, credits: &[(u64, u64)]) -> Books {
        Books {
            rows: row
                .into_iter()
                .map(|(user, fen, fate)| ("p".to_owned(), PacketRow { user, fen, fate }))
                .collect(),
            rejections: BTreeMap::new(),
            credits: credits.iter().map(|(user, fen)| ("p".to_owned(), *user, *fen)).collect(),
        }
    }

    fn check_books(books: &Books, settled: bool, expected: Option<&str>) {
        let verdict = check(&crowd(), books, settled);
        let told = "user 7 was told that packet p of 30 fen is theirs; ";
        let said = verdict.violations.first().map(|violation| violation.what.replace(told, ""));
        assert_eq!(said.as_deref(), expected);
        assert_eq!(verdict.held, expected.is_none());
    }

    #[test]
    fn one_row_and_one_credit_keep_the_promise() {
        check_books(&books(Some((7, 30, Fate::Credited)), &[(7, 30)]), true, None);
    }

    #[test]
    fn a_rejection_with_a_reason_keeps_it_too() {
        check_books(&books(Some((7, 30, Fate::Rejected("over the limit".to_owned()))), &[]), true, None);
        let mut other = books(Some((8, 30, Fate::Credited)), &[(8, 30)]);
        other.rejections.insert("p".to_owned(), BTreeMap::from([(7, "duplicate".to_owned())]));
        check_books(&other, true, None);
    }

    #[test]
    fn a_pending_row_is_fine_until_the_last_reconcile() {
        check_books(&books(Some((7, 30, Fate::Pending)), &[]), false, None);
        check_books(
            &books(Some((7, 30, Fate::Pending)), &[]),
            true,
            Some("it is still pending after the last reconcile"),
        );
    }

    #[test]
    fn a_lost_open_is_seen() {
        check_books(&books(None, &[]), true, Some("there is no row and no rejection"));
    }

    #[test]
    fn another_amount_or_owner_is_seen() {
        check_books(
            &books(Some((7, 31, Fate::Credited)), &[(7, 31)]),
            true,
            Some("its row says 31 fen for user 7"),
        );
        check_books(
            &books(Some((8, 30, Fate::Credited)), &[(8, 30)]),
            true,
            Some("its row says 30 fen for user 8"),
        );
    }

    #[test]
    fn a_missing_second_or_wrong_credit_is_seen() {
        check_books(&books(Some((7, 30, Fate::Credited)), &[]), true, Some("its credits are []"));
        check_books(
            &books(Some((7, 30, Fate::Credited)), &[(7, 30), (7, 30)]),
            true,
            Some("its credits are [(7, 30), (7, 30)]"),
        );
        check_books(
            &books(Some((7, 30, Fate::Credited)), &[(7, 29)]),
            true,
            Some("its credits are [(7, 29)]"),
        );
    }

    #[test]
    fn a_rejection_that_explains_nothing_or_was_paid_is_seen() {
        let silent = Fate::Rejected(String::new());
        check_books(&books(Some((7, 30, silent)), &[]), true, Some("it was rejected without a reason"));
        let paid = Fate::Rejected("over the limit".to_owned());
        check_books(&books(Some((7, 30, paid)), &[(7, 30)]), true, Some("it was rejected and credited"));
    }
}
