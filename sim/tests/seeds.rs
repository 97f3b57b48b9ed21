//! The simulator as it is used: first that the same seed gives the same trace in two processes, then
//! a fixed set of seeds over all fault mixes, then that a mistake is noticed.
//!
//! Invariant: nothing of what the seeds say is believed unless their traces repeat.
//!
//! Not here: fresh seeds (`make sim`).

use std::process::{Command, Output};

fn hongbao_sim(words: &[&str]) -> Output {
    let ran = Command::new(env!("CARGO_BIN_EXE_hongbao-sim")).args(words).output();
    ran.expect("the simulator starts")
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("exit {:?}\n{out}\n{err}", output.status.code())
}

#[test]
fn the_same_seed_gives_the_same_trace_in_two_processes() {
    let ran = hongbao_sim(&["meta", "--seed", "1", "--seeds", "3"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran));
}

#[test]
fn the_same_seed_gives_the_same_trace_over_rocksdb_too() {
    let ran = hongbao_sim(&["meta", "--seed", "4", "--engine", "rocks"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran));
}

#[test]
fn a_fixed_set_of_seeds_holds_every_invariant() {
    let ran = hongbao_sim(&["run", "--seed", "3", "--seeds", "9", "-o", "json"]);
    assert_eq!(ran.status.code(), Some(0), "{}", text(&ran));
    let lines = String::from_utf8_lossy(&ran.stdout).lines().count();
    assert_eq!(lines, 9, "one object a seed:\n{}", text(&ran));
}

#[test]
fn a_broken_invariant_ends_with_exit_code_11_and_the_command_that_repeats_it() {
    let ran = hongbao_sim(&["run", "--seed", "3", "--mutant", "delete-forgotten"]);
    let said = text(&ran);
    assert_eq!(ran.status.code(), Some(11), "{said}");
    assert!(said.contains("replay: hongbao-sim run --seed 3 --mutant delete-forgotten"), "{said}");
}

#[test]
fn a_seed_that_ends_without_a_verdict_is_a_broken_one_and_has_its_line() {
    let program = env!("CARGO_BIN_EXE_hongbao-sim");
    // Less memory (in KiB) than a run needs: it is aborted, as by a panic while a panic is handled.
    let starved = format!("ulimit -v 150000; exec {program} run --seed 1 --seeds 2 --jobs 1 -o json");
    let ran = Command::new("sh").args(["-c", &starved]).output().expect("a shell starts");
    let said = text(&ran);
    assert_eq!(ran.status.code(), Some(11), "{said}");
    let printed = String::from_utf8_lossy(&ran.stdout);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 2, "one object a seed: {said}");
    for (line, seed) in lines.iter().zip(1..) {
        let summary: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(summary["ok"], false, "{said}");
        assert_eq!(summary["replay"], format!("hongbao-sim run --seed {seed}"), "{said}");
        let why = summary["invariants"][0]["detail"].as_str().expect("a sentence");
        assert!(why.contains("SIGABRT"), "{said}");
    }
}
