//! Episodes: a fault of one class with its beginning, its end, and what an operator does about it.
//!
//! Invariant: a node that an episode takes down was up for all of its time and is taken down by no
//! other; disks are harmed in one zone, drawn once for the schedule. An episode that finds no room is
//! left out.
//!
//! Not here: how many; see `derive`.

mod compound;

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};
use world::rng::Stream;
use world::{NodeId, ZoneId};

use super::{Action, BankFault, Class, Damage, Expect, Scene, Step, Store, Tail, TicketDamage, ZoneVerb};
use crate::target::Target;

/// How often room is looked for before an episode is left out.
const TRIES: u32 = 20;
/// One episode in so many begins at a slot's boundary.
const AT_SLOT_ONE_IN: u32 = 3;
/// How near to it.
const AT_SLOT_WITHIN_MS: u64 = 300;
/// Time that is left between the end of one outage of a node and the next.
const BETWEEN_OUTAGES_MS: u64 = 200;
/// Time an episode needs at least.
const EPISODE_MIN_MS: u64 = 50;

/// A time from and to which something lasts.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: u64,
    to: u64,
}

pub(super) struct Builder<'a> {
    scene: &'a Scene,
    from_ms: u64,
    /// The zone whose disks may be harmed.
    weak: ZoneId,
    outages: Vec<(NodeId, Window)>,
    steps: Vec<Step>,
}

impl Class {
    pub(super) fn takes_nodes_down(self) -> bool {
        matches!(
            self,
            Class::Crash
                | Class::PowerCut
                | Class::Blackout
                | Class::Zone
                | Class::FailedSync
                | Class::DamagedFile
                | Class::LostDisk
                | Class::SwappedDisks
                | Class::Amnesia
        )
    }
}

impl<'a> Builder<'a> {
    pub(super) fn new(scene: &'a Scene, from_ms: u64, chance: &mut Stream) -> Builder<'a> {
        let weak = *scene.zones().choose(chance).expect("a scene has zones");
        Builder { scene, from_ms, weak, outages: Vec::new(), steps: Vec::new() }
    }

    pub(super) fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// Adds one episode of `class`. With `operated`, somebody reacts to lost zones.
    pub(super) fn episode(&mut self, class: Class, operated: bool, chance: &mut Stream) {
        match class {
            Class::Crash | Class::PowerCut | Class::Blackout | Class::FailedSync => {
                self.outage(class, chance)
            }
            Class::Zone => self.zone(operated, chance),
            Class::DamagedFile | Class::LostDisk | Class::SwappedDisks => self.bad_disk(class, chance),
            Class::Partition | Class::OneWay | Class::Flap | Class::Hold | Class::Latency => {
                self.link(class, operated, chance);
            }
            Class::Loss => self.messages(chance),
            Class::Pause
            | Class::FullDisk
            | Class::SlowDisk
            | Class::BitRot
            | Class::Misdirected
            | Class::Clock
            | Class::Snapshot
            | Class::Backlog
            | Class::TicketFile => self.at_node(class, chance),
            Class::Election => self.election(chance),
            Class::Repeat | Class::Overload | Class::Clients | Class::Bank => self.outside(class, chance),
            Class::OldController | Class::Operator => self.people(class, chance),
            Class::Amnesia => self.amnesia(chance),
            Class::Zombie => self.zombie(chance),
        }
    }

    fn add(&mut self, at_ms: u64, action: Action) {
        assert!(
            (self.from_ms..=self.scene.ends_ms).contains(&at_ms),
            "{at_ms} ms is outside of the schedule"
        );
        self.steps.push(Step { at_ms, action });
    }

    /// Most are short, some are long.
    fn window(&self, chance: &mut Stream) -> Window {
        let latest = self.scene.ends_ms.saturating_sub(EPISODE_MIN_MS).max(self.from_ms);
        let mut from = chance.random_range(self.from_ms..=latest);
        if chance.random_ratio(1, AT_SLOT_ONE_IN)
            && let Some(slot) = self.scene.slots_ms.choose(chance)
        {
            let early = slot.saturating_sub(AT_SLOT_WITHIN_MS);
            from = chance.random_range(early..=slot + AT_SLOT_WITHIN_MS).clamp(self.from_ms, latest);
        }
        let length = match chance.random_range(0..10) {
            0..5 => chance.random_range(EPISODE_MIN_MS..=800),
            5..8 => chance.random_range(800..=4_000),
            _ => chance.random_range(4_000..=12_000),
        };
        Window { from, to: (from + length).min(self.scene.ends_ms) }
    }

    fn up(&self, node: NodeId, window: Window) -> bool {
        let apart = |other: Window| {
            window.to + BETWEEN_OUTAGES_MS < other.from || other.to + BETWEEN_OUTAGES_MS < window.from
        };
        self.outages.iter().all(|(down, other)| *down != node || apart(*other))
    }

    /// A window in which all these nodes are up, taken for an outage of them.
    fn take_down(&mut self, nodes: &[NodeId], chance: &mut Stream) -> Option<Window> {
        for _ in 0..TRIES {
            let window = self.window(chance);
            if nodes.iter().all(|node| self.up(*node, window)) {
                self.outages.extend(nodes.iter().map(|node| (*node, window)));
                return Some(window);
            }
        }
        None
    }

    /// A node that is up for a whole window.
    fn running(&self, chance: &mut Stream) -> Option<(NodeId, Window)> {
        for _ in 0..TRIES {
            let (node, window) = (self.node(chance), self.window(chance));
            if self.up(node, window) {
                return Some((node, window));
            }
        }
        None
    }

    fn node(&self, chance: &mut Stream) -> NodeId {
        *self.scene.nodes.choose(chance).expect("a scene has nodes")
    }

    fn a_zone(&self, chance: &mut Stream) -> ZoneId {
        *self.scene.zones().choose(chance).expect("a scene has zones")
    }

    /// One node in most cases, sometimes several.
    fn victims(&self, chance: &mut Stream) -> Vec<NodeId> {
        let mut nodes = self.scene.nodes.clone();
        nodes.shuffle(chance);
        let count = match chance.random_range(0..10) {
            0..7 => 1,
            _ => chance.random_range(1..=nodes.len()),
        };
        nodes.truncate(count);
        nodes.sort();
        nodes
    }

    fn outage(&mut self, class: Class, chance: &mut Stream) {
        let nodes = match class {
            Class::Blackout => self.scene.nodes.clone(),
            Class::FailedSync => vec![self.node(chance)],
            _ => self.victims(chance),
        };
        let tail = tail(chance);
        let Some(window) = self.take_down(&nodes, chance) else { return };
        let begin = match class {
            Class::Crash => Action::Crash { nodes: nodes.clone() },
            Class::FailedSync => Action::FailSync { nodes: nodes.clone() },
            _ => Action::PowerCut { nodes: nodes.clone(), tail },
        };
        self.add(window.from, begin);
        self.add(window.to, Action::Restart { nodes });
    }

    fn zone(&mut self, operated: bool, chance: &mut Stream) {
        let zone = self.a_zone(chance);
        let nodes = self.scene.nodes_of(zone);
        let tail = tail(chance);
        let Some(window) = self.take_down(&nodes, chance) else { return };
        self.add(window.from, Action::ZoneDown { zone, tail });
        self.add(window.to, Action::ZoneUp { zone });
        if operated {
            self.failover(zone, window, chance);
        }
    }

    /// Somebody fails the zone over a while after it was lost, and restores it when it is back.
    fn failover(&mut self, zone: ZoneId, lost: Window, chance: &mut Stream) {
        let mut command = |at_ms: u64, verb: &str, times: u32| {
            if at_ms < self.scene.ends_ms {
                let types = format!("zone {verb} {zone} --reason drill --yes");
                self.steps
                    .push(Step { at_ms, action: Action::Operator { types, times, expect: Expect::Any } });
            }
        };
        let times = if chance.random_ratio(1, 5) { 2 } else { 1 };
        command(lost.from + chance.random_range(200..=2_500), "failover", times);
        // Sometimes too early, sometimes never.
        if chance.random_ratio(4, 5) {
            let after = lost.to + chance.random_range(0..=3_000);
            command(after.saturating_sub(500).max(lost.from + 1), "restore", times);
        }
    }

    fn bad_disk(&mut self, class: Class, chance: &mut Stream) {
        let weak = self.scene.nodes_of(self.weak);
        let node = *weak.choose(chance).expect("a zone has nodes");
        let store = store(chance);
        let damage = *[Damage::Missing, Damage::Truncated, Damage::RolledBack].choose(chance).expect("some");
        match class {
            Class::DamagedFile => {
                let Some(window) = self.take_down(&[node], chance) else { return };
                self.add(window.from, Action::Crash { nodes: vec![node] });
                self.add(window.from, Action::DamageFile { node, store, damage });
                self.add(window.to, Action::Restart { nodes: vec![node] });
            }
            Class::LostDisk => self.lost_disk(node, chance),
            _ => {
                let other = self.node(chance);
                if other == node {
                    return;
                }
                let pair = vec![node, other];
                let Some(window) = self.take_down(&pair, chance) else { return };
                let middle = window.from.midpoint(window.to);
                let swap = || Action::SwapDisks { one: node, other };
                self.add(window.from, Action::PowerCut { nodes: pair.clone(), tail: Tail::Lost });
                self.add(window.from, swap());
                self.add(window.from + 1, Action::Restart { nodes: pair.clone() });
                self.add(middle.max(window.from + 1), Action::Crash { nodes: pair.clone() });
                self.add(middle.max(window.from + 1), swap());
                self.add(window.to, Action::Restart { nodes: pair });
            }
        }
    }

    /// Sometimes the node is started on the empty disk before anybody replaces it.
    fn lost_disk(&mut self, node: NodeId, chance: &mut Stream) {
        let in_vain = chance.random_ratio(1, 3);
        let Some(window) = self.take_down(&[node], chance) else { return };
        self.add(window.from, Action::PowerCut { nodes: vec![node], tail: Tail::Lost });
        self.add(window.from, Action::LoseDisk { nodes: vec![node] });
        if in_vain {
            self.add(window.from.midpoint(window.to), Action::Restart { nodes: vec![node] });
        }
        self.add(window.to, Action::ReplaceNode { node });
    }

    /// Two sides of a link: one zone against the others, or one against another, or users against a
    /// zone.
    fn link_sides(&self, chance: &mut Stream) -> Option<(Vec<Target>, Vec<Target>)> {
        let mut zones = self.scene.zones();
        zones.shuffle(chance);
        let (first, rest) = zones.split_first()?;
        let second = *rest.first()?;
        let one = vec![Target::Zone(*first)];
        Some(match chance.random_range(0..10) {
            0..4 => (one, rest.iter().map(|zone| Target::Zone(*zone)).collect()),
            4..9 => (one, vec![Target::Zone(second)]),
            _ => (one, vec![Target::Crowd]),
        })
    }

    fn link(&mut self, class: Class, operated: bool, chance: &mut Stream) {
        let Some((between, and)) = self.link_sides(chance) else { return };
        let window = self.window(chance);
        let ends = Action::Heal { places: between.clone() };
        let (begin, end) = match class {
            Class::Partition if chance.random_ratio(1, 2) => {
                let zone = between[0].zone().expect("the first side is a zone");
                if operated {
                    self.failover(zone, window, chance);
                }
                (Action::Island { zone, crowd: chance.random_ratio(1, 3) }, Some(ends))
            }
            Class::Partition => (Action::Partition { between, and }, Some(ends)),
            Class::OneWay if chance.random_ratio(1, 2) => {
                (Action::OneWay { from: between, to: and }, Some(ends))
            }
            Class::OneWay => (Action::OneWay { from: and, to: between }, Some(ends)),
            Class::Hold => {
                let release = Action::Release { between: between.clone(), and: and.clone() };
                (Action::Hold { between, and }, Some(release))
            }
            Class::Latency => {
                let min_ms = chance.random_range(1..=60);
                let max_ms = min_ms + chance.random_range(0..=min_ms * 3);
                (Action::Latency { between, and, min_ms, max_ms }, Some(ends))
            }
            _ => {
                let (down_ms, up_ms) = (chance.random_range(20..=900), chance.random_range(20..=900));
                let room = (window.to - window.from) / (down_ms + up_ms);
                let times = u32::try_from(room.clamp(2, 12)).expect("small");
                (Action::Flap { between, and, down_ms, up_ms, times }, None)
            }
        };
        self.add(window.from, begin);
        if let Some(end) = end {
            self.add(window.to, end);
        }
    }

    fn messages(&mut self, chance: &mut Stream) {
        let Some((between, and)) = self.link_sides(chance) else { return };
        let window = self.window(chance);
        let (percent, for_ms) = (chance.random_range(1..=50), window.to - window.from);
        self.add(window.from, Action::LoseMessages { between, and, percent, for_ms });
    }

    fn at_node(&mut self, class: Class, chance: &mut Stream) {
        let weak = *self.scene.nodes_of(self.weak).choose(chance).expect("a zone has nodes");
        let store = store(chance);
        let bits = chance.random_range(1..=16);
        let Some((node, window)) = self.running(chance) else { return };
        let (nodes, for_ms) = (vec![node], window.to - window.from);
        let disk = vec![weak];
        let (begin, end) = match class {
            Class::Pause => (Action::Pause { nodes, for_ms }, None),
            Class::Backlog => (Action::StopSettlers { nodes: self.all_up(window), for_ms }, None),
            Class::FullDisk => (Action::FullDisk { nodes: nodes.clone() }, Some(Action::MendDisk { nodes })),
            Class::SlowDisk => {
                let min_ms = chance.random_range(1..=40);
                let max_ms = min_ms + chance.random_range(0..=min_ms * 10);
                let end = Action::MendDisk { nodes: nodes.clone() };
                (Action::SlowDisk { nodes, min_ms, max_ms }, Some(end))
            }
            Class::BitRot => (Action::BitRot { nodes: disk, store, bits }, None),
            Class::Misdirected => (Action::MisdirectWrite { nodes: disk, store }, None),
            Class::Clock => clock(nodes, chance),
            Class::Snapshot => (Action::Snapshot { nodes }, None),
            Class::TicketFile => {
                (Action::DamageTicketFile { node: weak, damage: ticket_damage(chance) }, None)
            }
            _ => return,
        };
        self.add(window.from, begin);
        if let Some(end) = end {
            self.add(window.to, end);
        }
    }

    fn all_up(&self, window: Window) -> Vec<NodeId> {
        self.scene.nodes.iter().copied().filter(|node| self.up(*node, window)).collect()
    }

    fn election(&mut self, chance: &mut Stream) {
        let Some((node, window)) = self.running(chance) else { return };
        let group = chance.random_range(0..self.scene.groups.max(1));
        self.add(
            window.from,
            match chance.random_range(0..3) {
                0 => Action::Elect { node, group: None },
                1 => Action::Elect { node, group: Some(group) },
                _ => Action::TransferLeader { group, to: node },
            },
        );
    }

    fn outside(&mut self, class: Class, chance: &mut Stream) {
        let window = self.window(chance);
        let for_ms = window.to - window.from;
        self.add(
            window.from,
            match class {
                Class::Repeat => Action::RepeatMessages { percent: chance.random_range(1..=50), for_ms },
                Class::Overload => Action::Burst { factor: chance.random_range(2..=20), for_ms },
                Class::Clients => Action::CrashCrowd { percent: chance.random_range(1..=100) },
                _ => Action::BankFault {
                    fault: bank_fault(chance),
                    percent: chance.random_range(1..=100),
                    for_ms,
                },
            },
        );
    }

    /// In most cases somebody fails a zone over between its decision and its act.
    fn old_controller(&mut self, zone: ZoneId, chance: &mut Stream) {
        let verb = if chance.random_ratio(1, 2) { ZoneVerb::Failover } else { ZoneVerb::Restore };
        let (acts, behind_ms) = (self.window(chance).to, chance.random_range(500..=15_000));
        let decides = acts.saturating_sub(behind_ms).max(self.from_ms);
        let behind_ms = acts - decides;
        let (failed, between) = (self.a_zone(chance), decides.midpoint(acts));
        if chance.random_ratio(3, 4) {
            let types = format!("zone failover {failed} --reason drill --yes");
            self.add(between, Action::Operator { types, times: 1, expect: Expect::Any });
        }
        self.add(acts, Action::OldController { zone, verb, behind_ms });
    }

    fn people(&mut self, class: Class, chance: &mut Stream) {
        let at_ms = self.window(chance).from;
        let zone = self.a_zone(chance);
        if class == Class::OldController {
            return self.old_controller(zone, chance);
        }
        let times = chance.random_range(1..=3);
        let (types, expect) = match chance.random_range(0..6) {
            0 => (format!("zone failover {zone} --reason drill --yes"), Expect::Any),
            1 => (format!("zone restore {zone} --reason drill --yes"), Expect::Any),
            2 => ("zone failover z --reason drill --yes".to_owned(), Expect::Refused),
            3 => (format!("zone failvoer {zone} --reason drill --yes"), Expect::Refused),
            4 => (format!("zone failover {zone} --yes"), Expect::Any),
            _ => ("reconcile run".to_owned(), Expect::Any),
        };
        self.add(at_ms, Action::Operator { types, times, expect });
    }
}

fn tail(chance: &mut Stream) -> Tail {
    *[Tail::Lost, Tail::Prefix, Tail::Torn].choose(chance).expect("some")
}

fn store(chance: &mut Stream) -> Store {
    *[Store::Log, Store::State, Store::Files].choose(chance).expect("some")
}

fn clock(nodes: Vec<NodeId>, chance: &mut Stream) -> (Action, Option<Action>) {
    let sign = if chance.random_ratio(1, 2) { 1 } else { -1 };
    let end = chance.random_ratio(1, 2).then(|| Action::MendClock { nodes: nodes.clone() });
    let far = if chance.random_ratio(1, 4) { 600_000 } else { 3_000 };
    let begin = match chance.random_range(0..3) {
        0 => Action::ClockOffset { nodes, by_ms: sign * chance.random_range(5..=far) },
        1 => Action::ClockDrift { nodes, ppm: sign * chance.random_range(10..=50_000) },
        _ => Action::ClockJump { nodes, by_ms: sign * chance.random_range(5..=far) },
    };
    (begin, end)
}

fn ticket_damage(chance: &mut Stream) -> TicketDamage {
    use TicketDamage as T;
    *[T::Missing, T::Truncated, T::Altered, T::Exchanged, T::StaleBuild].choose(chance).expect("some")
}

fn bank_fault(chance: &mut Stream) -> BankFault {
    use BankFault as B;
    let all = [B::TimeoutButPaid, B::TimeoutNotPaid, B::DoubleCallback, B::LateCallback, B::Refused, B::Slow];
    *all.choose(chance).expect("some")
}
