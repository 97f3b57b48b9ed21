//! Schedules that cannot be played or leave too little, each with the sentence it is turned down by.

use super::*;
use crate::schedule::{Step, Store, Tail};

fn node(text: &str) -> NodeId {
    text.parse().expect("a node")
}

fn places(text: &str) -> Vec<Target> {
    text.split_whitespace().map(|place| place.parse().expect("a place")).collect()
}

fn scene() -> Scene {
    Scene {
        nodes: ["a1", "b1", "b2", "c1"].map(node).to_vec(),
        groups: 3,
        ends_ms: 10_000,
        slots_ms: vec![2_000, 4_000],
    }
}

fn check(actions: Vec<Action>, expected: &[&str]) {
    let steps = actions.into_iter().enumerate();
    let mut steps: Vec<Step> = steps.map(|(at, action)| Step { at_ms: at as u64, action }).collect();
    steps.push(Step { at_ms: 9_000, action: Action::HealAll });
    let problems: Vec<String> =
        validate(&Schedule { steps }, &scene()).iter().map(ToString::to_string).collect();
    assert_eq!(problems, expected);
}

#[test]
fn a_zone_may_be_lost_and_return() {
    let down = Action::ZoneDown { zone: node("b1").zone(), tail: Tail::Torn };
    let up = Action::ZoneUp { zone: node("b1").zone() };
    check(vec![down, up, Action::Crash { nodes: vec![node("b2")] }], &[]);
}

#[test]
fn who_is_down_cannot_crash_and_who_runs_cannot_start() {
    let crash = || Action::Crash { nodes: vec![node("b1")] };
    check(
        vec![crash(), crash()],
        &["step 2: b1 is down at that moment: start it before, or take it out of the step"],
    );
    check(
        vec![Action::Restart { nodes: vec![node("a1")] }],
        &["step 1: a1 is running at that moment: crash it or cut its power before"],
    );
}

#[test]
fn two_zones_disks_are_never_harmed() {
    let rot = |at: &str| Action::BitRot { nodes: vec![node(at)], store: Store::Log, bits: 1 };
    check(vec![rot("b1"), rot("b2")], &[]);
    check(
        vec![rot("b1"), rot("c1")],
        &["step 2: the disks of zones b and c would be lost or damaged: harm disks of one zone only: \
           what was acknowledged survives only while the disks of two zones do"],
    );
}

#[test]
fn only_a_disk_that_was_harmed_is_replaced_and_its_node_then_runs() {
    let lose =
        || vec![Action::Crash { nodes: vec![node("b1")] }, Action::LoseDisk { nodes: vec![node("b1")] }];
    let mut replaced = lose();
    replaced.push(Action::ReplaceNode { node: node("b1") });
    replaced.push(Action::Crash { nodes: vec![node("b1")] });
    check(replaced, &[]);
    let mut in_vain = lose();
    in_vain.push(Action::Restart { nodes: vec![node("b1")] });
    in_vain.push(Action::ReplaceNode { node: node("b1") });
    check(in_vain, &[]);
    check(
        vec![Action::ReplaceNode { node: node("b1") }],
        &["step 1: the disk of b1 is well: put a lose-disk step, or one that damages it, before"],
    );
}

#[test]
fn a_link_has_two_sides() {
    check(
        vec![Action::Partition { between: places("a b1"), and: places("b") }],
        &["step 1: b1 is on both sides of the link: name each place on one side only"],
    );
    check(
        vec![Action::OneWay { from: places("a"), to: places("") }],
        &["step 1: one side of the link is empty: name at least one place on each side"],
    );
}

#[test]
fn strangers_are_turned_down_by_name() {
    check(
        vec![Action::Crash { nodes: vec![node("d1")] }],
        &["step 1: there is no node d1: name one of a1, b1, b2 and c1"],
    );
    check(
        vec![Action::Island { zone: node("d1").zone(), crowd: false }],
        &["step 1: there is no zone d: name one of a, b and c"],
    );
    check(
        vec![Action::TransferLeader { group: 3, to: node("a1") }],
        &["step 1: there is no group 3: name one below 3"],
    );
}

#[test]
fn numbers_are_in_their_range() {
    let lose = Action::LoseMessages { between: places("a"), and: places("b"), percent: 101, for_ms: 0 };
    check(
        vec![lose],
        &["step 1: 101 percent: write 1 to 100", "step 1: it lasts no time: write at least 1 ms"],
    );
    let slow = Action::SlowDisk { nodes: vec![node("a1")], min_ms: 9, max_ms: 3 };
    check(vec![slow], &["step 1: the least, 9 ms, is more than the most, 3 ms: swap them"]);
}

#[test]
fn steps_are_in_order_and_the_last_one_ends_everything() {
    let step = |at_ms, action| Step { at_ms, action };
    let crash = || Action::Crash { nodes: vec![node("b1")] };
    let unended = Schedule { steps: vec![step(5, crash())] };
    let problems = validate(&unended, &scene());
    assert_eq!(problems.len(), 1);
    assert_eq!(
        problems[0].to_string(),
        "the faults do not end: end with a step whose action is \"heal-all\""
    );
    let unordered =
        Schedule { steps: vec![step(5, crash()), step(4, Action::HealAll), step(20_000, Action::HealAll)] };
    let problems: Vec<String> = validate(&unordered, &scene()).iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "step 2: it happens at 4 ms, before the step above it at 5 ms: put the steps in order of time",
            "step 3: it happens at 20000 ms, after the end of all faults at 10000 ms: let it happen earlier, or make the run longer",
            "step 3: it comes after heal-all: make heal-all the last step",
        ]
    );
}
