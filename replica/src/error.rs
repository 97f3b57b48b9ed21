//! How a proposal or a read can end. Unknown is an outcome of its own: it is never treated as a
//! failure, because the command may still be applied.

use world::NodeId;

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This member does not lead the group. Nothing was proposed.
    #[error("not the leader; {}", .hint.map_or("no leader is known".to_owned(), |l| format!("try {l}")))]
    NotLeader {
        /// Who leads, as far as this member knows.
        hint: Option<NodeId>,
    },
    /// Refused before it was proposed: too large, overloaded, shutting down.
    #[error("refused: {0}")]
    Refused(String),
    /// Proposed, and it is not known whether it will be applied.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Why a linearizable read was not served. A read can always be repeated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This member does not lead the group.
    #[error("not the leader; {}", .hint.map_or("no leader is known".to_owned(), |l| format!("try {l}")))]
    NotLeader {
        /// Who leads, as far as this member knows.
        hint: Option<NodeId>,
    },
    /// No quorum answered in time.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
