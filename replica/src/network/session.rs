//! One group's append stream to one follower, as a session on the shared stream.
//!
//! ```text
//!   Raft's requests --> [window: frames, bytes] --> seat.outbound
//!   Raft's answers  <-- in order, checked       <-- seat.replies
//! ```
//!
//! Invariant: the answer that is handed on is the answer to the oldest unanswered request. When
//! the session is dropped, so is Raft's request stream, at once: Raft keeps a lock inside it that
//! its next session needs, which is why no task of its own feeds it.
//!
//! Not here: reconnecting. Raft opens a new session after a pause.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use openraft::errors::{RPCError, Unreachable};
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use prost::Message;
use tokio::time::Instant;
use world::GroupId;

use super::link::Seat;
use super::wire::{append_to_pb, outcome_from_pb};
use crate::codec::pb::{AppendFrame, AppendReply};
use crate::limits::{APPEND_ANSWER_DEADLINE, APPEND_WINDOW_BYTES, APPEND_WINDOW_FRAMES};
use crate::types::TypeConfig;

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Requests that were sent and not yet answered, oldest first.
#[derive(Default)]
struct Window {
    sent: VecDeque<(usize, Instant)>,
    bytes: usize,
    last_sequence: u64,
    answered_sequence: u64,
}

struct Session<S> {
    group: GroupId,
    seat: Seat,
    requests: S,
    exhausted: bool,
    over: bool,
    window: Window,
}

/// Drives `requests` over `seat` and yields their answers.
pub(super) fn run<'s, S>(group: GroupId, seat: Seat, requests: S) -> impl Stream<Item = Answer> + Send + 's
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    let session = Session { group, seat, requests, exhausted: false, over: false, window: Window::default() };
    stream::unfold(session, |mut session| async move {
        let answer = session.next_answer().await?;
        // Anything but agreement ends a session; Raft looks at where it stands and opens another.
        session.over = !matches!(answer, Ok(Ok(_)));
        Some((answer, session))
    })
}

impl<S> Session<S>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
{
    async fn next_answer(&mut self) -> Option<Answer> {
        loop {
            if self.over || (self.exhausted && self.window.sent.is_empty()) {
                return None;
            }
            let patience = self.window.patience();
            tokio::select! {
                biased;
                reply = self.seat.replies.recv() => return Some(self.take(reply)),
                request = self.requests.next(), if !self.exhausted && self.window.is_open() => match request {
                    Some(request) => {
                        if let Err(reason) = self.send(&request).await {
                            return Some(Err(unreachable(&reason)));
                        }
                    }
                    None => self.exhausted = true,
                },
                () = tokio::time::sleep(patience), if !self.window.sent.is_empty() => {
                    return Some(Err(unreachable("the follower does not answer")));
                }
            }
        }
    }

    async fn send(&mut self, request: &AppendEntriesRequest<TypeConfig>) -> Result<(), String> {
        let request = append_to_pb(request);
        let size = request.encoded_len();
        let sequence = self.window.push(size);
        let frame = AppendFrame {
            group: self.group.0,
            session: self.seat.session,
            sequence,
            request: Some(request),
            closed: Vec::new(),
        };
        let sent = tokio::time::timeout(APPEND_ANSWER_DEADLINE, self.seat.outbound.send(frame)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the append stream broke".to_owned()),
            Err(_) => Err("the append stream does not move".to_owned()),
        }
    }

    fn take(&mut self, reply: Option<AppendReply>) -> Answer {
        let reply = reply.ok_or_else(|| unreachable("the append stream broke"))?;
        let outcome = outcome_from_pb(reply.outcome).map_err(|reason| unreachable(&reason))?;
        if !self.window.pop(reply.sequence) {
            return Err(unreachable("an answer out of order"));
        }
        Ok(outcome)
    }
}

impl Window {
    /// Whether another request may be sent. One always may when nothing is in flight.
    fn is_open(&self) -> bool {
        self.sent.is_empty() || (self.sent.len() < APPEND_WINDOW_FRAMES && self.bytes < APPEND_WINDOW_BYTES)
    }

    /// Counts a request in and numbers it.
    fn push(&mut self, size: usize) -> u64 {
        assert!(self.is_open(), "a request is sent only when the window is open");
        self.bytes += size;
        self.sent.push_back((size, Instant::now()));
        self.last_sequence += 1;
        self.last_sequence
    }

    /// Counts the oldest request out; `false` when `sequence` is not its number.
    fn pop(&mut self, sequence: u64) -> bool {
        if sequence != self.answered_sequence + 1 {
            return false;
        }
        let Some((size, _)) = self.sent.pop_front() else { return false };
        assert!(self.bytes >= size, "bytes are counted in and out alike");
        self.bytes -= size;
        self.answered_sequence = sequence;
        true
    }

    /// How long the oldest request may still wait for its answer.
    fn patience(&self) -> Duration {
        let waited = self.sent.front().map_or(Duration::ZERO, |(_, sent)| sent.elapsed());
        APPEND_ANSWER_DEADLINE.saturating_sub(waited)
    }
}

/// The error that makes Raft pause before it tries again.
pub(super) fn unreachable(reason: &str) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_window_closes_at_its_frames_and_at_its_bytes() {
        let mut window = Window::default();
        for number in 1..=APPEND_WINDOW_FRAMES as u64 {
            assert!(window.is_open());
            assert_eq!(window.push(1), number);
        }
        assert!(!window.is_open());
        assert!(window.pop(1));
        assert!(window.is_open());

        let mut window = Window::default();
        window.push(APPEND_WINDOW_BYTES * 2);
        assert!(!window.is_open(), "a huge request goes alone");
        assert!(window.pop(1));
        assert!(window.is_open());
        assert_eq!(window.bytes, 0);
    }

    #[tokio::test]
    async fn only_the_oldest_request_can_be_answered() {
        let mut window = Window::default();
        window.push(1);
        window.push(1);
        assert!(!window.pop(2), "the second answer came first");
        assert!(window.pop(1));
        assert!(!window.pop(1), "the same answer twice");
        assert!(window.pop(2));
        assert!(!window.pop(3), "an answer to nothing");
    }
}
