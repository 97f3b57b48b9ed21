//! The control group as a service sees it: a request in, an answer or the reason for none out.
//!
//! ```text
//!   writes  --> check --> propose --> reply
//!   reads   --> check --> barrier (unless serializable), here or at the leader --> view
//! ```
//! Invariant: what writes goes through the log; what only reads never does. A request that fails
//! its checks is not proposed.
//!
//! Not here: finding the leader (`etcd::courier`, `client`).

use std::sync::Arc;

use prost::Message;
use replica::engine::View;
use replica::error::{ProposeError, ReadError};

use crate::group::{KvGroup, read_long_with, read_with};
use crate::machine::control::{self, Fault, check};
use crate::machine::encode_command;
use crate::outcome::CallError;
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use crate::wire::native::control_command::{Command, Sweep};
use crate::wire::native::control_reply::{Reply, Swept};
use crate::wire::native::{Author, ControlCommand, ControlReply};

/// A request to the control group.
#[derive(Clone, Debug)]
pub enum Call {
    /// Read a range.
    Range(RangeRequest),
    /// Write a key.
    Put(PutRequest),
    /// Delete a range.
    DeleteRange(DeleteRangeRequest),
    /// A transaction.
    Txn(TxnRequest),
    /// Forget old revisions.
    Compact(CompactionRequest),
}

/// What it answered.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To [`Call::Range`].
    Range(RangeResponse),
    /// To [`Call::Put`].
    Put(PutResponse),
    /// To [`Call::DeleteRange`].
    DeleteRange(DeleteRangeResponse),
    /// To [`Call::Txn`].
    Txn(TxnResponse),
    /// To [`Call::Compact`].
    Compact(CompactionResponse),
}

/// Whose answer to a linearizable read counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Only the leader's: the caller wants to learn who leads.
    Leader,
    /// Any member's, once it has caught up with the leader.
    Anybody,
}

impl Call {
    /// The command that makes it.
    pub(crate) fn into_command(self, author: &Author) -> ControlCommand {
        let command = match self {
            Call::Txn(request) => Command::Txn(request),
            Call::Put(request) => Command::Put(request),
            Call::DeleteRange(request) => Command::DeleteRange(request),
            Call::Compact(request) => Command::Compact(request),
            Call::Range(_) => unreachable!("what only reads is no command"),
        };
        ControlCommand { command: Some(command), author: Some(author.clone()) }
    }

    /// Whether it goes through the log.
    #[must_use]
    pub fn writes(&self) -> bool {
        match self {
            Call::Range(_) => false,
            Call::Txn(request) => !check::is_read_only(request),
            Call::Put(_) | Call::DeleteRange(_) | Call::Compact(_) => true,
        }
    }
}

impl Answer {
    /// The answer's header.
    pub fn header_mut(&mut self) -> &mut ResponseHeader {
        let header = match self {
            Answer::Range(response) => &mut response.header,
            Answer::Put(response) => &mut response.header,
            Answer::DeleteRange(response) => &mut response.header,
            Answer::Txn(response) => &mut response.header,
            Answer::Compact(response) => &mut response.header,
        };
        header.get_or_insert_default()
    }
}

/// The local member of the control group.
#[derive(Clone)]
pub struct ControlPort {
    group: Arc<dyn KvGroup>,
}

impl ControlPort {
    /// A port to this member.
    pub fn new(group: Arc<dyn KvGroup>) -> ControlPort {
        ControlPort { group }
    }

    /// The member itself.
    pub fn group(&self) -> &dyn KvGroup {
        &*self.group
    }

    /// The member, shared.
    pub(crate) fn shared_group(&self) -> Arc<dyn KvGroup> {
        Arc::clone(&self.group)
    }

    /// Answers one request, or says why this member does not.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn call(&self, author: &Author, call: Call, readers: Readers) -> Result<Answer, CallError> {
        match call {
            Call::Range(request) => {
                check::range(&request).map_err(CallError::Refused)?;
                self.barrier(request.serializable, readers).await?;
                let read = |view: &dyn View| control::read_range(view, author, &request);
                let one_key = request.range_end.is_empty();
                let found = if one_key { self.read(read) } else { self.read_long(read) };
                found.map(Answer::Range)
            }
            Call::Txn(request) if check::is_read_only(&request) => {
                check::txn(&request).map_err(CallError::Refused)?;
                self.barrier(check::is_serializable(&request), readers).await?;
                self.read_long(|view| control::read_txn(view, author, &request)).map(Answer::Txn)
            }
            call => answer(self.carry_out(call.into_command(author)).await?),
        }
    }

    /// Has a command carried out, and what has to follow it.
    pub(crate) async fn carry_out(&self, command: ControlCommand) -> Result<Reply, CallError> {
        let physical = matches!(&command.command, Some(Command::Compact(request)) if request.physical);
        let reply = self.propose_command(command).await?;
        if physical && !matches!(reply, Reply::Refused(_)) {
            // An error that promises that nothing was done would have the compaction made once more, and
            // refused as made before.
            let open = |error: CallError| CallError::Unknown(format!("compacted, but not swept: {error}"));
            self.sweep().await.map_err(open)?;
        }
        Ok(reply)
    }

    /// The newest revision this member has applied.
    ///
    /// # Errors
    /// [`CallError::Storage`].
    pub fn revision(&self) -> Result<i64, CallError> {
        self.read(|view| Ok(control::revision(view)?))
    }

    async fn barrier(&self, serializable: bool, readers: Readers) -> Result<(), CallError> {
        if serializable {
            return Ok(());
        }
        let passed = match readers {
            Readers::Leader => self.group.read_barrier().await,
            Readers::Anybody => self.group.read_barrier_anywhere().await,
        };
        passed.map_err(read_error)
    }

    fn read<R>(&self, read: impl FnOnce(&dyn View) -> Result<R, Fault>) -> Result<R, CallError> {
        read_with(&*self.group, read).map_err(call_error)
    }

    fn read_long<R>(&self, read: impl FnOnce(&dyn View) -> Result<R, Fault>) -> Result<R, CallError> {
        read_long_with(&*self.group, read).map_err(call_error)
    }

    /// Returns when this member has proved that it leads.
    pub(crate) async fn leader_barrier(&self) -> Result<(), CallError> {
        self.group.read_barrier().await.map_err(read_error)
    }

    /// Has a command carried out; answers the machine's reply, refusals included.
    pub(crate) async fn propose(&self, command: Command) -> Result<Reply, CallError> {
        self.propose_command(ControlCommand { command: Some(command), author: None }).await
    }

    /// The same for a command that came from another member.
    pub(crate) async fn propose_command(&self, command: ControlCommand) -> Result<Reply, CallError> {
        let Some(kind) = &command.command else {
            return Err(CallError::Invalid("a command of a kind this program does not know".to_owned()));
        };
        control::check_command(kind).map_err(CallError::Refused)?;
        let command = encode_command(&command);
        let reply = self.group.propose(command).await.map_err(propose_error)?;
        let reply = ControlReply::decode(reply).ok().and_then(|reply| reply.reply);
        reply.ok_or_else(|| CallError::Unknown("the machine's reply cannot be read".to_owned()))
    }

    // Proposes sweeps until nothing is owed. Every one moves on, so this ends; the caller's
    // deadline bounds it besides.
    pub(crate) async fn sweep(&self) -> Result<(), CallError> {
        loop {
            match self.propose(Command::Sweep(Sweep {})).await? {
                Reply::Swept(Swept { clean: false }) => {}
                _ => return Ok(()),
            }
        }
    }
}

fn call_error(fault: Fault) -> CallError {
    match fault {
        Fault::Refused(refusal) => CallError::Refused(refusal),
        Fault::Engine(error) => CallError::Storage(error.to_string()),
    }
}

/// The machine's reply to a call.
pub(crate) fn answer(reply: Reply) -> Result<Answer, CallError> {
    Ok(match reply {
        Reply::Put(response) => Answer::Put(response),
        Reply::DeleteRange(response) => Answer::DeleteRange(response),
        Reply::Txn(response) => Answer::Txn(response),
        Reply::Compact(response) => Answer::Compact(response),
        Reply::Refused(code) => {
            return Err(CallError::Refused(Refusal::try_from(code).unwrap_or(Refusal::Unspecified)));
        }
        other => return Err(CallError::Unknown(format!("the machine answered another command: {other:?}"))),
    })
}

/// Why a proposal has no reply, as a call's end.
pub(crate) fn propose_error(error: ProposeError) -> CallError {
    match error {
        ProposeError::NotLeader { hint } => CallError::NotLeader { hint },
        ProposeError::Refused(reason) => CallError::Overloaded(reason),
        ProposeError::Unknown(reason) => CallError::Unknown(reason),
    }
}

/// Why a barrier was not passed, as a call's end.
pub(crate) fn read_error(error: ReadError) -> CallError {
    match error {
        ReadError::NotLeader { hint } => CallError::NotLeader { hint },
        ReadError::Unavailable(reason) => CallError::Unavailable(reason),
    }
}

#[cfg(test)]
#[path = "control_port_test.rs"]
mod tests;
