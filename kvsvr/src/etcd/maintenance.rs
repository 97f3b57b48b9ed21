//! The Maintenance service: what one member says of itself, and what an operator may ask of it.
//!
//! Invariant: long readings (hashes, snapshots) are made off a pinned state, so that nothing waits
//! for them. Alarms are entries of the log, the list of them included, as at etcd.
//!
//! Not here: downgrades. There is one format; every request for another is refused.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use replica::engine::View;
use replica::members::MemberError;
use replica::transfer::TransferError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::courier::Courier;
use super::{ETCD_VERSION, member_id};
use crate::admin::GroupAdmin;
use crate::group::{read_long_with, read_with};
use crate::machine::control::hash::{hash_all, hash_kv};
use crate::machine::control::{self, Fault, alarm};
use crate::outcome::{CallError, NOT_LEADER};
use crate::snapshot;
use crate::wire::etcdserverpb::downgrade_request::DowngradeAction;
use crate::wire::etcdserverpb::maintenance_server::Maintenance;
use crate::wire::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, ResponseHeader, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse,
};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::Reply;

/// Pieces of a snapshot that may wait for a slow reader.
const SNAPSHOT_PIECES_WAITING_MAX: usize = 4;

/// How many bytes the node's state takes on its disk.
pub type StateBytes = Arc<dyn Fn() -> u64 + Send + Sync>;

/// etcd's Maintenance service.
#[derive(Clone)]
pub struct MaintenanceService {
    courier: Courier,
    group: Arc<dyn GroupAdmin>,
    state_bytes: StateBytes,
}

impl MaintenanceService {
    /// A service that speaks for the local member.
    pub(crate) fn new(
        courier: Courier,
        group: Arc<dyn GroupAdmin>,
        state_bytes: StateBytes,
    ) -> MaintenanceService {
        MaintenanceService { courier, group, state_bytes }
    }

    fn check_admin<T>(&self, request: &Request<T>) -> Result<(), Status> {
        self.courier.desk.check(request.metadata(), |access| access.check_admin()).map(|_| ())
    }

    /// Reads a pinned state away from the threads that serve.
    async fn read_long<R: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn View) -> R + Send + 'static,
    ) -> Result<R, Status> {
        let group = Arc::clone(&self.group);
        let read = tokio::task::spawn_blocking(move || read_long_with(&*group, read)).await;
        read.map_err(|error| Status::internal(format!("reading the state: {error}")))
    }

    fn stamped(&self, revision: i64) -> Option<ResponseHeader> {
        Some(self.courier.stamped(Some(ResponseHeader { revision, ..ResponseHeader::default() })))
    }

    fn alarms(&self) -> Result<Vec<AlarmMember>, Status> {
        let list = read_with(&*self.group, |view| alarm::list(view, AlarmType::None));
        list.map_err(|error| CallError::Storage(error.to_string()).status())
    }
}

fn fault_status(fault: Fault) -> Status {
    match fault {
        Fault::Refused(refusal) => refusal.status(),
        Fault::Engine(error) => CallError::Storage(error.to_string()).status(),
    }
}

/// An alarm as etcd's status lists it: the message in protobuf's text form, its last blank included.
fn alarm_text(alarm: &AlarmMember) -> String {
    let kind = AlarmType::try_from(alarm.alarm).map_or("NONE", |kind| kind.as_str_name());
    format!("memberID:{} alarm:{kind} ", alarm.member_id)
}

fn transfer_status(error: &TransferError) -> Status {
    match error {
        TransferError::NotLeader { .. } => Status::failed_precondition(NOT_LEADER),
        TransferError::Refused(MemberError::NotVoter { .. }) => {
            Status::failed_precondition("etcdserver: bad leader transferee")
        }
        // etcd begins the transfer whatever the target is like, and then says this.
        _ => Status::unknown("etcdserver: request timed out, leader transfer took too long"),
    }
}

// Three numbers and dots; etcd accepts "3.5" and "3.5.0".
fn is_version(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    (2..=3).contains(&parts.len()) && parts.iter().all(|part| part.parse::<u32>().is_ok())
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send + 'static>>;

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        match self.courier.send(&request.metadata().clone(), Command::Alarm(request.into_inner())).await? {
            Reply::Alarm(mut response) => {
                response.header = Some(self.courier.stamped(response.header));
                Ok(Response::new(response))
            }
            _ => Err(Status::internal("an answer of another kind")),
        }
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        self.courier.desk.check(request.metadata(), |access| access.check_known())?;
        let standing = self.group.standing();
        let mut errors = Vec::new();
        if standing.leader.is_none() {
            errors.push("etcdserver: no leader".to_owned());
        }
        errors.extend(self.alarms()?.iter().map(alarm_text));
        let bytes = i64::try_from((self.state_bytes)()).unwrap_or(i64::MAX);
        let in_use = read_with(&*self.group, |view| control::bytes(view));
        let in_use = in_use.map_err(|error| CallError::Storage(error.to_string()).status())?;
        let own = self.courier.identity.node;
        Ok(Response::new(StatusResponse {
            header: Some(self.courier.header()?),
            version: ETCD_VERSION.to_owned(),
            db_size: bytes,
            leader: standing.leader.map_or(0, member_id),
            raft_index: standing.committed_index,
            raft_term: standing.term,
            raft_applied_index: standing.applied_index,
            errors,
            db_size_in_use: i64::try_from(in_use).unwrap_or(i64::MAX),
            is_learner: self.group.members().learners.contains(&own),
        }))
    }

    // The engine gives back space by itself as it goes. What can be hurried is what has to happen
    // first: dropping what was compacted, and making the state durable so that the log can go.
    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        self.check_admin(&request)?;
        if self.group.standing().leader == Some(self.courier.identity.node) {
            self.courier.port.sweep().await.map_err(|error| error.status())?;
        }
        let made = self.group.checkpoint().await;
        made.map_err(|error| CallError::Storage(error.to_string()).status())?;
        // As at etcd, without a header.
        Ok(Response::new(DefragmentResponse::default()))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        self.check_admin(&request)?;
        let read = self.read_long(hash_all).await?;
        let (hash, revision) = read.map_err(|error| CallError::Storage(error.to_string()).status())?;
        Ok(Response::new(HashResponse { header: self.stamped(revision), hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        self.check_admin(&request)?;
        let revision = request.into_inner().revision;
        let read = self.read_long(move |view| hash_kv(view, revision)).await?;
        let hash = read.map_err(fault_status)?;
        Ok(Response::new(HashKvResponse {
            header: self.stamped(hash.current_revision),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.check_admin(&request)?;
        let group = Arc::clone(&self.group);
        let (pieces, waiting) = mpsc::channel(SNAPSHOT_PIECES_WAITING_MAX);
        tokio::task::spawn_blocking(move || {
            let result = read_long_with(&*group, |view| {
                snapshot::write(view, control::revision(view)?, &mut |blob| {
                    let version = ETCD_VERSION.to_owned();
                    // Nobody can tell the length before; 1 is "not the end yet".
                    let piece = SnapshotResponse { remaining_bytes: 1, blob, version, ..Default::default() };
                    pieces.blocking_send(Ok(piece)).is_ok()
                })
            });
            if let Err(error) = result {
                // Who does not listen any more does not miss it.
                let _ = pieces.blocking_send(Err(CallError::Storage(error.to_string()).status()));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(waiting))))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        self.check_admin(&request)?;
        if self.group.standing().leader != Some(self.courier.identity.node) {
            return Err(Status::failed_precondition(NOT_LEADER));
        }
        let target = super::node_of(request.into_inner().target_id);
        let target =
            target.ok_or_else(|| Status::failed_precondition("etcdserver: bad leader transferee"))?;
        let moved = self.group.transfer_leader(target).await;
        moved.map_err(|error| transfer_status(&error))?;
        Ok(Response::new(MoveLeaderResponse::default()))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        self.check_admin(&request)?;
        let request = request.into_inner();
        let (code, text) = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Cancel) => {
                (Code::FailedPrecondition, "etcdserver: no inflight downgrade job")
            }
            Err(_) => (Code::Unknown, "etcdserver: unknown method"),
            Ok(_) if !is_version(&request.version) => {
                (Code::InvalidArgument, "etcdserver: wrong downgrade target version format")
            }
            Ok(_) => (Code::InvalidArgument, "etcdserver: invalid downgrade target version"),
        };
        Err(Status::new(code, text))
    }
}
