//! etcd's command line for leases, users, alarms, members and locks: against us and, where there is
//! something to compare, against etcd.
//!
//! Scripts are told as text in which the ids that a server chooses are replaced by their order, so
//! that two servers can be compared word by word. Each step goes to another zone than the one
//! before.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::{DevCluster, Etcd, Ran, eventually, path, run};

const NODES: [&str; 3] = ["a1", "b1", "c1"];

fn command(endpoints: &str, words: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={endpoints}")).args(words);
    command
}

fn etcdctl(endpoints: &str, words: &[&str]) -> Ran {
    run(command(endpoints, words).arg("--command-timeout=10s"))
}

/// Somebody who runs a script, step by step, at one server or at several in turn.
struct Teller {
    endpoints: Vec<String>,
    steps: usize,
    leases: Vec<i64>,
    told: Vec<String>,
}

impl Teller {
    fn of(endpoints: Vec<String>) -> Teller {
        Teller { endpoints, steps: 0, leases: Vec::new(), told: Vec::new() }
    }

    fn run(&mut self, line: &str) -> Ran {
        let endpoint = self.endpoints[self.steps % self.endpoints.len()].clone();
        self.steps += 1;
        let mut line = line.to_owned();
        for (number, id) in self.leases.iter().enumerate() {
            line = line.replace(&format!("L{number}"), &format!("{id:x}"));
        }
        let words: Vec<&str> = line.split(' ').collect();
        etcdctl(&endpoint, &words)
    }

    /// Grants a lease whose id later steps call by its order: L0, L1.
    fn grant(&mut self, ttl: &str) {
        let ran = self.run(&format!("lease grant {ttl} -w json")).expect(0);
        let granted = ran.json();
        self.leases.push(granted["ID"].as_i64().or(granted["id"].as_i64()).expect("an id"));
        self.tell(&format!("lease grant {ttl}"), &ran);
    }

    fn step(&mut self, line: &str) {
        let ran = self.run(line);
        self.tell(line, &ran);
    }

    fn tell(&mut self, line: &str, ran: &Ran) {
        let mut out = match serde_json::from_str::<Value>(&ran.out) {
            Ok(mut value) => {
                without_chance(&mut value);
                value.to_string()
            }
            Err(_) => ran.out.clone(),
        };
        let errors: Vec<&str> = ran.err.lines().filter(|line| line.starts_with("Error")).collect();
        let mut errors = errors.join("\n");
        for (number, id) in self.leases.iter().enumerate() {
            for text in [&mut out, &mut errors] {
                // etcdctl writes sixteen digits in some places; one id in sixteen begins with a zero.
                *text = text.replace(&format!("{id:016x}"), &format!("L{number}"));
                *text = text.replace(&format!("{id:x}"), &format!("L{number}"));
                *text = text.replace(&id.to_string(), &format!("L{number}"));
            }
        }
        self.told.push(format!("{line}\n  exit {}\n  {out}\n  {errors}", ran.code));
    }
}

/// Takes out what differs from server to server and the seconds that are left of a lease, and orders a
/// lease's keys: etcd walks a map of Go, whose order differs from run to run.
fn without_chance(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for field in ["cluster_id", "member_id", "raft_term"] {
                fields.remove(field);
            }
            if fields.contains_key("granted-ttl") {
                fields.insert("ttl".to_owned(), Value::from("some"));
                if let Some(Value::Array(keys)) = fields.get_mut("keys") {
                    keys.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
                }
            }
            fields.values_mut().for_each(without_chance);
        }
        Value::Array(items) => items.iter_mut().for_each(without_chance),
        _ => {}
    }
}

fn zones(cluster: &DevCluster) -> Vec<String> {
    NODES.iter().map(|node| cluster.field(node, "etcd")).collect()
}

/// Runs a script at both and insists on the same story.
fn compare(script: impl Fn(&mut Teller)) {
    let (cluster, etcd) = (DevCluster::up(), Etcd::start());
    let (mut ours, mut theirs) = (Teller::of(zones(&cluster)), Teller::of(vec![etcd.endpoint.clone()]));
    script(&mut ours);
    script(&mut theirs);
    assert_eq!(ours.told.len(), theirs.told.len());
    let pairs = ours.told.iter().zip(&theirs.told).filter(|(ours, theirs)| ours != theirs);
    let differences: Vec<String> =
        pairs.map(|(ours, theirs)| format!("--- etcd\n{theirs}\n--- hongbao\n{ours}\n")).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn leases_are_told_as_etcd_tells_them() {
    compare(|teller| {
        teller.grant("100");
        for line in [
            "put k1 v --lease=L0 -w json",
            "put k2 v --lease=L0 -w json",
            "get k1 -w json",
            "lease timetolive L0 --keys -w json",
            "lease keep-alive --once L0",
            "lease list",
            "put k1 without -w json",
            "put k2 still --ignore-lease -w json",
            "lease timetolive L0 --keys -w json",
            "get k2 -w json",
            "lease revoke L0",
            "get k2 -w json",
            "get k1 -w json",
            "lease revoke L0",
            "lease timetolive L0",
            "lease keep-alive --once L0",
            "put k1 v --lease=L0",
            "lease list",
            "lease grant 9000000001",
            "lease grant x",
        ] {
            teller.step(line);
        }
        teller.grant("1");
        teller.grant("0");
        teller.step("put gone v --lease=L1 -w json");
        // Two seconds granted, a look every quarter or half second, and room for a slow machine.
        std::thread::sleep(Duration::from_secs(6));
        teller.step("get gone -w json");
        teller.step("lease timetolive L1");
        teller.step("put after v -w json");
    });
}

/// Users, roles and permissions: what is refused before and while authentication is enabled, and what
/// a user may do.
const USERS_AND_ROLES: &[&str] = &[
    "auth enable",
    "user add root:r",
    "auth enable",
    "user add ann:a",
    "user add ann:a",
    "user list",
    "role add some",
    "role add some",
    "role grant-permission some readwrite foo",
    "role grant-permission some read bar baz",
    "role grant-permission some write pre --prefix",
    "role grant-permission none read bar",
    "role get some",
    "role get none",
    "user grant-role ann some",
    "user grant-role ann none",
    "user grant-role bob some",
    "user get ann",
    "user get bob",
    "role add root",
    "user grant-role root root",
    "put other before",
    "auth enable",
    "--user=root:r role list",
    "put foo 1",
    "get foo",
    "--user=ann:wrong get foo",
    "--user=bob:a get foo",
    "--user=ann:a put foo 1",
    "--user=ann:a get foo",
    "--user=ann:a put foo 2 --prev-kv",
    "--user=ann:a get bar bay",
    "--user=ann:a get bar bazz",
    "--user=ann:a put bar 1",
    "--user=ann:a put pre/1 1",
    "--user=ann:a get pre/1",
    "--user=ann:a del pre/1",
    "--user=ann:a del pre/1 --prev-kv",
    "--user=ann:a get other",
    "--user=ann:a get a z",
    "--user=ann:a user list",
    "--user=ann:a user get ann",
    "--user=ann:a user get root",
    "--user=ann:a role get some",
    "--user=ann:a role add more",
    "--user=root:r user delete root",
    "--user=root:r user revoke-role root root",
    "--user=root:r role delete root",
    "--user=root:r get other",
    "--user=root:r role revoke-permission some foo",
    "--user=root:r role revoke-permission some foo",
    "--user=ann:a get foo",
    "--user=root:r user revoke-role ann some",
    "--user=root:r user revoke-role ann some",
    "--user=ann:a get bar",
    "--user=root:r role delete some",
    "--user=root:r role delete some",
    "--user=root:r user delete ann",
    "--user=root:r user delete ann",
    "--user=ann:a get bar",
    "--user=ann:a auth disable",
    "--user=root:r auth disable",
    "get foo",
    "auth disable",
];

#[test]
fn users_and_roles_work_as_at_etcd() {
    compare(|teller| USERS_AND_ROLES.iter().for_each(|line| teller.step(line)));
}

#[test]
fn endpoints_are_healthy_agree_in_their_hashes_and_say_who_they_are() {
    let cluster = DevCluster::up();
    let all = zones(&cluster).join(",");
    for number in 0..20 {
        etcdctl(&cluster.field("a1", "etcd"), &["put", &format!("key/{}", number % 5), "v"]).expect(0);
    }
    etcdctl(&all, &["compaction", "10"]).expect(0);
    let healthy = etcdctl(&all, &["endpoint", "health"]).expect(0);
    let lines = format!("{}{}", healthy.out, healthy.err);
    assert_eq!(lines.matches("is healthy").count(), 3, "{lines}");

    let status = etcdctl(&all, &["endpoint", "status", "-w", "json"]).expect(0).json();
    let status = status.as_array().expect("a list");
    let ids: Vec<u64> =
        status.iter().map(|s| s["Status"]["header"]["member_id"].as_u64().expect("an id")).collect();
    assert_eq!(status.len(), 3);
    for endpoint in status {
        let status = &endpoint["Status"];
        assert_eq!(status["version"], "3.5.21");
        assert!(ids.contains(&status["leader"].as_u64().expect("a leader")), "{endpoint}");
        assert!(status["dbSize"].as_u64().expect("a size") > 0, "{endpoint}");
        assert!(status["raftAppliedIndex"].as_u64().expect("an index") >= 20, "{endpoint}");
    }

    // Each member answers for itself: once all have applied the last write they agree.
    let hashes = eventually("the hashes agree", || {
        let told = etcdctl(&all, &["endpoint", "hashkv", "-w", "json"]).expect(0).json();
        let of = |item: &Value| item["HashKV"]["hash"].as_u64().expect("a hash");
        let hashes: Vec<u64> = told.as_array().expect("a list").iter().map(of).collect();
        hashes.iter().all(|hash| *hash == hashes[0]).then_some(hashes)
    });
    assert_eq!(hashes.len(), 3);
    etcdctl(&all, &["put", "key/0", "another"]).expect(0);
    let later = etcdctl(&all, &["endpoint", "hashkv", "--rev=21", "-w", "json"]).expect(0).json();
    for item in later.as_array().expect("a list") {
        assert_eq!(item["HashKV"]["hash"].as_u64(), Some(hashes[0]), "a past revision hashes as it did");
    }

    let members = etcdctl(&cluster.field("c1", "etcd"), &["member", "list", "-w", "json"]).expect(0).json();
    let names: Vec<&str> =
        members["members"].as_array().expect("a list").iter().filter_map(|m| m["name"].as_str()).collect();
    assert_eq!(names, NODES);
    let removed = etcdctl(&all, &["member", "remove", &format!("{:x}", ids[1])]);
    assert!(removed.err.contains("not enough started members"), "{}", removed.err);
    // With a scheme etcdctl 3.4 sends an authority that HTTP/2 does not allow, in these three and in no other.
    let urls = zones(&cluster).iter().map(|zone| format!("http://{zone}")).collect::<Vec<_>>().join(",");
    let status = etcdctl(&urls, &["endpoint", "status", "-w", "json"]).expect(0).json();
    assert_eq!(status.as_array().map(Vec::len), Some(3), "{status}");
    let hashes = etcdctl(&urls, &["endpoint", "hashkv", "-w", "json"]).expect(0).json();
    assert_eq!(hashes.as_array().map(Vec::len), Some(3), "{hashes}");
    for endpoints in [&all, &urls] {
        etcdctl(endpoints, &["defrag"]).expect(0);
    }
    assert_eq!(etcdctl(&all, &["alarm", "list"]).expect(0).out, "");
    assert_eq!(etcdctl(&all, &["alarm", "disarm"]).expect(0).out, "");

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("snapshot");
    etcdctl(&cluster.field("b1", "etcd"), &["snapshot", "save", path(&file)]).expect(0);
    let bytes = std::fs::read(&file).expect("it is saved");
    assert!(bytes.starts_with(b"hongbaoK") && bytes.len() % 512 == 32, "{} bytes", bytes.len());
}

#[test]
fn leadership_moves_and_leases_outlive_it_and_a_lost_leader() {
    let mut cluster = DevCluster::up();
    let endpoints = zones(&cluster);
    let leader = || {
        let status = etcdctl(&endpoints.join(","), &["endpoint", "status", "-w", "json"]).json();
        let status = status.as_array().expect("a list").clone();
        let leader = status[0]["Status"]["leader"].as_u64().expect("a leader");
        let at = |status: &Value| status["Status"]["header"]["member_id"].as_u64() == Some(leader);
        (status.iter().position(at).expect("one of them leads"), status)
    };
    let granted = etcdctl(&endpoints[0], &["lease", "grant", "600", "-w", "json"]).expect(0).json();
    let lease = format!("{:x}", granted["ID"].as_i64().or(granted["id"].as_i64()).expect("an id"));
    etcdctl(&endpoints[1], &["put", "kept", "v", &format!("--lease={lease}")]).expect(0);
    let short = etcdctl(&endpoints[0], &["lease", "grant", "3", "-w", "json"]).expect(0).json();
    let short = format!("{:x}", short["ID"].as_i64().or(short["id"].as_i64()).expect("an id"));
    etcdctl(&endpoints[1], &["put", "short", "v", &format!("--lease={short}")]).expect(0);

    let (old, status) = leader();
    let new = (old + 1) % 3;
    let target = format!("{:x}", status[new]["Status"]["header"]["member_id"].as_u64().expect("an id"));
    etcdctl(&endpoints.join(","), &["move-leader", &target]).expect(0);
    eventually("the new leader leads", || (leader().0 == new).then_some(()));
    let told = etcdctl(&endpoints[old], &["lease", "timetolive", &lease, "--keys"]).expect(0).out;
    assert!(told.contains("granted with TTL(600s)") && told.contains("kept"), "{told}");

    cluster.kill(NODES[new]);
    let rest: Vec<String> =
        endpoints.iter().enumerate().filter(|(at, _)| *at != new).map(|(_, e)| e.clone()).collect();
    let told = eventually("the others answer", || {
        let ran = etcdctl(&rest[0], &["lease", "timetolive", &lease, "--keys"]);
        (ran.code == 0).then_some(ran.out)
    });
    assert!(told.contains("granted with TTL(600s)") && told.contains("kept"), "{told}");
    etcdctl(&rest[1], &["lease", "keep-alive", "--once", &lease]).expect(0);
    eventually("the short lease ends", || {
        (etcdctl(&rest[1], &["get", "short"]).expect(0).out.is_empty()).then_some(())
    });
    assert_eq!(etcdctl(&rest[0], &["get", "kept", "--print-value-only"]).expect(0).out, "v\n");

    for node in NODES.iter().filter(|node| **node != NODES[new]) {
        cluster.kill(node);
    }
    cluster.up_again();
    let told = etcdctl(&endpoints[2], &["lease", "timetolive", &lease, "--keys"]).expect(0).out;
    assert!(told.contains("kept"), "leases are on disk: {told}");
    etcdctl(&endpoints[1], &["lease", "revoke", &lease]).expect(0);
    assert_eq!(etcdctl(&endpoints[0], &["get", "kept"]).expect(0).out, "");
}

/// A command that goes on until it is told to stop.
struct Running(Child);

impl Running {
    fn start(endpoint: &str, words: &[&str]) -> Running {
        let mut command = command(endpoint, words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().expect("etcdctl starts"))
    }

    /// As Ctrl-C: it gives back what it holds.
    fn interrupt(mut self) {
        let pid = self.0.id().to_string();
        assert_eq!(run(Command::new("kill").args(["-INT", &pid])).code, 0);
        self.0.wait().expect("it ends");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn locks_and_elections_of_the_command_line_pass_from_one_to_the_next() {
    let cluster = DevCluster::up();
    let endpoints = zones(&cluster);
    let keys = |name: &str| {
        let ran = etcdctl(&endpoints[0], &["get", name, "--prefix", "--keys-only"]).expect(0);
        ran.out.split_whitespace().count()
    };
    let first = Running::start(&endpoints[0], &["lock", "l"]);
    eventually("the first locks", || (keys("l/") == 1).then_some(()));
    let second = Running::start(&endpoints[1], &["lock", "l"]);
    eventually("the second waits", || (keys("l/") == 2).then_some(()));
    let ran =
        etcdctl(&endpoints[2], &["get", "l/", "--prefix", "--sort-by=CREATE", "--limit=1", "--keys-only"]);
    let holder = ran.expect(0).out;
    first.interrupt();
    eventually("the second holds it", || (keys("l/") == 1).then_some(()));
    let now = etcdctl(&endpoints[2], &["get", "l/", "--prefix", "--keys-only"]).expect(0).out;
    assert_ne!(now, holder);
    second.interrupt();
    eventually("nobody holds it", || (keys("l/") == 0).then_some(()));
    let ran = etcdctl(&endpoints[1], &["lock", "l", "echo", "held"]).expect(0);
    assert_eq!(ran.out, "held\n", "a command runs while the lock is held");

    let leads = Running::start(&endpoints[0], &["elect", "e", "one"]);
    eventually("one leads", || (keys("e/") == 1).then_some(()));
    let waits = Running::start(&endpoints[2], &["elect", "e", "two"]);
    eventually("two waits", || (keys("e/") == 2).then_some(()));
    leads.interrupt();
    eventually("two leads", || (keys("e/") == 1).then_some(()));
    let value = etcdctl(&endpoints[1], &["get", "e/", "--prefix", "--print-value-only"]).expect(0).out;
    assert_eq!(value, "two\n");
    waits.interrupt();
}

#[test]
fn probes_and_prometheus_are_answered_on_the_etcd_port() {
    let cluster = DevCluster::up();
    let page = |node: &str, path: &str| {
        let ran = run(Command::new("curl").args([
            "-s",
            "-i",
            &format!("http://{}{path}", cluster.field(node, "etcd")),
        ]));
        ran.expect(0).out
    };
    for node in NODES {
        let health = page(node, "/health");
        assert!(health.starts_with("HTTP/1.1 200") && health.contains("{\"health\":\"true\""), "{health}");
        let version = page(node, "/version");
        assert!(version.contains("\"etcdserver\":\"3.5.21\""), "{version}");
        let metrics = page(node, "/metrics");
        assert!(metrics.contains("\netcd_server_has_leader 1\n"), "{metrics}");
    }
    let leaders = NODES.iter().filter(|node| page(node, "/metrics").contains("\netcd_server_is_leader 1\n"));
    assert_eq!(leaders.count(), 1);
    cluster.kill("a1");
    cluster.kill("b1");
    let alone = eventually("the rest is not healthy", || {
        let health = page("c1", "/health");
        health.starts_with("HTTP/1.1 503").then_some(health)
    });
    assert!(alone.contains("{\"health\":\"false\""), "{alone}");
}
