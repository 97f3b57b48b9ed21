//! etcd's own command line against us and against etcd: the same script, the same answers.
//!
//! Everything is compared, revisions included; only the ids of cluster and members and the Raft term
//! are taken out. Each step goes to another zone than the one before, while one watch on every zone
//! tells the whole script.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::{DevCluster, Etcd};

/// One step: words for etcdctl, and what it reads.
struct Step {
    words: Vec<String>,
    input: Option<String>,
}

fn step(line: &str) -> Step {
    Step { words: line.split(' ').filter(|word| !word.is_empty()).map(unquoted).collect(), input: None }
}

// A word that must be empty or hold a blank.
fn unquoted(word: &str) -> String {
    word.replace("<empty>", "").replace("<nul>", "\0").replace('~', " ")
}

fn txn(compares: &[&str], then: &[&str], otherwise: &[&str]) -> Step {
    let part = |lines: &[&str]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let input = format!("{}\n{}\n{}\n", part(compares), part(then), part(otherwise));
    Step { words: vec!["txn".to_owned()], input: Some(input) }
}

fn etcdctl(endpoint: &str, words: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints=http://{endpoint}"));
    command.args(["--command-timeout=10s"]).args(words).stdin(Stdio::null());
    command
}

/// What etcdctl says to a step: JSON without ids, and the error without the log lines before it.
fn answer(endpoint: &str, step: &Step, format: &[&str]) -> String {
    let words: Vec<&str> = step.words.iter().map(String::as_str).chain(format.iter().copied()).collect();
    let mut command = etcdctl(endpoint, &words);
    let input = step.input.clone().unwrap_or_default();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("etcdctl starts");
    child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("etcdctl ends");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    let out = match serde_json::from_str::<Value>(&out) {
        Ok(mut value) => {
            without_ids(&mut value);
            value.to_string()
        }
        Err(_) => out,
    };
    let errors: Vec<&str> = err.lines().filter(|line| line.starts_with("Error")).collect();
    format!("exit {}\n{out}\n{}", output.status.code().unwrap_or(-1), errors.join("\n"))
}

fn without_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for id in ["cluster_id", "member_id", "raft_term"] {
                fields.remove(id);
            }
            fields.values_mut().for_each(without_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(without_ids),
        _ => {}
    }
}

/// A watch of everything, told as JSON, one line a response.
fn watch(endpoint: &str) -> Child {
    // No deadline: a watch goes on.
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints=http://{endpoint}"));
    let words = ["watch", "", "--prefix", "--rev=2", "--prev-kv", "-w", "json"];
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().expect("etcdctl starts")
}

/// The events of a watch that has seen everything.
fn events(mut watch: Child) -> Vec<String> {
    std::thread::sleep(Duration::from_millis(500));
    watch.kill().expect("it runs");
    let output = watch.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let responses = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let events = responses.filter_map(|response| response.get("Events").cloned());
    events
        .flat_map(|events| events.as_array().cloned().unwrap_or_default())
        .map(|event| event.to_string())
        .collect()
}

fn check(steps: &[Step]) {
    let (cluster, etcd) = (DevCluster::up(), Etcd::start());
    let zones: Vec<String> = ["a1", "b1", "c1"].iter().map(|node| cluster.field(node, "etcd")).collect();
    let watches: Vec<Child> = zones.iter().chain([&etcd.endpoint]).map(|endpoint| watch(endpoint)).collect();
    let mut differences = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        // Each step twice when it only reads: for programs and for people.
        let formats: &[&[&str]] =
            if step.words[0] == "get" { &[&["-w", "json"], &[]] } else { &[&["-w", "json"]] };
        for format in formats {
            let ours = answer(&zones[number % zones.len()], step, format);
            let theirs = answer(&etcd.endpoint, step, format);
            if ours != theirs {
                let Step { words, input } = step;
                differences.push(format!("{words:?} {input:?}\n--- etcd\n{theirs}\n--- hongbao\n{ours}\n"));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} steps differ:\n{}",
        differences.len(),
        steps.len(),
        differences.join("\n")
    );
    let mut told: Vec<Vec<String>> = watches.into_iter().map(events).collect();
    let theirs = told.pop().expect("etcd's");
    assert!(!theirs.is_empty(), "the script writes");
    for (zone, ours) in zones.iter().zip(told) {
        assert_eq!(ours, theirs, "the watch at {zone} differs");
    }
}

fn puts_gets_and_deletes() -> Vec<Step> {
    [
        "get none",
        "get <empty> --from-key",
        "put a 1",
        "put a 2 --prev-kv",
        "put b 1",
        "put c 3",
        "put d 2",
        "put a/x 10",
        "put a/y 9",
        "put a/z <empty>",
        "put <empty> v",
        "put q --ignore-value",
        "put a --ignore-value --prev-kv",
        "put q v --ignore-lease",
        "put a 5 --ignore-lease",
        "put leased v --lease=77",
        "get a",
        "get a --keys-only",
        "get a --print-value-only",
        "get a/ --prefix",
        "get a/ --prefix --limit=2",
        "get a/ --prefix --limit=3",
        "get a/ --prefix --order=DESCEND",
        "get a c",
        "get c a",
        "get b --from-key",
        "get b --from-key --limit=1",
        "get <empty> --prefix --sort-by=VALUE",
        "get <empty> --prefix --sort-by=VALUE --order=DESCEND",
        "get <empty> --prefix --sort-by=MODIFY --order=DESCEND --limit=2",
        "get <empty> --prefix --sort-by=CREATE --order=ASCEND --limit=2",
        "get <empty> --prefix --sort-by=VERSION --order=DESCEND",
        "get <empty> --prefix --sort-by=KEY --order=DESCEND --keys-only",
        "get <empty> --prefix --consistency=s",
        "get a --rev=2",
        "get a --rev=3",
        "get <empty> --prefix --rev=5",
        "get <empty> --prefix --rev=5 --sort-by=VALUE --limit=2",
        "get a --rev=1",
        "get a --rev=1000",
        "del nothing",
        "del a/x --prev-kv",
        "get a/x",
        "get a/x --rev=8",
        "put a/x again",
        "get a/x",
        "del a/ --prefix --prev-kv",
        "put e 1",
        "put f 1",
        "del e g",
        "get <empty> --prefix",
    ]
    .map(step)
    .into()
}

fn transactions() -> Vec<Step> {
    let many: Vec<String> = (0..129).map(|number| format!("put many/{number} v")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    vec![
        txn(&["mod(\"a\") > \"0\""], &["put t 1", "get t"], &["get a"]),
        txn(&["value(\"a\") = \"no\""], &["put t 1"], &["get a", "get t", "put u 2"]),
        txn(&["version(\"none\") = \"0\"", "create(\"a\") = \"2\""], &["del t", "put v 1"], &[]),
        txn(&["value(\"none\") = \"\""], &["put x 1"], &["put y 1"]),
        txn(&["version(\"a\") != \"3\"", "mod(\"b\") < \"100\""], &["get b --rev=4"], &["get c"]),
        txn(&["lease(\"a\") = \"0\""], &["get a"], &["get b"]),
        txn(&["value(\"b\") < \"2\""], &["del <unused>", "get a"], &[]),
        txn(&[], &["put twice 1", "put twice 2"], &[]),
        txn(&[], &["put both 1", "del both"], &[]),
        txn(&[], &["put m/1 1", "del m/ n"], &[]),
        txn(&[], &["del m/ n", "put o 1"], &[]),
        txn(&[], &["get a --rev=2000"], &[]),
        txn(&[], &many, &[]),
        txn(&[], &many[..128], &[]),
        txn(&[], &["del many/ many0"], &[]),
        txn(&[], &["put l v --lease=5"], &[]),
        txn(&[], &["put z --ignore-value"], &[]),
        txn(&[], &[], &[]),
        txn(&["version(\"a\") > \"0\""], &["put p/1 1", "put p/2 2", "del b", "get p/ --prefix"], &[]),
    ]
}

fn compactions() -> Vec<Step> {
    [
        "compaction 1000",
        "compaction 6",
        "compaction 6",
        "compaction 5",
        "get a --rev=5",
        "get a --rev=6",
        "get <empty> --prefix --rev=6",
        "put a after",
        "del a",
        "compaction 20 --physical",
        "get <empty> --prefix --rev=19",
        "get <empty> --prefix --rev=20",
        "get <empty> --prefix",
        "compaction 0",
        "compaction -3",
    ]
    .map(step)
    .into()
}

#[test]
fn the_command_line_of_etcd_cannot_tell_us_from_etcd() {
    let steps: Vec<Step> =
        puts_gets_and_deletes().into_iter().chain(transactions()).chain(compactions()).collect();
    check(&steps);
}
