//! The gRPC face of a host's partitions: reads requests, asks the partition, writes replies.
//!
//! Invariant: nothing is decided here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use crate::api::QueueError;
use crate::command::Span;
use crate::limits::GRPC_BYTES_MAX;
use crate::partition::{Partition, Peeked, Which};
use crate::receipt::Receipt;
use crate::wire::pb::queue_server::{Queue, QueueServer};
use crate::wire::{PartitionError, pb, status_of};

/// The partitions of this host, led or not.
pub struct Service {
    partitions: BTreeMap<u32, Arc<Partition>>,
}

impl Service {
    /// The tonic service over `partitions`.
    #[must_use]
    pub fn server(partitions: Vec<Arc<Partition>>) -> QueueServer<Service> {
        let partitions = partitions.into_iter().map(|partition| (partition.number(), partition)).collect();
        QueueServer::new(Service { partitions })
            .max_decoding_message_size(GRPC_BYTES_MAX)
            .max_encoding_message_size(GRPC_BYTES_MAX)
    }

    fn partition(&self, number: u32) -> Result<&Partition, Status> {
        self.partitions
            .get(&number)
            .map(Arc::as_ref)
            .ok_or_else(|| refuse(format!("there is no partition {number}")))
    }

    fn partition_of(&self, receipt: &[u8]) -> Result<(&Partition, Receipt), Status> {
        let receipt = Receipt::decode(receipt).map_err(|error| refuse(error.to_string()))?;
        Ok((self.partition(receipt.partition)?, receipt))
    }
}

fn refuse(reason: String) -> Status {
    status_of(&QueueError::Refused(reason).into())
}

fn fail(error: PartitionError) -> Status {
    status_of(&error)
}

fn span(request: &pb::SpanRequest) -> Span {
    Span { from: request.from, to: request.to, most: request.most }
}

fn peeked(message: Peeked) -> pb::Peeked {
    let (dead_ms, reason) = message.dead.unwrap_or_default();
    pb::Peeked {
        seq: message.seq,
        key: message.header.key,
        dedup_id: message.header.dedup_id,
        body: message.body,
        attempts: message.header.attempts,
        enqueued_ms: message.header.enqueued_ms,
        deliver_at_ms: message.header.deliver_at_ms,
        dead_ms,
        reason,
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Queue for Service {
    async fn enqueue(&self, request: Request<pb::EnqueueRequest>) -> Answer<pb::EnqueueReply> {
        let request = request.into_inner();
        let messages = request.messages.into_iter().map(Into::into).collect();
        let results = self.partition(request.partition)?.enqueue(messages).await.map_err(fail)?;
        Ok(Response::new(pb::EnqueueReply { results: results.into_iter().map(Into::into).collect() }))
    }

    async fn lease(&self, request: Request<pb::LeaseRequest>) -> Answer<pb::LeaseReply> {
        let request = request.into_inner();
        let most = usize::try_from(request.most).unwrap_or(usize::MAX);
        let (lease, wait) = (Duration::from_millis(request.lease_ms), Duration::from_millis(request.wait_ms));
        let found = self.partition(request.partition)?.lease(most, lease, wait).await.map_err(fail)?;
        Ok(Response::new(pb::LeaseReply { deliveries: found.into_iter().map(Into::into).collect() }))
    }

    async fn await_ready(&self, request: Request<pb::AwaitReadyRequest>) -> Answer<pb::AwaitReadyReply> {
        let request = request.into_inner();
        let wait = Duration::from_millis(request.wait_ms);
        let ready = self.partition(request.partition)?.await_ready(wait).await.map_err(fail)?;
        Ok(Response::new(pb::AwaitReadyReply { ready }))
    }

    async fn ack(&self, request: Request<pb::AckRequest>) -> Answer<pb::AckReply> {
        let request = request.into_inner();
        let receipts: Result<Vec<Receipt>, _> =
            request.receipts.iter().map(|bytes| Receipt::decode(bytes)).collect();
        let receipts = receipts.map_err(|error| refuse(error.to_string()))?;
        let results = self.partition(request.partition)?.ack(&receipts).await.map_err(fail)?;
        let result = |one: Result<(), QueueError>| pb::AckResult { failure: one.err().map(Into::into) };
        Ok(Response::new(pb::AckReply { results: results.into_iter().map(result).collect() }))
    }

    async fn nack(&self, request: Request<pb::NackRequest>) -> Answer<pb::NackReply> {
        let request = request.into_inner();
        let (partition, receipt) = self.partition_of(&request.receipt)?;
        let delay = Duration::from_millis(request.delay_ms);
        partition.nack(&receipt, delay, &request.reason).await.map_err(fail)?;
        Ok(Response::new(pb::NackReply {}))
    }

    async fn extend(&self, request: Request<pb::ExtendRequest>) -> Answer<pb::ExtendReply> {
        let request = request.into_inner();
        let (partition, receipt) = self.partition_of(&request.receipt)?;
        partition.extend(&receipt, Duration::from_millis(request.lease_ms)).await.map_err(fail)?;
        Ok(Response::new(pb::ExtendReply {}))
    }

    async fn stats(&self, request: Request<pb::StatsRequest>) -> Answer<pb::StatsReply> {
        let stats = self.partition(request.into_inner().partition)?.stats().await.map_err(fail)?;
        Ok(Response::new(stats.into()))
    }

    async fn peek(&self, request: Request<pb::PeekRequest>) -> Answer<pb::PeekReply> {
        let request = request.into_inner();
        let which = if request.dead { Which::Dead } else { Which::Live };
        let partition = self.partition(request.partition)?;
        let page = partition.peek(which, request.from, request.most).await.map_err(fail)?;
        let messages = page.found.into_iter().map(peeked).collect();
        Ok(Response::new(pb::PeekReply { messages, next: page.next }))
    }

    async fn redrive(&self, request: Request<pb::SpanRequest>) -> Answer<pb::MovedReply> {
        let request = request.into_inner();
        let page = self.partition(request.partition)?.redrive(span(&request)).await.map_err(fail)?;
        Ok(Response::new(pb::MovedReply { count: page.found, next: page.next }))
    }

    async fn purge_dead(&self, request: Request<pb::SpanRequest>) -> Answer<pb::MovedReply> {
        let request = request.into_inner();
        let page = self.partition(request.partition)?.purge_dead(span(&request)).await.map_err(fail)?;
        Ok(Response::new(pb::MovedReply { count: page.found, next: page.next }))
    }

    async fn pause(&self, request: Request<pb::PauseRequest>) -> Answer<pb::PauseReply> {
        let request = request.into_inner();
        self.partition(request.partition)?.pause(request.paused).await.map_err(fail)?;
        Ok(Response::new(pb::PauseReply {}))
    }
}
