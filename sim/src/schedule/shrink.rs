//! The least of a failing schedule that still fails.
//!
//! ```text
//!   drop halves, quarters, ... single steps while what is left fails     (delta debugging)
//!   then replace single steps by simpler ones while it still fails
//! ```
//! A candidate is mended before it is tried: steps that would have nothing to act on (the start of a
//! node that never went down) are left out with those they belonged to.
//!
//! Invariant: the answer was tried and failed, is no longer than what was given, and has no problem
//! that what was given did not have. `fails` is called at most `budget` times.
//!
//! Not here: running anything; `fails` does.

use super::{Action, Scene, Schedule, Step, Tail, validate};

/// What shrinking came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shrunk {
    /// The least schedule found that still fails.
    pub schedule: Schedule,
    /// How often a candidate was tried.
    pub tried: u32,
    /// Whether no single step of it can be dropped: `false` when the budget ran out first.
    pub minimal: bool,
}

/// Shrinks `failing`, a schedule for which `fails` is known to be true.
pub fn shrink(
    failing: &Schedule,
    scene: &Scene,
    budget: u32,
    fails: &mut dyn FnMut(&Schedule) -> bool,
) -> Shrunk {
    let mut hunt = Hunt { scene, budget, tried: 0, fails, best: failing.clone() };
    loop {
        let before = hunt.best.clone();
        hunt.drop_steps();
        hunt.simplify();
        if hunt.best == before {
            break;
        }
    }
    Shrunk { schedule: hunt.best, tried: hunt.tried, minimal: hunt.tried < budget }
}

struct Hunt<'a> {
    scene: &'a Scene,
    budget: u32,
    tried: u32,
    fails: &'a mut dyn FnMut(&Schedule) -> bool,
    best: Schedule,
}

impl Hunt<'_> {
    /// Tries a candidate, and keeps it if it fails and is another one.
    fn keeps(&mut self, candidate: Vec<Step>) -> bool {
        let mut candidate = mended(candidate, self.scene);
        candidate.steps.sort_by_key(|step| step.at_ms);
        if candidate == self.best || self.tried >= self.budget {
            return false;
        }
        self.tried += 1;
        let failed = (self.fails)(&candidate);
        if failed {
            self.best = candidate;
        }
        failed
    }

    fn drop_steps(&mut self) {
        let mut chunk = self.best.steps.len().div_ceil(2);
        while chunk > 0 {
            let mut at = 0;
            let mut dropped = false;
            while at < self.best.steps.len() && self.tried < self.budget {
                let end = (at + chunk).min(self.best.steps.len());
                let rest = [&self.best.steps[..at], &self.best.steps[end..]].concat();
                // What follows has moved up to `at` when the chunk was dropped.
                if self.keeps(rest) {
                    dropped = true;
                } else {
                    at = end;
                }
            }
            if !dropped || chunk > 1 {
                chunk /= 2;
            }
        }
    }

    fn simplify(&mut self) {
        let mut at = 0;
        while at < self.best.steps.len() {
            let simpler = simpler(&self.best.steps[at].action);
            let taken = simpler.into_iter().any(|action| {
                let mut steps = self.best.steps.clone();
                steps[at].action = action;
                self.keeps(steps)
            });
            if !taken {
                at += 1;
            }
        }
    }
}

/// The schedule without the steps that cannot be played because what they relied on is gone.
fn mended(mut steps: Vec<Step>, scene: &Scene) -> Schedule {
    if !steps.iter().any(|step| step.action == Action::HealAll) {
        steps.push(Step { at_ms: scene.ends_ms, action: Action::HealAll });
    }
    let mut schedule = Schedule { steps };
    // Each round drops the first step with a problem: dropping it may mend the later ones.
    while let Some(step) = validate(&schedule, scene).iter().find_map(|problem| problem.step) {
        if schedule.steps[step].action == Action::HealAll {
            break;
        }
        schedule.steps.remove(step);
    }
    schedule
}

/// Actions that do less of the same, the least first.
fn simpler(action: &Action) -> Vec<Action> {
    let halves = |ms: u64| -> Vec<u64> {
        [ms / 8, ms / 2].into_iter().filter(|shorter| *shorter > 0 && *shorter < ms).collect()
    };
    match action {
        Action::Crash { nodes } if nodes.len() > 1 => {
            nodes.iter().map(|node| Action::Crash { nodes: vec![*node] }).collect()
        }
        Action::PowerCut { nodes, tail } => {
            let mut less: Vec<Action> = Vec::new();
            if nodes.len() > 1 {
                less.extend(nodes.iter().map(|node| Action::PowerCut { nodes: vec![*node], tail: *tail }));
            }
            less.push(Action::Crash { nodes: nodes.clone() });
            if *tail == Tail::Torn {
                less.push(Action::PowerCut { nodes: nodes.clone(), tail: Tail::Lost });
            }
            less
        }
        Action::Pause { nodes, for_ms } => {
            halves(*for_ms).into_iter().map(|for_ms| Action::Pause { nodes: nodes.clone(), for_ms }).collect()
        }
        Action::Flap { between, and, times, .. } => {
            let mut less = vec![Action::Partition { between: between.clone(), and: and.clone() }];
            if let (Action::Flap { down_ms, up_ms, .. }, true) = (action, *times > 1) {
                let (between, and, times) = (between.clone(), and.clone(), times / 2);
                less.push(Action::Flap { between, and, down_ms: *down_ms, up_ms: *up_ms, times });
            }
            less
        }
        Action::Partition { between, and } if between.len() + and.len() > 2 => {
            let mut less = Vec::new();
            for (one, other) in between.iter().flat_map(|one| and.iter().map(move |other| (*one, *other))) {
                less.push(Action::Partition { between: vec![one], and: vec![other] });
            }
            less
        }
        Action::Operator { types, times, expect } if *times > 1 => {
            vec![Action::Operator { types: types.clone(), times: 1, expect: *expect }]
        }
        Action::Burst { factor, for_ms } if *factor > 2 => {
            vec![Action::Burst { factor: factor / 2, for_ms: *for_ms }]
        }
        Action::BitRot { nodes, store, bits } if *bits > 1 => {
            vec![Action::BitRot { nodes: nodes.clone(), store: *store, bits: 1 }]
        }
        Action::ClockDrift { nodes, ppm } => {
            vec![Action::ClockOffset { nodes: nodes.clone(), by_ms: ppm.signum() }]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[path = "shrink_test.rs"]
mod tests;
