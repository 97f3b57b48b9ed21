//! The replicated log beneath a partition, as the partition sees it.
//!
//! Two implementations: a Raft group (`server`) and one process's memory (`testing`). Everything
//! above this trait is the same code in both.
//!
//! Not here: batching of proposals; the group does that.

use std::future::Future;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use replica::engine::View;
use replica::error::{ProposeError, ReadError};
use world::{NodeId, UnixMs};

use crate::machine::QueueMachine;
use crate::receipt::Token;

/// Resolves once; harmless to drop.
pub type Changed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A log that carries commands to a [`QueueMachine`] and answers with its replies.
#[async_trait]
pub trait Log: Send + Sync + 'static {
    /// Answers the machine's reply once the command is durable on a quorum and applied here.
    async fn propose(&self, command: Bytes) -> Result<Bytes, ProposeError>;

    /// Returns when everything that was acknowledged before the call is applied here, and this
    /// member led throughout.
    async fn read_barrier(&self) -> Result<(), ReadError>;

    /// Shows the machine and its key space at one applied index. Must not block for long.
    fn read(&self, visit: &mut dyn FnMut(&QueueMachine, &dyn View));

    /// This member's leadership, while it leads.
    fn token(&self) -> Option<Token>;

    /// Who leads, as far as this member knows.
    fn leader(&self) -> Option<NodeId>;

    /// The log's clock: never before what is applied here, and never standing still (`world::pace`).
    fn now(&self) -> UnixMs;

    /// Resolves at the next apply or change of leadership after this call.
    fn changed(&self) -> Changed;
}
