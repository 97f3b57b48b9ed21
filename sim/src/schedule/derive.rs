//! A schedule from a seed: a swarm of fault classes, each on or off and more or less of it.
//!
//! ```text
//!   seed --> mix: which classes, how much          a stream of chance for the mix,
//!        --> episodes: begin, end, victims         and one for each class
//! ```
//! Switching classes off as a whole finds more than a little of everything: one fault often hides
//! what another would have shown.
//!
//! Invariant: what is derived passes `validate`: disks of one zone at most are harmed, and everything
//! ends at `ends_ms`. A class draws from its own stream, so a class that is added, or that a player
//! cannot play, does not change when the others of the same seed happen or to whom, except where it
//! has taken a node down first.
//!
//! Not here: the workload and the sizes of a run, which have their own streams.

use std::collections::BTreeMap;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use world::rng::Seed;

use super::episode::Builder;
use super::{Action, Class, Scene, Schedule, Step};

/// The stream the mix is drawn from; those of the classes follow it.
const MIX_STREAM: u64 = 1 << 32;
/// One class in so many is on.
const ON_ONE_IN: u32 = 3;
/// The most episodes of one class in half a minute.
const INTENSITY_MAX: u32 = 4;
/// An intensity is a number of episodes in this time.
const INTENSITY_PER_MS: u64 = 30_000;

/// Which classes of faults a seed has, and how many episodes of each in half a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mix {
    /// Only classes that are on.
    pub intensity: BTreeMap<Class, u32>,
}

/// What a seed comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derived {
    /// The classes that are on.
    pub mix: Mix,
    /// The steps.
    pub schedule: Schedule,
}

impl Mix {
    /// The mix of a seed, of classes the player can play. At least one is on, if there is any.
    #[must_use]
    pub fn draw(seed: u64, able: &[Class]) -> Mix {
        let mut chance = Seed::from_number(seed).stream(MIX_STREAM);
        let mut mix = Mix::default();
        let mut favourite = None;
        for class in Class::ALL {
            let on = chance.random_ratio(1, ON_ONE_IN);
            // Few is as interesting as many: half of the classes that are on get one.
            let intensity = chance.random_range(1..=INTENSITY_MAX * 2).saturating_sub(INTENSITY_MAX).max(1);
            let rank: u32 = chance.random();
            if !able.contains(&class) {
                continue;
            }
            if on {
                mix.intensity.insert(class, intensity);
            }
            if favourite.is_none_or(|(best, _)| rank > best) {
                favourite = Some((rank, class));
            }
        }
        if let (true, Some((_, class))) = (mix.intensity.is_empty(), favourite) {
            mix.intensity.insert(class, 1);
        }
        mix
    }
}

/// The schedule of a seed: faults of its mix between `from_ms` and the end of the scene.
#[must_use]
pub fn derive(seed: u64, scene: &Scene, from_ms: u64, able: &[Class]) -> Derived {
    let mix = Mix::draw(seed, able);
    let schedule = of_mix(seed, scene, from_ms, &mix);
    Derived { mix, schedule }
}

/// As [`derive()`], with the mix given.
#[must_use]
pub fn of_mix(seed: u64, scene: &Scene, from_ms: u64, mix: &Mix) -> Schedule {
    assert!(!scene.nodes.is_empty(), "there is nobody to fail");
    assert!(from_ms < scene.ends_ms, "faults would end at {} ms, before they begin", scene.ends_ms);
    let family = Seed::from_number(seed);
    let mut builder = Builder::new(scene, from_ms, &mut family.stream(MIX_STREAM + 1));
    // Who is down when is settled first: what needs running nodes looks for a moment when they run.
    let (downs, others): (Vec<Class>, Vec<Class>) =
        mix.intensity.keys().copied().partition(|class| class.takes_nodes_down());
    let operated = mix.intensity.contains_key(&Class::Operator);
    for class in downs.into_iter().chain(others) {
        let mut chance = family.stream(MIX_STREAM + 2 + class.number());
        let span = (scene.ends_ms - from_ms).max(INTENSITY_PER_MS / u64::from(INTENSITY_MAX));
        let episodes = u64::from(mix.intensity[&class]) * span / INTENSITY_PER_MS;
        for _ in 0..episodes.max(1) {
            builder.episode(class, operated, &mut chance);
        }
    }
    let mut steps = builder.into_steps();
    steps.push(Step { at_ms: scene.ends_ms, action: Action::HealAll });
    // Stable: the two steps of one moment stay in the order they were made in.
    steps.sort_by_key(|step| step.at_ms);
    Schedule { steps }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::schedule::validate;

    fn scene(nodes: &[&str]) -> Scene {
        Scene {
            nodes: nodes.iter().map(|node| node.parse().expect("a node")).collect(),
            groups: 4,
            ends_ms: 45_000,
            slots_ms: vec![6_000, 16_000, 26_000, 36_000],
        }
    }

    #[test]
    fn every_seed_derives_a_schedule_that_can_be_played() {
        for scene in [scene(&["a1", "b1", "c1"]), scene(&["a1", "a2", "b1", "b2", "c1", "c2"])] {
            for seed in 0..3_000 {
                let derived = derive(seed, &scene, 3_000, &Class::ALL);
                let problems = validate(&derived.schedule, &scene);
                assert!(problems.is_empty(), "seed {seed}: {} in {:#?}", problems[0], derived.schedule);
                assert!(derived.schedule.steps.len() > 1, "seed {seed}: nothing happens");
            }
        }
    }

    #[test]
    fn the_same_seed_derives_the_same_schedule_and_another_another() {
        let scene = scene(&["a1", "b1", "c1"]);
        assert_eq!(derive(7, &scene, 3_000, &Class::ALL), derive(7, &scene, 3_000, &Class::ALL));
        assert_ne!(derive(7, &scene, 3_000, &Class::ALL), derive(8, &scene, 3_000, &Class::ALL));
    }

    #[test]
    fn every_class_and_every_action_comes_up_within_a_few_hundred_seeds() {
        let scene = scene(&["a1", "b1", "c1"]);
        let mut classes = BTreeSet::new();
        let mut actions = BTreeSet::new();
        for seed in 0..600 {
            let derived = derive(seed, &scene, 3_000, &Class::ALL);
            classes.extend(derived.mix.intensity.keys().copied());
            actions.extend(derived.schedule.steps.iter().map(|step| step.action.name()));
        }
        assert_eq!(classes.len(), Class::ALL.len());
        assert_eq!(actions.into_iter().collect::<Vec<_>>(), Action::NAMES);
    }

    #[test]
    fn a_class_that_is_off_does_not_happen() {
        let scene = scene(&["a1", "b1", "c1"]);
        for seed in 0..200 {
            let derived = derive(seed, &scene, 3_000, &[Class::Crash, Class::SlowDisk]);
            for step in &derived.schedule.steps {
                let class = step.action.class();
                assert!(matches!(class, None | Some(Class::Crash | Class::SlowDisk)), "{}", step.action);
            }
        }
    }

    #[test]
    fn taking_a_class_away_leaves_the_others_as_they_are() {
        let scene = scene(&["a1", "b1", "c1"]);
        let delays = |classes: &[Class]| -> Vec<Step> {
            let mix = Mix { intensity: classes.iter().map(|class| (*class, 3)).collect() };
            let steps = (0..50).flat_map(|seed| of_mix(seed, &scene, 3_000, &mix).steps);
            steps.filter(|step| step.action.class() == Some(Class::Latency)).collect()
        };
        let with = delays(&[Class::Latency, Class::Bank, Class::Flap]);
        assert_eq!(with.len(), 200);
        assert_eq!(with, delays(&[Class::Latency]));
    }

    #[test]
    fn some_faults_begin_at_the_boundary_of_a_slot() {
        let scene = scene(&["a1", "b1", "c1"]);
        let near = |step: &Step| scene.slots_ms.iter().any(|slot| step.at_ms.abs_diff(*slot) <= 300);
        let steps: Vec<Step> =
            (0..200).flat_map(|seed| derive(seed, &scene, 3_000, &Class::ALL).schedule.steps).collect();
        let share = steps.iter().filter(|step| near(step)).count() as f64 / steps.len() as f64;
        assert!(share > 0.12, "only {share} of all steps are near a slot's start");
    }
}
