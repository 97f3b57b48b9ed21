//! One node: what `hongbao serve` runs.
//!
//! ```text
//!   peers port   Raft transport, native KV, queue, etcd KV (end of a forward)
//!   edge port    shake and open
//!   admin port   status and operations
//!   etcd port    the etcd v3 API
//! ```
//! Invariant: a node answers that it serves only when every group of it has a leader and its access
//! role may seal.

pub mod admin;
pub mod api;
pub mod drain;
pub mod event;
pub mod keys;
pub mod members;
pub mod node;
pub mod observer;
pub mod payments;
pub mod readiness;
pub mod storage;

use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use world::NodeId;
use world::clock::SystemClock;
use world::disk::RealDisk;
use world::net::TcpNet;

use crate::config::Cluster;
use crate::failure::{Context, Exit, Failure};
use node::{Doors, Running};
use storage::RocksStorage;

/// Runs one node until it is told to stop.
///
/// # Errors
/// When it cannot start, or its storage fails.
pub async fn run(cluster_file: &Path, id: NodeId) -> Result<(), Failure> {
    let cluster = Cluster::load(cluster_file)?;
    let doors = Doors {
        clock: Arc::new(SystemClock::new()),
        net: Arc::new(TcpNet),
        disk: Arc::new(RealDisk),
        storage: Arc::new(RocksStorage),
    };
    let mut terminate = signal(SignalKind::terminate()).context(Exit::Error, "listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context(Exit::Error, "listening for SIGINT")?;
    let mut running = Running::start(cluster, id, doors).await?;
    tracing::info!(node = %id, "started");
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        failure = running.failed() => Err(failure),
    };
    tracing::info!(node = %id, "stopping");
    running.stop().await?;
    ended
}
