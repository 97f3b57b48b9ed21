//! Three real processes: they start, answer the real etcdctl, lose one of them to SIGKILL, lose
//! nothing, and take it back.

use std::process::Command;

use tests::{DevCluster, Ran, hongbao, post, run};

fn etcdctl(cluster: &DevCluster, node: &str, words: &[&str]) -> Ran {
    let endpoint = format!("--endpoints=http://{}", cluster.field(node, "etcd"));
    run(Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(endpoint)
        .args(["--command-timeout=5s"])
        .args(words))
}

fn etcdctl_txn(cluster: &DevCluster, node: &str, script: &str) -> String {
    use std::io::Write;
    let endpoint = format!("--endpoints=http://{}", cluster.field(node, "etcd"));
    let mut child = Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args([&endpoint, "txn"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("etcdctl starts");
    child.stdin.take().expect("stdin").write_all(script.as_bytes()).expect("write");
    let output = child.wait_with_output().expect("etcdctl ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn etcdctl_works_against_every_zone_and_a_lost_zone_loses_nothing() {
    let mut cluster = DevCluster::up();
    for node in ["a1", "b1", "c1"] {
        let key = format!("from/{node}");
        assert_eq!(etcdctl(&cluster, node, &["put", &key, "1"]).expect(0).out, "OK\n");
    }
    let all = etcdctl(&cluster, "b1", &["get", "from/", "--prefix", "--keys-only"]).expect(0).out;
    assert_eq!(all.split_whitespace().collect::<Vec<_>>(), ["from/a1", "from/b1", "from/c1"]);
    assert_eq!(etcdctl(&cluster, "c1", &["del", "from/", "--prefix"]).expect(0).out, "3\n");
    let answer = etcdctl_txn(&cluster, "a1", "version(\"t\") = \"0\"\n\nput t new\n\nput t old\n\n");
    assert!(answer.starts_with("SUCCESS"), "{answer}");
    let answer = etcdctl_txn(&cluster, "b1", "version(\"t\") = \"0\"\n\nput t new\n\nget t\n\n");
    assert!(answer.starts_with("FAILURE") && answer.contains("new"), "{answer}");

    for number in 0..20 {
        etcdctl(&cluster, "a1", &["put", &format!("acked/{number:02}"), "v"]).expect(0);
    }
    cluster.kill("b1");
    for number in 20..40 {
        etcdctl(&cluster, "c1", &["put", &format!("acked/{number:02}"), "v"]).expect(0);
    }
    let count = |node: &str| {
        let keys = etcdctl(&cluster, node, &["get", "acked/", "--prefix", "--keys-only"]).expect(0).out;
        keys.split_whitespace().count()
    };
    assert_eq!((count("a1"), count("c1")), (40, 40));
    cluster.up_again();
    let keys = etcdctl(&cluster, "b1", &["get", "acked/", "--prefix", "--keys-only"]).expect(0).out;
    assert_eq!(keys.split_whitespace().count(), 40, "the restarted zone serves what it missed");
    hongbao(&["status", "--dir", cluster.dir()]).expect(0);
}

#[test]
fn all_zones_may_stop_at_once_and_start_again_from_their_disks() {
    let mut cluster = DevCluster::up();
    etcdctl(&cluster, "a1", &["put", "kept", "yes"]).expect(0);
    for node in ["a1", "b1", "c1"] {
        cluster.kill(node);
    }
    cluster.up_again();
    assert_eq!(etcdctl(&cluster, "c1", &["get", "kept", "--print-value-only"]).expect(0).out, "yes\n");
}

#[test]
fn the_clusters_own_records_are_not_among_the_keys_of_etcds_clients() {
    let cluster = DevCluster::up();
    let all = etcdctl(&cluster, "b1", &["get", "", "--prefix", "-w", "json"]).expect(0).json();
    assert_eq!((&all["header"]["revision"], &all["kvs"]), (&1.into(), &serde_json::Value::Null), "{all}");
    let own = hongbao(&["kv", "get", "hongbao/zone/", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
    let keys: Vec<&str> = own["records"]
        .as_array()
        .expect("records")
        .iter()
        .filter_map(|record| record["key"].as_str())
        .collect();
    assert_eq!(keys, ["hongbao/zone/a", "hongbao/zone/b", "hongbao/zone/c"]);
    etcdctl(&cluster, "a1", &["put", "hongbao/zone/a", "not ours"]).expect(0);
    etcdctl(&cluster, "a1", &["del", "", "--prefix"]).expect(0);
    let after =
        hongbao(&["kv", "get", "hongbao/zone/", "--dir", cluster.dir(), "-o", "json"]).expect(0).json();
    assert_eq!(after, own, "etcd's clients do not reach them");
    hongbao(&["kv", "get", "no/such", "--dir", cluster.dir()]).expect(3);
}

#[test]
fn two_clusters_run_side_by_side() {
    let first = DevCluster::up();
    let second = DevCluster::up();
    etcdctl(&first, "a1", &["put", "whose", "first"]).expect(0);
    assert_eq!(etcdctl(&second, "a1", &["get", "whose"]).expect(0).out, "");
}

#[test]
fn what_is_asked_wrongly_is_answered_with_the_cure() {
    let none = tempfile::tempdir().expect("tempdir");
    let ran = hongbao(&["dev", "status", "--dir", tests::path(none.path())]).expect(3);
    assert!(ran.err.contains("dev up"), "{}", ran.err);
    let ran = hongbao(&["status"]).expect(2);
    assert!(ran.err.contains("--dir"), "{}", ran.err);
    hongbao(&["no-such-noun"]).expect(2);
}

#[test]
fn zones_are_failed_over_once_and_only_one_at_a_time() {
    let cluster = DevCluster::up();
    let dir = cluster.dir().to_owned();
    let failover = |zone: &str| hongbao(&["zone", "failover", zone, "--dir", &dir, "--yes", "-o", "json"]);
    let restore = |zone: &str| hongbao(&["zone", "restore", zone, "--dir", &dir, "--yes", "-o", "json"]);
    assert_eq!(failover("b").expect(0).json()["changed"], true);
    assert_eq!(failover("b").expect(0).json()["changed"], false, "repeating it changes nothing");
    let refused = failover("c").expect(7);
    assert!(refused.err.contains("restore b first"), "{}", refused.err);
    failover("x").expect(3);
    assert_eq!(restore("b").expect(0).json()["changed"], true);
    assert_eq!(restore("b").expect(0).json()["changed"], false);
    let unconfirmed = hongbao(&["zone", "failover", "b", "--dir", &dir]).expect(2);
    assert!(unconfirmed.err.contains("--yes"), "{}", unconfirmed.err);
    cluster.kill("a1");
    let refused = failover("b").expect(7);
    assert!(refused.err.contains("no quorum"), "{}", refused.err);
}

#[test]
fn the_edge_knows_its_users_and_says_when_nothing_runs() {
    let cluster = DevCluster::up();
    let token = hongbao(&["token", "issue", "--dir", cluster.dir(), "--user", "7"]).expect(0).out;
    let edge = cluster.field("a1", "edge");
    let (status, answer) = post(&edge, "/v1/shake", Some(token.trim()), "{}");
    assert_eq!((status, answer["outcome"].as_str()), (200, Some("closed")), "{answer}");
    let (status, answer) = post(&edge, "/v1/shake", None, "{}");
    assert!(status == 401 && answer["error"].is_object(), "{status} {answer}");
    let (status, answer) = post(&edge, "/v1/open", Some(token.trim()), "{\"ticket\":\"AAAA\"}");
    assert!((400..500).contains(&status) && answer["error"]["retryable"] == false, "{status} {answer}");
}
