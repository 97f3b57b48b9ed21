//! The beginning of a forward: commands that came to a member that does not lead go to the leader,
//! many in a message, on one stream per leader (`world::mux`).
//!
//! Invariant: the promise "not done" is given only for what was never put on a stream, or by the
//! leader itself; when a stream breaks, the outcome of what was on it is open.
//!
//! Not here: whom to ask, and trying again (`courier`); the leader's end (`hop`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use parking_lot::Mutex;
use prost::Message;
use tonic::Status;
use tonic::transport::Channel;
use world::NodeId;
use world::mux::Mux;

use crate::limits::ANSWER_BYTES_MAX;
use crate::outcome::{CallError, mux_status};
use crate::peers::Peers;
use crate::wire::native::control_hop_client::ControlHopClient;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::{ControlCommand, ControlReply};

/// The ways from this member to those that may lead. Clones share them.
#[derive(Clone)]
pub(crate) struct Forwarder {
    peers: Arc<Peers>,
    ways: Arc<Mutex<BTreeMap<NodeId, Mux>>>,
}

impl Forwarder {
    pub(crate) fn new(peers: Arc<Peers>) -> Forwarder {
        Forwarder { peers, ways: Arc::default() }
    }

    /// Has `leader` carry out a command; it may say that it does not lead.
    ///
    /// # Errors
    /// The leader's status; or one without the promise that nothing was done when the stream broke
    /// or `patience` ran out.
    pub(crate) async fn forward(
        &self,
        leader: NodeId,
        command: ControlCommand,
        patience: Duration,
    ) -> Result<Reply, Status> {
        let Some(way) = self.way(leader) else {
            return Err(CallError::NotLeader { hint: None }.status());
        };
        let answer = way.call(command.encode_to_vec().into(), patience).await.map_err(mux_status)?;
        let reply = ControlReply::decode(answer).ok().and_then(|reply| reply.reply);
        reply.ok_or_else(|| CallError::Unknown("the leader's reply cannot be read".to_owned()).status())
    }

    fn way(&self, node: NodeId) -> Option<Mux> {
        let mut ways = self.ways.lock();
        if let Some(way) = ways.get(&node) {
            return Some(way.clone());
        }
        let way = way_over(self.peers.channel(node)?);
        ways.insert(node, way.clone());
        Some(way)
    }
}

fn way_over(channel: Channel) -> Mux {
    Mux::start(move |calls| {
        let client = ControlHopClient::new(channel.clone());
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        async move { client.forward(calls).await.map(tonic::Response::into_inner) }.boxed()
    })
}

/// How the leader's end reads what it is to carry out.
///
/// # Errors
/// When it is no command.
pub(super) fn command(body: Bytes) -> Result<ControlCommand, CallError> {
    ControlCommand::decode(body).map_err(|error| CallError::Invalid(format!("not a command: {error}")))
}
