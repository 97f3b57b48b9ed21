//! What is left of long failing schedules, for failures that need one step, two, or a whole episode.

use super::*;
use crate::schedule::Class;
use crate::schedule::derive::derive;

fn scene() -> Scene {
    Scene {
        nodes: ["a1", "b1", "c1"].map(|node| node.parse().expect("a node")).to_vec(),
        groups: 4,
        ends_ms: 60_000,
        slots_ms: vec![10_000],
    }
}

/// The first seed whose schedule fails, shrunk.
fn check(budget: u32, fails: impl Fn(&Schedule) -> bool) -> (Schedule, Shrunk) {
    let scene = scene();
    let seeds = (0..5_000).map(|seed| derive(seed, &scene, 1_000, &Class::ALL).schedule);
    let failing = seeds.filter(|schedule| schedule.steps.len() > 20).find(|schedule| fails(schedule));
    let failing = failing.expect("a seed that fails");
    let mut tried = 0;
    let shrunk = shrink(&failing, &scene, budget, &mut |candidate| {
        tried += 1;
        assert!(validate(candidate, &scene).is_empty(), "a candidate that cannot be played was tried");
        fails(candidate)
    });
    assert!(fails(&shrunk.schedule), "what is left does not fail");
    assert_eq!(tried, shrunk.tried);
    assert!(tried <= budget);
    (failing, shrunk)
}

fn names(schedule: &Schedule) -> Vec<String> {
    schedule.steps.iter().map(|step| step.action.name()).collect()
}

fn has(schedule: &Schedule, class: Class) -> bool {
    schedule.steps.iter().any(|step| step.action.class() == Some(class) && !step.action.mends())
}

#[test]
fn a_failure_that_needs_one_step_is_shrunk_to_it() {
    let (failing, shrunk) = check(500, |schedule| has(schedule, Class::OneWay));
    assert_eq!(names(&shrunk.schedule), ["one-way", "heal-all"]);
    assert!(shrunk.minimal);
    assert!(shrunk.tried < 60, "{} runs for {} steps", shrunk.tried, failing.steps.len());
}

#[test]
fn a_failure_that_needs_two_faults_in_order_keeps_both() {
    let fails = |schedule: &Schedule| {
        let island = schedule.steps.iter().position(|step| step.action.class() == Some(Class::Pause));
        let crash = schedule.steps.iter().rposition(|step| matches!(step.action, Action::PowerCut { .. }));
        island.zip(crash).is_some_and(|(island, crash)| island < crash)
    };
    let (_, shrunk) = check(1_000, fails);
    assert_eq!(names(&shrunk.schedule), ["pause", "power-cut", "heal-all"]);
}

#[test]
fn a_restart_is_kept_only_with_the_crash_it_ends() {
    let (_, shrunk) =
        check(500, |schedule| schedule.steps.iter().any(|step| step.action.name() == "restart"));
    let names = names(&shrunk.schedule);
    assert_eq!(names[1..], ["restart", "heal-all"]);
    assert!(["crash", "fail-sync"].contains(&names[0].as_str()), "{names:?}");
}

#[test]
fn what_a_step_does_is_made_less_too() {
    let nodes = |action: &Action| match action {
        Action::Crash { nodes } => nodes.clone(),
        _ => Vec::new(),
    };
    let b1 = "b1".parse().expect("a node");
    let (_, shrunk) =
        check(500, |schedule| schedule.steps.iter().any(|step| nodes(&step.action).contains(&b1)));
    assert_eq!(nodes(&shrunk.schedule.steps[0].action), [b1]);
    assert_eq!(shrunk.schedule.steps.len(), 2);
}

#[test]
fn an_empty_budget_gives_back_what_was_given() {
    let (failing, shrunk) = check(0, |schedule| has(schedule, Class::OneWay));
    assert_eq!((shrunk.schedule, shrunk.minimal, shrunk.tried), (failing, false, 0));
}
