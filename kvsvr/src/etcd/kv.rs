//! The KV service: reads are answered here, writes here or at the leader.
//!
//! ```text
//!   try here --ok / refused--> answer
//!      | a write, and not the leader
//!      v
//!   try the leader (hop 1) --ok / refused--> answer
//!      | surely not done: no connection, or it does not lead either
//!      v
//!   pause, begin again, until the deadline
//! ```
//! A linearizable read on a follower asks the leader only how far it must have applied.
//!
//! Invariant: a write is tried again only when it surely was not done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status};
use world::NodeId;

use super::Identity;
use crate::control_port::{Answer, Call, ControlPort, Readers};
use crate::limits::{RETRY_PAUSE, SERVE_DEADLINE};
use crate::outcome::{CallError, HOP_KEY, not_done};
use crate::peers::Peers;
use crate::wire::etcdserverpb::kv_client::KvClient;
use crate::wire::etcdserverpb::kv_server::Kv;
use crate::wire::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

/// etcd's KV service over the local member of the control group.
#[derive(Clone)]
pub struct KvService {
    port: ControlPort,
    identity: Identity,
    peers: Arc<Peers>,
}

impl KvService {
    /// A service that forwards to `peers` when its own member does not lead.
    pub fn new(port: ControlPort, identity: Identity, peers: Arc<Peers>) -> KvService {
        KvService { port, identity, peers }
    }

    async fn serve(&self, call: Call, forwarded: bool) -> Result<Answer, Status> {
        let deadline = Instant::now() + SERVE_DEADLINE;
        loop {
            let end = match timeout_at(deadline, self.here(call.clone())).await {
                Ok(Err(CallError::NotLeader { hint })) => CallError::NotLeader { hint },
                Ok(ended) => return ended.map_err(|error| error.status()),
                Err(_) => return Err(CallError::Unknown("the deadline passed".to_owned()).status()),
            };
            let CallError::NotLeader { hint } = end else { unreachable!("every other end has returned") };
            if forwarded {
                return Err(end.status());
            }
            if let Some(leader) = hint.filter(|leader| call.writes() && *leader != self.identity.node) {
                match self.forward(leader, call.clone(), deadline).await {
                    Err(status) if may_repeat(&status) => {}
                    ended => return ended,
                }
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(CallError::NotLeader { hint: None }.status());
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn here(&self, call: Call) -> Result<Answer, CallError> {
        let mut answer = self.port.call(call, Readers::Anybody).await?;
        self.identity.fill(answer.header_mut(), &self.port);
        assert!(answer.header_mut().revision > 0, "every answer tells the revision");
        Ok(answer)
    }

    async fn forward(&self, leader: NodeId, call: Call, deadline: Instant) -> Result<Answer, Status> {
        let Some(channel) = self.peers.channel(leader) else {
            return Err(CallError::NotLeader { hint: None }.status());
        };
        let patience = deadline.saturating_duration_since(Instant::now());
        let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
        Ok(match call {
            Call::Range(request) => Answer::Range(client.range(hop(request, patience)).await?.into_inner()),
            Call::Put(request) => Answer::Put(client.put(hop(request, patience)).await?.into_inner()),
            Call::DeleteRange(request) => {
                Answer::DeleteRange(client.delete_range(hop(request, patience)).await?.into_inner())
            }
            Call::Txn(request) => Answer::Txn(client.txn(hop(request, patience)).await?.into_inner()),
            Call::Compact(request) => {
                Answer::Compact(client.compact(hop(request, patience)).await?.into_inner())
            }
        })
    }
}

fn hop<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HOP_KEY, MetadataValue::from_static("1"));
    request.set_timeout(patience);
    request
}

// The leader may have moved on, or its node be gone. A refusal by a true leader is final.
fn may_repeat(status: &Status) -> bool {
    not_done(status) && matches!(status.code(), Code::Unavailable | Code::FailedPrecondition)
}

macro_rules! serve {
    ($self:ident, $request:ident, $kind:ident) => {{
        let forwarded = $request.metadata().contains_key(HOP_KEY);
        match $self.serve(Call::$kind($request.into_inner()), forwarded).await? {
            Answer::$kind(response) => Ok(Response::new(response)),
            _ => Err(Status::internal("an answer of another kind")),
        }
    }};
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        serve!(self, request, Range)
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        serve!(self, request, Put)
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        serve!(self, request, DeleteRange)
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        serve!(self, request, Txn)
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        serve!(self, request, Compact)
    }
}
