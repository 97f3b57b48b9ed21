//! How much the keys of etcd's clients may take, and the alarm that is raised when it is not enough.
//!
//! ```text
//!   put, txn that puts, lease grant --> bytes + cost < quota?  --yes--> log
//!                                              '--no--> alarm NOSPACE through the log, refused
//! ```
//! As at etcd the member that was asked looks, before it proposes; what is under way at once may pass the
//! quota by that much. While the alarm stands the machine refuses (`machine::control::alarm`), on every
//! member. It goes when an operator says so; when nothing was freed until then, the next put raises it
//! again.
//!
//! Invariant: what frees space is never refused: deletes, compactions, the end of leases.
//!
//! Not here: the disk. A full one stops the node; the quota is there so that it does not come to that.

use replica::engine::{EngineError, View};

use crate::machine::control::{self, alarm};
use crate::wire::etcdserverpb::alarm_request::AlarmAction;
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::{AlarmRequest, AlarmType, PutRequest, RequestOp};
use crate::wire::native::control_command::Command;

/// etcd's default.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// etcd's estimates of what it keeps beside a key and a value, and for a lease.
const KEY_OVERHEAD_BYTES: u64 = 256;
const LEASE_OVERHEAD_BYTES: u64 = 64;

/// What a member lets be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    bytes: u64,
}

/// Whether there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// There is.
    Left,
    /// There is not, and nobody has been told yet.
    Exceeded,
    /// There is not, as the alarm says.
    Alarmed,
}

impl Quota {
    /// So many bytes; 0 for no bound.
    #[must_use]
    pub fn new(bytes: u64) -> Quota {
        Quota { bytes }
    }

    /// So many bytes; 0 for no bound.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Whether a command has room in a state.
    pub(crate) fn room(self, view: &dyn View, command: &Command) -> Result<Room, EngineError> {
        let cost = cost(command);
        if self.bytes == 0 || cost == 0 || control::bytes(view)?.saturating_add(cost) < self.bytes {
            return Ok(Room::Left);
        }
        Ok(if alarm::space_is_short(view)? { Room::Alarmed } else { Room::Exceeded })
    }
}

/// The command that tells all members of it.
pub(crate) fn raise(member_id: u64) -> Command {
    Command::Alarm(AlarmRequest {
        action: AlarmAction::Activate as i32,
        member_id,
        alarm: AlarmType::Nospace as i32,
    })
}

/// etcd's estimate of what a command adds.
fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(request) => put_cost(request),
        Command::Txn(request) => ops_cost(&request.success).max(ops_cost(&request.failure)),
        Command::LeaseGrant(_) => LEASE_OVERHEAD_BYTES,
        _ => 0,
    }
}

fn ops_cost(ops: &[RequestOp]) -> u64 {
    let cost = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(request)) => put_cost(request),
        Some(Request::RequestTxn(nested)) => ops_cost(&nested.success).max(ops_cost(&nested.failure)),
        _ => 0,
    };
    ops.iter().map(cost).sum()
}

fn put_cost(request: &PutRequest) -> u64 {
    KEY_OVERHEAD_BYTES + (request.key.len() + request.value.len()) as u64
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::etcdserverpb::{DeleteRangeRequest, LeaseGrantRequest, TxnRequest};

    fn put(len: usize) -> PutRequest {
        PutRequest { key: Bytes::from_static(b"k"), value: vec![0; len].into(), ..PutRequest::default() }
    }

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn a_command_costs_what_etcd_reckons() {
        assert_eq!(cost(&Command::Put(put(99))), 356);
        assert_eq!(cost(&Command::LeaseGrant(LeaseGrantRequest::default())), 64);
        assert_eq!(cost(&Command::DeleteRange(DeleteRangeRequest::default())), 0);
        let nested = TxnRequest { success: vec![op(Request::RequestPut(put(1)))], ..TxnRequest::default() };
        let txn = TxnRequest {
            success: vec![op(Request::RequestPut(put(9))), op(Request::RequestTxn(nested))],
            failure: vec![op(Request::RequestPut(put(100)))],
            ..TxnRequest::default()
        };
        assert_eq!(cost(&Command::Txn(txn)), 266 + 258);
    }
}
