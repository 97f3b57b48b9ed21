//! Repo lint: rules that a compiler does not check, as tests that name the file and the cure.
//!
//! Lengths are a ratchet: what is too long today is listed in `tests/ratchet.toml` with its length
//! and may only shrink; nothing new may join the list.
//!
//! Not here: what rustfmt and clippy already say.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines a function may have.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines a file may have.
const FILE_LINES_MAX: usize = 500;

/// The whole dependency graph of our crates: nothing else may be named in a manifest.
const EDGES: &[(&str, &[&str])] = &[
    ("world", &[]),
    ("ticket", &["world"]),
    ("replica", &["world"]),
    ("kvsvr", &["replica", "world"]),
    ("queue", &["replica", "world"]),
    ("access", &["ticket", "kvsvr", "world"]),
    ("payment", &["ticket", "kvsvr", "queue", "world"]),
    ("deploy", &["world", "ticket", "replica", "kvsvr", "queue", "access", "payment"]),
    ("sim", &["world", "ticket", "replica", "kvsvr", "queue", "access", "payment", "deploy"]),
    ("tests", &[]),
];

/// Decision cores: no async, no input or output, no clock, no chance. A name ending in `/` is a folder.
const PURE: &[&str] = &[
    "ticket/src/",
    "replica/src/members",
    "replica/src/identity/decide.rs",
    "replica/src/backlog.rs",
    "kvsvr/src/machine/",
    "kvsvr/src/lease/lessor",
    "kvsvr/src/auth/token.rs",
    "kvsvr/src/watch/interests.rs",
    "kvsvr/src/watch/ring.rs",
    "kvsvr/src/watch/session",
    "queue/src/machine",
    "queue/src/lease",
    "access/src/shake.rs",
    "access/src/pacing.rs",
    "access/src/claim.rs",
    "payment/src/ledger.rs",
    "payment/src/open/decide",
    "payment/src/settle/decide",
    "deploy/src/failover/decide",
    "sim/src/target.rs",
    "sim/src/schedule",
    "sim/src/history",
    "sim/src/oracle",
    "sim/src/drill",
];

/// What a pure core must not name, and why.
const IMPURE: &[(&str, &str)] = &[
    ("tokio::", "a decision core does not wait"),
    ("async fn", "a decision core does not wait"),
    ("std::fs", "files are read and published through world::disk"),
    ("std::net", "a decision core does not talk"),
    ("std::time::Instant", "time is handed in"),
    ("SystemTime", "time is handed in"),
    ("parking_lot", "a decision core has one owner"),
    ("HashMap", "its order would leak into decisions; use BTreeMap"),
];

/// Words that must not stay behind. Spelt in two parts, so that this file may name them.
const LEFTOVERS: &[&str] = &[
    concat!("to", "do!("),
    concat!("unimpl", "emented!("),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("db", "g!("),
    concat!("allow(dead", "_code)"),
    concat!("#[ig", "nore"),
];

fn root() -> PathBuf {
    tests::here().parent().expect("the tests crate stands in the workspace").to_owned()
}

/// Every file of ours with one of these endings, as (path from the root, content).
fn files(endings: &[&str]) -> Vec<(String, String)> {
    fn walk(dir: &Path, root: &Path, endings: &[&str], found: &mut Vec<(String, String)>) {
        let entries = fs::read_dir(dir).expect("a readable directory");
        for entry in entries {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), "target" | ".git" | ".cache" | "node_modules") {
                    walk(&path, root, endings, found);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let shown = path.strip_prefix(root).expect("below the root").display().to_string();
                found.push((shown, fs::read_to_string(&path).expect("UTF-8 text")));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &root(), endings, &mut found);
    found.sort();
    assert!(!found.is_empty(), "the lint found nothing to read: it would pass whatever is wrong");
    found
}

fn report(rule: &str, findings: &[String]) {
    let mut text = String::new();
    for finding in findings {
        let _ = writeln!(text, "  {finding}");
    }
    assert!(findings.is_empty(), "{rule}\n{text}");
}

/// The part of a file that is product, not test.
fn product(path: &str, text: &str) -> String {
    if path.contains("/tests/")
        || path.contains("_test.rs")
        || path.ends_with("/tests.rs")
        || path.contains("/examples/")
    {
        return String::new();
    }
    match text.find("#[cfg(test)]\nmod ") {
        Some(at) => text[..at].to_owned(),
        None => text.to_owned(),
    }
}

/// Functions as (name, line, lines). Relies on rustfmt: a body ends at its own indentation.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let mut words = code.split([' ', '(', '<']).peekable();
        let heads = ["pub", "async", "const", "unsafe", "extern"];
        while words
            .peek()
            .is_some_and(|w| heads.contains(w) || w.starts_with("crate)") || w.starts_with("super)"))
        {
            words.next();
        }
        if words.next() != Some("fn") {
            continue;
        }
        let name = words.next().unwrap_or("?").to_owned();
        let closing = format!("{}}}", " ".repeat(indent));
        let length = lines[at..]
            .iter()
            .position(|l| *l == closing || (l.ends_with('}') && *l == *line))
            .map_or(1, |n| n + 1);
        found.push((name, at + 1, length));
    }
    found
}

#[test]
fn every_file_begins_with_what_it_is() {
    let findings: Vec<String> = files(&[".rs"])
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| {
            format!("{path}: begin with `//!`: what it is, the invariant it keeps, what is not here")
        })
        .collect();
    report("a file without a head", &findings);
}

#[test]
fn manifests_name_only_the_allowed_edges() {
    let ours: BTreeSet<&str> = EDGES.iter().map(|(name, _)| *name).collect();
    let mut findings = Vec::new();
    for (name, allowed) in EDGES {
        let text = fs::read_to_string(root().join(name).join("Cargo.toml")).expect("a manifest");
        let manifest: toml::Table = text.parse().expect("a valid manifest");
        for section in ["dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for dependency in
                table.keys().filter(|d| ours.contains(d.as_str()) && !allowed.contains(&d.as_str()))
            {
                findings.push(format!(
                    "{name} -> {dependency}: not in the graph of ARCHITECTURE.md; a new edge needs an ADR"
                ));
            }
        }
    }
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace manifest");
    let manifest: toml::Table = text.parse().expect("a valid manifest");
    let members = manifest["workspace"]["members"].as_array().expect("members");
    let members: BTreeSet<&str> = members.iter().filter_map(toml::Value::as_str).collect();
    if members != ours {
        findings.push(format!("the workspace has members {members:?}, this lint knows {ours:?}"));
    }
    report("dependency edges", &findings);
}

#[test]
fn access_nodes_can_neither_mint_nor_open() {
    let text = fs::read_to_string(root().join("access/Cargo.toml")).expect("a manifest");
    let manifest: toml::Table = text.parse().expect("a valid manifest");
    let ticket = manifest["dependencies"]["ticket"].as_table().expect("access depends on ticket");
    assert!(!ticket.contains_key("features"), "access must not enable `mint` or `open` of ticket");
    let findings: Vec<String> = files(&[".rs"])
        .into_iter()
        .filter(|(path, _)| path.starts_with("access/src"))
        .filter(|(path, text)| {
            let text = product(path, text);
            ["ticket::mint", "ticket::open::", "MintKeyring", "OpenKeyring", "BuildSecret"]
                .iter()
                .any(|w| text.contains(w))
        })
        .map(|(path, _)| format!("{path}: names a key that mints or opens records"))
        .collect();
    report("access holds no key of a record", &findings);
}

#[test]
fn callers_link_clients_not_servers() {
    let findings: Vec<String> = files(&[".rs"])
        .into_iter()
        .filter(|(path, _)| path.starts_with("access/src") || path.starts_with("payment/src"))
        .filter(|(path, text)| {
            let text = product(path, text);
            ["kvsvr::server", "queue::server", "kvsvr::machine", "queue::machine", "replica::", "rocksdb::"]
                .iter()
                .any(|word| text.contains(word))
        })
        .map(|(path, _)| format!("{path}: use the api and client modules only"))
        .collect();
    report("a caller reaches into a server", &findings);
}

#[test]
fn decision_cores_are_pure() {
    let mut findings = Vec::new();
    let sources = files(&[".rs"]);
    for place in PURE {
        let mut seen = 0;
        for (path, text) in sources.iter().filter(|(path, _)| path.starts_with(place)) {
            seen += 1;
            for (at, line) in product(path, text).lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for (word, why) in IMPURE.iter().filter(|(word, _)| code.contains(word)) {
                    findings.push(format!("{path}:{}: {word} ({why})", at + 1));
                }
            }
        }
        if seen == 0 {
            findings.push(format!("{place}: listed here as a pure core, but no such file exists"));
        }
    }
    report("a decision core is not pure", &findings);
}

#[test]
fn only_replica_knows_openraft_and_rocksdb() {
    let findings: Vec<String> = files(&[".rs"])
        .into_iter()
        .filter(|(path, _)| !path.starts_with("replica/") && !path.starts_with("tests/"))
        .filter(|(_, text)| text.contains("openraft::") || text.contains("rocksdb::"))
        .map(|(path, _)| format!("{path}: openraft and RocksDB stay behind crate replica (docs/adr/0001)"))
        .collect();
    report("a library leaks", &findings);
}

#[test]
fn nothing_is_left_behind() {
    let mut findings = Vec::new();
    for (path, text) in files(&[".rs"]) {
        for (at, line) in text.lines().enumerate() {
            for word in LEFTOVERS.iter().filter(|word| line.contains(**word)) {
                findings.push(format!("{path}:{}: {word}", at + 1));
            }
        }
    }
    report("leftovers", &findings);
}

#[test]
fn functions_and_files_stay_short() {
    let ratchet = fs::read_to_string(root().join("tests/ratchet.toml")).expect("the ratchet");
    let ratchet: BTreeMap<String, usize> = toml::from_str(&ratchet).expect("a valid ratchet");
    let mut used = BTreeSet::new();
    let mut findings = Vec::new();
    let mut measure = |what: String, lines: usize, most: usize| {
        let allowed = ratchet.get(&what).copied();
        if lines > most {
            used.insert(what.clone());
            match allowed {
                Some(allowed) if lines <= allowed => {}
                Some(allowed) => {
                    findings.push(format!("{what}: grew to {lines} lines (the ratchet allows {allowed})"))
                }
                None => findings.push(format!("{what}: {lines} lines, at most {most}; split it")),
            }
        }
    };
    for (path, text) in files(&[".rs"]) {
        measure(path.clone(), text.lines().count(), FILE_LINES_MAX);
        for (name, _, lines) in functions(&text) {
            measure(format!("{path}::{name}"), lines, FUNCTION_LINES_MAX);
        }
    }
    for stale in ratchet.keys().filter(|what| !used.contains(*what)) {
        findings.push(format!("{stale}: short enough now; take it out of tests/ratchet.toml"));
    }
    report("too long", &findings);
}

#[test]
fn documents_point_at_files_that_exist() {
    let mut findings = Vec::new();
    for (path, text) in files(&[".md"]) {
        let folder = root().join(&path).parent().expect("a folder").to_owned();
        for (at, line) in text.lines().enumerate() {
            for part in line.split("](").skip(1) {
                let target = part.split([')', '#']).next().unwrap_or_default();
                if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                    continue;
                }
                if !folder.join(target).exists() {
                    findings.push(format!("{path}:{}: {target} does not exist", at + 1));
                }
            }
        }
    }
    report("a broken link", &findings);
}

#[test]
fn the_lint_measures_functions_rightly() {
    let text =
        "fn one() {}\n\nimpl X {\n    pub async fn two(\n        a: u8,\n    ) {\n        a;\n    }\n}\n";
    let found = functions(text);
    let expected = vec![("one".to_owned(), 1, 1), ("two".to_owned(), 4, 5)];
    assert_eq!(found, expected);
}
