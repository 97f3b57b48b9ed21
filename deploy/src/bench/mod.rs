//! `hongbao bench`: closed loops of load, measured where a client stands.
//!
//! ```text
//!   worker 1  ask -> answer -> ask -> answer ...      one request in flight each
//!   worker 2  ask -> answer ...                       latency histogram, errors apart
//! ```
//! `bench kv` speaks etcd's own protocol and nothing else, so that the same program with the same
//! settings measures KvSvr and etcd. `bench failover`, `bench drain` and `bench churn` are no loops of load: they
//! show how long a lost zone is felt and how a drained one, and what members hold while their keys are written
//! over and over.
//!
//! Invariant: an operation counts only when it was answered with success within the measured time;
//! errors are counted beside, never mixed in.
//!
//! Not here: starting what is measured (`dev up`, `make bench-peers`).

mod batch;
mod churn;
mod compare;
mod drain;
mod failover;
mod kv;
mod load;
mod processes;
mod queue;
mod times;

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::{Format, print};
use load::Measured;

/// See the module.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Put or get through the etcd API, at this cluster or at any etcd
    Kv(kv::KvArgs),
    /// Write many operations a request to the data groups
    Batch(batch::BatchArgs),
    /// End the leader's zone of a dev cluster again and again: how long can nobody write?
    Failover(failover::FailoverArgs),
    /// Drain the leader's zone again and again: how long does a put wait, and does one fail?
    Drain(drain::DrainArgs),
    /// Write, overwrite and compact in rounds: what do the members of a dev cluster hold?
    Churn(churn::ChurnArgs),
    /// Enqueue messages, each durable on two zones before the answer
    Queue(queue::QueueArgs),
}

/// Runs a load and prints what it measured.
///
/// # Errors
/// When nothing could be reached, or every operation failed.
pub async fn run(command: BenchCommand, format: Format) -> Result<(), Failure> {
    match command {
        BenchCommand::Kv(args) => kv::run(args, format).await,
        BenchCommand::Batch(args) => batch::run(args, format).await,
        BenchCommand::Failover(args) => failover::run(args, format).await,
        BenchCommand::Drain(args) => drain::run(args, format).await,
        BenchCommand::Churn(args) => churn::run(args, format).await,
        BenchCommand::Queue(args) => {
            let measured = queue::run(args).await?;
            print(format, &measured, Measured::line)?;
            measured.into_result()
        }
    }
}
