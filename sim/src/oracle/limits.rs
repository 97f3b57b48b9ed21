//! The rules: no user is credited more packets than the event allows one user.
//!
//! Evidence: the credits at the end, and the number the sponsors' script says.
//!
//! Invariant: credits are counted, whatever nodes and settlers remember of a user.
//!
//! Limits: limits for each merchant are not counted here; reconcile does.

use std::collections::BTreeMap;

use super::i4_opens_kept::Books;
use super::{Findings, Verdict};

/// Judges the credits. `most`: for one user; 0 means any number.
#[must_use]
pub fn check(books: &Books, most: u32) -> Verdict {
    let mut findings = Findings::new("LIMIT", "nobody is credited more than the rules allow");
    let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
    for (_, user, _) in &books.credits {
        *counts.entry(*user).or_default() += 1;
    }
    for (user, count) in &counts {
        findings.must(most == 0 || *count <= most, None, || {
            format!("user {user} was credited {count} packets; the rules allow {most}")
        });
    }
    let (users, highest) = (counts.len(), counts.values().max().copied().unwrap_or(0));
    findings.verdict(|_| format!("{users} users were credited, nobody more than {highest} of {most} packets"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_packet_too_many_is_noticed() {
        let credit = |packet: &str, user: u64| (packet.to_owned(), user, 5);
        let mut books =
            Books { credits: vec![credit("p", 1), credit("q", 1), credit("r", 2)], ..Books::default() };
        assert!(check(&books, 2).held && check(&books, 0).held);
        books.credits.push(credit("s", 1));
        let verdict = check(&books, 2);
        assert_eq!(verdict.detail, "user 1 was credited 3 packets; the rules allow 2");
        assert!(!verdict.held);
    }
}
