//! Lock and Election: recipes over keys, leases and watches, made here on behalf of clients that
//! cannot make them themselves.
//!
//! ```text
//!   name/<lease a>  created at 12   holds the lock, leads
//!   name/<lease b>  created at 15   waits until every key of the name created before 15 is gone
//! ```
//! Keys and steps are those of etcd's client library, so that programs that use the recipes
//! themselves and programs that call these services share locks and elections.
//!
//! Invariant: of the keys of one name, only the owner of the one created first is told that it
//! holds. A wait that is given up leaves no key behind.

mod election;
mod lock;

pub use election::ElectionService;
pub use lock::LockService;

use std::pin::Pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Status};

use super::{KvService, LeaseService, Responses, WatchService};
use crate::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::etcdserverpb::kv_server::Kv;
use crate::wire::etcdserverpb::lease_server::Lease;
use crate::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::etcdserverpb::request_op::Request as Op;
use crate::wire::etcdserverpb::response_op::Response as Answered;
use crate::wire::etcdserverpb::watch_request::RequestUnion;
use crate::wire::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
};
use crate::wire::mvccpb::event::EventType;
use crate::wire::mvccpb::{Event, KeyValue};

/// Seconds of a lease for who brings none; etcd's sessions have as many.
const SESSION_TTL_S: i64 = 60;

/// The services that the recipes are made of.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) kv: KvService,
    pub(crate) lease: LeaseService,
    pub(crate) watch: WatchService,
}

/// The tools in the hands of one caller: what it may not do itself it may not do through these.
#[derive(Clone)]
struct Hands {
    tools: Tools,
    metadata: MetadataMap,
}

impl Hands {
    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), Extensions::default(), message)
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.tools.kv.txn(self.request(request)).await?.into_inner())
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        Ok(self.tools.kv.range(self.request(request)).await?.into_inner())
    }

    async fn delete(&self, key: Bytes) -> Result<ResponseHeader, Status> {
        let request = DeleteRangeRequest { key, ..DeleteRangeRequest::default() };
        Ok(self.tools.kv.delete_range(self.request(request)).await?.into_inner().header.unwrap_or_default())
    }

    /// The lease that was brought, or a new one.
    async fn lease(&self, brought: i64) -> Result<i64, Status> {
        if brought != 0 {
            return Ok(brought);
        }
        let request = LeaseGrantRequest { ttl: SESSION_TTL_S, id: 0 };
        Ok(self.tools.lease.lease_grant(self.request(request)).await?.into_inner().id)
    }

    /// What happens to a key or, with a range end, to keys, from a revision on.
    fn events(&self, key: Bytes, range_end: Bytes, from: i64) -> Result<Events, Status> {
        let create = WatchCreateRequest { key, range_end, start_revision: from, ..Default::default() };
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The watch goes on until it is dropped: no more requests come, and it is not cancelled.
        let requests = stream::once(async { Ok(create) }).chain(stream::pending());
        let responses = self.tools.watch.serve(Box::pin(requests), &self.metadata)?;
        Ok(Events { responses, waiting: Vec::new().into_iter() })
    }

    /// Waits until no key of the prefix is left that was created at or before a revision.
    async fn wait_for_earlier(&self, prefix: &Bytes, created_max: i64) -> Result<(), Status> {
        loop {
            let mut request = first_by_creation(prefix);
            request.sort_order = SortOrder::Descend as i32;
            request.max_create_revision = created_max;
            let found = self.range(request).await?;
            let Some(pair) = found.kvs.into_iter().next() else { return Ok(()) };
            let from = found.header.unwrap_or_default().revision + 1;
            let mut events = self.events(pair.key, Bytes::new(), from)?;
            while events.next().await?.r#type != EventType::Delete as i32 {}
        }
    }
}

/// Events of a watch, one by one.
struct Events {
    responses: Responses,
    waiting: std::vec::IntoIter<Event>,
}

impl Events {
    async fn next(&mut self) -> Result<Event, Status> {
        loop {
            if let Some(event) = self.waiting.next() {
                return Ok(event);
            }
            let response = self.responses.next().await;
            let response = response.ok_or_else(|| Status::unavailable("etcdserver: server stopped"))??;
            if response.canceled {
                return Err(match response.compact_revision {
                    0 => Status::cancelled("etcdserver: watch canceled"),
                    _ => crate::refusal::Refusal::Compacted.status(),
                });
            }
            self.waiting = response.events.into_iter();
        }
    }
}

/// Deletes a key unless it was earned: who stops waiting must not stand in others' way.
struct Claim {
    hands: Hands,
    key: Bytes,
    earned: bool,
}

impl Claim {
    fn new(hands: &Hands, key: &Bytes) -> Claim {
        Claim { hands: hands.clone(), key: key.clone(), earned: false }
    }

    fn earn(mut self) {
        self.earned = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.earned {
            return;
        }
        let (hands, key) = (self.hands.clone(), self.key.clone());
        tokio::spawn(async move {
            if let Err(error) = hands.delete(key).await {
                tracing::warn!(%error, "a key of a given up wait stays until its lease ends");
            }
        });
    }
}

/// All keys of a name.
fn prefix_of(name: &[u8]) -> Bytes {
    let mut prefix = BytesMut::with_capacity(name.len() + 1);
    prefix.put_slice(name);
    prefix.put_u8(b'/');
    prefix.freeze()
}

/// The key of a lease under a prefix.
fn key_of(prefix: &Bytes, lease: i64) -> Bytes {
    let mut key = BytesMut::from(&prefix[..]);
    key.put_slice(format!("{lease:x}").as_bytes());
    key.freeze()
}

/// The key of a prefix that was created first.
fn first_by_creation(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: replica::machine::prefix_end(prefix),
        limit: 1,
        sort_target: SortTarget::Create as i32,
        sort_order: SortOrder::Ascend as i32,
        ..RangeRequest::default()
    }
}

/// Holds while the key is the one created at this revision; 0: while there is none.
fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        range_end: Bytes::new(),
    }
}

fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    let request = PutRequest { key: key.clone(), value, lease, ..PutRequest::default() };
    RequestOp { request: Some(Op::RequestPut(request)) }
}

fn delete(key: &Bytes) -> RequestOp {
    let request = DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() };
    RequestOp { request: Some(Op::RequestDeleteRange(request)) }
}

fn read(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Op::RequestRange(request)) }
}

fn one(key: &Bytes) -> RangeRequest {
    RangeRequest { key: key.clone(), ..RangeRequest::default() }
}

/// The first pair that an operation of a transaction found.
fn found(responses: &[ResponseOp], number: usize) -> Option<&KeyValue> {
    match &responses.get(number)?.response {
        Some(Answered::ResponseRange(range)) => range.kvs.first(),
        _ => None,
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send + 'static>>;
