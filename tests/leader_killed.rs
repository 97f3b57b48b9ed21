//! The leader's zone is ended with SIGKILL, again and again: others write within a second.

use tests::{DevCluster, hongbao};

/// What is promised of the 99th percentile; of few kills it is the slowest.
const WRITABLE_MS_MAX: u64 = 1_000;

#[test]
fn a_second_after_the_leaders_zone_was_killed_both_others_take_writes() {
    let cluster = DevCluster::up();
    let words = ["bench", "failover", "--dir", cluster.dir(), "--kills", "5", "-o", "json"];
    let measured = hongbao(&words).expect(0).json();
    println!("{measured}");
    assert_eq!(measured["kills"], 5);
    assert!(measured["p99_ms"].as_u64().expect("a number") < WRITABLE_MS_MAX, "{measured}");
}
