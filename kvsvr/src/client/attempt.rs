//! One call to one group: whom to ask, when to ask again, and what to say in the end.
//!
//! Invariant: see `client`. What a status means is decided in `judge`, a pure function.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use world::NodeId;

use crate::api::KvError;
use crate::limits::{ANSWER_BYTES_MAX, RETRY_PAUSE};
use crate::outcome::{leader_hint, not_done};
use crate::peers::Peers;
use crate::wire::native::data_kv_client::DataKvClient;

// A read that one node does not answer in this time is asked of another. Longer than an election.
const READ_PATIENCE: Duration = Duration::from_millis(1_000);

/// Whether a call may be sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It changes nothing.
    Read,
    /// It must not happen twice.
    Write,
}

/// What to do after a status.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Elsewhere(Option<NodeId>),
    Later,
    End(KvError),
}

/// Whom to ask for which group.
pub(super) struct Router {
    peers: Arc<Peers>,
    // As configured: the nearest first.
    order: Vec<NodeId>,
    deadline: Duration,
    leaders: Mutex<BTreeMap<u32, NodeId>>,
}

/// A request that tells the server how long the caller will wait.
pub(super) fn with_deadline<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

impl Router {
    pub(super) fn new(peers: Arc<Peers>, order: Vec<NodeId>, deadline: Duration) -> Router {
        assert!(!order.is_empty(), "somebody can be asked");
        Router { peers, order, deadline, leaders: Mutex::default() }
    }

    /// Everybody who can be asked, the nearest first.
    pub(super) fn members(&self) -> (Arc<Peers>, Vec<NodeId>) {
        (Arc::clone(&self.peers), self.order.clone())
    }

    /// Sends a call until it has an answer, an end, or no time left.
    pub(super) async fn call<T, F>(
        &self,
        group: u32,
        effect: Effect,
        send: impl Fn(DataKvClient<Channel>, Duration) -> F,
    ) -> Result<T, KvError>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.deadline;
        let mut target = self.leaders.lock().get(&group).copied().unwrap_or(self.order[0]);
        let mut asked_in_round = 0;
        let mut last = "nobody was asked".to_owned();
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return Err(KvError::Unavailable(format!("no answer in {:?}; last: {last}", self.deadline)));
            }
            let mut asked = Asked { router: self, group, target, answered: false };
            let answer = self.send_once(target, effect, remaining, &send).await;
            asked.answered = answer.as_ref().map_or_else(not_done, |_| true);
            drop(asked);
            let verdict = match answer {
                Ok(answer) => {
                    self.leaders.lock().insert(group, target);
                    return Ok(answer);
                }
                Err(status) => {
                    last = format!("{target}: {}", status.message());
                    judge(&status, effect)
                }
            };
            asked_in_round += 1;
            let rest = match verdict {
                Verdict::End(error) => return Err(error),
                Verdict::Later => true,
                Verdict::Elsewhere(hint) => {
                    // A node that names itself or one that was just asked knows nothing new.
                    target = hint.filter(|hint| *hint != target).unwrap_or_else(|| self.next(target));
                    asked_in_round > self.order.len()
                }
            };
            if rest {
                asked_in_round = 0;
                sleep(RETRY_PAUSE.min(deadline.saturating_duration_since(Instant::now()))).await;
            }
        }
    }

    async fn send_once<T, F>(
        &self,
        target: NodeId,
        effect: Effect,
        remaining: Duration,
        send: &impl Fn(DataKvClient<Channel>, Duration) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let Some(channel) = self.peers.channel(target) else {
            return Err(crate::outcome::CallError::NotLeader { hint: None }.status());
        };
        let client = DataKvClient::new(channel)
            .max_decoding_message_size(ANSWER_BYTES_MAX)
            .max_encoding_message_size(ANSWER_BYTES_MAX);
        let patience = match effect {
            Effect::Read => remaining.min(READ_PATIENCE),
            Effect::Write => remaining,
        };
        match timeout(patience, send(client, patience)).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::deadline_exceeded(format!("no answer in {patience:?}"))),
        }
    }

    fn next(&self, node: NodeId) -> NodeId {
        let place = self.order.iter().position(|other| *other == node);
        self.order[place.map_or(0, |place| (place + 1) % self.order.len())]
    }
}

/// Who is being asked. One that does not answer, or not before the caller loses patience and drops the call,
/// is not remembered as a leader: the next call begins elsewhere.
struct Asked<'r> {
    router: &'r Router,
    group: u32,
    target: NodeId,
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut leaders = self.router.leaders.lock();
        if !self.answered && leaders.get(&self.group) == Some(&self.target) {
            leaders.remove(&self.group);
        }
    }
}

fn judge(status: &Status, effect: Effect) -> Verdict {
    let sure = not_done(status);
    match status.code() {
        Code::InvalidArgument | Code::OutOfRange | Code::NotFound | Code::Unimplemented if sure => {
            Verdict::End(KvError::Refused(status.message().to_owned()))
        }
        Code::ResourceExhausted if sure => Verdict::Later,
        _ if sure => Verdict::Elsewhere(leader_hint(status)),
        // The server does not know the method: it never ran.
        Code::Unimplemented => Verdict::End(KvError::Refused(status.message().to_owned())),
        _ if effect == Effect::Read => Verdict::Elsewhere(None),
        _ => Verdict::End(KvError::Unknown(status.message().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::CallError;
    use crate::refusal::Refusal;

    #[test]
    fn a_write_goes_elsewhere_only_when_it_surely_was_not_done() {
        let leader: NodeId = "b1".parse().expect("a node name");
        let moved = CallError::NotLeader { hint: Some(leader) }.status();
        assert_eq!(judge(&moved, Effect::Write), Verdict::Elsewhere(Some(leader)));
        let open = [
            CallError::Unknown("x".to_owned()).status(),
            Status::unavailable("connection reset"),
            Status::deadline_exceeded("x"),
            Status::cancelled("x"),
            Status::internal("h2"),
        ];
        for status in open {
            let verdict = judge(&status, Effect::Write);
            assert!(matches!(verdict, Verdict::End(KvError::Unknown(_))), "{status:?} gave {verdict:?}");
            assert_eq!(judge(&status, Effect::Read), Verdict::Elsewhere(None));
        }
    }

    #[test]
    fn a_refusal_is_final() {
        let status = CallError::Refused(Refusal::TooManyOps).status();
        assert!(matches!(judge(&status, Effect::Read), Verdict::End(KvError::Refused(_))));
        assert_eq!(judge(&CallError::Overloaded(String::new()).status(), Effect::Write), Verdict::Later);
    }
}
