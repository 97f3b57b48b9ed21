//! How a command ends. Exit codes are an interface: scripts branch on them.
//!
//! Invariant: every failure names what is wrong and, where a person can mend it, how.

use std::fmt::{self, Display};

/// Why a command did not succeed, as an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Something failed that has no code of its own.
    Error = 1,
    /// The command line or an input file is wrong.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// It exists already, or somebody else changed it.
    Conflict = 4,
    /// Not allowed.
    Denied = 5,
    /// Nobody could serve it in time. Repeating may help.
    Unavailable = 6,
    /// A guard refused, because going on would put money or service at risk.
    Refused = 7,
    /// Data is not what it should be: a hash, sum, signature or duplicate.
    Unverified = 8,
    /// The cluster is not healthy.
    Unhealthy = 10,
    /// An invariant does not hold.
    InvariantBroken = 11,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// What the shell sees.
    pub exit: Exit,
    /// What the person sees; one sentence or a list, one finding a line.
    pub message: String,
}

impl Failure {
    /// A failure with this code and message.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into() }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Adds what was being done to an error from below.
pub trait Context<T> {
    /// `doing` is a phrase like `reading cluster.toml`.
    fn context(self, exit: Exit, doing: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, exit: Exit, doing: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(exit, format!("{doing}: {error}")))
    }
}

impl From<kvsvr::api::KvError> for Failure {
    fn from(error: kvsvr::api::KvError) -> Failure {
        let exit = match error {
            kvsvr::api::KvError::Refused(_) => Exit::Error,
            kvsvr::api::KvError::Unavailable(_) | kvsvr::api::KvError::Unknown(_) => Exit::Unavailable,
        };
        Failure::new(exit, format!("KvSvr: {error}"))
    }
}

impl From<queue::api::QueueError> for Failure {
    fn from(error: queue::api::QueueError) -> Failure {
        let exit = match error {
            queue::api::QueueError::Refused(_) => Exit::Error,
            queue::api::QueueError::Unavailable { .. } | queue::api::QueueError::Unknown(_) => {
                Exit::Unavailable
            }
        };
        Failure::new(exit, format!("queue: {error}"))
    }
}
