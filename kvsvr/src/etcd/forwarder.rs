//! The beginning of a forward: commands that came to a member that does not lead go to the leader,
//! many in a message, on one stream per leader.
//!
//! ```text
//!   put --\                        +-- id 1: ... --+
//!   put ---+--> queue --> gather --|   id 2: ...   |--> stream --> leader
//!   txn --/       ^                +---------------+                 |
//!                 |   fills up while a message is on its way         v
//!   answers <-----+------------------- by id, in any order --- replies
//! ```
//! A call of its own for each command costs both members more than all the rest of a write does.
//!
//! Invariant: a command is answered exactly once. "Not done" is said only of what was never put on
//! a stream, or by the leader itself; when a stream breaks, the outcome of what was on it is open.
//!
//! Not here: whom to ask, and trying again (`courier`); the leader's end (`hop`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use world::NodeId;

use crate::limits::{
    ANSWER_BYTES_MAX, FORWARD_MESSAGE_BYTES, FORWARD_MESSAGES_QUEUED_MAX, FORWARDED_IN_FLIGHT_MAX,
    FORWARDS_QUEUED_MAX,
};
use crate::outcome::{CallError, done_nothing};
use crate::peers::Peers;
use crate::wire::native::control_hop_client::ControlHopClient;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::forward_request::Forwarded;
use crate::wire::native::forward_response::outcome::Outcome as End;
use crate::wire::native::forward_response::{Failure, Outcome};
use crate::wire::native::{ControlCommand, ForwardRequest, ForwardResponse};

type Answer = Result<Reply, Status>;

/// A command and who waits for its answer.
struct Waiting {
    command: ControlCommand,
    caller: oneshot::Sender<Answer>,
}

/// The ways from this member to those that may lead. Clones share them.
#[derive(Clone)]
pub(crate) struct Forwarder {
    peers: Arc<Peers>,
    queues: Arc<Mutex<BTreeMap<NodeId, mpsc::Sender<Waiting>>>>,
}

impl Forwarder {
    pub(crate) fn new(peers: Arc<Peers>) -> Forwarder {
        Forwarder { peers, queues: Arc::default() }
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
    ) -> Answer {
        let Some(queue) = self.queue(leader) else {
            return Err(CallError::NotLeader { hint: None }.status());
        };
        let (caller, answer) = oneshot::channel();
        if queue.try_send(Waiting { command, caller }).is_err() {
            return Err(CallError::Overloaded("too many commands wait for the leader".to_owned()).status());
        }
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Unknown("the forward ended".to_owned()).status()),
            Err(_) => Err(CallError::Unknown("the leader did not answer in time".to_owned()).status()),
        }
    }

    // The queue to a node. What serves it ends when the last forwarder is dropped.
    fn queue(&self, node: NodeId) -> Option<mpsc::Sender<Waiting>> {
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(&node) {
            return Some(queue.clone());
        }
        let channel = self.peers.channel(node)?;
        let (queue, waiting) = mpsc::channel(FORWARDS_QUEUED_MAX);
        tokio::spawn(serve(channel, waiting));
        queues.insert(node, queue.clone());
        Some(queue)
    }
}

/// Opens a stream when there is something to forward, and again when one has ended.
async fn serve(channel: Channel, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let (requests, outbound) = mpsc::channel(FORWARD_MESSAGES_QUEUED_MAX);
        let mut line = Line { requests: Some(requests), in_flight: BTreeMap::new(), id_last: 0 };
        let message = line.gather(first, &mut waiting);
        let queued = line.requests.as_ref().map(|requests| requests.try_send(message));
        assert!(matches!(queued, Some(Ok(()))), "a new stream has room for one message");
        let client = ControlHopClient::new(channel.clone());
        let mut client = client.max_decoding_message_size(ANSWER_BYTES_MAX);
        match client.forward(ReceiverStream::new(outbound)).await {
            Ok(responses) => line.run(responses.into_inner(), &mut waiting).await,
            Err(status) => line.give_up(&status),
        }
    }
}

/// One stream and what is on it.
struct Line {
    /// `None` once the leader wants nothing more on this stream.
    requests: Option<mpsc::Sender<ForwardRequest>>,
    // Ordered, so that a simulated run wakes callers in the same order every time.
    in_flight: BTreeMap<u64, oneshot::Sender<Answer>>,
    id_last: u64,
}

impl Line {
    async fn run(
        mut self,
        mut responses: Streaming<ForwardResponse>,
        waiting: &mut mpsc::Receiver<Waiting>,
    ) {
        loop {
            let room = self.in_flight.len() < FORWARDED_IN_FLIGHT_MAX;
            let requests = self.requests.clone();
            tokio::select! {
                biased;
                response = responses.message() => match response {
                    Ok(Some(response)) => self.settle(response),
                    Ok(None) => return self.give_up(&broken("the leader ended the stream")),
                    Err(status) => return self.give_up(&broken(status.message())),
                },
                next = next(requests, waiting), if room && self.requests.is_some() => match next {
                    Some((place, first)) => drop(place.send(self.gather(first, waiting))),
                    // Nobody will forward any more, or the stream is dead and will soon say so.
                    None => self.requests = None,
                },
            }
            if self.requests.is_none() && self.in_flight.is_empty() {
                return;
            }
        }
    }

    /// One message of what waits.
    fn gather(&mut self, first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> ForwardRequest {
        let mut commands = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Waiting { command, caller }) = next {
            self.id_last += 1;
            bytes += command.encoded_len();
            commands.push(Forwarded { id: self.id_last, command: Some(command) });
            self.in_flight.insert(self.id_last, caller);
            let full = bytes >= FORWARD_MESSAGE_BYTES || self.in_flight.len() >= FORWARDED_IN_FLIGHT_MAX;
            next = if full { None } else { waiting.try_recv().ok() };
        }
        ForwardRequest { commands }
    }

    fn settle(&mut self, response: ForwardResponse) {
        for Outcome { id, outcome } in response.outcomes {
            let answer = match outcome {
                Some(End::Reply(reply)) => {
                    reply.reply.ok_or_else(|| Status::internal("the leader's reply is empty"))
                }
                Some(End::Failure(Failure { code, message, not_done: true })) => {
                    Err(done_nothing(Code::from_i32(code), &message))
                }
                Some(End::Failure(Failure { code, message, not_done: false })) => {
                    Err(Status::new(Code::from_i32(code), message))
                }
                None => Err(Status::internal("the leader's reply is empty")),
            };
            if let Some(caller) = self.in_flight.remove(&id) {
                let _ = caller.send(answer); // Its patience may have run out.
            }
        }
        if response.closing {
            self.requests = None;
        }
    }

    /// Answers whatever is on the stream the same.
    fn give_up(self, status: &Status) {
        for caller in self.in_flight.into_values() {
            let _ = caller.send(Err(status.clone()));
        }
    }
}

/// Room on the stream, and the next command. Losing a race with an answer loses neither.
async fn next(
    requests: Option<mpsc::Sender<ForwardRequest>>,
    waiting: &mut mpsc::Receiver<Waiting>,
) -> Option<(mpsc::OwnedPermit<ForwardRequest>, Waiting)> {
    let place = requests?.reserve_owned().await.ok()?;
    let first = waiting.recv().await?;
    Some((place, first))
}

fn broken(reason: &str) -> Status {
    CallError::Unknown(reason.to_owned()).status()
}
