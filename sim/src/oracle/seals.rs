//! Seals: no two tickets have the same number under one key, and no node goes back to an earlier boot
//! epoch. Two tickets with one nonce give the key stream away, and with it the next forgery.
//!
//! Evidence: every record that left a node, with the number of its ticket.
//!
//! Invariant: tickets are compared with all others, not only with those of the same start.
//!
//! Limits: that the number in the ticket is the nonce it was sealed with is the format's matter
//! (golden bytes in `ticket`).

use std::collections::BTreeMap;

use world::NodeId;

use super::{Findings, Verdict};
use crate::history::access::Issue;

/// Judges all tickets, in the order they left.
#[must_use]
pub fn check(issues: &[Issue]) -> Verdict {
    let mut findings = Findings::new("SEAL", "no two tickets have one nonce");
    let mut first: BTreeMap<(NodeId, u64, u64), &Issue> = BTreeMap::new();
    let mut epochs: BTreeMap<NodeId, u64> = BTreeMap::new();
    for issue in issues {
        let Issue { node, boot, counter, .. } = issue;
        let earlier = first.insert((*node, *boot, *counter), issue);
        findings.must(earlier.is_none(), Some(issue.at), || {
            let when = earlier.map_or(0, |earlier| earlier.at.at_ms);
            format!(
                "{node} sealed two tickets under boot epoch {boot} with number {counter}, at {when} and {} ms",
                issue.at.at_ms
            )
        });
        let before = epochs.insert(*node, *boot).unwrap_or(0);
        findings.must(before <= *boot, Some(issue.at), || {
            format!("{node} sealed under boot epoch {boot} after {before}")
        });
    }
    let tickets = first.len();
    findings.verdict(|_| format!("{tickets} tickets, each with a number of its own"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moments;
    use crate::history::access::RecordPlace;

    fn check_all(list: &[(&str, u64, u64)], expected: &[&str]) {
        let mut moments = Moments::default();
        let issue = |(at, (node, boot, counter)): (u32, &(&str, u64, u64))| Issue {
            at: moments.next(u64::from(at)),
            place: RecordPlace { slot: 0, file: 0, index: at },
            node: node.parse().expect("a node"),
            incarnation: String::new(),
            boot: *boot,
            counter: *counter,
            user: 1,
        };
        let issues: Vec<Issue> = (0..).zip(list).map(issue).collect();
        let verdict = check(&issues);
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    #[test]
    fn nodes_and_starts_number_apart() {
        check_all(&[("a1", 1, 0), ("a1", 1, 1), ("b1", 1, 0), ("a1", 2, 0)], &[]);
    }

    #[test]
    fn a_number_that_comes_again_is_noticed() {
        let said = "a1 sealed two tickets under boot epoch 1 with number 0, at 0 and 2 ms";
        check_all(&[("a1", 1, 0), ("a1", 1, 1), ("a1", 1, 0)], &[said]);
    }

    #[test]
    fn an_epoch_that_goes_back_is_noticed() {
        check_all(&[("a1", 2, 0), ("a1", 1, 0)], &["a1 sealed under boot epoch 1 after 2"]);
    }
}
