//! I3: each record is issued at most once; a crash may skip records, never repeat one.
//!
//! Evidence: every record that left a node (recorded where it is handed out, so that answers nobody
//! received count), and the places of the rows that opens left behind.
//!
//! Invariant: two issues of one place are a violation whoever received them.
//!
//! Limits: without the nodes' own record of what they issued, a repeat is seen only when both
//! tickets are opened.

use std::collections::BTreeMap;

use world::NodeId;

use super::{Findings, Verdict};
use crate::history::access::{Issue, RecordPlace};

/// A row of an opened packet: where its record stood, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedPlace {
    /// The packet.
    pub packet: String,
    /// Where its record stood.
    pub place: RecordPlace,
    /// Who has it.
    pub user: u64,
}

/// Judges issues, in the order they happened, and the rows.
#[must_use]
pub fn check(issues: &[Issue], opened: &[OpenedPlace]) -> Verdict {
    let mut findings = Findings::new("I3", "each record is issued at most once");
    let mut first: BTreeMap<RecordPlace, &Issue> = BTreeMap::new();
    let mut cursor: BTreeMap<(u16, u32, NodeId), u32> = BTreeMap::new();
    for issue in issues {
        let RecordPlace { slot, file, index } = issue.place;
        let earlier = first.get(&issue.place).copied();
        findings.must(earlier.is_none(), Some(issue.at), || {
            let there = earlier.map_or(String::new(), |issue| {
                format!(" at {} ms by {} (start {}) to user {}", issue.at.at_ms, issue.node, issue.boot, issue.user)
            });
            format!(
                "record {index} of file {file} of slot {slot} was issued{there} and again by {} (start {}) to user {}",
                issue.node, issue.boot, issue.user
            )
        });
        first.entry(issue.place).or_insert(issue);
        let last = cursor.insert((slot, file, issue.node), index);
        findings.must(last.is_none_or(|last| last < index || earlier.is_some()), Some(issue.at), || {
            let last = last.unwrap_or_default();
            format!("{} issued record {index} of file {file} of slot {slot} after record {last}: its cursor went back", issue.node)
        });
    }
    let mut rows: BTreeMap<RecordPlace, &str> = BTreeMap::new();
    for row in opened {
        let RecordPlace { slot, file, index } = row.place;
        let other = rows.insert(row.place, &row.packet);
        findings.must(other.is_none_or(|other| other == row.packet), None, || {
            let other = other.unwrap_or_default();
            format!(
                "packets {other} and {} are both record {index} of file {file} of slot {slot}",
                row.packet
            )
        });
        if !issues.is_empty() {
            findings.must(first.get(&row.place).is_some_and(|issue| issue.user == row.user), None, || {
                format!("packet {} was opened by user {}, to whom nobody issued it", row.packet, row.user)
            });
        }
    }
    let (records, rows) = (first.len(), rows.len());
    findings.verdict(|_| {
        format!("{records} records issued, each once; {rows} of them opened by those who got them")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moments;

    fn issues(list: &[(u32, u64, u64)]) -> Vec<Issue> {
        let mut moments = Moments::default();
        let mut issues = Vec::new();
        for (index, boot, user) in list {
            issues.push(Issue {
                at: moments.next(issues.len() as u64),
                place: RecordPlace { slot: 1, file: 4, index: *index },
                node: "a1".parse().expect("a node"),
                incarnation: "x".to_owned(),
                boot: *boot,
                counter: u64::from(*index),
                user: *user,
            });
        }
        issues
    }

    fn opened(packet: &str, index: u32, user: u64) -> OpenedPlace {
        OpenedPlace { packet: packet.to_owned(), place: RecordPlace { slot: 1, file: 4, index }, user }
    }

    fn check_both(issues: &[Issue], opened: &[OpenedPlace], expected: &[&str]) {
        let verdict = check(issues, opened);
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    #[test]
    fn a_crash_may_skip_records() {
        check_both(&issues(&[(0, 1, 10), (1, 1, 11), (64, 2, 12)]), &[opened("p", 64, 12)], &[]);
    }

    #[test]
    fn a_record_issued_again_after_a_crash_is_seen() {
        check_both(
            &issues(&[(0, 1, 10), (1, 1, 11), (1, 2, 12)]),
            &[],
            &[
                "record 1 of file 4 of slot 1 was issued at 1 ms by a1 (start 1) to user 11 and again by a1 (start 2) to user 12",
            ],
        );
    }

    #[test]
    fn a_cursor_that_goes_back_is_seen_before_it_repeats() {
        check_both(
            &issues(&[(0, 1, 10), (8, 1, 11), (3, 2, 12)]),
            &[],
            &["a1 issued record 3 of file 4 of slot 1 after record 8: its cursor went back"],
        );
    }

    #[test]
    fn two_packets_from_one_place_are_seen() {
        check_both(
            &[],
            &[opened("p", 1, 11), opened("q", 1, 12)],
            &["packets p and q are both record 1 of file 4 of slot 1"],
        );
    }

    #[test]
    fn a_packet_in_a_hand_it_was_not_given_to_is_seen() {
        check_both(
            &issues(&[(0, 1, 10)]),
            &[opened("p", 0, 99), opened("q", 5, 10)],
            &[
                "packet p was opened by user 99, to whom nobody issued it",
                "packet q was opened by user 10, to whom nobody issued it",
            ],
        );
    }
}
