//! `hongbao zone drain`: a zone that leads nothing before it is worked on, and nobody notices.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tests::{DevCluster, eventually, hongbao, run};

/// A drain may hold a request up for so long: one transfer, which waits for no election.
const PAUSE_MS_MAX: u64 = 1_000;

/// Who leads each group, as b1 sees it.
fn leaders(cluster: &DevCluster) -> Vec<(String, String)> {
    let status = hongbao(&["status", "--dir", cluster.dir(), "-o", "json"]).json();
    let nodes = status["nodes"].as_array().expect("nodes");
    let of_b1 = nodes.iter().find(|node| node["node"] == "b1").expect("b1");
    let text = |value: &Value| value.as_str().unwrap_or("nobody").to_owned();
    // A node that does not answer reports nothing.
    let groups = of_b1["report"]["groups"].as_array().into_iter().flatten();
    groups.map(|group| (text(&group["name"]), text(&group["leader"]))).collect()
}

fn led_by(cluster: &DevCluster, node: &str) -> usize {
    leaders(cluster).iter().filter(|(_, leader)| leader == node).count()
}

#[test]
fn a_drained_zone_leads_nothing_no_request_fails_and_undrained_it_leads_again() {
    let cluster = DevCluster::up();
    assert!(led_by(&cluster, "a1") > 0, "{:?}", leaders(&cluster));
    let at_home = || {
        let looked = hongbao(&["zone", "drain", "a", "--dir", cluster.dir(), "--dry-run", "-o", "json"]);
        looked.expect(0).json()["left"].to_string().contains("control").then_some(())
    };
    at_home().expect("zone a leads etcd's group");
    // It drains under load and undrains.
    let felt =
        hongbao(&["bench", "drain", "--drains", "1", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
    println!("puts through a drain: {felt}");
    assert_eq!(felt["errors"], 0, "{felt}");
    assert!(felt["puts"].as_u64().expect("a number") > 100, "{felt}");
    assert!(felt["max_ms"].as_u64().expect("a number") < PAUSE_MS_MAX, "{felt}");
    eventually("zone a leads etcd's group again", at_home);

    let drained = hongbao(&["zone", "drain", "a", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
    assert_eq!(drained["left"], Value::Array(Vec::new()), "{drained}");
    assert!(drained["moved"].to_string().contains("control"), "{drained}");
    assert_eq!(led_by(&cluster, "a1"), 0, "{:?}", leaders(&cluster));
    let zones = hongbao(&["zone", "list", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
    let of_a = zones["zones"].as_array().expect("zones").iter().find(|zone| zone["zone"] == "a");
    assert_eq!(of_a.expect("zone a")["drained"], true, "{zones}");
    // One zone at a time.
    let second = hongbao(&["zone", "drain", "b", "--dir", cluster.dir()]).expect(7);
    assert!(second.err.contains("a1 is drained itself"), "{}", second.err);
    let endpoint = format!("--endpoints=http://{}", cluster.field("a1", "etcd"));
    let put = run(Command::new("etcdctl").args([&endpoint, "put", "through-a1", "v"]));
    assert_eq!(put.expect(0).out, "OK\n");

    hongbao(&["zone", "undrain", "a", "--dir", cluster.dir()]).expect(0);
    eventually("zone a leads what it is home of", || (led_by(&cluster, "a1") > 0).then_some(()));
}

#[test]
fn a_zone_is_not_drained_while_another_one_is_away() {
    let cluster = DevCluster::up();
    cluster.kill("c1");
    let refused = hongbao(&["zone", "drain", "a", "--dir", cluster.dir()]).expect(7);
    assert!(refused.err.contains("c1 does not answer"), "{}", refused.err);
    hongbao(&["zone", "drain", "d", "--dir", cluster.dir()]).expect(3);
}

#[test]
fn a_drained_node_that_is_elected_all_the_same_hands_over_as_soon_as_it_can() {
    let mut cluster = DevCluster::up();
    hongbao(&["zone", "drain", "a", "--dir", cluster.dir()]).expect(0);
    cluster.kill("b1");
    std::thread::sleep(Duration::from_secs(2));
    cluster.up_again();
    eventually("a1 leads nothing", || {
        let leaders = leaders(&cluster);
        let led = leaders.iter().any(|(_, leader)| leader == "a1" || leader == "nobody");
        (!led && !leaders.is_empty()).then_some(())
    });
}
