//! The native service: data groups in batches, and the system group for our own client.
//!
//! Invariant: a member answers calls only for groups it leads; watches it serves always. The caller follows leaders itself, for it
//! talks to many groups at once and a hop would double the traffic.

mod ingest;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use crate::control_port::{Answer, Call, ControlPort, Readers, propose_error, read_error};
use crate::etcd::{Responses, WatchService};
use crate::group::{KvGroup, read_with};
use crate::limits::{BATCH_GET_KEYS_MAX, SCAN_PAGE_BYTES_MAX, WRITE_UNITS_MAX};
use crate::machine::{data, encode_command};
use crate::outcome::CallError;
use crate::wire::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse, WatchRequest};
use crate::wire::native::batch_get_response::Value;
use crate::wire::native::data_kv_server::DataKv;
use crate::wire::native::scan_response::Pair;
use crate::wire::native::{
    Author, BatchGetRequest, BatchGetResponse, DataCommand, IngestPart, IngestReply, ScanRequest,
    ScanResponse, WriteRequest, WriteResponse,
};

/// The native service over this node's members of all groups.
#[derive(Clone)]
pub struct NativeService {
    system: ControlPort,
    watch: WatchService,
    data: Vec<Arc<dyn KvGroup>>,
}

impl NativeService {
    /// A service over the system group, watches of it, and the data groups in their order.
    pub fn new(system: ControlPort, watch: WatchService, data: Vec<Arc<dyn KvGroup>>) -> NativeService {
        NativeService { system, watch, data }
    }

    fn group(&self, number: u32) -> Result<&dyn KvGroup, CallError> {
        let group = self.data.get(number as usize).map(|group| &**group);
        let count = self.data.len();
        group.ok_or_else(|| {
            CallError::Invalid(format!("there is no data group {number}: this cluster has {count}"))
        })
    }

    async fn write_units(&self, request: WriteRequest) -> Result<WriteResponse, CallError> {
        let group = self.group(request.group)?;
        let count = request.units.len();
        if count == 0 || count > WRITE_UNITS_MAX {
            return Err(CallError::Invalid(format!(
                "a write holds 1 to {WRITE_UNITS_MAX} units, this one {count}"
            )));
        }
        let command = encode_command(&DataCommand { units: request.units, ingest: None });
        let reply = group.propose(command).await.map_err(propose_error)?;
        let response = WriteResponse::decode(reply);
        let response =
            response.map_err(|error| CallError::Unknown(format!("the machine's reply: {error}")))?;
        assert!(response.replies.len() == count, "every unit is answered");
        Ok(response)
    }

    async fn get_values(&self, request: BatchGetRequest) -> Result<BatchGetResponse, CallError> {
        let group = self.group(request.group)?;
        let count = request.keys.len();
        if count == 0 || count > BATCH_GET_KEYS_MAX {
            return Err(CallError::Invalid(format!(
                "a batch holds 1 to {BATCH_GET_KEYS_MAX} keys, this one {count}"
            )));
        }
        group.read_barrier().await.map_err(read_error)?;
        let values = read_with(group, |view| {
            let mut values = Vec::with_capacity(count);
            let mut page_bytes = 0;
            for key in &request.keys {
                let value: Option<Bytes> = data::get(view, key)?;
                page_bytes += value.as_ref().map_or(0, Bytes::len);
                values.push(Value { value });
                if page_bytes >= SCAN_PAGE_BYTES_MAX {
                    break;
                }
            }
            Ok(values)
        });
        let values = values.map_err(storage)?;
        Ok(BatchGetResponse { values })
    }

    async fn scan_page(&self, request: ScanRequest) -> Result<ScanResponse, CallError> {
        let group = self.group(request.group)?;
        group.read_barrier().await.map_err(read_error)?;
        let limit = request.limit as usize;
        let page =
            read_with(group, |view| data::scan(view, &request.prefix, request.after.as_deref(), limit));
        let pairs = page.map_err(storage)?.into_iter().map(|(key, value)| Pair { key, value });
        Ok(ScanResponse { pairs: pairs.collect() })
    }
}

fn storage(error: replica::engine::EngineError) -> CallError {
    CallError::Storage(error.to_string())
}

fn respond<T>(result: Result<T, CallError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| error.status())
}

#[tonic::async_trait]
impl DataKv for NativeService {
    type ControlWatchStream = Responses;

    async fn control_watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (metadata, _, requests) = request.into_parts();
        Ok(Response::new(self.watch.serve(requests, &metadata)?))
    }

    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        respond(self.write_units(request.into_inner()).await)
    }

    async fn ingest(&self, request: Request<Streaming<IngestPart>>) -> Result<Response<IngestReply>, Status> {
        self.ingest_file(request.into_inner()).await.map(Response::new)
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        respond(self.get_values(request.into_inner()).await)
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        respond(self.scan_page(request.into_inner()).await)
    }

    async fn control_range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        match self.system.call(&Author::default(), Call::Range(request.into_inner()), Readers::Leader).await {
            Ok(Answer::Range(response)) => Ok(Response::new(response)),
            Ok(_) => Err(Status::internal("an answer of another kind")),
            Err(error) => Err(error.status()),
        }
    }

    async fn control_txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        match self.system.call(&Author::default(), Call::Txn(request.into_inner()), Readers::Leader).await {
            Ok(Answer::Txn(response)) => Ok(Response::new(response)),
            Ok(_) => Err(Status::internal("an answer of another kind")),
            Err(error) => Err(error.status()),
        }
    }
}
