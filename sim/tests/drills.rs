//! Every drill that is shipped can be played, comes to what it says people must see, and holds.
//!
//! Invariant: a drill that names what nobody plays, or breaks an invariant, fails here.
//!
//! Not here: other seeds than the drills' own.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Mutex;

/// Drills played at the same time: each computes on one core.
const AT_ONCE: usize = 2;

/// What a drill must have shown, beside its invariants.
const SHOWN: &[(&str, &str, u64)] = &[
    ("bank-pays-silently", "bank-paid-silently", 1),
    ("bank-pays-silently", "bank-reported-twice", 1),
    ("blackout", "unsynced-writes-lost", 1),
    ("key-leak", "operator", 1),
    ("old-zone-returns", "old-controller-turned-down", 2),
    ("queue-backlog", "backlog-most", 40),
    ("queue-backlog", "burst-opens", 1),
    ("queue-backlog", "devices-failed", 1),
];

fn shipped() -> Vec<String> {
    let folder = format!("{}/../deploy/drills", env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(folder).expect("the folder of drills");
    entries.map(|entry| entry.expect("an entry").path().display().to_string()).collect()
}

/// Plays a drill; answers what was wrong with it.
fn play(path: &str) -> Option<String> {
    let ran = Command::new(env!("CARGO_BIN_EXE_hongbao-sim"))
        .args(["drill", "run", path, "-o", "json"])
        .output()
        .expect("the simulator starts");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    if ran.status.code() != Some(0) {
        return Some(format!("{path}: exit {:?}\n{out}\n{err}", ran.status.code()));
    }
    let summary: serde_json::Value = serde_json::from_str(out.lines().last()?).expect("a summary");
    let faults: BTreeMap<String, u64> =
        serde_json::from_value(summary["faults"].clone()).expect("counts by name");
    if let Some(name) = faults.keys().find(|name| name.starts_with("not-played")) {
        return Some(format!("{path}: {name}"));
    }
    let shows = |(_, effect, times): &&(&str, &str, u64)| faults.get(*effect).is_none_or(|seen| seen < times);
    let mut expected = SHOWN.iter().filter(|(drill, ..)| path.ends_with(&format!("/{drill}.toml")));
    expected.find(shows).map(|(_, effect, times)| format!("{path}: not {times} {effect}: {faults:?}"))
}

#[test]
fn every_shipped_drill_is_played_and_holds() {
    let drills = shipped();
    assert!(drills.len() >= 12, "{drills:?}");
    let (waiting, wrong) = (Mutex::new(drills), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(path) = { waiting.lock().expect("no holder panics").pop() } {
                    wrong.lock().expect("no holder panics").extend(play(&path));
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no holder panics");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
