//! One node: what survives a crash of it, and the production code that runs on it.
//!
//! Invariant: everything a node knows it keeps in its own disk and engines, or learns over the
//! network; a crash takes the rest.
//!
//! Not here: which faults happen when (nemesis.rs).

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use deploy::config::Cluster;
use deploy::serve::node::{Doors, Running};
use parking_lot::Mutex;
use replica::host::Host;
use replica::identity::{FILE_NAME, LOG_DIR, STATE_DIR};
use tokio::sync::mpsc;
use world::{GroupId, NodeId};

use crate::board::Board;
use crate::event::Minted;
use crate::fabric::clock::SimClock;
use crate::fabric::disk::SimDisk;
use crate::fabric::net::SimNet;
use crate::fabric::platter::Platter;
use crate::fabric::storage::SimStorage;
use crate::schedule::{Damage, Store};

/// Where every node's files are: a disk that is put into another machine is found there.
pub const DATA_DIR: &str = "/data";

/// Something that is done to a running node from within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// Stand for election; in every group when none is named.
    Elect(Option<GroupId>),
    /// Hand a group over.
    Transfer(GroupId, NodeId),
    /// Take snapshots.
    Snapshot,
    /// Take nothing from the queue from now on, or go on.
    PauseSettling(bool),
    /// Leave in good order, as for an upgrade.
    Stop,
}

/// A node, up or down.
pub struct Site {
    /// Which node.
    pub id: NodeId,
    /// Its clocks.
    pub clock: SimClock,
    cluster: Cluster,
    /// What is copied to its disk before it is first used: one for each build.
    secrets: Vec<Arc<Minted>>,
    board: Arc<Board>,
    drive: Mutex<Drive>,
    inside: Mutex<Inside>,
}

/// What stands in the machine and can be taken out of it.
struct Drive {
    /// Ticket files, cursors, secrets.
    disk: SimDisk,
    /// Logs and state.
    storage: SimStorage,
    /// The engines and the identity's file before the last start.
    before: Option<Before>,
}

struct Before {
    log: Platter,
    state: Platter,
    identity: Option<Vec<u8>>,
}

/// What is there only while the node runs, and how often it did not start.
#[derive(Default)]
struct Inside {
    pushes: Option<mpsc::UnboundedSender<Push>>,
    host: Weak<Host>,
    refusals: u32,
}

impl Site {
    /// A node that has never run, with the secrets of these builds.
    #[must_use]
    pub fn new(
        id: NodeId,
        cluster: &Cluster,
        storage: SimStorage,
        secrets: Vec<Arc<Minted>>,
        board: Arc<Board>,
    ) -> Arc<Site> {
        let drive = Drive { disk: SimDisk::new(), storage, before: None };
        let site = Site {
            id,
            clock: SimClock::default(),
            cluster: cluster.clone(),
            secrets,
            board,
            drive: Mutex::new(drive),
            inside: Mutex::new(Inside::default()),
        };
        site.install_secrets();
        Arc::new(site)
    }

    /// The node's host name.
    #[must_use]
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// Its files.
    #[must_use]
    pub fn disk(&self) -> SimDisk {
        self.drive.lock().disk.clone()
    }

    /// Its engines.
    #[must_use]
    pub fn storage(&self) -> SimStorage {
        self.drive.lock().storage.clone()
    }

    /// Does something to the node if it runs; answers whether it does.
    pub fn push(&self, push: Push) -> bool {
        self.inside.lock().pushes.as_ref().is_some_and(|pushes| pushes.send(push).is_ok())
    }

    /// The node's groups while it runs.
    #[must_use]
    pub fn groups(&self) -> Option<Arc<Host>> {
        self.inside.lock().host.upgrade()
    }

    /// How often it has refused to start since it last did, or since its disk was exchanged.
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.inside.lock().refusals
    }

    /// Cuts the power of disk and engines: whoever uses them is a dead process from now on.
    /// Answers how many writes were lost.
    pub fn cut_power(&self, draw: &mut dyn FnMut(usize) -> usize) -> usize {
        self.forget_process();
        let drive = self.drive.lock();
        drive.storage.crash(draw) + drive.disk.crash(draw)
    }

    fn forget_process(&self) {
        let mut inside = self.inside.lock();
        *inside = Inside { refusals: inside.refusals, ..Inside::default() };
    }

    /// The data disk is an empty one from now on.
    pub fn lose_disk(&self) {
        self.inside.lock().refusals = 0;
        let mut drive = self.drive.lock();
        drive.disk.empty(Path::new(DATA_DIR));
        drive.storage = drive.storage.on(drive.storage.log.blank(), drive.storage.state.blank());
        drive.before = None;
    }

    /// Copies the secrets of the builds to the disk, as `hongbao deploy keys` does on the machine.
    pub fn install_secrets(&self) {
        let disk = self.disk();
        self.secrets.iter().for_each(|minted| minted.give_node(self.id, &disk, Path::new(DATA_DIR)));
    }

    /// Gives each machine the other's disk.
    pub fn exchange(&self, other: &Site) {
        if self.id == other.id {
            return;
        }
        std::mem::swap(&mut *self.drive.lock(), &mut *other.drive.lock());
        self.inside.lock().refusals = 0;
        other.inside.lock().refusals = 0;
    }

    /// Damages a file of a store while nobody uses it. Answers which; `None` when there is none.
    pub fn damage(
        &self,
        store: Store,
        damage: Damage,
        draw: &mut dyn FnMut(usize) -> usize,
    ) -> Option<String> {
        let mut drive = self.drive.lock();
        let Drive { disk, storage, before } = &mut *drive;
        let (log, state) = (storage.log.clone(), storage.state.clone());
        match (store, damage) {
            (Store::Files, damage) => return damage_file(disk, before.as_ref(), damage, draw),
            (Store::Log, Damage::Missing) => *storage = storage.on(log.blank(), state),
            (Store::State, Damage::Missing) => *storage = storage.on(log, state.blank()),
            (Store::Log, Damage::RolledBack) => *storage = storage.on(before.as_ref()?.log.image(), state),
            (Store::State, Damage::RolledBack) => *storage = storage.on(log, before.as_ref()?.state.image()),
            (store, Damage::Truncated) => {
                let of = if store == Store::Log { LOG_DIR } else { STATE_DIR };
                return storage.break_file(of, draw).then(|| of.to_owned());
            }
        }
        Some(if store == Store::Log { LOG_DIR } else { STATE_DIR }.to_owned())
    }

    /// Runs the node until it is told to stop or fails. What a supervisor would call.
    pub async fn run(self: Arc<Site>) -> turmoil::Result {
        let (disk, storage) = (self.disk(), self.storage());
        self.drive.lock().before = Some(Before {
            log: storage.log.image(),
            state: storage.state.image(),
            identity: disk.content(&Path::new(DATA_DIR).join(FILE_NAME)),
        });
        let doors = Doors {
            clock: Arc::new(self.clock.clone()),
            net: Arc::new(SimNet),
            disk: Arc::new(disk.mount()),
            storage: Arc::new(storage),
        };
        let (pushes, mut pushed) = mpsc::unbounded_channel();
        let mut running = match Running::start(self.cluster.clone(), self.id, doors).await {
            Ok(running) => running,
            Err(failure) => {
                tracing::error!(node = %self.id, %failure, "did not start");
                self.inside.lock().refusals += 1;
                self.board.happened("start-refused");
                return Ok(());
            }
        };
        let host = Arc::downgrade(running.host());
        *self.inside.lock() = Inside { pushes: Some(pushes), host, refusals: 0 };
        tracing::info!(node = %self.id, "started");
        loop {
            tokio::select! {
                biased;
                failure = running.failed() => {
                    tracing::error!(node = %self.id, %failure, "failed");
                    self.board.happened("node-ended-by-itself");
                    return Ok(());
                }
                push = pushed.recv() => match push {
                    Some(Push::Stop) | None => break,
                    Some(Push::PauseSettling(paused)) => running.payments().pause_settling(paused),
                    Some(push) => {
                        let host = Arc::clone(running.host());
                        tokio::spawn(carry_out(host, push));
                    }
                }
            }
        }
        if let Err(failure) = running.stop().await {
            tracing::error!(node = %self.id, %failure, "did not stop in good order");
        }
        tracing::info!(node = %self.id, "stopped");
        Ok(())
    }
}

fn damage_file(
    disk: &SimDisk,
    before: Option<&Before>,
    damage: Damage,
    draw: &mut dyn FnMut(usize) -> usize,
) -> Option<String> {
    let identity = Path::new(DATA_DIR).join(FILE_NAME);
    if damage == Damage::RolledBack {
        // Of the files only this one says that it is old. An older cursor would be believed: see
        // `access::cursor` for what is not caught.
        let older = before?.identity.clone()?;
        disk.forge(&identity, Some(older));
        return Some(identity.display().to_string());
    }
    let files = disk.find(DATA_DIR);
    let path: &PathBuf = files.get(draw(files.len().max(1)))?;
    let whole = disk.content(path)?;
    let kept = draw(whole.len());
    disk.forge(path, (damage == Damage::Truncated).then(|| whole[..kept].to_vec()));
    Some(path.display().to_string())
}

async fn carry_out(host: Arc<Host>, push: Push) {
    match push {
        Push::Elect(None) => {
            for status in host.status() {
                host.stand_for_election(status.group).await;
            }
        }
        Push::Elect(Some(group)) => host.stand_for_election(group).await,
        Push::Transfer(group, to) => {
            let moved = host.transfer(group, to).await;
            tracing::info!(target: "sim::node", node = %host.node(), %group, %to, ?moved, "transfer");
        }
        Push::Snapshot => host.snapshot_all().await,
        Push::PauseSettling(_) | Push::Stop => {}
    }
}
