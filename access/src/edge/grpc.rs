//! The two calls as gRPC. Translates; see [`Edge`] for what happens.

use std::sync::Arc;

use bytes::Bytes;
use ticket::id::UserId;
use tonic::{Request, Response, Status};

use crate::desk::Shaken;
use crate::edge::Edge;
use crate::edge::proto::edge_server::Edge as EdgeService;
use crate::edge::proto::{OpenReply, OpenRequest, Outcome, ShakeReply, ShakeRequest};

/// The service over an edge.
#[derive(Clone)]
pub struct GrpcEdge(pub Arc<Edge>);

impl GrpcEdge {
    fn user<T>(&self, request: &Request<T>) -> Result<UserId, Status> {
        let authorization = request.metadata().get("authorization").map(|value| value.as_encoded_bytes());
        self.0.authenticate(authorization).map_err(|error| error.to_status())
    }
}

#[tonic::async_trait]
impl EdgeService for GrpcEdge {
    async fn shake(&self, request: Request<ShakeRequest>) -> Result<Response<ShakeReply>, Status> {
        let user = self.user(&request)?;
        let history = request.into_inner().history;
        let history = (!history.is_empty()).then_some(history);
        Ok(Response::new(reply_of(self.0.shake(user, history.as_deref()))))
    }

    async fn open(&self, request: Request<OpenRequest>) -> Result<Response<OpenReply>, Status> {
        let user = self.user(&request)?;
        let ticket = request.into_inner().ticket;
        match self.0.open(user, &ticket).await {
            Ok(opened) => {
                Ok(Response::new(OpenReply { packet_id: opened.packet_id, amount_fen: opened.amount_fen }))
            }
            Err(error) => Err(error.to_status()),
        }
    }
}

fn reply_of(shaken: Shaken) -> ShakeReply {
    let mut reply = ShakeReply::default();
    let outcome = match shaken {
        Shaken::Packet { ticket, page, history } => {
            reply.ticket = Bytes::copy_from_slice(&ticket);
            reply.page = page.unwrap_or_default();
            reply.history = history;
            Outcome::Packet
        }
        Shaken::Page(page) => {
            reply.page = page;
            Outcome::Page
        }
        Shaken::Nothing => Outcome::Nothing,
        Shaken::Throttled { retry_after_ms } => {
            reply.retry_after_ms = retry_after_ms;
            Outcome::Throttled
        }
        Shaken::Closed { next_slot_at } => {
            reply.next_slot_at_ms = next_slot_at.map_or(0, |at| at.0);
            Outcome::Closed
        }
    };
    reply.set_outcome(outcome);
    reply
}
