//! The control machine: etcd's data model, replicated.
//!
//! ```text
//!   ControlCommand --> check --> Mvcc session over Txn --> ControlReply
//!   reads          --> check --> Mvcc session over View --> response, on the caller's thread
//! ```
//! Invariant: a request means here what it means to etcd, error texts included; one command makes
//! at most one revision; a refused command writes nothing.
//!
//! Not here: who watches; watches read history (`history`). Nor when a lease ends: its leader decides
//! that ([`crate::lease`]).

pub mod access;
pub mod alarm;
pub mod auth;
pub mod check;
mod gate;
pub mod hash;
pub mod history;
mod layout;
pub mod lease;
mod mvcc;
mod range;
mod sweep;
mod txn;

#[cfg(test)]
mod layout_test;
#[cfg(test)]
mod model_steps_test;
#[cfg(test)]
mod model_test;

use bytes::Bytes;
use prost::Message;
use replica::engine::{EngineError, View};
use replica::machine::{At, Machine, Txn};

use self::access::Access;
use self::gate::Gate;
pub use self::layout::Event;
use self::mvcc::{Mvcc, read_meta};
use super::decode_command;
use crate::limits::{CONTROL_REQUEST_BYTES_MAX, SWEEP_EVENTS_PER_COMMAND, SWEEP_EVENTS_PER_SWEEP};
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::{
    CompactionResponse, RangeRequest, RangeResponse, ResponseHeader, TxnRequest, TxnResponse,
};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::{Reply, Swept};
use crate::wire::native::{AuthChanged, Author, ControlCommand, ControlReply};

/// Why a request has no answer.
#[derive(Debug)]
pub enum Fault {
    /// It asks for something that is not there or not allowed.
    Refused(Refusal),
    /// The store could not be read.
    Engine(EngineError),
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Fault {
        Fault::Engine(error)
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Fault {
        Fault::Refused(refusal)
    }
}

/// Group 0's machine. It keeps nothing in memory: what it looks at with every command are small records
/// that the replica keeps at hand.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlMachine;

impl Machine for ControlMachine {
    fn restore(&mut self, view: &dyn View) -> Result<(), EngineError> {
        read_meta(view).map(|_| ())
    }

    fn apply(&mut self, txn: &mut Txn<'_>, at: At, command: &Bytes) -> Result<Bytes, EngineError> {
        let ControlCommand { command, author } = decode_command(command)?;
        let Some(command) = command else {
            return Err(EngineError::Corrupt(
                "a control command of a kind this program does not know".to_owned(),
            ));
        };
        let reply = match perform(txn, at, author.as_ref(), &command) {
            Ok(reply) => reply,
            Err(Fault::Refused(refusal)) => Reply::Refused(refusal as i32),
            Err(Fault::Engine(error)) => return Err(error),
        };
        let refused = matches!(reply, Reply::Refused(_));
        if !refused && !matches!(command, Command::Sweep(_)) {
            sweep::sweep(txn, SWEEP_EVENTS_PER_COMMAND)?;
        }
        Ok(ControlReply { reply: Some(reply) }.encode_to_vec().into())
    }
}

/// Checks that need no store; a server makes them before it proposes, the machine again.
///
/// # Errors
/// The [`Refusal`] that etcd gives.
pub fn check_command(command: &Command) -> Result<(), Refusal> {
    let size = match command {
        Command::Put(request) => {
            check::put(request)?;
            request.encoded_len()
        }
        Command::DeleteRange(request) => {
            check::delete_range(request)?;
            request.encoded_len()
        }
        Command::Txn(request) => {
            check::txn(request)?;
            request.encoded_len()
        }
        _ => 0,
    };
    if size > CONTROL_REQUEST_BYTES_MAX {
        return Err(Refusal::RequestTooLarge);
    }
    Ok(())
}

// Without an author it is a member that wishes so: it ends leases, sweeps, and raises alarms.
fn perform(txn: &mut Txn<'_>, at: At, author: Option<&Author>, command: &Command) -> Result<Reply, Fault> {
    check_command(command)?;
    let gate = Gate::read(txn)?;
    if let Some(author) = author {
        Access::through(gate, txn, author)?.check_command(command)?;
    }
    alarm::check_command(gate, command)?;
    Ok(match command {
        Command::Put(request) => {
            let mut store = Mvcc::writing(txn)?;
            txn::check_put(&store, request)?;
            let response = txn::put(&mut store, request)?;
            store.finish();
            Reply::Put(response)
        }
        Command::DeleteRange(request) => {
            let mut store = Mvcc::writing(txn)?;
            let response = txn::delete_range(&mut store, request)?;
            store.finish();
            Reply::DeleteRange(response)
        }
        Command::Txn(request) => {
            let mut store = Mvcc::writing(txn)?;
            let response = txn::txn(&mut store, request)?;
            store.finish();
            Reply::Txn(response)
        }
        Command::Compact(request) => {
            sweep::compact(txn, request.revision)?;
            let revision = read_meta(txn)?.revision;
            Reply::Compact(CompactionResponse {
                header: Some(ResponseHeader { revision, ..Default::default() }),
            })
        }
        Command::LeaseGrant(request) => {
            let revision = revision(txn)?;
            Reply::LeaseGrant(lease::grant(txn, request, revision)?)
        }
        Command::LeaseRevoke(request) => Reply::LeaseRevoke(lease::revoke(txn, request.id)?),
        Command::LeaseExpire(expire) => Reply::LeaseExpired(lease::expire(txn, at, expire)?),
        Command::Alarm(request) => {
            let revision = revision(txn)?;
            Reply::Alarm(alarm::alarm(txn, request, revision)?)
        }
        Command::Auth(change) => {
            auth::change(txn, change)?;
            Reply::Auth(AuthChanged { revision: revision(txn)? })
        }
        Command::Sweep(_) => Reply::Swept(Swept { clean: sweep::sweep(txn, SWEEP_EVENTS_PER_SWEEP)? }),
    })
}

/// Answers a range request from a view.
///
/// # Errors
/// [`Fault`].
pub fn read_range(view: &dyn View, author: &Author, request: &RangeRequest) -> Result<RangeResponse, Fault> {
    check::range(request)?;
    let gate = Gate::read(view)?;
    Access::through(gate, view, author)?.check_range(request)?;
    alarm::check_read(gate)?;
    range::range(&Mvcc::read_only(view)?, request)
}

/// Answers a transaction that only reads from a view.
///
/// # Errors
/// [`Fault`].
///
/// # Panics
/// When the transaction writes: that is for the log.
pub fn read_txn(view: &dyn View, author: &Author, request: &TxnRequest) -> Result<TxnResponse, Fault> {
    assert!(check::is_read_only(request), "a transaction that writes goes through the log");
    check::txn(request)?;
    let gate = Gate::read(view)?;
    Access::through(gate, view, author)?.check_txn(request)?;
    alarm::check_read(gate)?;
    txn::txn(&mut Mvcc::read_only(view)?, request)
}

/// The newest revision in a view, and the last compacted one.
///
/// # Errors
/// [`EngineError`].
pub fn revisions(view: &dyn View) -> Result<(i64, i64), EngineError> {
    let meta = read_meta(view)?;
    Ok((meta.revision, meta.compacted))
}

/// What the keys and their history take, in bytes.
///
/// # Errors
/// [`EngineError`].
pub fn bytes(view: &dyn View) -> Result<u64, EngineError> {
    Ok(read_meta(view)?.bytes)
}

/// The newest revision in a view.
///
/// # Errors
/// [`EngineError`].
pub fn revision(view: &dyn View) -> Result<i64, EngineError> {
    Ok(read_meta(view)?.revision)
}
