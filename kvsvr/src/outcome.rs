//! How a call can end at a server, and how that is said over gRPC.
//!
//! ```text
//!   metadata kv-not-done: 1      promise: nothing was done and nothing will be
//!   metadata kv-leader: a1       who leads, when the member knows
//! ```
//! A caller may repeat a write only on that promise. A status without it leaves the outcome open,
//! whatever its code: it may stem from a proxy, a lost connection, a deadline.
//!
//! Invariant: `Unknown` never carries the promise.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};
use world::{NodeId, mux};

use crate::refusal::Refusal;

/// Metadata key of the promise.
pub const NOT_DONE_KEY: &str = "kv-not-done";
/// Metadata key of the leader's name.
pub const LEADER_KEY: &str = "kv-leader";
/// Metadata key that marks a request as forwarded once already.
pub const HOP_KEY: &str = "kv-hop";

/// What a member that does not lead says when it knows who does.
pub const NOT_LEADER: &str = "etcdserver: not leader";

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request itself is refused, with etcd's code and text.
    #[error("{}", .0.text())]
    Refused(Refusal),
    /// The request itself is refused; native calls only.
    #[error("{0}")]
    Invalid(String),
    /// This member does not lead; nothing was done.
    #[error("not the leader")]
    NotLeader {
        /// Who leads, as far as this member knows.
        hint: Option<NodeId>,
    },
    /// Too much to do, or shutting down; nothing was done.
    #[error("overloaded: {0}")]
    Overloaded(String),
    /// A read that no quorum confirmed in time.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A write that may have been or may still be applied.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The state cannot be read.
    #[error("storage: {0}")]
    Storage(String),
}

impl CallError {
    /// As a gRPC status, in etcd's codes and texts where it has them.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            CallError::Refused(refusal) => done_nothing(refusal.code(), refusal.text()),
            CallError::Invalid(reason) => done_nothing(Code::InvalidArgument, reason),
            CallError::NotLeader { hint: None } => done_nothing(Code::Unavailable, "etcdserver: no leader"),
            CallError::NotLeader { hint: Some(leader) } => {
                let mut status = done_nothing(Code::FailedPrecondition, NOT_LEADER);
                if let Ok(name) = leader.to_string().parse::<MetadataValue<Ascii>>() {
                    status.metadata_mut().insert(LEADER_KEY, name);
                }
                status
            }
            CallError::Overloaded(_) => {
                done_nothing(Code::ResourceExhausted, "etcdserver: too many requests")
            }
            CallError::Unavailable(_) => done_nothing(Code::Unavailable, "etcdserver: request timed out"),
            CallError::Unknown(_) => Status::unavailable("etcdserver: request timed out"),
            CallError::Storage(reason) => Status::data_loss(format!("etcdserver: corrupt cluster: {reason}")),
        }
    }
}

/// A status that promises that nothing was or will be done.
pub(crate) fn done_nothing(code: Code, text: &str) -> Status {
    let mut status = Status::new(code, text);
    status.metadata_mut().insert(NOT_DONE_KEY, MetadataValue::from_static("1"));
    status
}

/// Why a call on a stream of many has no answer, as the status a unary call would have ended with.
pub(crate) fn mux_status(error: mux::CallError) -> Status {
    match error {
        mux::CallError::Full => CallError::Overloaded("too many calls wait".to_owned()).status(),
        // It carries the promise when no connection could be made.
        mux::CallError::Unopened(status) => status,
        mux::CallError::Refused(mux::Refusal { code, message, not_done: true }) => {
            done_nothing(Code::from_i32(code), &message)
        }
        mux::CallError::Refused(mux::Refusal { code, message, not_done: false }) => {
            Status::new(Code::from_i32(code), message)
        }
        open @ (mux::CallError::Late | mux::CallError::Broken(_)) => {
            CallError::Unknown(open.to_string()).status()
        }
    }
}

/// How the serving end of such a stream says the same.
pub(crate) fn mux_refusal(status: &Status) -> mux::Refusal {
    mux::Refusal {
        code: status.code() as i32,
        message: status.message().to_owned(),
        not_done: not_done(status),
    }
}

/// Whether a status promises that nothing was or will be done: the server said so, or the request
/// never left because no connection could be made.
#[must_use]
pub fn not_done(status: &Status) -> bool {
    if status.metadata().contains_key(NOT_DONE_KEY) {
        return true;
    }
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The leader that a status names.
#[must_use]
pub fn leader_hint(status: &Status) -> Option<NodeId> {
    status.metadata().get(LEADER_KEY)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_open_outcome_lacks_the_promise() {
        let leader: NodeId = "b2".parse().expect("a node name");
        let sure = [
            CallError::Refused(Refusal::EmptyKey),
            CallError::Invalid("x".to_owned()),
            CallError::NotLeader { hint: None },
            CallError::NotLeader { hint: Some(leader) },
            CallError::Overloaded("x".to_owned()),
        ];
        assert!(sure.iter().all(|error| not_done(&error.status())), "a sure outcome lost its promise");
        assert!(!not_done(&CallError::Unknown("x".to_owned()).status()));
        assert!(!not_done(&CallError::Storage("x".to_owned()).status()));
        assert!(!not_done(&Status::unavailable("transport error")));
        assert_eq!(leader_hint(&CallError::NotLeader { hint: Some(leader) }.status()), Some(leader));
    }
}
