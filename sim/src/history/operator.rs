//! Commands people typed, and what came of them.
//!
//! Invariant: `Done` means that the command said so (exit code 0), `Refused` that it said it changed
//! nothing (exit codes 2, 4, 5, 7, 8); anything else is `Unknown`.
//!
//! Not here: understanding a command line; the player runs it through the real command line code.

use serde::{Deserialize, Serialize};

use crate::schedule::Expect;

/// A command line, without the name of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorCall {
    /// As typed.
    pub line: String,
    /// What the schedule says it must come to.
    pub expect: Expect,
}

/// What the command printed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorReply {
    /// Whether it changed anything.
    pub changed: bool,
    /// One line.
    pub said: String,
}

/// One command.
pub type OperatorOp = super::Op<OperatorCall, OperatorReply>;
/// All commands of a run.
pub type OperatorHistory = super::History<OperatorCall, OperatorReply>;
