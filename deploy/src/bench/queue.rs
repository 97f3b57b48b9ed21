//! `hongbao bench queue`: enqueues, each with a key and a dedup id of its own.
//!
//! The messages stay in the queue: measure on a cluster that runs no event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use queue::api::{Enqueued, NewMessage, Queue};
use world::rng;

use super::load::{LoadArgs, Measured, closed_loop};
use crate::cli::target::Target;
use crate::clients;
use crate::failure::{Context, Exit, Failure};

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct QueueArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: Target,
}

/// Runs the load.
///
/// # Errors
/// When the cluster's description is wrong.
pub async fn run(args: QueueArgs) -> Result<Measured, Failure> {
    let connected = args.target.connect()?;
    let queue: Arc<dyn Queue> = Arc::new(clients::queue(&connected.cluster, &connected.net, None)?);
    let body = Bytes::from(vec![b'x'; args.load.size as usize]);
    // Ids of an earlier run would be answered as duplicates.
    let run = rng::secret_bytes().context(Exit::Error, "drawing the run's id")?;
    let run = u64::from_be_bytes(*run.first_chunk().expect("32 bytes hold eight"));
    let measured = closed_loop("queue enqueue", &args.load, |client| {
        let (queue, body) = (Arc::clone(&queue), body.clone());
        move |operation| {
            let queue = Arc::clone(&queue);
            let id = Bytes::from(format!("bench/{run:016x}/{client:05}/{operation:010}"));
            let body = body.clone();
            async move {
                let message = NewMessage { key: id.clone(), dedup_id: id, body, delay: Duration::ZERO };
                match queue.enqueue(vec![message]).await.pop() {
                    Some(Ok(Enqueued::New)) => Ok(()),
                    Some(Ok(Enqueued::Duplicate { .. })) => Err("taken for a duplicate".to_owned()),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("no answer".to_owned()),
                }
            }
        }
    });
    Ok(measured.await)
}
