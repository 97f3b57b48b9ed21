//! The end of a forward: what other members ask of this one because it leads.
//!
//! Invariant: only a leader answers; anything else is "not the leader", and nothing is carried on.
//!
//! Not here: who asks. The member that was asked has found that out; it stands in the command.

use std::sync::Arc;

use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};
use world::mux::{self, AnswerStream, Calls};

use super::forwarder::command;
use crate::control_port::ControlPort;
use crate::lease::LeaseKeeper;
use crate::outcome::{CallError, mux_refusal};
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
    stopping: watch::Receiver<bool>,
}

impl HopService {
    /// A service over the node's member of the control group. `stopping` tells when streams are to
    /// end.
    pub fn new(port: ControlPort, keeper: Arc<LeaseKeeper>, stopping: watch::Receiver<bool>) -> HopService {
        HopService { port, keeper, stopping }
    }

    async fn carry_out(&self, command: ControlCommand) -> Result<Reply, CallError> {
        let revoked = match &command.command {
            Some(Command::LeaseRevoke(request)) => Some(request.id),
            _ => None,
        };
        let reply = self.port.carry_out(command).await;
        if let (Some(id), Ok(Reply::LeaseRevoke(_))) = (revoked, &reply) {
            self.keeper.revoked(id);
        }
        reply
    }
}

fn respond<T>(result: Result<T, CallError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| error.status())
}

#[tonic::async_trait]
impl ControlHop for HopService {
    type ForwardStream = AnswerStream;

    async fn forward(&self, request: Request<Streaming<Calls>>) -> Result<Response<AnswerStream>, Status> {
        let service = self.clone();
        let answers = mux::serve(request.into_inner(), self.stopping.clone(), move |body| {
            let service = service.clone();
            async move {
                let reply = match command(body) {
                    Ok(command) => service.carry_out(command).await,
                    Err(error) => Err(error),
                };
                let reply = reply.map_err(|error| mux_refusal(&error.status()))?;
                Ok(ControlReply { reply: Some(reply) }.encode_to_vec().into())
            }
        });
        Ok(Response::new(answers))
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
