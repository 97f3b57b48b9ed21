//! The end of a forward: what other members ask of this one because it leads.
//!
//! Invariant: only a leader answers; anything else is "not the leader", and nothing is carried on.
//!
//! Not here: who asks. The member that was asked has found that out; it stands in the command.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::control_port::ControlPort;
use crate::lease::LeaseKeeper;
use crate::outcome::CallError;
use crate::wire::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_hop_server::ControlHop;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::{ControlCommand, ControlReply};

/// The service for other members.
#[derive(Clone)]
pub struct HopService {
    port: ControlPort,
    keeper: Arc<LeaseKeeper>,
}

impl HopService {
    /// A service over the node's member of the control group.
    pub fn new(port: ControlPort, keeper: Arc<LeaseKeeper>) -> HopService {
        HopService { port, keeper }
    }
}

fn respond<T>(result: Result<T, CallError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| error.status())
}

#[tonic::async_trait]
impl ControlHop for HopService {
    async fn propose(&self, request: Request<ControlCommand>) -> Result<Response<ControlReply>, Status> {
        let command = request.into_inner();
        let revoked = match &command.command {
            Some(Command::LeaseRevoke(request)) => Some(request.id),
            _ => None,
        };
        let reply = self.port.carry_out(command).await;
        if let (Some(id), Ok(Reply::LeaseRevoke(_))) = (revoked, &reply) {
            self.keeper.revoked(id);
        }
        respond(reply.map(|reply| ControlReply { reply: Some(reply) }))
    }

    async fn renew(
        &self,
        request: Request<LeaseKeepAliveRequest>,
    ) -> Result<Response<LeaseKeepAliveResponse>, Status> {
        let id = request.into_inner().id;
        respond(self.keeper.renew(id).await.map(|ttl| LeaseKeepAliveResponse { header: None, id, ttl }))
    }

    async fn time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        respond(self.keeper.time_to_live(&request.into_inner()).await)
    }

    async fn leases(&self, _: Request<LeaseLeasesRequest>) -> Result<Response<LeaseLeasesResponse>, Status> {
        respond(self.keeper.leases().await)
    }
}
