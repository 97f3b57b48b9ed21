//! Plays a schedule on a running simulation, and restarts what ended by itself.
//!
//! ```text
//!   step due --> act(sim, sites, links) --> counted only when it really happened
//!      \-- what lasts (pause, flap) plans its own end
//! ```
//! Invariant: whatever an action leaves open is drawn from the run's seed; after
//! [`Action::HealAll`] nothing of what was played goes on.
//!
//! Not here: what happens when (schedule.rs), and faults that have no player yet: those are
//! counted under `not-played`, so that nobody believes they were tested.

mod on_nodes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::sync::mpsc;
use world::rng::Stream;
use world::{GroupId, NodeId};

use crate::board::Board;
use crate::host::node::{Push, Site};
use crate::host::orders::Typed;
use crate::host::{APPS, CROWD, OPERATOR};
use crate::links::{Links, Reason};
use crate::nemesis::on_nodes::mend_disk;
use crate::oracle::i9_island::Isolation;
use crate::schedule::{Action, Class, Schedule, Step, Tail};
use crate::target::Target;

/// How long a node that ended by itself stays down: what a supervisor waits.
const SUPERVISED_AFTER_MS: u64 = 700;

/// What is done when a fault that lasts is over.
#[derive(Clone, Debug)]
enum Later {
    Play(Action),
    Release(Vec<(String, String)>),
}

/// Classes of faults that have players here.
pub const ABLE: &[Class] = &[
    Class::Crash,
    Class::PowerCut,
    Class::Blackout,
    Class::Pause,
    Class::Zone,
    Class::Partition,
    Class::OneWay,
    Class::Flap,
    Class::Hold,
    Class::Latency,
    Class::SlowDisk,
    Class::Clock,
    Class::Election,
    Class::Snapshot,
    Class::Operator,
];

/// Classes that have players and that seeds do not draw yet.
const ON_DEMAND: &[Class] = &[Class::FullDisk, Class::FailedSync, Class::BitRot];

/// Whether there is a player for this action.
#[must_use]
pub fn can_play(action: &Action) -> bool {
    action.class().is_none_or(|class| ABLE.contains(&class) || ON_DEMAND.contains(&class))
}

/// See the module.
pub struct Nemesis {
    sites: BTreeMap<NodeId, Arc<Site>>,
    outside: Vec<&'static str>,
    links: Links,
    groups: Vec<GroupId>,
    latency_ms: (u64, u64),
    pending: BTreeMap<(u64, u64), Later>,
    next: u64,
    /// Nodes that are down because a step says so.
    down: BTreeSet<NodeId>,
    /// Those of them that have no power: nothing answers for them.
    dark: BTreeSet<NodeId>,
    /// Nodes that ended by themselves, and when they are started again.
    ended: BTreeMap<NodeId, u64>,
    chance: Stream,
    orders: mpsc::UnboundedSender<Typed>,
    board: Arc<Board>,
    isolations: Vec<Isolation>,
    counts: BTreeMap<String, u64>,
    lost_writes: u64,
}

impl Nemesis {
    /// A nemesis that will play `schedule`.
    #[must_use]
    pub fn new(
        sites: &[Arc<Site>],
        schedule: &Schedule,
        groups: Vec<GroupId>,
        latency_ms: (u64, u64),
        chance: Stream,
        orders: mpsc::UnboundedSender<Typed>,
        board: Arc<Board>,
    ) -> Nemesis {
        let mut nemesis = Nemesis {
            sites: sites.iter().map(|site| (site.id, Arc::clone(site))).collect(),
            outside: vec![CROWD, APPS, OPERATOR],
            links: Links::default(),
            groups,
            latency_ms,
            pending: BTreeMap::new(),
            next: 0,
            down: BTreeSet::new(),
            dark: BTreeSet::new(),
            ended: BTreeMap::new(),
            chance,
            orders,
            board,
            isolations: Vec::new(),
            counts: BTreeMap::new(),
            lost_writes: 0,
        };
        for Step { at_ms, action } in &schedule.steps {
            nemesis.plan(*at_ms, Later::Play(action.clone()));
        }
        nemesis
    }

    /// Faults that really happened, by name.
    #[must_use]
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// Writes that were lost in power cuts.
    #[must_use]
    pub fn lost_writes(&self) -> u64 {
        self.lost_writes
    }

    /// When which zone could reach no other.
    #[must_use]
    pub fn isolations(&self) -> &[Isolation] {
        &self.isolations
    }

    fn plan(&mut self, at_ms: u64, what: Later) {
        self.next += 1;
        self.pending.insert((at_ms, self.next), what);
    }

    /// Does what is due at `now_ms`. Called between steps of the simulation.
    pub fn tick(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64) {
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().0 > now_ms {
                break;
            }
            match entry.remove() {
                Later::Play(action) => self.play(sim, now_ms, &action),
                Later::Release(pairs) => {
                    for (one, other) in &pairs {
                        self.links.release(one, other);
                    }
                    self.links.tell(sim);
                }
            }
        }
        self.supervise(sim, now_ms);
        self.note_isolations();
    }

    fn note_isolations(&mut self) {
        for node in self.sites.keys() {
            let others: Vec<String> =
                self.sites.keys().filter(|other| *other != node).map(ToString::to_string).collect();
            let alone = self.links.alone(&node.to_string(), &others);
            let zone = node.zone();
            let last = self.isolations.iter_mut().rfind(|isolation| isolation.zone == zone);
            match last.filter(|isolation| isolation.to.is_none()) {
                Some(isolation) if !alone => isolation.to = Some(self.board.moment()),
                None if alone => {
                    self.isolations.push(Isolation { zone, from: self.board.moment(), to: None });
                }
                _ => {}
            }
        }
    }

    fn supervise(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64) {
        let nodes: Vec<NodeId> = self.sites.keys().copied().collect();
        for node in nodes {
            if self.down.contains(&node) || sim.is_host_running(self.sites[&node].name()) {
                self.ended.remove(&node);
                continue;
            }
            let at_ms = *self.ended.entry(node).or_insert(now_ms + SUPERVISED_AFTER_MS);
            if at_ms <= now_ms {
                tracing::info!(target: "sim::nemesis", %node, "started again by its supervisor");
                // The process is gone, not the machine: the disk keeps what was written.
                self.sites[&node].cut_power(&mut |n| n - 1);
                self.start(sim, node);
                self.count("supervised-restart");
            }
        }
    }

    fn count(&mut self, name: &str) {
        *self.counts.entry(name.to_owned()).or_default() += 1;
    }

    fn play(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64, action: &Action) {
        let name = action.name();
        let happened = self.act(sim, now_ms, action);
        tracing::info!(target: "sim::nemesis", happened, ?action);
        match happened {
            Some(true) => self.count(&name),
            Some(false) => {}
            None => self.count(&format!("not-played:{name}")),
        }
    }

    /// Answers whether it happened; `None` when there is no player for it.
    fn act(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64, action: &Action) -> Option<bool> {
        Some(match action {
            Action::Crash { nodes } => self.each(nodes, |nemesis, node| nemesis.stop(sim, node, None)),
            Action::PowerCut { nodes, tail } => {
                self.each(nodes, |nemesis, node| nemesis.stop(sim, node, Some(*tail)))
            }
            Action::ZoneDown { zone, tail } => {
                let nodes = self.covered(Target::Zone(*zone));
                self.each(&nodes, |nemesis, node| nemesis.stop(sim, node, Some(*tail)))
            }
            Action::Restart { nodes } => self.each(nodes, |nemesis, node| nemesis.restart(sim, node)),
            Action::ZoneUp { zone } => {
                let nodes = self.covered(Target::Zone(*zone));
                self.each(&nodes, |nemesis, node| nemesis.restart(sim, node))
            }
            Action::HealAll => {
                self.heal_all(sim);
                true
            }
            _ => return self.act_on_links(sim, now_ms, action),
        })
    }

    fn act_on_links(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64, action: &Action) -> Option<bool> {
        Some(match action {
            Action::Island { zone, crowd } => {
                let inside = self.hosts(&[Target::Zone(*zone)]);
                let mut others: Vec<String> = self.node_names();
                others.retain(|name| !inside.contains(name));
                if *crowd {
                    others.extend([CROWD, APPS].map(str::to_owned));
                }
                self.cut_both(&inside, &others);
                0 < self.links.tell(sim)
            }
            Action::Partition { between, and } => {
                let (one, other) = (self.hosts(between), self.hosts(and));
                self.cut_both(&one, &other);
                0 < self.links.tell(sim)
            }
            Action::OneWay { from, to } => {
                for (from, to) in pairs(&self.hosts(from), &self.hosts(to)) {
                    self.links.cut(&from, &to, Reason::Fault);
                }
                0 < self.links.tell(sim)
            }
            Action::Heal { places } => self.heal_links(sim, places),
            Action::Flap { between, and, down_ms, up_ms, times } => {
                for time in 0..u64::from(*times) {
                    let at_ms = now_ms + time * (down_ms + up_ms);
                    let cut = Action::Partition { between: between.clone(), and: and.clone() };
                    self.plan(at_ms, Later::Play(cut));
                    let ends: Vec<Target> = between.iter().chain(and).copied().collect();
                    self.plan(at_ms + down_ms, Later::Play(Action::Heal { places: ends }));
                }
                *times > 0
            }
            Action::Hold { between, and } => {
                for (one, other) in pairs(&self.hosts(between), &self.hosts(and)) {
                    self.links.hold(&one, &other);
                }
                0 < self.links.tell(sim)
            }
            Action::Release { between, and } => {
                for (one, other) in pairs(&self.hosts(between), &self.hosts(and)) {
                    self.links.release(&one, &other);
                }
                0 < self.links.tell(sim)
            }
            Action::Pause { nodes, for_ms } => {
                // turmoil cannot stop a host's tasks: nothing reaches it or leaves it meanwhile.
                let paused: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                let held = pairs(&paused, &self.all_names());
                held.iter().for_each(|(one, other)| self.links.hold(one, other));
                self.plan(now_ms + for_ms, Later::Release(held));
                0 < self.links.tell(sim)
            }
            Action::Latency { between, and, max_ms, .. } => {
                for (one, other) in pairs(&self.hosts(between), &self.hosts(and)) {
                    if one != other {
                        sim.set_link_max_message_latency(one, other, Duration::from_millis(*max_ms));
                    }
                }
                true
            }
            _ => return self.act_on_nodes(action),
        })
    }

    fn each(&mut self, nodes: &[NodeId], mut act: impl FnMut(&mut Nemesis, NodeId) -> bool) -> bool {
        nodes.iter().filter(|node| act(self, **node)).count() > 0
    }

    /// Ends a node's process; with a tail, its power too.
    fn stop(&mut self, sim: &mut turmoil::Sim<'_>, node: NodeId, power: Option<Tail>) -> bool {
        let Some(site) = self.sites.get(&node).map(Arc::clone) else { return false };
        if !sim.is_host_running(site.name()) {
            // Already down; a power cut now takes nothing more.
            self.down.insert(node);
            return false;
        }
        if power.is_some() {
            self.dark.insert(node);
            // First the network: a machine without power says no farewell.
            for (one, other) in pairs(&[site.name()], &self.all_names()) {
                self.links.cut(&one, &other, Reason::Power);
                self.links.cut(&other, &one, Reason::Power);
            }
            self.links.tell(sim);
        }
        let lost = match power {
            None => site.cut_power(&mut |n| n - 1),
            Some(Tail::Lost) => site.cut_power(&mut |_| 0),
            Some(Tail::Prefix | Tail::Torn) => site.cut_power(&mut |n| self.chance.random_range(0..n)),
        };
        sim.crash(site.name());
        self.down.insert(node);
        self.lost_writes += lost as u64;
        if lost > 0 {
            self.count("unsynced-writes-lost");
        }
        tracing::info!(target: "sim::nemesis", %node, lost, power = power.is_some(), "down");
        true
    }

    fn restart(&mut self, sim: &mut turmoil::Sim<'_>, node: NodeId) -> bool {
        if !self.down.remove(&node) {
            return false;
        }
        self.start(sim, node);
        true
    }

    fn start(&mut self, sim: &mut turmoil::Sim<'_>, node: NodeId) {
        self.down.remove(&node);
        self.dark.remove(&node);
        self.ended.remove(&node);
        let name = self.sites[&node].name();
        for (one, other) in pairs(std::slice::from_ref(&name), &self.all_names()) {
            self.links.mend(&one, &other, Reason::Power);
            self.links.mend(&other, &one, Reason::Power);
        }
        // The other side may be without power still.
        for other in self.dark.iter().map(ToString::to_string).collect::<Vec<_>>() {
            self.links.cut(&name, &other, Reason::Power);
            self.links.cut(&other, &name, Reason::Power);
        }
        self.links.tell(sim);
        sim.bounce(name);
    }

    fn heal_links(&mut self, sim: &mut turmoil::Sim<'_>, places: &[Target]) -> bool {
        let all = self.all_names();
        let these = if places.is_empty() { all.clone() } else { self.hosts(places) };
        for (one, other) in pairs(&these, &all) {
            self.links.mend(&one, &other, Reason::Fault);
            self.links.mend(&other, &one, Reason::Fault);
            self.links.release(&one, &other);
            if one != other {
                sim.set_link_max_message_latency(one, other, Duration::from_millis(self.latency_ms.1));
            }
        }
        self.links.tell(sim);
        true
    }

    fn heal_all(&mut self, sim: &mut turmoil::Sim<'_>) {
        self.pending.clear();
        self.heal_links(sim, &[]);
        for site in self.sites.values() {
            mend_disk(site);
            site.clock.set_right();
        }
        let down: Vec<NodeId> = self.down.iter().copied().collect();
        for node in down {
            self.restart(sim, node);
        }
    }

    fn cut_both(&mut self, one: &[String], other: &[String]) {
        for (one, other) in pairs(one, other) {
            self.links.cut(&one, &other, Reason::Fault);
            self.links.cut(&other, &one, Reason::Fault);
        }
    }

    fn push(&self, node: NodeId, push: Push) -> bool {
        self.sites.get(&node).is_some_and(|site| site.push(push))
    }

    /// The group a schedule numbers so.
    fn group(&self, number: u32) -> Option<GroupId> {
        self.groups.get(number as usize).copied()
    }

    fn leader_of(&self, group: GroupId) -> Option<NodeId> {
        let leads = |site: &&Arc<Site>| {
            let status = site.groups().map(|host| host.status()).unwrap_or_default();
            status.iter().any(|status| status.group == group && status.is_leader)
        };
        self.sites.values().find(leads).map(|site| site.id)
    }

    fn covered(&self, target: Target) -> Vec<NodeId> {
        self.sites.keys().copied().filter(|node| target.covers(*node)).collect()
    }

    fn node_names(&self) -> Vec<String> {
        self.sites.values().map(|site| site.name()).collect()
    }

    fn all_names(&self) -> Vec<String> {
        let mut names = self.node_names();
        names.extend(self.outside.iter().map(|name| (*name).to_owned()));
        names
    }

    fn hosts(&self, targets: &[Target]) -> Vec<String> {
        let mut names = BTreeSet::new();
        for target in targets {
            match target {
                Target::Zone(_) | Target::Node(_) => {
                    names.extend(self.covered(*target).iter().map(ToString::to_string));
                }
                Target::Crowd => names.extend([CROWD, APPS].map(str::to_owned)),
                Target::Operator => {
                    names.insert(OPERATOR.to_owned());
                }
                Target::Bank => {}
            }
        }
        names.into_iter().collect()
    }
}

fn pairs(some: &[String], others: &[String]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for one in some {
        for other in others.iter().filter(|other| *other != one) {
            found.push((one.clone(), other.clone()));
        }
    }
    found
}
