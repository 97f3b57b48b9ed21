//! I6: no credit for a record that is not in the plan, was altered, was sealed with a revoked or
//! unlisted key, or belongs to another user.
//!
//! Evidence: the plan (every packet with its amount and key), the credits, the keys that were good
//! when each credit's open began, and what the crowd's thieves were told.
//!
//! Invariant: one theft that was answered with a packet is a violation, credited or not.
//!
//! Limits: whose a packet is, is known from the nodes' record of what they issued (I3 judges it).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::i4_opens_kept::Books;
use super::{Findings, Verdict};
use crate::history::access::{AccessCall, AccessHistory, AccessReply, OpenAttempt};

/// A packet as it was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// What it holds.
    pub fen: u64,
    /// The data key it is under.
    pub key: u16,
}

/// Judges the credits and the thefts. `barred`: keys that were revoked or never listed before any
/// packet under them was opened.
#[must_use]
pub fn check(
    plan: &BTreeMap<String, Planned>,
    books: &Books,
    barred: &BTreeSet<u16>,
    crowd: &AccessHistory,
) -> Verdict {
    let mut findings = Findings::new("I6", "no credit outside the plan, none for a thief");
    for (packet, user, fen) in &books.credits {
        let planned = plan.get(packet);
        findings.must(planned.is_some(), None, || {
            format!("user {user} was credited {fen} fen for {packet}, which nobody planned")
        });
        let Some(planned) = planned else { continue };
        findings.must(planned.fen == *fen, None, || {
            format!("user {user} was credited {fen} fen for packet {packet} of {} fen", planned.fen)
        });
        findings.must(!barred.contains(&planned.key), None, || {
            format!(
                "user {user} was credited for packet {packet} under key {}, which is not good",
                planned.key
            )
        });
    }
    let (mut thefts, mut honest) = (0u64, 0u64);
    for op in crowd.ops() {
        let AccessCall::Open { user, attempt, .. } = &op.call else { continue };
        if *attempt == OpenAttempt::Honest {
            honest += 1;
            continue;
        }
        thefts += 1;
        let opened = match op.reply() {
            Some(AccessReply::Opened { packet, fen }) => Some((packet, fen)),
            _ => None,
        };
        findings.must(opened.is_none(), op.returned, || {
            let how = match attempt {
                OpenAttempt::Altered => "an altered ticket",
                OpenAttempt::Stolen => "somebody else's ticket",
                _ => "a ticket under a revoked key",
            };
            let (packet, fen) = opened.expect("it was opened");
            format!("user {user} opened {how} and was told that packet {packet} of {fen} fen is theirs")
        });
    }
    let credits = books.credits.len();
    findings.verdict(|_| {
        format!("{credits} credits, all planned; {thefts} thefts among {honest} opens, none answered")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Moments, Outcome};

    fn check_all(
        credits: &[(&str, u64)],
        attempt: OpenAttempt,
        outcome: Outcome<AccessReply>,
        expected: &[&str],
    ) {
        let plan = BTreeMap::from([
            ("p".to_owned(), Planned { fen: 30, key: 1 }),
            ("q".to_owned(), Planned { fen: 40, key: 2 }),
        ]);
        let credits = credits.iter().map(|(packet, fen)| ((*packet).to_owned(), 7, *fen)).collect();
        let books = Books { credits, ..Books::default() };
        let (mut moments, mut crowd) = (Moments::default(), AccessHistory::default());
        let call = AccessCall::Open { user: 7, ticket: "t".to_owned(), attempt };
        let id = crowd.invoke(moments.next(1), 7, None, call);
        crowd.finish(moments.next(2), id, outcome);
        let verdict = check(&plan, &books, &BTreeSet::from([2]), &crowd);
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    fn opened() -> Outcome<AccessReply> {
        Outcome::Done(AccessReply::Opened { packet: "p".to_owned(), fen: 30 })
    }

    #[test]
    fn a_planned_credit_and_a_theft_that_failed_are_accepted() {
        check_all(&[("p", 30)], OpenAttempt::Stolen, Outcome::Refused("not yours".to_owned()), &[]);
        check_all(&[("p", 30)], OpenAttempt::Altered, Outcome::Unknown, &[]);
        check_all(&[("p", 30)], OpenAttempt::Honest, opened(), &[]);
    }

    #[test]
    fn a_credit_outside_the_plan_is_seen() {
        check_all(
            &[("x", 30)],
            OpenAttempt::Honest,
            opened(),
            &["user 7 was credited 30 fen for x, which nobody planned"],
        );
    }

    #[test]
    fn another_amount_than_planned_is_seen() {
        check_all(
            &[("p", 31)],
            OpenAttempt::Honest,
            opened(),
            &["user 7 was credited 31 fen for packet p of 30 fen"],
        );
    }

    #[test]
    fn a_credit_under_a_barred_key_is_seen() {
        check_all(
            &[("q", 40)],
            OpenAttempt::Honest,
            opened(),
            &["user 7 was credited for packet q under key 2, which is not good"],
        );
    }

    #[test]
    fn a_theft_that_was_answered_is_seen() {
        for (attempt, how) in [
            (OpenAttempt::Altered, "an altered ticket"),
            (OpenAttempt::Stolen, "somebody else's ticket"),
            (OpenAttempt::Revoked, "a ticket under a revoked key"),
        ] {
            let expected = format!("user 7 opened {how} and was told that packet p of 30 fen is theirs");
            check_all(&[("p", 30)], attempt, opened(), &[&expected]);
        }
    }
}
