//! Enqueues on their way to one partition: what arrives while calls are under way shares the next.
//!
//! ```text
//!   enqueue, enqueue, ... ->[ waiting ]-> batch -> call (at most CALLS_MAX) -> answers
//! ```
//! No timer: when nothing is under way, a message leaves at once; the busier the lane, the larger
//! the batches.
//!
//! Invariant: messages of one `enqueue` leave in their order, each only after those before it were
//! accepted; so a key keeps its order whatever fails.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::route::{Routes, Terms};
use super::{ClientConfig, unavailable};
use crate::api::{Enqueued, NewMessage, QueueError};
use crate::limits::{BATCH_BYTES_MAX, BATCH_LEN_MAX, message_bytes};
use crate::wire::pb;

/// Calls of one lane that are under way at once.
const CALLS_MAX: usize = 4;
/// Bytes that may wait in one lane; more is refused for now.
const WAITING_BYTES_MAX: usize = 64 * BATCH_BYTES_MAX;

type Results = Vec<Result<Enqueued, QueueError>>;

/// Messages of one caller that fit one call.
struct Unit {
    messages: Vec<NewMessage>,
    bytes: usize,
    answer: oneshot::Sender<Results>,
}

#[derive(Default)]
struct Waiting {
    units: VecDeque<Unit>,
    bytes: usize,
    calls: usize,
}

/// The way to one partition.
pub(super) struct Lane {
    partition: u32,
    routes: Arc<Routes>,
    config: ClientConfig,
    waiting: Mutex<Waiting>,
}

impl Lane {
    pub(super) fn new(partition: u32, routes: Arc<Routes>, config: ClientConfig) -> Lane {
        Lane { partition, routes, config, waiting: Mutex::new(Waiting::default()) }
    }

    /// Sends messages of this partition; answers each.
    pub(super) async fn enqueue(self: &Arc<Self>, messages: Vec<NewMessage>) -> Results {
        let count = messages.len();
        let mut results: Results = Vec::with_capacity(count);
        for chunk in chunks(messages) {
            let answers = self.send(chunk).await;
            let all_accepted = answers.iter().all(Result::is_ok);
            results.extend(answers);
            if !all_accepted {
                break;
            }
        }
        let held_back = || Err(unavailable("an earlier message of its partition was not accepted"));
        results.resize_with(count, held_back);
        results
    }

    async fn send(self: &Arc<Self>, messages: Vec<NewMessage>) -> Results {
        let count = messages.len();
        let bytes = messages.iter().map(message_bytes).sum();
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if WAITING_BYTES_MAX < waiting.bytes + bytes {
                return vec![Err(unavailable("too much waits for this partition already")); count];
            }
            waiting.bytes += bytes;
            waiting.units.push_back(Unit { messages, bytes, answer });
            if waiting.calls < CALLS_MAX {
                waiting.calls += 1;
                tokio::spawn(Arc::clone(self).run());
            }
        }
        // The wait in the lane and the call each have a deadline's time.
        let patience = self.config.deadline * 2;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(results)) => results,
            _ => vec![Err(QueueError::Unknown("no answer came".to_owned())); count],
        }
    }

    /// Carries batches until nothing waits.
    async fn run(self: Arc<Self>) {
        while let Some(units) = self.take_batch() {
            let lens: Vec<usize> = units.iter().map(|unit| unit.messages.len()).collect();
            let (messages, answers): (Vec<_>, Vec<_>) =
                units.into_iter().map(|unit| (unit.messages, unit.answer)).unzip();
            let messages: Vec<NewMessage> = messages.into_iter().flatten().collect();
            let mut results = self.carry(messages).await.into_iter();
            for (len, answer) in lens.into_iter().zip(answers) {
                // Whoever does not listen any more has given up on the outcome.
                let _ = answer.send(results.by_ref().take(len).collect());
            }
        }
    }

    /// The next units that fit one call; `None` ends this runner.
    fn take_batch(&self) -> Option<Vec<Unit>> {
        let mut waiting = self.waiting.lock();
        let (mut units, mut len, mut bytes) = (Vec::new(), 0, 0);
        while let Some(unit) = waiting.units.front() {
            let fits = len + unit.messages.len() <= BATCH_LEN_MAX && bytes + unit.bytes <= BATCH_BYTES_MAX;
            if !fits && !units.is_empty() {
                break;
            }
            assert!(fits, "a unit alone fits a call");
            let unit = waiting.units.pop_front().expect("it was looked at above");
            len += unit.messages.len();
            bytes += unit.bytes;
            waiting.bytes -= unit.bytes;
            units.push(unit);
        }
        if units.is_empty() {
            waiting.calls -= 1;
            return None;
        }
        Some(units)
    }

    async fn carry(&self, messages: Vec<NewMessage>) -> Results {
        let count = messages.len();
        let messages = messages.into_iter().map(Into::into).collect();
        let request = &pb::EnqueueRequest { partition: self.partition, messages };
        // Not patient: past the high-water mark the caller must hear it.
        let deadline = Instant::now() + self.config.deadline;
        let terms = Terms { deadline, attempt: self.config.attempt, patient: false };
        let call = self
            .routes
            .call(self.partition, terms, |mut rpc| async move { rpc.enqueue(request.clone()).await });
        match call.await {
            Ok(answer) if answer.reply.results.len() == count => {
                answer.reply.results.into_iter().map(Into::into).collect()
            }
            Ok(_) => {
                vec![
                    Err(QueueError::Unknown("the server answered another number of messages".to_owned()));
                    count
                ]
            }
            Err(error) => vec![Err(error); count],
        }
    }
}

/// Cuts messages into pieces that fit one call each, in order.
fn chunks(messages: Vec<NewMessage>) -> Vec<Vec<NewMessage>> {
    let mut chunks: Vec<Vec<NewMessage>> = Vec::new();
    let mut bytes = 0;
    for message in messages {
        let cost = message_bytes(&message);
        let fits =
            chunks.last().is_some_and(|chunk| chunk.len() < BATCH_LEN_MAX && bytes + cost <= BATCH_BYTES_MAX);
        if fits {
            bytes += cost;
            chunks.last_mut().expect("there is one it fits into").push(message);
        } else {
            bytes = cost;
            chunks.push(vec![message]);
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::time::Duration;

    #[test]
    fn chunks_fit_a_call_and_keep_the_order() {
        let message = |number: u32, len: usize| NewMessage {
            key: Bytes::copy_from_slice(&number.to_be_bytes()),
            dedup_id: Bytes::from_static(b"d"),
            body: Bytes::from(vec![0; len]),
            delay: Duration::ZERO,
        };
        let many: Vec<NewMessage> =
            (0..5_000).map(|number| message(number, (number as usize * 37) % 3_000)).collect();
        let cut = chunks(many.clone());
        assert!(cut.len() > 5);
        for chunk in &cut {
            assert!(
                chunk.len() <= BATCH_LEN_MAX
                    && chunk.iter().map(message_bytes).sum::<usize>() <= BATCH_BYTES_MAX
            );
        }
        assert_eq!(cut.concat(), many);
        assert!(chunks(Vec::new()).is_empty());
    }
}
