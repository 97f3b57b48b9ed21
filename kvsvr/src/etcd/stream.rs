//! etcd's KV requests, many in a message on one stream (`world::mux`).
//!
//! Invariant: a request means here what it means when it comes alone (`kv`): the same checks, the same
//! answers, and the promise "not done" under the same conditions. Whoever opened the stream asks;
//! whether that user still may is looked up with every request.
//!
//! Not here: any order between the requests of a stream; they are carried out side by side.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use world::mux::{self, AnswerStream, Calls};

use super::kv::KvService;
use crate::control_port::{Answer, Call};
use crate::outcome::{CallError, mux_refusal};
use crate::wire::native::kv_request::Request as Asked;
use crate::wire::native::kv_response::Response as Answered;
use crate::wire::native::kv_stream_server::KvStream;
use crate::wire::native::{KvRequest, KvResponse};

/// The service over the node's KV service.
#[derive(Clone)]
pub struct StreamService {
    kv: Arc<KvService>,
    stopping: watch::Receiver<bool>,
}

impl StreamService {
    /// A service that answers as `kv` does. `stopping` tells when streams are to end.
    pub fn new(kv: KvService, stopping: watch::Receiver<bool>) -> StreamService {
        StreamService { kv: Arc::new(kv), stopping }
    }
}

#[tonic::async_trait]
impl KvStream for StreamService {
    type RunStream = AnswerStream;

    async fn run(&self, request: Request<Streaming<Calls>>) -> Result<Response<AnswerStream>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let (kv, metadata) = (Arc::clone(&self.kv), Arc::new(metadata));
        let answers = mux::serve(requests, self.stopping.clone(), move |body| {
            let (kv, metadata) = (Arc::clone(&kv), Arc::clone(&metadata));
            async move {
                let answered = match call(body) {
                    Ok(call) => kv.serve(&metadata, call).await,
                    Err(error) => Err(error.status()),
                };
                answered.map(encode).map_err(|status| mux_refusal(&status))
            }
        });
        Ok(Response::new(answers))
    }
}

fn call(body: Bytes) -> Result<Call, CallError> {
    let request = KvRequest::decode(body)
        .map_err(|error| CallError::Invalid(format!("not a KvRequest: {error}")))?
        .request
        .ok_or_else(|| CallError::Invalid("a KvRequest of a kind this program does not know".to_owned()))?;
    Ok(match request {
        Asked::Range(request) => Call::Range(request),
        Asked::Put(request) => Call::Put(request),
        Asked::DeleteRange(request) => Call::DeleteRange(request),
        Asked::Txn(request) => Call::Txn(request),
        Asked::Compact(request) => Call::Compact(request),
    })
}

fn encode(answer: Answer) -> Bytes {
    let response = match answer {
        Answer::Range(response) => Answered::Range(response),
        Answer::Put(response) => Answered::Put(response),
        Answer::DeleteRange(response) => Answered::DeleteRange(response),
        Answer::Txn(response) => Answered::Txn(response),
        Answer::Compact(response) => Answered::Compact(response),
    };
    KvResponse { response: Some(response) }.encode_to_vec().into()
}
