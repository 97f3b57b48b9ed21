//! What is done to disks: lost, exchanged, damaged, full, slow; and what people do about it.
//!
//! ```text
//!   lost or damaged --> the node refuses to start, or is nobody's member --> an empty disk,
//!   `kv member replace`, or etcd's `member remove` and `add`, and `deploy push`, typed until they are carried out
//! ```
//! Invariant: a disk that was harmed is replaced, by a step, by the operators when the node has refused
//! it, or at the end of all faults.
//!
//! Not here: which disks may be harmed together (`schedule::validate`).

use std::path::Path;
use std::sync::Arc;

use rand::RngExt;
use replica::engine::sim::Faults;
use ticket::manifest::FileEntry;
use world::NodeId;

use super::Nemesis;
use crate::fabric::time::EPOCH_MS;
use crate::host::node::{DATA_DIR, Site};
use crate::host::orders::Typed;
use crate::schedule::{Action, Expect, Store, TicketDamage};

/// A file whose slot starts within this time may have been taken up by the node already.
const TAKEN_UP_BEFORE_MS: u64 = 1_200;

impl Nemesis {
    /// Answers whether it happened.
    pub(super) fn act_on_disks(&mut self, sim: &mut turmoil::Sim<'_>, action: &Action) -> bool {
        match action {
            Action::LoseDisk { nodes } => self.each(nodes, |nemesis, node| {
                let own = nemesis.runs_on_its_own(node);
                if own {
                    nemesis.sites[&node].lose_disk();
                    nemesis.harmed.insert(node);
                }
                own
            }),
            Action::ReplaceNode { node } => {
                let own = self.runs_on_its_own(*node);
                if own {
                    self.replace_disk(sim, *node);
                }
                own
            }
            Action::SwapDisks { one, other } => {
                self.sites[one].exchange(&self.sites[other]);
                let before = self.swapped.len();
                self.swapped.retain(|pair| *pair != (*one, *other) && *pair != (*other, *one));
                if self.swapped.len() == before {
                    self.swapped.push((*one, *other));
                }
                true
            }
            Action::DamageFile { node, .. } if !self.runs_on_its_own(*node) => false,
            Action::DamageFile { node, store, damage } => {
                let site = Arc::clone(&self.sites[node]);
                let file = site.damage(*store, *damage, &mut |n| self.chance.random_range(0..n));
                tracing::info!(target: "sim::nemesis", %node, ?file, "damaged");
                file.is_some() && self.harm(*node)
            }
            Action::BitRot { nodes, store, bits } => self.each(nodes, |nemesis, node| {
                let own = nemesis.runs_on_its_own(node);
                own && nemesis.rot(node, *store, *bits) && nemesis.harm(node)
            }),
            Action::FullDisk { nodes } => self.each(nodes, |nemesis, node| {
                nemesis.hampered.insert(node);
                let site = &nemesis.sites[&node];
                site.disk().set_full(true);
                let full = Faults { full_after_bytes: Some(0), ..Faults::default() };
                site.storage().log.set_faults(full);
                site.storage().state.set_faults(full);
                true
            }),
            Action::FailSync { nodes } => self.each(nodes, |nemesis, node| {
                let failing = Faults { fail_next_sync: true, ..Faults::default() };
                nemesis.sites[&node].storage().log.set_faults(failing);
                true
            }),
            Action::SlowDisk { nodes, max_ms, .. } => self.each(nodes, |nemesis, node| {
                nemesis.hampered.insert(node);
                nemesis.sites[&node].storage().slow_down(*max_ms);
                true
            }),
            Action::MendDisk { nodes } => self.each(nodes, |nemesis, node| {
                nemesis.hampered.remove(&node);
                mend(&nemesis.sites[&node]);
                true
            }),
            Action::DamageTicketFile { node, damage } => self.damage_ticket_file(*node, *damage),
            _ => false,
        }
    }

    /// What harms a disk harms that of the node it is aimed at, or nothing: while two are exchanged it would
    /// hit the disk of another zone, and two zones' disks must survive.
    fn runs_on_its_own(&self, node: NodeId) -> bool {
        self.swapped.iter().all(|(one, other)| *one != node && *other != node)
    }

    fn harm(&mut self, node: NodeId) -> bool {
        self.harmed.insert(node);
        true
    }

    fn rot(&mut self, node: NodeId, store: Store, bits: u32) -> bool {
        let site = Arc::clone(&self.sites[&node]);
        let mut flipped = 0;
        for _ in 0..bits {
            let draw = &mut |n: usize| self.chance.random_range(0..n);
            flipped += usize::from(match store {
                Store::Log => site.storage().log.rot(draw),
                Store::State => site.storage().state.rot(draw),
                // Half of the time one of the few small documents that a node believes about itself.
                Store::Files => {
                    let part = if draw(2) == 0 { ".json" } else { DATA_DIR };
                    site.disk().rot(part, draw).is_some()
                }
            });
        }
        flipped > 0
    }

    /// Puts an empty disk into the machine, starts the node, and lets people type what is needed.
    pub(super) fn replace_disk(&mut self, sim: &mut turmoil::Sim<'_>, node: NodeId) {
        let site = Arc::clone(&self.sites[&node]);
        if sim.is_host_running(site.name()) {
            sim.crash(site.name());
        }
        let _ = site.cut_power(&mut |n| n - 1);
        site.lose_disk();
        site.install_secrets();
        self.harmed.remove(&node);
        self.start(sim, node);
        // As good as a coin, and it leaves what is drawn for other faults as it was.
        let mut lines = vec![match self.now_ms % 2 {
            0 => format!("kv member replace {node} --reason simulated --yes"),
            _ => format!("etcdctl member remove {node} && etcdctl member add {node}"),
        }];
        if self.event {
            lines.push("deploy push".to_owned());
        }
        for line in lines {
            // Nobody at the keyboard means that the run has no operator.
            let _ = self.orders.send(Typed { line, expect: Expect::Any, until_done: true });
        }
    }

    /// Every disk is in its own machine again.
    pub(super) fn swap_back(&mut self, sim: &mut turmoil::Sim<'_>) {
        let mut moved: Vec<NodeId> = Vec::new();
        while let Some((one, other)) = self.swapped.pop() {
            for node in [one, other] {
                if sim.is_host_running(self.sites[&node].name()) {
                    sim.crash(self.sites[&node].name());
                }
            }
            self.sites[&one].exchange(&self.sites[&other]);
            moved.extend([one, other]);
        }
        self.down.extend(moved);
    }

    /// Damages the copy of a file that the node is to issue from, of a slot that is still to come.
    fn damage_ticket_file(&mut self, node: NodeId, damage: TicketDamage) -> bool {
        let Some((entry, build)) = self.next_file_of(node) else { return false };
        let disk = self.sites[&node].disk();
        let folder = Path::new(DATA_DIR).join("tickets").join(build);
        let path = entry.path_in(&folder);
        let Some(whole) = disk.content(&path) else { return false };
        let draw = self.chance.random_range(0..whole.len().max(1));
        let forged = match damage {
            TicketDamage::Missing => None,
            TicketDamage::Truncated => Some(whole[..draw].to_vec()),
            TicketDamage::Altered => {
                let mut altered = whole.clone();
                if let Some(byte) = altered.get_mut(draw) {
                    *byte ^= 1;
                }
                Some(altered)
            }
            TicketDamage::Exchanged => {
                let other = self.tickets.iter().find(|other| other.no != entry.no);
                other.and_then(|other| disk.content(&other.path_in(&folder)))
            }
            TicketDamage::StaleBuild => {
                let below = entry.path_in(Path::new(""));
                self.stale.as_ref().and_then(|stale| stale.file(&below)).map(<[u8]>::to_vec)
            }
        };
        if damage != TicketDamage::Missing && forged.is_none() {
            return false;
        }
        disk.forge(&path, forged);
        self.board.ticket_files_damaged.lock().insert((node, entry.slot, entry.no));
        tracing::info!(target: "sim::nemesis", %node, file = %entry.no, slot = %entry.slot, ?damage, "a ticket file is damaged");
        true
    }

    fn next_file_of(&self, node: NodeId) -> Option<(FileEntry, String)> {
        let event = self.board.event.lock();
        let event = event.as_ref()?;
        let now_ms = EPOCH_MS + self.now_ms;
        let to_come = event.slots.iter().filter(|slot| now_ms + TAKEN_UP_BEFORE_MS < slot.start_ms.0);
        let damaged = self.board.ticket_files_damaged.lock();
        let mut files = to_come.flat_map(|slot| self.tickets.iter().filter(|file| file.slot == slot.slot));
        let file = files.find(|file| file.home == node && !damaged.contains(&(node, file.slot, file.no)))?;
        Some((file.clone(), event.build.to_string()))
    }
}

/// Makes a disk fast, and gives it space.
pub(super) fn mend(site: &Site) {
    site.storage().slow_down(0);
    site.storage().log.set_faults(Faults::default());
    site.storage().state.set_faults(Faults::default());
    site.disk().set_full(false);
}
