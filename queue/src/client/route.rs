//! Finding the leader of a partition, and trying again.
//!
//! Invariant: a call ends by its deadline. Once an attempt may have been carried out, the call
//! ends with a reply or with `Unknown`, nothing else.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};
use world::NodeId;
use world::net::{AddressError, Net, channel};

use super::unavailable;
use crate::api::QueueError;
use crate::limits::GRPC_BYTES_MAX;
use crate::wire::pb::queue_client::QueueClient as Rpc;
use crate::wire::{PartitionError, error_of};

/// First pause after every node was asked in vain; doubles.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// How a call is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// The end of all attempts.
    pub(super) deadline: Instant,
    /// How long one attempt may take.
    pub(super) attempt: Duration,
    /// Whether `Unavailable` is tried again, or answered at once.
    pub(super) patient: bool,
}

/// A reply, and whether an earlier attempt may have been carried out as well.
pub(super) struct Answer<T> {
    pub(super) reply: T,
    pub(super) repeated: bool,
}

/// The members of the queue and who led each partition last.
pub(super) struct Routes {
    nodes: Vec<(NodeId, Rpc<Channel>)>,
    leaders: Vec<AtomicUsize>,
    /// Until when a partition is left out of sweeps.
    left_out: Mutex<Vec<Option<Instant>>>,
}

/// What a call has met so far.
struct Tries {
    count: usize,
    pause: Duration,
    /// The node that did not answer last: not worth a hint for a moment.
    silent: Option<usize>,
    unknown: Option<String>,
    last: QueueError,
}

impl Routes {
    pub(super) fn new(
        net: &Arc<dyn Net>,
        partitions: u32,
        endpoints: &[(NodeId, String)],
    ) -> Result<Routes, AddressError> {
        assert!(!endpoints.is_empty(), "a queue has at least one member");
        let mut nodes = Vec::new();
        for (node, address) in endpoints {
            let rpc = Rpc::new(channel(net, address)?)
                .max_decoding_message_size(GRPC_BYTES_MAX)
                .max_encoding_message_size(GRPC_BYTES_MAX);
            nodes.push((*node, rpc));
        }
        let count = partitions as usize;
        // Leaders are spread over the members in this order when a cluster starts.
        let leaders = (0..count).map(|partition| AtomicUsize::new(partition % nodes.len())).collect();
        Ok(Routes { nodes, leaders, left_out: Mutex::new(vec![None; count]) })
    }

    pub(super) fn partitions(&self) -> u32 {
        u32::try_from(self.leaders.len()).expect("partitions are numbered by u32")
    }

    /// The partitions that are not left out, in a circle that begins at `first`.
    pub(super) fn healthy(&self, first: usize) -> Vec<u32> {
        let now = Instant::now();
        let left_out = self.left_out.lock();
        let count = left_out.len();
        let circle = (0..count).map(|offset| (first % count + offset) % count);
        let healthy = circle.filter(|partition| left_out[*partition].is_none_or(|until| until <= now));
        healthy.map(|partition| u32::try_from(partition).expect("partitions are numbered by u32")).collect()
    }

    pub(super) fn leave_out(&self, partition: u32, how_long: Duration) {
        self.left_out.lock()[partition as usize] = Some(Instant::now() + how_long);
    }

    /// Calls the leader of `partition`, wherever it is.
    pub(super) async fn call<T, F>(
        &self,
        partition: u32,
        terms: Terms,
        rpc: impl Fn(Rpc<Channel>) -> F,
    ) -> Result<Answer<T>, QueueError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tries = Tries {
            count: 0,
            pause: PAUSE_MIN,
            silent: None,
            unknown: None,
            last: unavailable("nobody leads the partition"),
        };
        loop {
            let left = terms.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(tries.give_up());
            }
            let node = self.leaders[partition as usize].load(Ordering::Relaxed);
            let attempt =
                tokio::time::timeout(terms.attempt.min(left), rpc(self.nodes[node].1.clone())).await;
            let error = match attempt {
                Ok(Ok(reply)) => {
                    return Ok(Answer { reply: reply.into_inner(), repeated: tries.unknown.is_some() });
                }
                Ok(Err(status)) => error_of(&status),
                Err(_) => {
                    QueueError::Unknown(format!("{} did not answer in time", self.nodes[node].0)).into()
                }
            };
            tries.count += 1;
            if let Some(end) = self.judge(partition, node, error, terms, &mut tries) {
                return Err(end);
            }
            if tries.count.is_multiple_of(self.nodes.len()) {
                tokio::time::sleep(tries.pause.min(left)).await;
                tries.pause = (tries.pause * 2).min(PAUSE_MAX);
                tries.silent = None;
            }
        }
    }

    /// Decides where to try next; `Some` ends the call.
    fn judge(
        &self,
        partition: u32,
        node: usize,
        error: PartitionError,
        terms: Terms,
        tries: &mut Tries,
    ) -> Option<QueueError> {
        let next = (node + 1) % self.nodes.len();
        let goal = match error {
            PartitionError::NotLeader { hint } => {
                let hinted = self.nodes.iter().position(|(id, _)| Some(*id) == hint);
                hinted.filter(|hinted| *hinted != node && Some(*hinted) != tries.silent).unwrap_or(next)
            }
            PartitionError::Queue(QueueError::Unknown(reason)) => {
                tries.unknown = Some(reason);
                tries.silent = Some(node);
                next
            }
            PartitionError::Queue(error @ QueueError::Unavailable { .. }) if terms.patient => {
                // A leader without a quorum says so too: somebody else may lead by now.
                tries.last = error;
                next
            }
            PartitionError::Queue(error) => {
                tries.last = error;
                return Some(tries.give_up());
            }
        };
        // Only if nobody found a better one meanwhile.
        let leader = &self.leaders[partition as usize];
        let _ = leader.compare_exchange(node, goal, Ordering::Relaxed, Ordering::Relaxed);
        None
    }
}

impl Tries {
    fn give_up(&self) -> QueueError {
        match &self.unknown {
            Some(reason) => QueueError::Unknown(reason.clone()),
            None => self.last.clone(),
        }
    }
}
