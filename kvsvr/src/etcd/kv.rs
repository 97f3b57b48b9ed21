//! The KV service: reads are answered here, writes go to the leader.
//!
//! Invariant: every answer tells the revision and names this member, wherever it was made.

use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::courier::Courier;
use super::leader_wanted;
use crate::control_port::{Answer, Call, Readers, answer};
use crate::outcome::CallError;
use crate::wire::etcdserverpb::kv_server::Kv;
use crate::wire::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};

/// etcd's KV service over the local member of the control group.
#[derive(Clone)]
pub struct KvService {
    courier: Courier,
}

impl KvService {
    /// A service that goes to the leader with what writes.
    pub(crate) fn new(courier: Courier) -> KvService {
        KvService { courier }
    }

    /// A client may ask not to be served at all by a member that knows of no leader.
    fn check_leader(&self, metadata: &MetadataMap) -> Result<(), Status> {
        if leader_wanted(metadata) && self.courier.port.group().standing().leader.is_none() {
            return Err(CallError::NotLeader { hint: None }.status());
        }
        Ok(())
    }

    /// Answers a request of whoever sent this metadata.
    pub(super) async fn serve(&self, metadata: &MetadataMap, call: Call) -> Result<Answer, Status> {
        self.check_leader(metadata)?;
        let author = self.courier.desk.author(metadata)?;
        let mut answer = if call.writes() {
            let reply = self.courier.propose(call.into_command(&author)).await?;
            answer(reply).map_err(|error| error.status())?
        } else {
            let here = || self.courier.port.call(&author, call.clone(), Readers::Anybody);
            // A member that cannot read now can in a moment: nobody else could do it better.
            let there = |_: Channel, _: Duration| async { Err(CallError::NotLeader { hint: None }.status()) };
            self.courier.run(here, there).await?
        };
        self.courier.identity.fill(answer.header_mut(), &self.courier.port);
        assert!(answer.header_mut().revision > 0, "every answer tells the revision");
        Ok(answer)
    }
}

macro_rules! serve {
    ($self:ident, $request:ident, $kind:ident) => {{
        let (metadata, _, request) = $request.into_parts();
        match $self.serve(&metadata, Call::$kind(request)).await? {
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
