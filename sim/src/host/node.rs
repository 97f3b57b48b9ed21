//! One node: what survives a crash of it, and the production code that runs on it.
//!
//! Invariant: everything a node knows it keeps in its own disk and engines, or learns over the
//! network; a crash takes the rest.
//!
//! Not here: which faults happen when (nemesis.rs).

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use deploy::config::Cluster;
use deploy::serve::node::{Doors, Running};
use parking_lot::Mutex;
use replica::host::Host;
use tokio::sync::mpsc;
use world::{GroupId, NodeId};

use crate::fabric::clock::SimClock;
use crate::fabric::disk::SimDisk;
use crate::fabric::net::SimNet;
use crate::fabric::storage::SimStorage;

/// Something that is done to a running node from within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Push {
    /// Stand for election; in every group when none is named.
    Elect(Option<GroupId>),
    /// Hand a group over.
    Transfer(GroupId, NodeId),
    /// Take snapshots.
    Snapshot,
    /// Leave in good order, as for an upgrade.
    Stop,
}

/// A node, up or down.
pub struct Site {
    /// Which node.
    pub id: NodeId,
    /// Ticket files, cursors, secrets.
    pub disk: SimDisk,
    /// Logs and state.
    pub storage: SimStorage,
    /// Its clocks.
    pub clock: SimClock,
    cluster: Cluster,
    inside: Mutex<Inside>,
}

/// What is there only while the node runs.
#[derive(Default)]
struct Inside {
    pushes: Option<mpsc::UnboundedSender<Push>>,
    host: Weak<Host>,
}

impl Site {
    /// A node that has never run.
    #[must_use]
    pub fn new(id: NodeId, cluster: &Cluster, storage: SimStorage) -> Arc<Site> {
        Arc::new(Site {
            id,
            disk: SimDisk::new(),
            storage,
            clock: SimClock::default(),
            cluster: cluster.clone(),
            inside: Mutex::new(Inside::default()),
        })
    }

    /// The node's host name.
    #[must_use]
    pub fn name(&self) -> String {
        self.id.to_string()
    }

    /// Where its files are.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.cluster.node(self.id).map(|node| node.data_dir.clone()).unwrap_or_default()
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

    /// Cuts the power of disk and engines: whoever uses them is a dead process from now on.
    /// Answers how many writes were lost.
    pub fn cut_power(&self, draw: &mut dyn FnMut(usize) -> usize) -> usize {
        *self.inside.lock() = Inside::default();
        self.storage.crash(draw) + self.disk.crash(draw)
    }

    /// Runs the node until it is told to stop or fails. What a supervisor would call.
    pub async fn run(self: Arc<Site>) -> turmoil::Result {
        let doors = Doors {
            clock: Arc::new(self.clock.clone()),
            net: Arc::new(SimNet),
            disk: Arc::new(self.disk.mount()),
            storage: Arc::new(self.storage.clone()),
        };
        let (pushes, mut pushed) = mpsc::unbounded_channel();
        let mut running = match Running::start(self.cluster.clone(), self.id, doors).await {
            Ok(running) => running,
            Err(failure) => {
                tracing::error!(node = %self.id, %failure, "did not start");
                return Ok(());
            }
        };
        *self.inside.lock() = Inside { pushes: Some(pushes), host: Arc::downgrade(running.host()) };
        tracing::info!(node = %self.id, "started");
        loop {
            tokio::select! {
                biased;
                failure = running.failed() => {
                    tracing::error!(node = %self.id, %failure, "failed");
                    return Ok(());
                }
                push = pushed.recv() => match push {
                    Some(Push::Stop) | None => break,
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
        Push::Stop => {}
    }
}
