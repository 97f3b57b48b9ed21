//! etcd's KV requests to one member, many in a message on one stream: a fraction of what unary calls
//! cost on either side.
//!
//! Invariant: nothing is sent twice. An error carries the promise "not done" ([`crate::outcome::not_done`])
//! when nothing was or will be done; without it the outcome of a write is open.
//!
//! Not here: other members (any member carries a request to the leader), repeating.

use std::time::Duration;

use futures_util::future::FutureExt;
use prost::Message;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use world::mux::Mux;

use crate::limits::ANSWER_BYTES_MAX;
use crate::outcome::{CallError, mux_status};
use crate::wire::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use crate::wire::native::kv_request::Request as Asked;
use crate::wire::native::kv_response::Response as Answered;
use crate::wire::native::kv_stream_client::KvStreamClient;
use crate::wire::native::{KvRequest, KvResponse};

/// Requests to the member at the other end of a channel. Clones share the stream.
#[derive(Clone)]
pub struct KvStream {
    mux: Mux,
    patience: Duration,
}

impl KvStream {
    /// A stream over `channel`, opened with the first request and again when it has broken. Each
    /// request may take `patience`. `token` says who asks, when users count. Needs a runtime.
    pub fn over(channel: Channel, patience: Duration, token: Option<MetadataValue<Ascii>>) -> KvStream {
        let mux = Mux::start(move |calls| {
            let client = KvStreamClient::new(channel.clone());
            let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
            let mut request = Request::new(calls);
            if let Some(token) = &token {
                request.metadata_mut().insert("token", token.clone());
            }
            async move { client.run(request).await.map(Response::into_inner) }.boxed()
        });
        KvStream { mux, patience }
    }

    /// Writes a key.
    ///
    /// # Errors
    /// What etcd answers to a put; [`Code::Unavailable`](tonic::Code) when the outcome is open.
    pub async fn put(&self, request: PutRequest) -> Result<PutResponse, Status> {
        match self.ask(Asked::Put(request)).await? {
            Answered::Put(response) => Ok(response),
            _ => Err(another_kind()),
        }
    }

    /// Reads a range.
    ///
    /// # Errors
    /// What etcd answers to a range request.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        match self.ask(Asked::Range(request)).await? {
            Answered::Range(response) => Ok(response),
            _ => Err(another_kind()),
        }
    }

    /// Deletes a range.
    ///
    /// # Errors
    /// As [`KvStream::put`].
    pub async fn delete_range(&self, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
        match self.ask(Asked::DeleteRange(request)).await? {
            Answered::DeleteRange(response) => Ok(response),
            _ => Err(another_kind()),
        }
    }

    /// A transaction.
    ///
    /// # Errors
    /// As [`KvStream::put`].
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        match self.ask(Asked::Txn(request)).await? {
            Answered::Txn(response) => Ok(response),
            _ => Err(another_kind()),
        }
    }

    async fn ask(&self, request: Asked) -> Result<Answered, Status> {
        let body = KvRequest { request: Some(request) }.encode_to_vec().into();
        let answer = self.mux.call(body, self.patience).await.map_err(mux_status)?;
        let answered = KvResponse::decode(answer).ok().and_then(|answer| answer.response);
        answered.ok_or_else(|| CallError::Unknown("the answer cannot be read".to_owned()).status())
    }
}

fn another_kind() -> Status {
    CallError::Unknown("an answer of another kind".to_owned()).status()
}
