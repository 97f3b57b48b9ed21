//! What operators and long-running consumers ask beyond the trait: extend, look, redrive, purge,
//! pause.
//!
//! Not here: how the answers are shown.

use std::time::Duration;

use bytes::Bytes;

use super::QueueClient;
use crate::api::{QueueError, Stats};
use crate::receipt::Receipt;
use crate::wire::{ms, pb};

/// A message as an operator sees it.
pub use pb::Peeked;

impl QueueClient {
    pub(super) fn partition_of_receipt(&self, receipt: &[u8]) -> Result<u32, QueueError> {
        let read = Receipt::decode(receipt).map_err(|error| QueueError::Refused(error.to_string()))?;
        let known = read.partition < self.partitions();
        known
            .then_some(read.partition)
            .ok_or_else(|| QueueError::Refused("a receipt of another queue".to_owned()))
    }

    /// Holds a lease until `lease` from now.
    ///
    /// # Errors
    /// [`QueueError::Refused`] when it is not held any more.
    pub async fn extend(&self, receipt: Bytes, lease: Duration) -> Result<(), QueueError> {
        let partition = self.partition_of_receipt(&receipt)?;
        let request = &pb::ExtendRequest { receipt, lease_ms: ms(lease) };
        let call = self
            .routes
            .call(partition, self.terms(), |mut rpc| async move { rpc.extend(request.clone()).await });
        call.await.map(|_| ())
    }

    /// Counts of one partition.
    ///
    /// # Errors
    /// [`QueueError`]; a read that was not served is unavailable, never unknown.
    pub async fn partition_stats(&self, partition: u32) -> Result<Stats, QueueError> {
        let request = pb::StatsRequest { partition };
        let call =
            self.routes.call(partition, self.terms(), |mut rpc| async move { rpc.stats(request).await });
        call.await.map(|answer| answer.reply.into()).map_err(read_error)
    }

    /// Counts of each partition, in order: the trait's `stats` is their sum.
    ///
    /// # Errors
    /// As [`QueueClient::partition_stats`], for any of them.
    pub async fn stats_by_partition(&self) -> Result<Vec<Stats>, QueueError> {
        let each = (0..self.partitions()).map(|partition| self.partition_stats(partition));
        futures_util::future::try_join_all(each).await
    }

    /// Up to `most` live messages, or dead letters, of a partition from `from` on; and where to go
    /// on, if there may be more.
    ///
    /// # Errors
    /// [`QueueError`]; a read that was not served is unavailable, never unknown.
    pub async fn peek(
        &self,
        partition: u32,
        dead: bool,
        from: u64,
        most: u32,
    ) -> Result<(Vec<Peeked>, Option<u64>), QueueError> {
        let request = pb::PeekRequest { partition, dead, from, most };
        let call =
            self.routes.call(partition, self.terms(), |mut rpc| async move { rpc.peek(request).await });
        call.await.map(|answer| (answer.reply.messages, answer.reply.next)).map_err(read_error)
    }

    /// Makes all dead letters of all partitions deliverable again. Answers how many.
    ///
    /// # Errors
    /// [`QueueError`]; letters moved before it stay moved. Repeating is safe.
    pub async fn redrive_all(&self) -> Result<u64, QueueError> {
        let mut count = 0;
        for partition in 0..self.partitions() {
            // Redriven letters may die again meanwhile: only those that are there now are moved.
            let to = self.end_of_dead(partition).await?;
            let mut from = Some(0);
            while let Some(start) = from {
                let (moved, next) = self.redrive(partition, start, to, u32::MAX).await?;
                count += u64::from(moved);
                from = next;
            }
        }
        Ok(count)
    }

    async fn end_of_dead(&self, partition: u32) -> Result<u64, QueueError> {
        // Sequence numbers never exceed what was accepted.
        Ok(self.partition_stats(partition).await?.accepted + 1)
    }

    /// Makes up to `most` dead letters with `from <= seq < to` deliverable again. Answers how many,
    /// and where to go on if there may be more.
    ///
    /// # Errors
    /// [`QueueError`]. Repeating is safe.
    pub async fn redrive(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        most: u32,
    ) -> Result<(u32, Option<u64>), QueueError> {
        let request = pb::SpanRequest { partition, from, to, most };
        let call =
            self.routes.call(partition, self.terms(), |mut rpc| async move { rpc.redrive(request).await });
        call.await.map(|answer| (answer.reply.count, answer.reply.next))
    }

    /// Gives up to `most` dead letters with `from <= seq < to` up for good. Answers how many, and
    /// where to go on if there may be more.
    ///
    /// # Errors
    /// [`QueueError`]. Repeating is safe.
    pub async fn purge_dead(
        &self,
        partition: u32,
        from: u64,
        to: u64,
        most: u32,
    ) -> Result<(u32, Option<u64>), QueueError> {
        let request = pb::SpanRequest { partition, from, to, most };
        let call =
            self.routes.call(partition, self.terms(), |mut rpc| async move { rpc.purge_dead(request).await });
        call.await.map(|answer| (answer.reply.count, answer.reply.next))
    }

    /// Stops leasing on all partitions, or lets it go on.
    ///
    /// # Errors
    /// [`QueueError`]; partitions before it have changed. Repeating is safe.
    pub async fn pause(&self, paused: bool) -> Result<(), QueueError> {
        for partition in 0..self.partitions() {
            let request = pb::PauseRequest { partition, paused };
            let call =
                self.routes.call(partition, self.terms(), |mut rpc| async move { rpc.pause(request).await });
            call.await?;
        }
        Ok(())
    }
}

/// A read has no outcome: it can always be repeated.
fn read_error(error: QueueError) -> QueueError {
    match error {
        QueueError::Unknown(reason) => super::unavailable(&reason),
        error => error,
    }
}
