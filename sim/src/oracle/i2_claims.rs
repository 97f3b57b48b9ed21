//! I2: each (slot, file) is claimed by at most one node incarnation, ever, and only by a zone that
//! was active; nobody issues from a file that it has not claimed.
//!
//! Evidence: every write to the claims and zones of the control group in order of revision (from the
//! log of the group or a watch from its beginning), and every record that left a node.
//!
//! Invariant: the order judged by is that of revisions, not of clocks.
//!
//! Limits: a claim that was written and removed between two looks is seen only if the writes come from
//! the log; without issues, ownership is judged by the records alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

use super::{Findings, Verdict};
use crate::history::access::Issue;

/// One write to the control group that concerns ownership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum ControlWrite {
    /// A claim was written.
    Claim { slot: u16, file: u32, node: NodeId, incarnation: String, zone_epoch: u64 },
    /// A claim was removed.
    Unclaim { slot: u16, file: u32 },
    /// A zone's record was written. Before `from_slot` the opposite holds.
    Zone { zone: ZoneId, active: bool, epoch: u64, from_slot: u16 },
}

/// Judges the writes, each with its revision, and the issues.
#[must_use]
pub fn check(writes: &[(i64, ControlWrite)], issues: &[Issue]) -> Verdict {
    let mut findings = Findings::new("I2", "each file is claimed once, by a zone that may");
    let mut claims: BTreeMap<(u16, u32), (NodeId, &str)> = BTreeMap::new();
    let mut zones: BTreeMap<ZoneId, (bool, u64, u16)> = BTreeMap::new();
    let mut before = i64::MIN;
    for (revision, write) in writes {
        findings.must(*revision >= before, None, || {
            format!("revision {revision} was written after revision {before}")
        });
        before = before.max(*revision);
        match write {
            ControlWrite::Claim { slot, file, node, incarnation, zone_epoch } => {
                let (active, epoch, from) = zones.get(&node.zone()).copied().unwrap_or((true, 0, 0));
                // A record holds from its slot on; before it, the opposite did.
                let may = active == (from <= *slot);
                let zone = node.zone();
                findings.must(may, None, || {
                    format!("{node} claimed file {file} of slot {slot} while zone {zone} was failed over")
                });
                findings.must(*zone_epoch == epoch, None, || {
                    format!("{node} claimed file {file} of slot {slot} under epoch {zone_epoch} of zone {zone}, which was at {epoch}")
                });
                if let Some((owner, disk)) = claims.get(&(*slot, *file)) {
                    findings.violation(None, format!(
                        "file {file} of slot {slot} was claimed by {owner} ({disk}) and, at revision {revision}, by {node} ({incarnation})"
                    ));
                } else {
                    claims.insert((*slot, *file), (*node, incarnation));
                }
            }
            ControlWrite::Unclaim { slot, file } => {
                findings.violation(
                    None,
                    format!("the claim of file {file} of slot {slot} was removed at revision {revision}"),
                );
            }
            ControlWrite::Zone { zone, active, epoch, from_slot } => {
                let old = zones.insert(*zone, (*active, *epoch, *from_slot)).map_or(0, |(_, epoch, _)| epoch);
                findings.must(*epoch > old, None, || {
                    format!("the epoch of zone {zone} went from {old} to {epoch} at revision {revision}")
                });
            }
        }
    }
    issued_by_owners(&claims, issues, &mut findings);
    let (files, records) = (claims.len(), issues.len());
    findings.verdict(|_| {
        format!("{files} files claimed once, {records} records issued by those who claimed them")
    })
}

fn issued_by_owners(
    claims: &BTreeMap<(u16, u32), (NodeId, &str)>,
    issues: &[Issue],
    findings: &mut Findings,
) {
    for issue in issues {
        let (slot, file, node) = (issue.place.slot, issue.place.file, issue.node);
        let owner = claims.get(&(slot, file));
        findings.must(
            owner.is_some_and(|owner| *owner == (node, issue.incarnation.as_str())),
            Some(issue.at),
            || {
                let owner =
                    owner.map_or_else(|| "nobody".to_owned(), |(owner, disk)| format!("{owner} ({disk})"));
                format!(
                    "{node} ({}) issued record {} of file {file} of slot {slot}, which is claimed by {owner}",
                    issue.incarnation, issue.place.index
                )
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moments;
    use crate::history::access::RecordPlace;

    fn claim(node: &str, incarnation: &str, zone_epoch: u64) -> ControlWrite {
        let node = node.parse().expect("a node");
        ControlWrite::Claim { slot: 2, file: 7, node, incarnation: incarnation.to_owned(), zone_epoch }
    }

    fn zone(zone: &str, active: bool, epoch: u64, from_slot: u16) -> ControlWrite {
        ControlWrite::Zone { zone: zone.parse().expect("a zone"), active, epoch, from_slot }
    }

    fn issue(node: &str, incarnation: &str) -> Issue {
        Issue {
            at: Moments::default().next(5),
            place: RecordPlace { slot: 2, file: 7, index: 3 },
            node: node.parse().expect("a node"),
            incarnation: incarnation.to_owned(),
            boot: 1,
            counter: 0,
            user: 1,
        }
    }

    fn check_writes(writes: Vec<ControlWrite>, issues: &[Issue], expected: &[&str]) {
        let writes: Vec<(i64, ControlWrite)> = (1..).zip(writes).collect();
        let verdict = check(&writes, issues);
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    #[test]
    fn a_claim_by_an_active_zone_and_its_issues_are_accepted() {
        check_writes(vec![claim("a1", "x", 0)], &[issue("a1", "x")], &[]);
        // Failed over from slot 1, restored from slot 2 on: slot 2 is the zone's again.
        let back = vec![zone("a", false, 1, 1), zone("a", true, 2, 2), claim("a1", "x", 2)];
        check_writes(back, &[issue("a1", "x")], &[]);
        // Failed over from slot 3 on: slot 2 is still the zone's.
        check_writes(vec![zone("a", false, 1, 3), claim("a1", "x", 1)], &[], &[]);
    }

    #[test]
    fn a_second_claim_is_seen_also_by_the_same_node_with_another_disk() {
        check_writes(
            vec![claim("a1", "x", 0), claim("b1", "y", 0)],
            &[],
            &["file 7 of slot 2 was claimed by a1 (x) and, at revision 2, by b1 (y)"],
        );
        check_writes(
            vec![claim("a1", "x", 0), claim("a1", "z", 0)],
            &[],
            &["file 7 of slot 2 was claimed by a1 (x) and, at revision 2, by a1 (z)"],
        );
    }

    #[test]
    fn a_claim_by_a_failed_zone_or_under_an_old_epoch_is_seen() {
        check_writes(
            vec![zone("a", false, 1, 2), claim("a1", "x", 1)],
            &[],
            &["a1 claimed file 7 of slot 2 while zone a was failed over"],
        );
        check_writes(
            vec![zone("a", false, 1, 1), zone("a", true, 2, 2), claim("a1", "x", 0)],
            &[],
            &["a1 claimed file 7 of slot 2 under epoch 0 of zone a, which was at 2"],
        );
    }

    #[test]
    fn a_claim_that_vanishes_is_seen() {
        check_writes(
            vec![claim("a1", "x", 0), ControlWrite::Unclaim { slot: 2, file: 7 }],
            &[],
            &["the claim of file 7 of slot 2 was removed at revision 2"],
        );
    }

    #[test]
    fn issuing_without_the_claim_is_seen() {
        check_writes(
            vec![claim("a1", "x", 0)],
            &[issue("a1", "z"), issue("b1", "x")],
            &[
                "a1 (z) issued record 3 of file 7 of slot 2, which is claimed by a1 (x)",
                "b1 (x) issued record 3 of file 7 of slot 2, which is claimed by a1 (x)",
            ],
        );
        check_writes(
            vec![],
            &[issue("a1", "x")],
            &["a1 (x) issued record 3 of file 7 of slot 2, which is claimed by nobody"],
        );
    }

    #[test]
    fn an_epoch_only_rises() {
        check_writes(
            vec![zone("a", false, 1, 2), zone("a", true, 1, 3)],
            &[],
            &["the epoch of zone a went from 1 to 1 at revision 2"],
        );
    }
}
