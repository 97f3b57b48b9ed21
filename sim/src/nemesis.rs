//! Plays a schedule on a running simulation, and restarts what ended by itself.
//!
//! ```text
//!   step due --> act(sim, sites, links) --> counted only when it really happened
//!      \-- what lasts (pause, flap) plans its own end
//! ```
//! Invariant: whatever an action leaves open is drawn from the run's seed; after
//! [`Action::HealAll`] nothing of what was played goes on.
//!
//! What is counted by the name of an action was done; what it came to is counted by those it was done
//! to ([`Board::happened`]).
//!
//! Not here: what happens when (schedule.rs), and faults that have no player: those are counted under
//! `not-played`, so that nobody believes they were tested.

mod on_disks;
mod on_links;
mod on_nodes;
mod outside;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rand::RngExt;
use ticket::manifest::FileEntry;
use tokio::sync::mpsc;
use world::rng::Stream;
use world::{GroupId, NodeId, ZoneId};

use crate::board::Board;
use crate::event::Minted;
use crate::fabric::platter::EngineKind;
use crate::host::controller::Errand;
use crate::host::node::{Push, Site};
use crate::host::orders::Typed;
use crate::host::{APPS, BANK, CROWD, OPERATOR};
use crate::links::{Links, Reason};
use crate::oracle::i9_island::{Isolation, Outages, Trouble};
use crate::schedule::{Action, Class, Schedule, Step, Tail, ZoneVerb};
use crate::stage::Stage;
use crate::target::Target;

/// How long a node that ended by itself stays down: what a supervisor waits.
const SUPERVISED_AFTER_MS: u64 = 700;

/// How often a node refuses its disk before somebody replaces the disk.
const REFUSALS_MAX: u32 = 2;

/// What is done later: a step, or what ends a fault that lasts.
#[derive(Clone, Debug)]
enum Later {
    Play(Action),
    Release(Vec<(String, String)>),
    /// What is on the way may be lost, and later again.
    Lose(Loss),
    /// Settling goes on.
    Settle(Vec<NodeId>),
    /// Requests arrive once.
    SendOnce,
    /// A controller decides something that it will carry out when errand `.0` is due.
    Decide(u64, ZoneId, ZoneVerb),
    /// It carries it out.
    CarryOut(u64),
}

/// Messages that are lost now and then.
#[derive(Clone, Debug)]
struct Loss {
    between: Vec<(String, String)>,
    percent: u8,
    until_ms: u64,
}

/// Classes of faults that have no player: see `docs/simulation/faults.md` for why.
const UNABLE: &[Class] = &[Class::Misdirected];

/// Classes of faults that have players here.
#[must_use]
pub fn able() -> Vec<Class> {
    Class::ALL.into_iter().filter(|class| !UNABLE.contains(class)).collect()
}

/// Whether there is a player for this action.
#[must_use]
pub fn can_play(action: &Action) -> bool {
    action.class().is_none_or(|class| !UNABLE.contains(&class))
}

/// What a nemesis needs to know of a run.
pub struct Setting {
    /// How long messages take without faults: from, to.
    pub latency_ms: (u64, u64),
    /// Whether there is an event.
    pub event: bool,
    /// What the nodes keep their logs and states in.
    pub engine: EngineKind,
    /// What faults leave open is drawn from here.
    pub chance: Stream,
}

/// See the module.
pub struct Nemesis {
    sites: BTreeMap<NodeId, Arc<Site>>,
    outside: Vec<&'static str>,
    links: Links,
    groups: Vec<GroupId>,
    latency_ms: (u64, u64),
    now_ms: u64,
    pending: BTreeMap<(u64, u64), Later>,
    next: u64,
    /// Nodes that are down because a step says so.
    down: BTreeSet<NodeId>,
    /// Those of them that have no power: nothing answers for them.
    dark: BTreeSet<NodeId>,
    /// Nodes that ended by themselves, and when they are started again.
    ended: BTreeMap<NodeId, u64>,
    /// Nodes whose disks were lost or damaged, and not replaced since.
    harmed: BTreeSet<NodeId>,
    /// Machines whose disks are in each other, in the order they were exchanged.
    swapped: Vec<(NodeId, NodeId)>,
    /// Ticket files of the first build, and one that nobody deploys.
    tickets: Vec<FileEntry>,
    stale: Option<Arc<Minted>>,
    /// Whether there is an event, and so files to be pushed to a new disk.
    event: bool,
    engine: EngineKind,
    addresses: BTreeMap<NodeId, IpAddr>,
    /// The links as they were when it was last noted who is alone.
    noted: Option<u64>,
    chance: Stream,
    orders: mpsc::UnboundedSender<Typed>,
    errands: mpsc::UnboundedSender<Errand>,
    board: Arc<Board>,
    outages: Outages,
    /// Nodes whose disks are slow or full.
    hampered: BTreeSet<NodeId>,
    counts: BTreeMap<String, u64>,
    lost_writes: u64,
}

impl Nemesis {
    /// A nemesis that will play `schedule` on a stage.
    #[must_use]
    pub fn new(stage: &Stage, schedule: &Schedule, groups: Vec<GroupId>, setting: Setting) -> Nemesis {
        let tickets = stage.manifest(None).files.iter().map(|file| file.entry.clone()).collect();
        let mut nemesis = Nemesis {
            sites: stage.sites.iter().map(|site| (site.id, Arc::clone(site))).collect(),
            outside: vec![CROWD, APPS, OPERATOR, BANK],
            links: Links::default(),
            groups,
            latency_ms: setting.latency_ms,
            now_ms: 0,
            pending: BTreeMap::new(),
            next: 0,
            down: BTreeSet::new(),
            dark: BTreeSet::new(),
            ended: BTreeMap::new(),
            harmed: BTreeSet::new(),
            swapped: Vec::new(),
            tickets,
            stale: stage.stale.clone(),
            event: setting.event,
            engine: setting.engine,
            addresses: stage.sites.iter().map(|site| (site.id, stage.sim.lookup(site.name()))).collect(),
            noted: None,
            chance: setting.chance,
            orders: stage.orders.clone(),
            errands: stage.errands.clone(),
            board: Arc::clone(&stage.board),
            outages: Outages::default(),
            hampered: BTreeSet::new(),
            counts: BTreeMap::new(),
            lost_writes: 0,
        };
        for Step { at_ms, action } in &schedule.steps {
            nemesis.plan_step(*at_ms, action);
        }
        nemesis
    }

    /// A controller must have decided before it acts.
    fn plan_step(&mut self, at_ms: u64, action: &Action) {
        if let Action::OldController { zone, verb, behind_ms } = action {
            let errand = self.next;
            self.plan(at_ms.saturating_sub(*behind_ms), Later::Decide(errand, *zone, *verb));
            self.plan(at_ms, Later::CarryOut(errand));
        }
        self.plan(at_ms, Later::Play(action.clone()));
    }

    /// Faults that really happened, and what they came to, by name.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = self.counts.clone();
        counts.extend(self.board.effects());
        counts
    }

    /// Writes that were lost in power cuts.
    #[must_use]
    pub fn lost_writes(&self) -> u64 {
        self.lost_writes
    }

    /// When which zone could reach no other, and when anything was wrong.
    #[must_use]
    pub fn outages(&self) -> &Outages {
        &self.outages
    }

    fn plan(&mut self, at_ms: u64, what: Later) {
        self.next += 1;
        self.pending.insert((at_ms, self.next), what);
    }

    /// Does what is due at `now_ms`. Called between steps of the simulation.
    pub fn tick(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64) {
        self.now_ms = now_ms;
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
                Later::Lose(loss) => self.lose(sim, loss),
                Later::Settle(nodes) => self.pause_settling(&nodes, false),
                Later::SendOnce => self.send_twice(0),
                // Nobody listening means that the run has no operator's host.
                Later::Decide(errand, zone, verb) => {
                    let _ = self.errands.send(Errand::Remember(errand, zone, verb));
                }
                Later::CarryOut(errand) => {
                    let _ = self.errands.send(Errand::Act(errand));
                }
            }
        }
        self.supervise(sim, now_ms);
        self.note_isolations();
        self.note_troubles();
    }

    fn note_isolations(&mut self) {
        if self.noted.replace(self.links.version()) == Some(self.links.version()) {
            return;
        }
        for node in self.sites.keys() {
            let others: Vec<String> =
                self.sites.keys().filter(|other| *other != node).map(ToString::to_string).collect();
            let alone = self.links.alone(&node.to_string(), &others);
            let zone = node.zone();
            let last = self.outages.isolations.iter_mut().rfind(|isolation| isolation.zone == zone);
            match last.filter(|isolation| isolation.to.is_none()) {
                Some(isolation) if !alone => isolation.to = Some(self.board.moment()),
                None if alone => {
                    self.outages.isolations.push(Isolation { zone, from: self.board.moment(), to: None });
                }
                _ => {}
            }
        }
    }

    fn note_troubles(&mut self) {
        let ill = [&self.down, &self.harmed, &self.hampered].iter().any(|nodes| !nodes.is_empty());
        let calm = !ill && self.ended.is_empty() && self.swapped.is_empty() && self.links.all_work();
        match self.outages.troubles.last_mut().filter(|trouble| trouble.to.is_none()) {
            Some(trouble) if calm => trouble.to = Some(self.board.moment()),
            None if !calm => self.outages.troubles.push(Trouble { from: self.board.moment(), to: None }),
            _ => {}
        }
    }

    fn supervise(&mut self, sim: &mut turmoil::Sim<'_>, now_ms: u64) {
        let running = |(node, at): (&NodeId, &IpAddr)| (*node, sim.is_host_running(*at));
        let nodes: Vec<(NodeId, bool)> = self.addresses.iter().map(running).collect();
        for (node, running) in nodes {
            if self.down.contains(&node) || running {
                self.ended.remove(&node);
                continue;
            }
            let at_ms = *self.ended.entry(node).or_insert(now_ms + SUPERVISED_AFTER_MS);
            if at_ms <= now_ms && self.is_given_up(node) {
                self.replace_disk(sim, node);
                self.count("refused-disk-replaced");
            } else if at_ms <= now_ms {
                tracing::info!(target: "sim::nemesis", %node, "started again by its supervisor");
                // The process is gone, not the machine: the disk keeps what was written.
                self.sites[&node].cut_power(&mut |n| n - 1);
                self.start(sim, node);
                self.count("supervised-restart");
            }
        }
    }

    /// Whether its disk is known to be bad, and not just in the wrong machine.
    fn is_given_up(&self, node: NodeId) -> bool {
        let misplaced = self.swapped.iter().any(|(one, other)| *one == node || *other == node);
        self.harmed.contains(&node) && !misplaced && self.sites[&node].refusals() >= REFUSALS_MAX
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
        if action.class().is_some_and(|class| !self.engine.plays(class)) {
            return None;
        }
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
            Action::LoseDisk { .. }
            | Action::ReplaceNode { .. }
            | Action::SwapDisks { .. }
            | Action::DamageFile { .. }
            | Action::BitRot { .. }
            | Action::FullDisk { .. }
            | Action::FailSync { .. }
            | Action::MendDisk { .. }
            | Action::SlowDisk { .. }
            | Action::DamageTicketFile { .. } => self.act_on_disks(sim, action),
            Action::Burst { .. }
            | Action::CrashCrowd { .. }
            | Action::RepeatMessages { .. }
            | Action::StopSettlers { .. }
            | Action::BankFault { .. } => self.act_outside(now_ms, action),
            // It acts by its errand, and is counted by what came of it.
            Action::OldController { .. } => true,
            _ => return self.act_on_links(sim, now_ms, action),
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

    fn heal_all(&mut self, sim: &mut turmoil::Sim<'_>) {
        self.pending.clear();
        self.heal_links(sim, &[]);
        self.board.mischief.end();
        self.swap_back(sim);
        self.hampered.clear();
        for site in self.sites.values() {
            on_disks::mend(site);
            site.clock.set_right();
            site.push(Push::PauseSettling(false));
        }
        for node in self.harmed.clone() {
            self.replace_disk(sim, node);
        }
        let down: Vec<NodeId> = self.down.iter().copied().collect();
        for node in down {
            self.restart(sim, node);
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
                Target::Bank => {
                    names.insert(BANK.to_owned());
                }
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
