//! What operators' commands came to: a mistyped one changes nothing, one that must work works.
//!
//! Evidence: every command line with its outcome, against what the schedule or drill expected of it.
//!
//! Invariant: an unknown outcome is accepted only where anything is: it is neither done nor refused.
//!
//! Limits: that a refused command changed nothing is the command's own word; the other oracles see
//! what it did all the same.

use super::{Findings, Verdict};
use crate::history::Outcome;
use crate::history::operator::OperatorHistory;
use crate::schedule::Expect;

/// Judges every command.
#[must_use]
pub fn check(commands: &OperatorHistory) -> Verdict {
    let mut findings = Findings::new("OP", "commands come to what the schedule says");
    for op in commands.ops() {
        let line = &op.call.line;
        let came = match &op.outcome {
            Outcome::Done(reply) => format!("was carried out: {}", reply.said),
            Outcome::Refused(reason) => format!("was turned down: {reason}"),
            Outcome::Unknown => "had no certain outcome".to_owned(),
        };
        let right = match op.call.expect {
            Expect::Any => true,
            Expect::Done => matches!(op.outcome, Outcome::Done(_)),
            Expect::Refused => matches!(op.outcome, Outcome::Refused(_)),
        };
        let wanted = if op.call.expect == Expect::Done { "carried out" } else { "turned down" };
        findings.must(right, op.returned.or(Some(op.invoked)), || {
            format!("`{line}` must be {wanted}, and {came}")
        });
    }
    findings.verdict(|checked| format!("{checked} commands came to what was expected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Moments;
    use crate::history::operator::{OperatorCall, OperatorReply};

    fn check_one(expect: Expect, outcome: Outcome<OperatorReply>, expected: Option<&str>) {
        let (mut moments, mut commands) = (Moments::default(), OperatorHistory::default());
        let call = OperatorCall { line: "zone failover b".to_owned(), expect };
        let id = commands.invoke(moments.next(0), 0, None, call);
        commands.finish(moments.next(1), id, outcome);
        let verdict = check(&commands);
        assert_eq!(verdict.violations.first().map(|violation| violation.what.as_str()), expected);
        assert_eq!(verdict.held, expected.is_none());
    }

    fn done() -> Outcome<OperatorReply> {
        Outcome::Done(OperatorReply { changed: true, said: "zone b is failed over".to_owned() })
    }

    #[test]
    fn a_guard_that_lets_a_wrong_command_through_is_seen() {
        check_one(Expect::Refused, Outcome::Refused("two zones must stay healthy".to_owned()), None);
        check_one(
            Expect::Refused,
            done(),
            Some("`zone failover b` must be turned down, and was carried out: zone b is failed over"),
        );
    }

    #[test]
    fn a_right_command_that_is_turned_down_is_seen() {
        check_one(Expect::Done, done(), None);
        check_one(
            Expect::Done,
            Outcome::Refused("no".to_owned()),
            Some("`zone failover b` must be carried out, and was turned down: no"),
        );
        check_one(
            Expect::Done,
            Outcome::Unknown,
            Some("`zone failover b` must be carried out, and had no certain outcome"),
        );
    }

    #[test]
    fn where_anything_is_expected_anything_is_accepted() {
        check_one(Expect::Any, Outcome::Unknown, None);
    }
}
