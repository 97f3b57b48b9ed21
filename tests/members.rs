//! Real processes and their disks: a wiped one, a swapped one, and the command that replaces it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::{DevCluster, hongbao, program, run, within};

fn etcdctl(cluster: &DevCluster, node: &str, words: &[&str]) -> String {
    let endpoint = format!("--endpoints=http://{}", cluster.field(node, "etcd"));
    let ran = run(Command::new("etcdctl").arg(endpoint).args(["--command-timeout=5s"]).args(words));
    ran.expect(0).out
}

fn data_dir(cluster: &DevCluster, node: &str) -> PathBuf {
    PathBuf::from(cluster.dir()).join(node)
}

/// A node that does not serve yet, so that `dev up` would wait for it in vain. Ended with the test.
struct Serving(Child);

impl Serving {
    fn start(cluster: &DevCluster, node: &str) -> Serving {
        let file = PathBuf::from(cluster.dir()).join("cluster.toml");
        let child = Command::new(program())
            .args(["serve", "--cluster", tests::path(&file), "--node", node])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a node starts");
        Serving(child)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn members(cluster: &DevCluster) -> Value {
    hongbao(&["kv", "member", "list", "--dir", cluster.dir(), "-o", "json"]).expect(0).json()
}

fn report<'v>(members: &'v Value, node: &str) -> Option<&'v Value> {
    members["nodes"].as_array().expect("nodes").iter().find(|report| report["node"] == node)
}

#[test]
fn a_wiped_disk_stays_out_until_it_is_replaced_and_then_three_vote_again() {
    let cluster = DevCluster::up();
    for number in 0..50 {
        etcdctl(&cluster, "a1", &["put", &format!("kept/{number:02}"), "v"]);
    }
    let lost = report(&members(&cluster), "c1").expect("c1 answers")["disk"].clone();
    cluster.kill("c1");
    let dir = data_dir(&cluster, "c1");
    for part in ["log-db", "state-db"] {
        std::fs::remove_dir_all(dir.join(part)).expect("there");
    }
    // With the identity left behind it is a disk that lost its data, and no new one.
    let file = PathBuf::from(cluster.dir()).join("cluster.toml");
    let refused = hongbao(&["serve", "--cluster", tests::path(&file), "--node", "c1"]).expect(7);
    assert!(
        refused.err.contains("log-db of disk c1-") && refused.err.contains("is empty"),
        "{}",
        refused.err
    );
    assert!(refused.err.contains("kv member replace"), "{}", refused.err);
    std::fs::remove_dir_all(&dir).expect("there");

    let _serving = Serving::start(&cluster, "c1");
    within(Duration::from_secs(30), "c1 says that it is no member", || {
        let members = members(&cluster);
        let problems = report(&members, "c1").map(|report| report["problems"].to_string());
        problems.filter(|problems| problems.contains("kv member replace c1"))
    });
    let new = report(&members(&cluster), "c1").expect("c1 answers")["disk"].clone();
    assert_ne!(lost, new, "a wiped disk came back as the old one");

    let replace = |words: &[&str]| {
        let always =
            ["kv", "member", "replace", "c1", "--dir", cluster.dir(), "--reason", "a test", "-o", "json"];
        hongbao(&[&always[..], words].concat())
    };
    let unconfirmed = replace(&[]).expect(2);
    assert!(unconfirmed.err.contains("--yes"), "{}", unconfirmed.err);
    let looked = replace(&["--dry-run"]).expect(0).json();
    assert_eq!(looked["changed"], false);
    let replaced = replace(&["--yes"]).expect(0).json();
    assert_eq!((&replaced["changed"], &replaced["disk"]), (&Value::Bool(true), &new));
    assert_eq!(replace(&["--yes"]).expect(0).json()["changed"], false, "repeating it changes nothing");

    let after = members(&cluster);
    for report in after["nodes"].as_array().expect("nodes") {
        for group in report["leads"].as_array().expect("groups") {
            let members = group["members"].as_array().expect("members");
            assert_eq!(members.len(), 3, "{group}");
            assert!(members.iter().all(|member| member["votes"] == true), "{group}");
            assert!(members.iter().any(|member| member["disk"] == new), "{group}");
            assert!(!members.iter().any(|member| member["disk"] == lost), "{group}");
        }
    }
    within(Duration::from_secs(30), "the cluster is healthy", || {
        (hongbao(&["status", "--dir", cluster.dir()]).code == 0).then_some(())
    });
    // The new disk counts: without a1 there is still a quorum, and it holds everything.
    cluster.kill("a1");
    within(Duration::from_secs(20), "c1 serves with b1 alone", || {
        let endpoint = format!("--endpoints=http://{}", cluster.field("c1", "etcd"));
        let words = ["get", "kept/", "--prefix", "--keys-only", "--command-timeout=2s"];
        let ran = run(Command::new("etcdctl").arg(endpoint).args(words));
        (ran.out.split_whitespace().count() == 50).then_some(())
    });
}

/// Every group's members: how many vote, and how many follow without a vote.
fn numbers(cluster: &DevCluster) -> Vec<(usize, usize)> {
    let members = members(cluster);
    let groups = members["nodes"].as_array().expect("nodes").iter();
    let groups = groups.flat_map(|report| report["leads"].as_array().expect("groups"));
    let count = |group: &Value, votes: bool| {
        group["members"].as_array().expect("members").iter().filter(|member| member["votes"] == votes).count()
    };
    groups.map(|group| (count(group, true), count(group, false))).collect()
}

/// The way that stands in etcd's own book: remove, add as a learner, promote; and the short one.
#[test]
fn a_lost_member_is_removed_and_added_again_with_etcdctl() {
    let cluster = DevCluster::up();
    etcdctl(&cluster, "a1", &["put", "kept", "yes"]);
    let list = etcdctl(&cluster, "a1", &["member", "list"]);
    let of_c1: Vec<&str> = list.lines().find(|line| line.contains("c1")).expect("c1").split(", ").collect();
    let (id, url) = (of_c1[0].to_owned(), format!("--peer-urls={}", of_c1[3]));
    for (round, learner) in [("first", true), ("second", false)] {
        cluster.kill("c1");
        etcdctl(&cluster, "a1", &["member", "remove", &id]);
        assert!(!etcdctl(&cluster, "b1", &["member", "list"]).contains("c1"));
        assert!(numbers(&cluster).iter().all(|numbers| *numbers == (2, 0)), "{:?}", numbers(&cluster));
        etcdctl(&cluster, "b1", &["put", "by-two", round]);

        // Nothing runs there yet: the refusal says what to do.
        let endpoint = format!("--endpoints=http://{}", cluster.field("a1", "etcd"));
        let early = run(Command::new("etcdctl").arg(endpoint).args(["member", "add", "c1", &url]));
        assert!(
            early.code != 0 && early.err.contains("start c1 on an empty data directory"),
            "{}",
            early.err
        );
        std::fs::remove_dir_all(data_dir(&cluster, "c1")).expect("there");
        let _serving = Serving::start(&cluster, "c1");
        within(Duration::from_secs(30), "c1 answers", || report(&members(&cluster), "c1").map(drop));
        if learner {
            etcdctl(&cluster, "a1", &["member", "add", "c1", "--learner", &url]);
            assert!(numbers(&cluster).iter().all(|numbers| *numbers == (2, 1)), "{:?}", numbers(&cluster));
            within(Duration::from_secs(30), "the learner has caught up", || {
                let endpoint = format!("--endpoints=http://{}", cluster.field("b1", "etcd"));
                let ran = run(Command::new("etcdctl").arg(endpoint).args(["member", "promote", &id]));
                (ran.code == 0).then_some(())
            });
        } else {
            etcdctl(&cluster, "b1", &["member", "add", "c1", &url]);
        }
        within(Duration::from_secs(30), "three vote again", || {
            let all = numbers(&cluster);
            (all.len() > 3 && all.iter().all(|numbers| *numbers == (3, 0))).then_some(())
        });
        within(Duration::from_secs(30), "the cluster is healthy", || {
            (hongbao(&["status", "--dir", cluster.dir()]).code == 0).then_some(())
        });
        if !learner {
            // The new disk counts, and holds what was written before it came.
            cluster.kill("a1");
            within(Duration::from_secs(20), "c1 serves with b1 alone", || {
                let endpoint = format!("--endpoints=http://{}", cluster.field("c1", "etcd"));
                let ran = run(Command::new("etcdctl").arg(endpoint).args([
                    "get",
                    "by-two",
                    "--command-timeout=2s",
                ]));
                ran.out.contains("second").then_some(())
            });
        }
    }
}

#[test]
fn a_swapped_disk_is_refused_and_put_back_it_serves() {
    let mut cluster = DevCluster::up();
    etcdctl(&cluster, "a1", &["put", "kept", "yes"]);
    cluster.kill("b1");
    cluster.kill("c1");
    let (b1, c1, aside) =
        (data_dir(&cluster, "b1"), data_dir(&cluster, "c1"), PathBuf::from(cluster.dir()).join("aside"));
    let swap = || {
        std::fs::rename(&b1, &aside).expect("moved");
        std::fs::rename(&c1, &b1).expect("moved");
        std::fs::rename(&aside, &c1).expect("moved");
    };
    swap();
    let file = PathBuf::from(cluster.dir()).join("cluster.toml");
    let refused = hongbao(&["serve", "--cluster", tests::path(&file), "--node", "b1"]).expect(7);
    assert!(refused.err.contains("this is the disk of node c1, and this node is b1"), "{}", refused.err);
    assert!(refused.err.contains(tests::path(&b1)), "the place is missing: {}", refused.err);
    swap();
    cluster.up_again();
    assert_eq!(etcdctl(&cluster, "b1", &["get", "kept", "--print-value-only"]), "yes\n");
}
