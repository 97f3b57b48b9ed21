//! The lessor against a list of promises: what it ends was never promised beyond that moment, and
//! everything it knows ends in time.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::lessor::{Lessor, Ms, Renewal};
use crate::limits::{LEASE_EXPIRY_RETRY, LEASE_EXTENSION};
use crate::machine::control::lease::Lease;

const EXTENSION: Ms = LEASE_EXTENSION.as_millis() as Ms;

fn lease(ttl_s: i64, grant: u64) -> Lease {
    Lease { ttl_s, grant }
}

#[test]
fn a_lease_is_due_when_its_time_has_passed_and_not_before() {
    let mut lessor = Lessor::default();
    lessor.lead(3, &[], 0, 0);
    lessor.granted(&[(7, lease(5, 1))], 1, 1_000);
    assert_eq!(lessor.due(5_999, 10), []);
    assert_eq!(lessor.remaining(7, lease(5, 1), 2_500), 3_500);
    assert_eq!(lessor.due(6_000, 10), [(7, 1)]);
}

#[test]
fn a_kept_alive_lease_has_its_whole_time_again() {
    let mut lessor = Lessor::default();
    lessor.lead(3, &[], 0, 0);
    lessor.granted(&[(7, lease(5, 1))], 1, 0);
    assert_eq!(lessor.renew(3, 7, lease(5, 1), 4_000), Renewal::Renewed);
    assert_eq!(lessor.due(8_999, 10), []);
    assert_eq!(lessor.due(9_000, 10), [(7, 1)]);
}

#[test]
fn a_lease_that_is_due_cannot_be_renewed_even_before_anybody_looked() {
    let mut lessor = Lessor::default();
    lessor.lead(3, &[(7, lease(5, 1))], 1, 0);
    assert_eq!(lessor.renew(3, 7, lease(5, 1), 5_000 + EXTENSION), Renewal::Ending);
    assert_eq!(lessor.due(60_000, 10), [(7, 1)]);
    assert_eq!(lessor.renew(3, 7, lease(5, 1), 60_000), Renewal::Ending);
    assert_eq!(lessor.renew(3, 7, lease(5, 2), 60_000), Renewal::Renewed, "another grant of the id may");
}

#[test]
fn a_new_leader_gives_every_lease_its_whole_time_and_more() {
    let mut lessor = Lessor::default();
    lessor.lead(3, &[(7, lease(5, 1))], 1, 0);
    lessor.lead(4, &[(7, lease(5, 1))], 1, 4_999);
    assert_eq!(lessor.due(4_999 + 5_000 + EXTENSION - 1, 10), []);
    assert_eq!(lessor.due(4_999 + 5_000 + EXTENSION, 10), [(7, 1)]);
    assert_eq!(lessor.renew(3, 7, lease(5, 1), 5_000), Renewal::OtherTerm);
    lessor.lead(3, &[], 0, 5_000);
    assert_eq!(lessor.term(), Some(4), "an earlier term does not come back");
}

#[test]
fn a_lease_whose_end_was_not_confirmed_is_told_again_until_it_is_forgotten() {
    let retry = LEASE_EXPIRY_RETRY.as_millis() as Ms;
    let mut lessor = Lessor::default();
    lessor.lead(3, &[], 0, 0);
    lessor.granted(&[(7, lease(5, 1))], 1, 0);
    assert_eq!(lessor.due(5_000, 10), [(7, 1)]);
    assert_eq!(lessor.due(5_000 + retry - 1, 10), []);
    assert_eq!(lessor.due(5_000 + retry, 10), [(7, 1)]);
    lessor.forget(7, 1);
    assert_eq!(lessor.due(1_000_000, 10), []);
    assert_eq!(lessor.size(), (0, 0));
}

#[test]
fn many_leases_due_at_once_are_told_in_portions() {
    let mut lessor = Lessor::default();
    let leases: Vec<(i64, Lease)> = (1..=10).map(|id| (id, lease(5, id as u64))).collect();
    lessor.lead(3, &leases, 10, 0);
    assert_eq!(lessor.due(10_000, 4).len(), 4);
    assert_eq!(lessor.due(10_000, 4).len(), 4);
    assert_eq!(lessor.due(10_000, 4).len(), 2);
    assert_eq!(lessor.due(10_000, 4).len(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Grant(i64, i64),
    Renew(i64),
    End(i64),
    Lead,
    Pass(Ms),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1i64..6, 2i64..9).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        3 => (1i64..6).prop_map(Step::Renew),
        1 => (1i64..6).prop_map(Step::End),
        1 => Just(Step::Lead),
        4 => (0u64..4_000).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_lease_is_due_before_what_was_promised_and_every_lease_is_due_in_the_end(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut lessor = Lessor::default();
        let (mut now, mut term, mut grants) = (0, 1, 0);
        // In force, as the log would say, and until when each was promised to somebody.
        let mut in_force: BTreeMap<i64, (Lease, Ms)> = BTreeMap::new();
        lessor.lead(term, &[], 0, now);
        for step in steps {
            match step {
                Step::Grant(id, ttl_s) if !in_force.contains_key(&id) => {
                    grants += 1;
                    let lease = lease(ttl_s, grants);
                    in_force.insert(id, (lease, now + ttl_s as Ms * 1_000));
                    lessor.granted(&[(id, lease)], grants, now);
                }
                Step::Renew(id) => {
                    if let Some((lease, promised)) = in_force.get_mut(&id)
                        && lessor.renew(term, id, *lease, now) == Renewal::Renewed
                    {
                        *promised = now + lease.ttl_s as Ms * 1_000;
                    }
                }
                // Ended by its owner; the lessor may not hear of it.
                Step::End(id) => {
                    in_force.remove(&id);
                }
                Step::Lead => {
                    term += 1;
                    let leases: Vec<(i64, Lease)> =
                        in_force.iter().map(|(id, (lease, _))| (*id, *lease)).collect();
                    lessor.lead(term, &leases, grants, now);
                }
                Step::Pass(ms) => now += ms,
                Step::Grant(..) => {}
            }
            for (id, grant) in lessor.due(now, 100) {
                let Some((lease, promised)) = in_force.get(&id) else { continue };
                if lease.grant == grant {
                    prop_assert!(*promised <= now, "lease {id} was promised until {promised}, now is {now}");
                    in_force.remove(&id);
                }
                lessor.forget(id, grant);
            }
        }
        for (id, grant) in lessor.due(now + 1_000_000, 100) {
            if in_force.get(&id).is_some_and(|(lease, _)| lease.grant == grant) {
                in_force.remove(&id);
            }
        }
        prop_assert!(in_force.is_empty(), "{in_force:?} never ends");
    }
}
