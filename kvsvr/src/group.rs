//! What the services need of a replicated group, whoever provides it: a Raft group in a cluster, or
//! one machine in memory in tests.
//!
//! Invariant: `propose` answers only what is applied; `read` after `read_barrier` sees every write
//! that was acknowledged before the barrier began.

use async_trait::async_trait;
use bytes::Bytes;
use replica::engine::View;
use replica::error::{ProposeError, ReadError};
pub use replica::status::Standing;
use tokio::sync::watch;

/// A member of a replicated group.
#[async_trait]
pub trait KvGroup: Send + Sync + 'static {
    /// Has a command replicated and applied; answers the machine's reply.
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError>;

    /// The same with more content than a command may have, as part of it.
    async fn propose_attached(&self, command: Bytes, content: Bytes) -> Result<Bytes, ProposeError>;

    /// Returns when a read that follows is linearizable.
    async fn read_barrier(&self) -> Result<(), ReadError>;

    /// The same on any member: a follower asks the leader how much was acknowledged, and waits
    /// until it has applied that.
    async fn read_barrier_anywhere(&self) -> Result<(), ReadError>;

    /// The index up to which this member has applied, told whenever it changes.
    fn applied(&self) -> watch::Receiver<u64>;

    /// Shows the state as applied by this member, at one index.
    fn read(&self, visit: &mut dyn FnMut(&dyn View));

    /// The same for a read that may take long: what is applied meanwhile does not wait for it.
    fn read_long(&self, visit: &mut dyn FnMut(&dyn View));

    /// Where this member stands.
    fn standing(&self) -> Standing;
}

/// Reads something off a group's state.
pub(crate) fn read_with<R>(group: &dyn KvGroup, read: impl FnOnce(&dyn View) -> R) -> R {
    shown(read, |visit| group.read(visit))
}

/// The same for a read that may take long.
pub(crate) fn read_long_with<R>(group: &dyn KvGroup, read: impl FnOnce(&dyn View) -> R) -> R {
    shown(read, |visit| group.read_long(visit))
}

fn shown<R>(read: impl FnOnce(&dyn View) -> R, show: impl FnOnce(&mut dyn FnMut(&dyn View))) -> R {
    let mut read = Some(read);
    let mut result = None;
    show(&mut |view| {
        let read = read.take().expect("a group shows its state once per read");
        result = Some(read(view));
    });
    result.expect("a group shows its state on every read")
}
