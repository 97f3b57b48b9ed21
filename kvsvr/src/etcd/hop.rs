//! The end of a forward: what other members ask of this one because it leads.
//!
//! Invariant: only a leader answers; anything else is "not the leader", and nothing is carried on.
//! Every forwarded command is answered exactly once unless its stream breaks; a stream that is to
//! end says so first, answers what was sent, and lets the other side end it.
//!
//! Not here: who asks. The member that was asked has found that out; it stands in the command.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use prost::Message;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use crate::control_port::ControlPort;
use crate::lease::LeaseKeeper;
use crate::limits::{FORWARD_MESSAGE_BYTES, FORWARDED_IN_FLIGHT_MAX};
use crate::outcome::{CallError, not_done};
use crate::wire::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_hop_server::ControlHop;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::forward_request::Forwarded;
use crate::wire::native::forward_response::outcome::Outcome as End;
use crate::wire::native::forward_response::{Failure, Outcome};
use crate::wire::native::{ControlCommand, ControlReply, ForwardRequest, ForwardResponse};

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
    pub fn new(
        port: ControlPort,
        keeper: Arc<LeaseKeeper>,
        stopping: watch::Receiver<bool>,
    ) -> HopService {
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

/// One member's stream of commands.
struct Arrivals {
    service: HopService,
    requests: Streaming<ForwardRequest>,
    // The other side may send more.
    open: bool,
    told_closing: bool,
    in_flight: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl Arrivals {
    /// The next message for the other side; `None` when it has ended the stream and has every answer.
    async fn next(&mut self) -> Option<ForwardResponse> {
        let mut stopping = self.service.stopping.clone();
        loop {
            let room = self.in_flight.len() < FORWARDED_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                Some(first) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    return Some(ForwardResponse { outcomes: self.gather(first), closing: false });
                }
                request = self.requests.message(), if self.open && room => match request {
                    Ok(Some(request)) => self.take(request),
                    // Broken or ended: what is under way goes on, heard or not.
                    Ok(None) | Err(_) => self.open = false,
                },
                // An error means that the server is gone.
                _ = stopping.wait_for(|stop| *stop), if self.open && !self.told_closing => {
                    self.told_closing = true;
                    return Some(ForwardResponse { outcomes: Vec::new(), closing: true });
                }
                else => return None,
            }
        }
    }

    fn take(&mut self, request: ForwardRequest) {
        for Forwarded { id, command } in request.commands {
            let service = self.service.clone();
            let outcome = async move {
                let end = match service.carry_out(command.unwrap_or_default()).await {
                    Ok(reply) => End::Reply(ControlReply { reply: Some(reply) }),
                    Err(error) => End::Failure(failure(&error)),
                };
                Outcome { id, outcome: Some(end) }
            };
            self.in_flight.push(outcome.boxed());
        }
    }

    // With `first`, what else is there by now, up to a bound.
    fn gather(&mut self, first: Outcome) -> Vec<Outcome> {
        let mut bytes = first.encoded_len();
        let mut outcomes = vec![first];
        while bytes < FORWARD_MESSAGE_BYTES {
            let Some(Some(outcome)) = self.in_flight.next().now_or_never() else { break };
            bytes += outcome.encoded_len();
            outcomes.push(outcome);
        }
        outcomes
    }
}

fn failure(error: &CallError) -> Failure {
    let status = error.status();
    Failure {
        code: status.code() as i32,
        message: status.message().to_owned(),
        not_done: not_done(&status),
    }
}

fn respond<T>(result: Result<T, CallError>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| error.status())
}

#[tonic::async_trait]
impl ControlHop for HopService {
    type ForwardStream = Pin<Box<dyn Stream<Item = Result<ForwardResponse, Status>> + Send + 'static>>;

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let arrivals = Arrivals {
            service: self.clone(),
            requests: request.into_inner(),
            open: true,
            told_closing: false,
            in_flight: FuturesUnordered::new(),
        };
        let responses = stream::unfold(arrivals, |mut arrivals| async move {
            let response = arrivals.next().await?;
            Some((Ok(response), arrivals))
        });
        Ok(Response::new(Box::pin(responses)))
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
