//! Failing a zone over when it matters: real processes that stand still, and commands that are sent twice.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{DevCluster, Ran, eventually, hongbao, post};
use world::Clock;
use world::clock::SystemClock;

/// An operator who waits longer begins to doubt the command.
const OPERATOR_WAITS: Duration = Duration::from_secs(3);

fn zone(cluster: &DevCluster, verb: &str, zone: &str) -> Ran {
    hongbao(&["zone", verb, zone, "--dir", cluster.dir(), "--yes", "-o", "json"])
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let clock = SystemClock::new();
    let started = clock.uptime();
    let done = act();
    let took = clock.uptime() - started;
    println!("{what}: {took:?}");
    assert!(took < OPERATOR_WAITS, "{what} took {took:?}");
    done
}

/// A process that is stopped and goes on when the test ends, however it ends.
struct Stopped<'c>(&'c DevCluster, String);

impl<'c> Stopped<'c> {
    fn stop(cluster: &'c DevCluster, node: &str) -> Stopped<'c> {
        cluster.signal(node, "STOP");
        Stopped(cluster, node.to_owned())
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.signal(&self.1, "CONT");
    }
}

#[test]
fn a_zone_that_stands_still_is_failed_over_before_the_operator_doubts_it() {
    let cluster = DevCluster::up();
    // One of them leads the group that keeps the zones' records.
    for lost in ["a", "b", "c"] {
        let stopped = Stopped::stop(&cluster, &format!("{lost}1"));
        let failed =
            timed(&format!("zone failover {lost}"), || zone(&cluster, "failover", lost)).expect(0).json();
        assert_eq!((&failed["state"], &failed["changed"]), (&json!("failed"), &json!(true)), "{failed}");
        let list = timed("zone list", || hongbao(&["zone", "list", "--dir", cluster.dir(), "-o", "json"]));
        let list = list.expect(0).json();
        let of = |name: &str| {
            let zones = list["zones"].as_array().expect("zones");
            zones.iter().find(|zone| zone["zone"] == name).expect("the zone").clone()
        };
        assert_eq!((&of(lost)["state"], &of(lost)["serving"]), (&json!("failed"), &json!(false)), "{list}");
        drop(stopped);
        eventually("it goes on, and is given its files back", || {
            let restored = zone(&cluster, "restore", lost);
            (restored.code == 0).then(|| assert_eq!(restored.json()["state"], "active"))
        });
        eventually("all zones serve again", || {
            let status = hongbao(&["zone", "list", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
            let zones = status["zones"].as_array().expect("zones").clone();
            zones.iter().all(|zone| zone["serving"] == true).then_some(())
        });
    }
}

#[test]
fn a_zone_that_is_not_in_the_cluster_is_refused_without_asking_anybody() {
    let cluster = DevCluster::up();
    hongbao(&["dev", "down", "--dir", cluster.dir()]).expect(0);
    for verb in ["failover", "restore", "drain", "undrain"] {
        let mut words = vec!["zone", verb, "z", "--dir", cluster.dir()];
        if verb == "failover" || verb == "restore" {
            words.push("--yes");
        }
        let refused = hongbao(&words).expect(3);
        assert!(
            refused.err.contains("no zone z") && refused.err.contains("a, b, c"),
            "{verb}: {}",
            refused.err
        );
    }
    let unanswered = timed("a failover that nobody answers", || {
        hongbao(&["zone", "failover", "b", "--dir", cluster.dir(), "--dry-run"])
    });
    assert!(unanswered.expect(6).err.contains("no node could answer"));
}

#[test]
fn a_command_that_is_sent_twice_is_carried_out_once() {
    let cluster = DevCluster::up();
    let token = std::fs::read_to_string(format!("{}/secrets/admin.token", cluster.dir())).expect("the token");
    let send = |node: &str, verb: &str, operation: Option<&str>| -> (u16, Value) {
        let body = json!({ "reason": "a test", "operation": operation }).to_string();
        post(&cluster.field(node, "admin"), &format!("/v1/zones/b/{verb}"), Some(token.trim()), &body)
    };
    let said = |(status, answer): (u16, Value)| {
        assert_eq!(status, 200, "{answer}");
        (
            answer["state"].as_str().expect("a state").to_owned(),
            answer["epoch"].clone(),
            answer["changed"] == true,
        )
    };
    let first = said(send("a1", "failover", Some("one")));
    assert_eq!(first, ("failed".to_owned(), json!(2), true));
    assert_eq!(said(send("c1", "failover", Some("one"))), first, "the same command, by another node");
    assert_eq!(said(send("c1", "failover", Some("two"))), ("failed".to_owned(), json!(2), false));
    assert_eq!(said(send("c1", "failover", None)), ("failed".to_owned(), json!(2), false));
    // Both at the same moment, by two nodes.
    let (one, other) = std::thread::scope(|scope| {
        let one = scope.spawn(|| said(send("a1", "restore", Some("three"))));
        let other = scope.spawn(|| said(send("c1", "restore", Some("three"))));
        (one.join().expect("answered"), other.join().expect("answered"))
    });
    assert_eq!((&one, &other), (&("active".to_owned(), json!(3), true), &one));
    let (status, late) = send("a1", "failover", Some("one"));
    assert_eq!(status, 409, "a sending that stood still somewhere and arrives now: {late}");
    assert!(late["error"]["message"].to_string().contains("carried out before"), "{late}");
    assert_eq!(said(send("a1", "failover", Some("four"))), ("failed".to_owned(), json!(4), true));
}
