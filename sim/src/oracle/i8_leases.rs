//! I8: leases. A lease does not end before its time has passed since the last keep-alive that was
//! acknowledged, its keys vanish together, and it does end.
//!
//! ```text
//!   grant asked        keep-alive asked      answered
//!     |---- ttl ----|    |---------- ttl ----------|
//!                        `-- not before this ends: a look that finds the keys gone is a violation
//! ```
//! Evidence: when each call of a lease's holder left and was answered, by simulated time; looks at all
//! keys of a lease at one revision.
//!
//! Invariant: time is counted from when the keep-alive was asked, which is the earliest moment the
//! server can have counted from. Servers count by clocks that do not run faster than simulated time
//! here (their wall clocks may be anything), so there is no margin.
//!
//! Limits: a lease that was revoked by its holder may end at any time.

use serde::{Deserialize, Serialize};

use super::{Findings, Verdict};
use crate::history::Moment;

/// When a call left and when it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Simulated milliseconds.
    pub asked_ms: u64,
    /// The same.
    pub answered_ms: u64,
}

/// A look at the keys of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// When.
    pub call: Call,
    /// How many were there.
    pub there: u32,
}

/// One lease, as its holder saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseLife {
    /// Its number.
    pub id: i64,
    /// Its time, seconds, as granted.
    pub ttl_s: i64,
    /// The grant.
    pub grant: Call,
    /// Keys whose put was acknowledged.
    pub keys: u32,
    /// When the last put was over.
    pub put_ms: u64,
    /// Keep-alives that were acknowledged.
    pub renewals: Vec<Call>,
    /// Keep-alives that were told that there is no such lease.
    pub denials: Vec<Call>,
    /// Whether its holder tried to revoke it.
    pub revoked: bool,
    /// Looks at its keys, the last of which found none or was the last try.
    pub looks: Vec<Look>,
}

impl LeaseLife {
    /// A lease that was just granted.
    #[must_use]
    pub fn granted(id: i64, ttl_s: i64, grant: Call) -> LeaseLife {
        let (renewals, denials, looks) = (Vec::new(), Vec::new(), Vec::new());
        LeaseLife { id, ttl_s, grant, keys: 0, put_ms: 0, renewals, denials, revoked: false, looks }
    }

    /// Until when it must hold, for somebody who is answered at `at_ms`.
    fn holds_until(&self, at_ms: u64) -> u64 {
        let ttl_ms = u64::try_from(self.ttl_s).unwrap_or(0) * 1_000;
        let renewed = self.renewals.iter().filter(|call| call.answered_ms <= at_ms).map(|call| call.asked_ms);
        renewed.max().unwrap_or(0).max(self.grant.asked_ms) + ttl_ms
    }
}

/// Judges all leases.
#[must_use]
pub fn check(leases: &[LeaseLife]) -> Verdict {
    let mut findings = Findings::new("I8", "a lease ends, with all its keys, and not too early");
    let mut ended = 0u64;
    for life in leases {
        one(life, &mut findings);
        ended += u64::from(life.looks.last().is_some_and(|look| look.there == 0));
    }
    findings.verdict(|_| format!("{} leases, {ended} of them seen to end with all their keys", leases.len()))
}

fn one(life: &LeaseLife, findings: &mut Findings) {
    let id = life.id;
    let at = |call: Call| Some(Moment { number: 0, at_ms: call.answered_ms });
    for denial in &life.denials {
        let holds_ms = life.holds_until(denial.answered_ms);
        findings.must(life.revoked || holds_ms <= denial.answered_ms, at(*denial), || {
            format!(
                "lease {id} was said not to exist at {} ms; it held until {holds_ms} ms",
                denial.answered_ms
            )
        });
    }
    // Keys whose put was not acknowledged may be there or not.
    if life.keys < 2 {
        return;
    }
    for Look { call, there } in life.looks.iter().filter(|look| life.put_ms <= look.call.asked_ms) {
        findings.must(*there == 0 || *there == life.keys, at(*call), || {
            format!("{there} of the {} keys of lease {id} were there at {} ms", life.keys, call.answered_ms)
        });
        let holds_ms = life.holds_until(call.answered_ms);
        findings.must(*there > 0 || life.revoked || holds_ms <= call.answered_ms, at(*call), || {
            format!(
                "the keys of lease {id} were gone at {} ms; it held until {holds_ms} ms",
                call.answered_ms
            )
        });
    }
    if let Some(last) = life.looks.last() {
        findings.must(last.there == 0, at(last.call), || {
            format!(
                "lease {id} held until {} ms and never ended: {} of its keys are there at {} ms",
                life.holds_until(u64::MAX),
                last.there,
                last.call.answered_ms
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(asked_ms: u64) -> Call {
        Call { asked_ms, answered_ms: asked_ms + 10 }
    }

    fn life(renewals: &[u64], looks: &[(u64, u32)]) -> LeaseLife {
        LeaseLife {
            keys: 2,
            put_ms: 200,
            renewals: renewals.iter().map(|asked| call(*asked)).collect(),
            looks: looks.iter().map(|(asked, there)| Look { call: call(*asked), there: *there }).collect(),
            ..LeaseLife::granted(7, 2, call(100))
        }
    }

    fn check_one(life: LeaseLife, expected: &[&str]) {
        let verdict = check(&[life]);
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    #[test]
    fn a_lease_that_ends_when_its_time_has_passed_is_fine() {
        check_one(life(&[1_000], &[(2_900, 2), (2_990, 0)]), &[]);
    }

    #[test]
    fn one_that_ends_too_early_is_seen() {
        let said = "the keys of lease 7 were gone at 2910 ms; it held until 3000 ms";
        check_one(life(&[1_000], &[(2_900, 0)]), &[said]);
        let mut denied = life(&[1_000], &[(3_500, 0)]);
        denied.denials.push(call(2_000));
        check_one(denied, &["lease 7 was said not to exist at 2010 ms; it held until 3000 ms"]);
    }

    #[test]
    fn keys_that_do_not_vanish_together_are_seen() {
        check_one(
            life(&[], &[(2_500, 1), (2_600, 0)]),
            &["1 of the 2 keys of lease 7 were there at 2510 ms"],
        );
    }

    #[test]
    fn one_that_never_ends_is_seen() {
        let said = "lease 7 held until 2100 ms and never ended: 2 of its keys are there at 30010 ms";
        check_one(life(&[], &[(30_000, 2)]), &[said]);
    }

    #[test]
    fn a_revoked_lease_may_end_at_any_time() {
        let revoked = LeaseLife { revoked: true, ..life(&[1_000], &[(1_100, 0)]) };
        check_one(revoked, &[]);
    }
}
