//! What operators do: look at messages, redrive or purge dead letters, pause, forget tombstones.
//!
//! Invariant: each call is one bounded entry or one bounded read; a caller goes on from `next`.

use bytes::Bytes;

use super::{Command, Partition, PartitionError, QueueMachine, Reply, unexpected};
use crate::command::{Forget, Span};
use crate::limits::{BATCH_BYTES_MAX, BATCH_LEN_MAX};
use crate::table::Header;

/// Which messages to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Ready, delayed or in flight.
    Live,
    /// Dead letters.
    Dead,
}

/// A message as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peeked {
    /// Its number within the partition.
    pub seq: u64,
    /// As enqueued.
    pub header: Header,
    /// As enqueued.
    pub body: Bytes,
    /// Of a dead letter: when it was given up, milliseconds since the Unix epoch, and why.
    pub dead: Option<(u64, String)>,
}

/// Part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, N> {
    /// What was found or done.
    pub found: T,
    /// Where to go on; `None` at the end.
    pub next: Option<N>,
}

/// A message's number, its header, and for a dead one when and why it was given up.
type Listed = (u64, Header, Option<(u64, String)>);

impl Partition {
    /// Up to `most` messages from `from` on, in order of acceptance. Leases nothing.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn peek(
        &self,
        which: Which,
        from: u64,
        most: u32,
    ) -> Result<Page<Vec<Peeked>, u64>, PartitionError> {
        let most = bounded(most);
        self.tenure().await?;
        self.barrier().await?;
        let found = self.look(|machine, view| {
            let listed: Vec<Listed> = match which {
                Which::Live => {
                    let live = machine.backlog().from(from).take(most as usize);
                    live.map(|(seq, header)| (seq, header.clone(), None)).collect()
                }
                Which::Dead => QueueMachine::dead(view, Span { from, to: u64::MAX, most })?
                    .into_iter()
                    .map(|(seq, dead)| (seq, dead.header, Some((dead.dead_ms, dead.reason))))
                    .collect(),
            };
            let mut bytes = 0;
            let mut found = Vec::new();
            for (seq, header, dead) in listed {
                if bytes < BATCH_BYTES_MAX as u64 {
                    bytes += header.bytes();
                    found.push(Peeked { seq, body: QueueMachine::body(view, seq)?, header, dead });
                }
            }
            Ok(found)
        });
        let found = found.map_err(|error| self.storage(&error))?;
        let next = found.last().map(|last| last.seq + 1);
        Ok(Page { found, next })
    }

    /// Makes dead letters of `span` deliverable again, at their old places in their keys. Answers
    /// how many.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn redrive(&self, span: Span) -> Result<Page<u32, u64>, PartitionError> {
        self.move_dead(Command::Redrive(Span { most: bounded(span.most), ..span })).await
    }

    /// Gives up dead letters of `span`; their dedup ids stay known. Answers how many.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn purge_dead(&self, span: Span) -> Result<Page<u32, u64>, PartitionError> {
        self.move_dead(Command::PurgeDead(Span { most: bounded(span.most), ..span })).await
    }

    async fn move_dead(&self, command: Command) -> Result<Page<u32, u64>, PartitionError> {
        match self.propose(&command).await? {
            Reply::Moved { count, next } => Ok(Page { found: count, next }),
            other => Err(unexpected(&other)),
        }
    }

    /// Removes tombstones of messages done before `done_before_ms`, looking at a bounded number of
    /// dedup ids from `from` on. Their ids become new again: call it only when no producer can
    /// still repeat them. Answers how many.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn forget(&self, from: Bytes, done_before_ms: u64) -> Result<Page<u32, Bytes>, PartitionError> {
        let most = bounded(u32::MAX);
        match self.propose(&Command::Forget(Forget { from, most, done_before_ms })).await? {
            Reply::Forgotten { count, next } => Ok(Page { found: count, next }),
            other => Err(unexpected(&other)),
        }
    }

    /// Stops leasing, or lets it go on. Leases that are held stay held; enqueueing goes on.
    ///
    /// # Errors
    /// [`PartitionError`].
    pub async fn pause(&self, paused: bool) -> Result<(), PartitionError> {
        match self.propose(&Command::Pause(paused)).await? {
            Reply::Paused => Ok(()),
            other => Err(unexpected(&other)),
        }
    }
}

fn bounded(most: u32) -> u32 {
    most.clamp(1, BATCH_LEN_MAX as u32)
}
