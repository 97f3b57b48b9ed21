//! Quota and alarm NOSPACE: the same script with etcd's command line against us and against etcd.

use std::process::{Command, Stdio};

use tests::{DevCluster, Etcd, Ran, run};

/// What both may hold. etcd's smallest database takes some of it.
const QUOTA_BYTES: &str = "4194304";

fn etcdctl(endpoint: &str, words: &[&str]) -> Ran {
    let endpoint = format!("--endpoints={endpoint}");
    run(Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(endpoint)
        .args(["--command-timeout=10s"])
        .args(words))
}

/// Puts a value of `len` bytes, from standard input.
fn put(endpoint: &str, key: &str, len: usize) -> Ran {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("value");
    std::fs::write(&file, "v".repeat(len)).expect("written");
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoint}")).args(["put", key]);
    let output = command.stdin(Stdio::from(std::fs::File::open(file).expect("there"))).output();
    let output = output.expect("etcdctl starts");
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: last_line(&String::from_utf8_lossy(&output.stderr)),
    }
}

// Before its last line etcdctl logs attempts, with times.
fn last_line(text: &str) -> String {
    text.trim_end().lines().last().unwrap_or_default().to_owned()
}

fn told(ran: &Ran) -> String {
    format!("{} {}{}", ran.code, ran.out, last_line(&ran.err))
}

/// A script over several endpoints in turn; how many puts there was room for, and what was told, without ids
/// and revisions of its own.
fn script(endpoints: &[String]) -> (usize, Vec<String>) {
    let at = |number: usize| endpoints[number % endpoints.len()].as_str();
    let mut lines = Vec::new();
    let mut full = None;
    for number in 0..20 {
        // The same key again and again: history takes the room.
        let ran = put(at(0), "k", 500_000);
        if ran.code != 0 {
            full = Some((number, told(&ran)));
            break;
        }
    }
    let (puts, error) = full.expect("the quota is never exceeded");
    lines.push(error);
    let alarm = etcdctl(at(1), &["alarm", "list"]).expect(0).out;
    lines.push(alarm.split_whitespace().last().unwrap_or_default().to_owned());
    lines.push(told(&put(at(2), "small", 1)));
    lines.push(told(&etcdctl(at(0), &["lease", "grant", "60"])));
    lines.push(etcdctl(at(1), &["get", "k", "--keys-only"]).expect(0).out);
    // Nothing was freed yet: disarmed, it is raised again.
    etcdctl(at(1), &["alarm", "disarm"]).expect(0);
    lines.push(told(&put(at(0), "k", 500_000)));
    lines.push(told(&etcdctl(at(2), &["del", "k"])));
    let status = etcdctl(at(0), &["get", "k", "-w", "json"]).expect(0).json();
    let revision = status["header"]["revision"].to_string();
    etcdctl(at(1), &["compact", &revision, "--physical"]).expect(0);
    for endpoint in endpoints {
        etcdctl(endpoint, &["defrag"]).expect(0);
    }
    lines.push(told(&put(at(2), "still", 1)));
    etcdctl(at(0), &["alarm", "disarm"]).expect(0);
    lines.push(told(&etcdctl(at(1), &["alarm", "list"])));
    lines.push(told(&put(at(1), "k", 500_000)));
    lines.push(told(&etcdctl(at(2), &["alarm", "list"])));
    (puts, lines)
}

#[test]
fn a_full_quota_is_told_lived_with_and_left_as_at_etcd() {
    let mut cluster = DevCluster::up();
    cluster.reconfigure("quota_bytes = 2147483648", &format!("quota_bytes = {QUOTA_BYTES}"));
    let etcd = Etcd::start_with(&["--quota-backend-bytes", QUOTA_BYTES]);
    let zones = ["a1", "b1", "c1"].map(|node| cluster.field(node, "etcd"));
    let (puts, ours) = script(&zones);
    // etcd counts what it has committed to its file, a tenth of a second later: how many it takes varies.
    let (_, theirs) = script(std::slice::from_ref(&etcd.endpoint));
    assert!((4..=9).contains(&puts), "full after {puts} puts of 500,000 bytes");
    assert_eq!(ours, theirs);
    assert!(ours[0].contains("mvcc: database space exceeded"), "{ours:?}");
    assert_eq!(ours[1], "alarm:NOSPACE");
}
