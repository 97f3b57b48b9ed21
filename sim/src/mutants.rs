//! Where each known mistake lives: the kind of run that would meet it, if anybody looked.
//!
//! ```text
//!   mutant -> habitat: scenario, classes of faults that are on, some sizes
//! ```
//! A mistake in how a lease is checked shows only where there are consumers, one about power cuts only
//! where power is cut. A habitat draws nothing that no ordinary seed draws: it only makes certain what
//! they leave to chance.
//!
//! Invariant: the seed still decides everything else.
//!
//! Not here: the mistakes (`world::mutant`), and running them (bin/mutants.rs).

use world::mutant::Mutant;

use crate::knobs::{Knobs, Scenario};
use crate::schedule::Class;
use crate::schedule::derive::Mix;

/// A kind of run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habitat {
    scenario: Option<Scenario>,
    classes: &'static [(Class, u32)],
    sizes: Option<fn(&mut Knobs)>,
}

impl Habitat {
    /// Where this mistake lives. Numbers are episodes in half a minute.
    #[must_use]
    pub fn of(mutant: Mutant) -> Habitat {
        let event = |classes| Habitat { scenario: Some(Scenario::Event), classes, sizes: None };
        let queue = |classes| Habitat { scenario: Some(Scenario::Queue), classes, sizes: None };
        let any = |classes| Habitat { scenario: None, classes, sizes: None };
        let sized = |sizes: fn(&mut Knobs)| Habitat { sizes: Some(sizes), ..event(&[]) };
        match mutant {
            Mutant::AckBeforeFsync | Mutant::VoteNotDurable | Mutant::LeaderRestored => {
                any(&[(Class::Amnesia, 6)])
            }
            Mutant::ReadWithoutQuorum => any(&[(Class::Partition, 6)]),
            Mutant::SnapshotNotFlushed => any(&[(Class::PowerCut, 6), (Class::Snapshot, 6)]),
            Mutant::CompareIgnored | Mutant::DeleteForgotten => any(&[]),
            Mutant::UnknownIsSuccess => queue(&[(Class::Partition, 6), (Class::Crash, 6)]),
            Mutant::DedupSkipped | Mutant::LeaseNotFenced | Mutant::DeadLetterDropped => queue(&[]),
            Mutant::AckBeforeRow => event(&[(Class::Crash, 6)]),
            Mutant::CursorReused | Mutant::BootEpochReused => event(&[(Class::Crash, 6)]),
            Mutant::CursorNotSynced => event(&[(Class::PowerCut, 6), (Class::Amnesia, 6)]),
            Mutant::ClaimOverwrites => event(&[(Class::Zombie, 2), (Class::Partition, 6)]),
            Mutant::ClaimNotFenced => Habitat {
                sizes: Some(|knobs| knobs.slots_at = Some(knobs.slots_to_the_end())),
                ..event(&[(Class::Zombie, 6)])
            },
            Mutant::KeyListIgnored => sized(|knobs| knobs.revoked_key = true),
            Mutant::PlanNotCompared => sized(|knobs| knobs.made_up_packets = 3),
            Mutant::LimitIgnored => sized(|knobs| {
                knobs.claims_per_user = 3;
                knobs.greedy_one_in = 1;
            }),
            Mutant::IngestInPart | Mutant::IngestOverwrites => any(&[]),
            Mutant::InsertOverwrites | Mutant::RefundTwice => event(&[]),
        }
    }

    /// Makes the sizes of a run fit.
    pub fn shape(&self, knobs: &mut Knobs) {
        knobs.scenario = self.scenario.unwrap_or(knobs.scenario);
        if let Some(sizes) = self.sizes {
            sizes(knobs);
        }
    }

    /// Switches the classes on that are needed.
    pub fn stir(&self, mix: &mut Mix) {
        for (class, episodes) in self.classes {
            let intensity = mix.intensity.entry(*class).or_default();
            *intensity = (*episodes).max(*intensity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nemesis::able;

    #[test]
    fn every_habitat_is_one_that_ordinary_seeds_draw_too() {
        for mutant in Mutant::ALL {
            let habitat = Habitat::of(*mutant);
            assert!(habitat.classes.iter().all(|(class, _)| able().contains(class)), "{mutant}");
            let mut wanted = Knobs::derive(1);
            habitat.shape(&mut wanted);
            let like = |seed| {
                let drawn = Knobs::derive(seed);
                habitat.sizes.is_none()
                    || (drawn.revoked_key >= wanted.revoked_key
                        && drawn.made_up_packets >= wanted.made_up_packets.min(1)
                        && drawn.claims_per_user == wanted.claims_per_user
                        && drawn.slots_at.is_some() == wanted.slots_at.is_some()
                        && (drawn.greedy_one_in == wanted.greedy_one_in || wanted.greedy_one_in == 0))
            };
            assert!((0..5_000).any(like), "no seed draws the sizes of {mutant}");
        }
    }
}
