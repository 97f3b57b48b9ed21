//! What clients asked and what they were told: the only thing that oracles about answers look at.
//!
//! ```text
//!   History::invoke(now, client, asked, call) -> OpId     before the request leaves
//!   History::finish(now, OpId, outcome)                   when an answer, or none, is certain
//!   an operation never finished                           unknown
//! ```
//! An [`Outcome`] has three cases and no fourth: `Done` with the reply, `Refused` when it is certain
//! that nothing was and nothing will be done, `Unknown` when it may have been done, may be done
//! later, or never. A timeout is unknown, whatever the status code says.
//!
//! Invariant: moments are totally ordered, also within one simulated millisecond: one [`Moments`]
//! numbers them. `a` came before `b` only if `a`'s return has a smaller number than `b`'s invocation.
//!
//! Not here: how the calls were made.

use serde::{Deserialize, Serialize};
use world::NodeId;

pub mod access;
pub mod ingest;
pub mod kv;
pub mod operator;
pub mod queue;

/// A moment of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// Place in the order of everything recorded.
    pub number: u64,
    /// Simulated milliseconds since the start of the run.
    pub at_ms: u64,
}

/// Names an operation of one history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OpId(pub u64);

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome<R> {
    /// It was done, and this is the answer.
    Done(R),
    /// It was not done and will not be; the reason as the server gave it.
    Refused(String),
    /// It may have been done, may be done later, or never.
    Unknown,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op<C, R> {
    /// Its name, in order of invocation.
    pub id: OpId,
    /// Who asked. A client has at most one operation under way.
    pub client: u32,
    /// The node that was asked; `None` when the client asks several until one answers.
    pub asked: Option<NodeId>,
    /// What was asked.
    pub call: C,
    /// When it was asked.
    pub invoked: Moment,
    /// When the client knew the outcome; `None` if the run ended first.
    pub returned: Option<Moment>,
    /// How it ended.
    pub outcome: Outcome<R>,
}

impl<C, R> Op<C, R> {
    /// The reply, if there was one.
    #[must_use]
    pub fn reply(&self) -> Option<&R> {
        match &self.outcome {
            Outcome::Done(reply) => Some(reply),
            Outcome::Refused(_) | Outcome::Unknown => None,
        }
    }

    /// Whether it may have had an effect.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        !matches!(self.outcome, Outcome::Refused(_))
    }

    /// The number of the moment after which it cannot take effect any more. An unknown operation may
    /// still be under way when the client has long given it up.
    #[must_use]
    pub fn over(&self) -> u64 {
        match (&self.outcome, self.returned) {
            (Outcome::Unknown, _) | (_, None) => u64::MAX,
            (_, Some(returned)) => returned.number,
        }
    }

    /// Whether it was certainly over before `other` began.
    #[must_use]
    pub fn precedes<D, S>(&self, other: &Op<D, S>) -> bool {
        self.over() < other.invoked.number
    }
}

/// Numbers moments. One for a whole run: histories are compared with each other.
#[derive(Clone, Debug, Default)]
pub struct Moments {
    next: u64,
    last_ms: u64,
}

impl Moments {
    /// The next moment, at `now_ms`.
    pub fn next(&mut self, now_ms: u64) -> Moment {
        assert!(now_ms >= self.last_ms, "simulated time went back from {} to {now_ms}", self.last_ms);
        self.last_ms = now_ms;
        self.next += 1;
        Moment { number: self.next, at_ms: now_ms }
    }
}

/// Operations of one kind, as they are recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History<C, R> {
    ops: Vec<Op<C, R>>,
}

impl<C, R> Default for History<C, R> {
    fn default() -> History<C, R> {
        History { ops: Vec::new() }
    }
}

impl<C, R> History<C, R> {
    /// Before the request leaves. Until it is finished the operation is unknown.
    pub fn invoke(&mut self, now: Moment, client: u32, asked: Option<NodeId>, call: C) -> OpId {
        let id = OpId(self.ops.len() as u64);
        self.ops.push(Op {
            id,
            client,
            asked,
            call,
            invoked: now,
            returned: None,
            outcome: Outcome::Unknown,
        });
        id
    }

    /// When the outcome is certain. `Unknown` is an outcome: the client gave up.
    pub fn finish(&mut self, now: Moment, id: OpId, outcome: Outcome<R>) {
        let op = &mut self.ops[usize::try_from(id.0).expect("an index")];
        assert!(op.returned.is_none(), "operation {} finished twice", id.0);
        assert!(op.invoked.number < now.number, "operation {} finished before it began", id.0);
        op.returned = Some(now);
        op.outcome = outcome;
    }

    /// All operations in order of invocation.
    #[must_use]
    pub fn ops(&self) -> &[Op<C, R>] {
        &self.ops
    }
}

impl<C, R> From<Vec<Op<C, R>>> for History<C, R> {
    fn from(ops: Vec<Op<C, R>>) -> History<C, R> {
        History { ops }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_without_an_answer_is_unknown_and_never_over() {
        let mut time = Moments::default();
        let mut history: History<&str, ()> = History::default();
        let first = history.invoke(time.next(5), 1, None, "put");
        let second = history.invoke(time.next(5), 2, None, "put");
        history.finish(time.next(9), second, Outcome::Unknown);
        let third = history.invoke(time.next(5_000), 3, None, "get");
        let [a, b, c] = history.ops() else { panic!("three operations") };
        assert_eq!((first.0, second.0, third.0), (0, 1, 2));
        assert!(!a.precedes(c), "no answer: it may happen yet");
        assert!(!b.precedes(c), "given up: it may happen yet");
    }

    #[test]
    fn moments_of_one_millisecond_are_ordered() {
        let mut time = Moments::default();
        let mut history: History<&str, ()> = History::default();
        let first = history.invoke(time.next(5), 1, None, "put");
        history.finish(time.next(5), first, Outcome::Done(()));
        history.invoke(time.next(5), 1, None, "get");
        let [a, b] = history.ops() else { panic!("two operations") };
        assert!(a.precedes(b) && !b.precedes(a));
    }

    #[test]
    #[should_panic(expected = "finished twice")]
    fn an_operation_ends_once() {
        let mut time = Moments::default();
        let mut history: History<(), ()> = History::default();
        let id = history.invoke(time.next(0), 1, None, ());
        history.finish(time.next(1), id, Outcome::Unknown);
        history.finish(time.next(2), id, Outcome::Done(()));
    }
}
