//! Episodes of several faults that only together are dangerous.
//!
//! ```text
//!   amnesia  slow disks, then power is cut: what a machine has said in the last moments is not on its disk
//!              one      and the machine is back before anybody missed it
//!              all      every machine at once: nobody remembers
//!              voter    of a zone that has just helped to elect a leader; the old leader is there again,
//!                       the new one is cut off
//!   zombie   a zone stands still, is failed over meanwhile, and goes on as if nothing had been; in most
//!            cases while it claims files for a slot, if it is known when that is
//! ```
//! Where syncs are waited for, slow disks only make everything slow: nobody has said anything that is
//! not on a disk. That is what these episodes look at.
//!
//! Invariant: as in `episode`.
//!
//! Not here: how many; see `derive`.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use world::NodeId;
use world::rng::Stream;

use super::{Action, Builder, Expect, TRIES, Tail, Window};

/// How long the disks are slow before the power is cut.
const SLOW_BEFORE_MS: (u64, u64) = (150, 600);
/// How long a sync then takes.
const SLOW_SYNC_MS: (u64, u64) = (100, 500);
/// How long a machine is down that is back before anybody missed it.
const BACK_WITHIN_MS: (u64, u64) = (5, 120);
/// How long after a leader was lost a voter loses power: about as long as an election takes.
const ELECTED_WITHIN_MS: (u64, u64) = (500, 1_800);
/// A sync of a voter: longer than the election.
const VOTER_SYNC_MS: u64 = 2_500;
/// How long the new leader then is cut off.
const CUT_OFF_MS: (u64, u64) = (1_500, 4_000);
/// How long a zone stands still.
const STANDS_STILL_MS: (u64, u64) = (2_000, 6_000);
/// How long before a slot it begins to: files are claimed a second before they are issued.
const BEFORE_A_SLOT_MS: (u64, u64) = (1_600, 2_600);
/// How long before the slot it goes on, at most.
const GOES_ON_BEFORE_MS: u64 = 600;
/// How soon somebody fails it over: what the zone was about to say is still under way then.
const FAILED_OVER_WITHIN_MS: (u64, u64) = (50, 600);

impl Builder<'_> {
    pub(super) fn amnesia(&mut self, chance: &mut Stream) {
        match chance.random_range(0..4) {
            0 => {
                let node = self.node(chance);
                self.forgets(&[node], BACK_WITHIN_MS, chance);
            }
            1 => {
                let nodes = self.scene.nodes.clone();
                self.forgets(&nodes, (5, 1_500), chance);
            }
            _ => self.voter_forgets(chance),
        }
    }

    /// A window of this length, after so long a lead, in which all these nodes are up.
    fn span(&mut self, nodes: &[NodeId], lead_ms: u64, length_ms: u64, chance: &mut Stream) -> Option<u64> {
        let (earliest, latest) = (self.from_ms + lead_ms, self.scene.ends_ms.checked_sub(length_ms + 1)?);
        for _ in 0..TRIES {
            let from = chance.random_range(earliest..=latest.max(earliest));
            let window = Window { from: from - lead_ms, to: from + length_ms };
            if window.to < self.scene.ends_ms && nodes.iter().all(|node| self.up(*node, window)) {
                self.outages.extend(nodes.iter().map(|node| (*node, window)));
                return Some(from);
            }
        }
        None
    }

    fn forgets(&mut self, nodes: &[NodeId], down_ms: (u64, u64), chance: &mut Stream) {
        let lead_ms = chance.random_range(SLOW_BEFORE_MS.0..=SLOW_BEFORE_MS.1);
        let sync_ms = chance.random_range(SLOW_SYNC_MS.0..=SLOW_SYNC_MS.1);
        let down_ms = chance.random_range(down_ms.0..=down_ms.1);
        let Some(at_ms) = self.span(nodes, lead_ms, down_ms, chance) else { return };
        let nodes = nodes.to_vec();
        let slow = Action::SlowDisk { nodes: nodes.clone(), min_ms: sync_ms, max_ms: sync_ms };
        self.add(at_ms - lead_ms, slow);
        self.add(at_ms, Action::PowerCut { nodes: nodes.clone(), tail: Tail::Lost });
        self.add(at_ms + down_ms, Action::Restart { nodes: nodes.clone() });
        self.add(at_ms + down_ms, Action::MendDisk { nodes });
    }

    fn voter_forgets(&mut self, chance: &mut Stream) {
        let mut nodes = self.scene.nodes.clone();
        nodes.shuffle(chance);
        let mut zones: Vec<NodeId> = Vec::new();
        for node in nodes {
            if zones.iter().all(|other| other.zone() != node.zone()) {
                zones.push(node);
            }
        }
        let [old, voter, new, ..] = zones[..] else { return };
        let lead_ms = chance.random_range(ELECTED_WITHIN_MS.0..=ELECTED_WITHIN_MS.1);
        let (down_ms, cut_off_ms) =
            (chance.random_range(20..=150), chance.random_range(CUT_OFF_MS.0..=CUT_OFF_MS.1));
        let Some(at_ms) = self.span(&[old, voter, new], lead_ms, cut_off_ms, chance) else { return };
        let slow = vec![voter, new];
        self.add(at_ms - lead_ms, Action::Island { zone: old.zone(), crowd: false });
        let (min_ms, max_ms) = (VOTER_SYNC_MS, VOTER_SYNC_MS);
        self.add(at_ms - lead_ms, Action::SlowDisk { nodes: slow.clone(), min_ms, max_ms });
        self.add(at_ms, Action::PowerCut { nodes: vec![voter], tail: Tail::Lost });
        self.add(at_ms, Action::Heal { places: vec![crate::target::Target::Zone(old.zone())] });
        self.add(at_ms, Action::Island { zone: new.zone(), crowd: false });
        self.add(at_ms + down_ms, Action::Restart { nodes: vec![voter] });
        self.add(at_ms + down_ms, Action::MendDisk { nodes: slow });
        self.add(at_ms + cut_off_ms, Action::Heal { places: vec![crate::target::Target::Zone(new.zone())] });
    }

    /// When a zone stands still, and how long.
    fn stands_still(&self, chance: &mut Stream) -> Window {
        let slot = self.scene.slots_ms.choose(chance).copied().filter(|_| chance.random_ratio(3, 4));
        if let Some(slot) = slot {
            // It sends its claims while nobody hears them, and they arrive before others make theirs.
            let lead = chance.random_range(BEFORE_A_SLOT_MS.0..=BEFORE_A_SLOT_MS.1);
            let from = slot.saturating_sub(lead).max(self.from_ms);
            return Window {
                from,
                to: slot.saturating_sub(chance.random_range(0..=GOES_ON_BEFORE_MS)).max(from + 1),
            };
        }
        let for_ms = chance.random_range(STANDS_STILL_MS.0..=STANDS_STILL_MS.1);
        let latest = self.scene.ends_ms.saturating_sub(for_ms).max(self.from_ms);
        let from = chance.random_range(self.from_ms..=latest);
        Window { from, to: from + for_ms }
    }

    pub(super) fn zombie(&mut self, chance: &mut Stream) {
        let zone = self.a_zone(chance);
        let nodes = self.scene.nodes_of(zone);
        let window = self.stands_still(chance);
        let (at_ms, for_ms) = (window.from, window.to - window.from);
        let failover_ms = chance.random_range(FAILED_OVER_WITHIN_MS.0..=FAILED_OVER_WITHIN_MS.1);
        let restore_ms = for_ms.max(failover_ms) + chance.random_range(500..=2_500);
        if self.scene.ends_ms <= at_ms + restore_ms || !nodes.iter().all(|node| self.up(*node, window)) {
            return;
        }
        let types = |verb: &str| Action::Operator {
            types: format!("zone {verb} {zone} --reason drill --yes"),
            times: 1,
            expect: Expect::Any,
        };
        self.add(at_ms, Action::Pause { nodes, for_ms });
        self.add(at_ms + failover_ms, types("failover"));
        self.add(at_ms + restore_ms, types("restore"));
    }
}
