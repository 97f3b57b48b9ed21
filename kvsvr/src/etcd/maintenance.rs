//! The Maintenance service: what one member says of itself.
//!
//! Not here: the size of the database. The engine is shared by all groups of a node and nobody
//! could tell which share is this group's, so 0 is answered.

use tonic::{Request, Response, Status};

use super::{ETCD_VERSION, Identity, member_id};
use crate::control_port::ControlPort;
use crate::wire::etcdserverpb::alarm_request::AlarmAction;
use crate::wire::etcdserverpb::maintenance_server::Maintenance;
use crate::wire::etcdserverpb::{AlarmRequest, AlarmResponse, ResponseHeader, StatusRequest, StatusResponse};

/// etcd's Maintenance service.
#[derive(Clone)]
pub struct MaintenanceService {
    port: ControlPort,
    identity: Identity,
}

impl MaintenanceService {
    /// A service that speaks for the local member.
    pub fn new(port: ControlPort, identity: Identity) -> MaintenanceService {
        MaintenanceService { port, identity }
    }

    fn header(&self) -> Result<Option<ResponseHeader>, Status> {
        let revision = self.port.revision().map_err(|error| error.status())?;
        let mut header = ResponseHeader { revision, ..ResponseHeader::default() };
        self.identity.fill(&mut header, &self.port);
        Ok(Some(header))
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    // There are no alarms to raise: a full disk stops the replica. So none is ever listed, and
    // raising one is refused rather than forgotten.
    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        if request.into_inner().action == AlarmAction::Activate as i32 {
            return Err(Status::unimplemented("etcdserver: alarms cannot be raised here"));
        }
        Ok(Response::new(AlarmResponse { header: self.header()?, alarms: Vec::new() }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let standing = self.port.group().standing();
        let errors = match standing.leader {
            Some(_) => Vec::new(),
            None => vec!["etcdserver: no leader".to_owned()],
        };
        Ok(Response::new(StatusResponse {
            header: self.header()?,
            version: ETCD_VERSION.to_owned(),
            leader: standing.leader.map_or(0, member_id),
            raft_index: standing.last_index,
            raft_term: standing.term,
            raft_applied_index: standing.applied_index,
            errors,
            ..StatusResponse::default()
        }))
    }
}
