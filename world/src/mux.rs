//! Many small calls in one stream, many in a message.
//!
//! ```text
//!   call --\                        +-- id 1: ... --+
//!   call ---+--> queue --> gather --|   id 2: ...   |--> stream --> server
//!   call --/       ^                +---------------+                 |
//!                  |   fills up while a message is on its way         v
//!   answers <------+------------------- by id, in any order ------ answers
//! ```
//! A gRPC call costs headers, tasks and a stream's state on both sides, more than the work behind
//! a heartbeat or a forwarded write. Here that is paid once a stream.
//!
//! Invariant: a call is answered exactly once. Nothing is sent twice; when a stream breaks, what
//! was on it fails as [`CallError::Broken`], which leaves open whether it was carried out. A server
//! that stops says so first and answers what was sent, so that stopping in good order loses nothing.
//!
//! Not here: what a body means, and whether a call may be repeated.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use prost::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Calls that wait to be sent. Beyond them a call is refused at once.
pub const CALLS_QUEUED_MAX: usize = 4_096;
/// Calls of one stream that are sent and not yet answered. Beyond them calls wait.
pub const CALLS_IN_FLIGHT_MAX: usize = 4_096;
/// Bytes of bodies after which a message takes no further one.
pub const MESSAGE_BYTES: usize = 256 * 1024;
/// Messages that wait for the connection.
const MESSAGES_QUEUED_MAX: usize = 4;
/// How long a server that stops waits for the client to end the stream.
const CLOSING_PATIENCE: Duration = Duration::from_millis(500);

/// A message of calls; see `mux.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Calls {
    /// What came together.
    #[prost(message, repeated, tag = "1")]
    pub calls: Vec<Call>,
}

/// One call.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    /// Unique within the stream.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What the server is given.
    #[prost(bytes = "bytes", tag = "2")]
    pub body: Bytes,
}

/// A message of answers; see `mux.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answers {
    /// What was ready together.
    #[prost(message, repeated, tag = "1")]
    pub answers: Vec<Answer>,
    /// The server stops: it answers what was sent, and wants nothing more on this stream.
    #[prost(bool, tag = "2")]
    pub closing: bool,
}

/// One answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Answer {
    /// Of the call that is answered.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// How it ended.
    #[prost(oneof = "Outcome", tags = "2, 3")]
    pub outcome: Option<Outcome>,
}

/// How a call ended at the server.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Outcome {
    /// What it answered.
    #[prost(bytes = "bytes", tag = "2")]
    Body(Bytes),
    /// Why it did not.
    #[prost(message, tag = "3")]
    Refusal(Refusal),
}

/// A server's reason for no answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Refusal {
    /// A gRPC status code.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Nothing was done and nothing will be.
    #[prost(bool, tag = "3")]
    pub not_done: bool,
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// Too many calls wait; nothing was sent.
    #[error("too many calls wait")]
    Full,
    /// No answer within the caller's patience; whether it was sent is open.
    #[error("no answer in time")]
    Late,
    /// The stream could not be opened. Only when the status stems from a connection that was never
    /// made is it sure that nothing was sent.
    #[error("the stream was not opened: {0}")]
    Unopened(Status),
    /// The stream ended before the answer came.
    #[error("the stream broke: {0}")]
    Broken(String),
    /// The server's answer.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

type Outbound = ReceiverStream<Calls>;
type Opening = BoxFuture<'static, Result<Streaming<Answers>, Status>>;

/// A call and who waits for its answer.
struct Waiting {
    body: Bytes,
    caller: oneshot::Sender<Result<Bytes, CallError>>,
}

/// The client's end. Clones share it; its stream ends with the last of them.
#[derive(Clone)]
pub struct Mux {
    queue: mpsc::Sender<Waiting>,
}

impl Mux {
    /// A client's end that opens its stream with `open` when there is something to send, and again
    /// after it has ended. Needs a runtime.
    pub fn start(open: impl Fn(Outbound) -> Opening + Send + Sync + 'static) -> Mux {
        let (queue, waiting) = mpsc::channel(CALLS_QUEUED_MAX);
        tokio::spawn(keep_open(open, waiting));
        Mux { queue }
    }

    /// Sends `body` and answers what the server answers.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, body: Bytes, patience: Duration) -> Result<Bytes, CallError> {
        let (caller, answer) = oneshot::channel();
        self.queue.try_send(Waiting { body, caller }).map_err(|_| CallError::Full)?;
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallError::Broken("the runtime ends".to_owned())),
            Err(_) => Err(CallError::Late),
        }
    }
}

async fn keep_open(
    open: impl Fn(Outbound) -> Opening + Send + Sync + 'static,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    while let Some(first) = waiting.recv().await {
        let (requests, outbound) = mpsc::channel(MESSAGES_QUEUED_MAX);
        let mut line = Line { requests: Some(requests.clone()), in_flight: BTreeMap::new(), id_last: 0 };
        let queued = requests.try_send(line.gather(first, &mut waiting));
        drop(requests);
        assert!(queued.is_ok(), "a new stream has room for one message");
        match open(ReceiverStream::new(outbound)).await {
            Ok(answers) => line.run(answers, &mut waiting).await,
            Err(status) => line.give_up(&CallError::Unopened(status)),
        }
    }
}

/// One stream and what is on it.
struct Line {
    /// `None` once nothing more is to be sent on this stream.
    requests: Option<mpsc::Sender<Calls>>,
    // Ordered, so that a simulated run wakes callers in the same order every time.
    in_flight: BTreeMap<u64, oneshot::Sender<Result<Bytes, CallError>>>,
    id_last: u64,
}

impl Line {
    async fn run(mut self, mut answers: Streaming<Answers>, waiting: &mut mpsc::Receiver<Waiting>) {
        while self.requests.is_some() || !self.in_flight.is_empty() {
            let room = self.in_flight.len() < CALLS_IN_FLIGHT_MAX;
            let requests = self.requests.clone();
            tokio::select! {
                biased;
                message = answers.message() => match message {
                    Ok(Some(message)) => self.settle(message),
                    Ok(None) => return self.give_up(&CallError::Broken("the server ended it".to_owned())),
                    Err(status) => {
                        return self.give_up(&CallError::Broken(status.message().to_owned()));
                    }
                },
                next = next(requests, waiting), if room && self.requests.is_some() => match next {
                    Some((place, first)) => drop(place.send(self.gather(first, waiting))),
                    // Nobody will call any more, or the stream is dead and will soon say so.
                    None => self.requests = None,
                },
            }
        }
    }

    /// One message of what waits.
    fn gather(&mut self, first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> Calls {
        let mut calls = Vec::new();
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(Waiting { body, caller }) = next {
            // Nobody waits any more for what was late before it was sent: a stream that was stuck
            // does not begin with what is stale.
            if !caller.is_closed() {
                self.id_last += 1;
                bytes += body.len();
                calls.push(Call { id: self.id_last, body });
                self.in_flight.insert(self.id_last, caller);
            }
            let full = bytes >= MESSAGE_BYTES || self.in_flight.len() >= CALLS_IN_FLIGHT_MAX;
            next = if full { None } else { waiting.try_recv().ok() };
        }
        Calls { calls }
    }

    fn settle(&mut self, message: Answers) {
        for Answer { id, outcome } in message.answers {
            let answer = match outcome {
                Some(Outcome::Body(body)) => Ok(body),
                Some(Outcome::Refusal(refusal)) => Err(CallError::Refused(refusal)),
                None => Err(CallError::Broken("an answer without an outcome".to_owned())),
            };
            if let Some(caller) = self.in_flight.remove(&id) {
                let _ = caller.send(answer); // Its patience may have run out.
            }
        }
        if message.closing {
            self.requests = None;
        }
    }

    /// Answers whatever is on the stream the same.
    fn give_up(self, error: &CallError) {
        for caller in self.in_flight.into_values() {
            let _ = caller.send(Err(error.clone()));
        }
    }
}

/// Room on the stream, and the next call. Losing a race with an answer loses neither.
async fn next(
    requests: Option<mpsc::Sender<Calls>>,
    waiting: &mut mpsc::Receiver<Waiting>,
) -> Option<(mpsc::OwnedPermit<Calls>, Waiting)> {
    let place = requests?.reserve_owned().await.ok()?;
    let first = waiting.recv().await?;
    Some((place, first))
}

/// What a server's stream of answers is called.
pub type AnswerStream = Pin<Box<dyn Stream<Item = Result<Answers, Status>> + Send + 'static>>;

/// The server's end: has every call of `requests` handled and answers them as they are ready, until
/// the client ends the stream. `stopping` tells when it is to be asked to.
pub fn serve<F>(
    requests: Streaming<Calls>,
    stopping: watch::Receiver<bool>,
    handle: impl Fn(Bytes) -> F + Send + 'static,
) -> AnswerStream
where
    F: Future<Output = Result<Bytes, Refusal>> + Send + 'static,
{
    let arrivals = Arrivals {
        requests,
        stopping,
        handle,
        open: true,
        closing: None,
        in_flight: FuturesUnordered::new(),
    };
    Box::pin(stream::unfold(arrivals, |mut arrivals| async move {
        let message = arrivals.next().await?;
        Some((Ok(message), arrivals))
    }))
}

struct Arrivals<H> {
    requests: Streaming<Calls>,
    stopping: watch::Receiver<bool>,
    handle: H,
    /// The client may send more.
    open: bool,
    /// When the stream ends, asked for or not; set once the client was told.
    closing: Option<Instant>,
    in_flight: FuturesUnordered<BoxFuture<'static, Answer>>,
}

impl<H, F> Arrivals<H>
where
    H: Fn(Bytes) -> F,
    F: Future<Output = Result<Bytes, Refusal>> + Send + 'static,
{
    async fn next(&mut self) -> Option<Answers> {
        let mut stopping = self.stopping.clone();
        loop {
            let room = self.in_flight.len() < CALLS_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                Some(first) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    return Some(Answers { answers: self.gather(first), closing: false });
                }
                message = self.requests.message(), if self.open && room => match message {
                    Ok(Some(message)) => self.take(message),
                    // Broken or ended: what is under way goes on, heard or not.
                    Ok(None) | Err(_) => self.open = false,
                },
                // An error means that the server is gone.
                _ = stopping.wait_for(|stop| *stop), if self.open && self.closing.is_none() => {
                    self.closing = Some(Instant::now() + CLOSING_PATIENCE);
                    return Some(Answers { answers: Vec::new(), closing: true });
                }
                () = sleep_until(self.closing.unwrap_or_else(Instant::now)),
                    if self.open && self.closing.is_some() => self.open = false,
                else => return None,
            }
        }
    }

    fn take(&mut self, message: Calls) {
        for Call { id, body } in message.calls {
            let handled = (self.handle)(body);
            let answer = handled.map(move |outcome| {
                let outcome = outcome.map_or_else(Outcome::Refusal, Outcome::Body);
                Answer { id, outcome: Some(outcome) }
            });
            self.in_flight.push(answer.boxed());
        }
    }

    // With `first`, what else is there by now, up to a bound.
    fn gather(&mut self, first: Answer) -> Vec<Answer> {
        let mut bytes = first.encoded_len();
        let mut answers = vec![first];
        while bytes < MESSAGE_BYTES {
            let Some(Some(answer)) = self.in_flight.next().now_or_never() else { break };
            bytes += answer.encoded_len();
            answers.push(answer);
        }
        answers
    }
}
