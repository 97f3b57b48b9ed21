//! Alarms: what members have raised, and what is refused while it stands.
//!
//! ```text
//!   key                      value
//!   'q' member u64 kind u8   1       one raised alarm
//! ```
//! Invariant: the gate says which kinds are raised at all. While space is short nothing that needs space is
//! taken; deleting and compacting go on. While the data is known to differ between members nothing
//! is answered.
//!
//! Not here: who raises them. Members propose that (`crate::quota`), as anybody may.

use std::ops::ControlFlow;

use bytes::{BufMut, Bytes, BytesMut};
use replica::engine::{EngineError, View};
use replica::machine::{Txn, prefix_end};

use super::gate::Gate;
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::alarm_request::AlarmAction;
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, ResponseHeader, TxnRequest,
};
use crate::wire::native::control_command::Command;

const FORMAT: u8 = 1;

/// Raises, lowers or lists alarms.
pub(super) fn alarm(
    txn: &mut Txn<'_>,
    request: &AlarmRequest,
    revision: i64,
) -> Result<AlarmResponse, EngineError> {
    let kind = AlarmType::try_from(request.alarm).unwrap_or(AlarmType::None);
    let named = AlarmMember { member_id: request.member_id, alarm: kind as i32 };
    let raised = list(txn, AlarmType::None)?;
    let alarms = match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => list(txn, kind)?,
        Ok(AlarmAction::Activate) if kind != AlarmType::None => {
            txn.put(alarm_key(&named), Bytes::from_static(&[FORMAT]));
            vec![named]
        }
        Ok(AlarmAction::Deactivate) if raised.contains(&named) => {
            txn.delete(alarm_key(&named));
            vec![named]
        }
        _ => Vec::new(),
    };
    let stands = list(txn, AlarmType::None)?;
    for (kind, flag) in [(AlarmType::Nospace, Gate::NO_SPACE), (AlarmType::Corrupt, Gate::CORRUPT)] {
        Gate::set(txn, flag, stands.iter().any(|alarm| alarm.alarm == kind as i32))?;
    }
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    Ok(AlarmResponse { header, alarms })
}

/// The raised alarms of a kind; of all kinds for `None`.
///
/// # Errors
/// [`EngineError`].
pub fn list(view: &dyn View, kind: AlarmType) -> Result<Vec<AlarmMember>, EngineError> {
    let mut alarms = Vec::new();
    let mut broken = false;
    view.scan(b"q", &prefix_end(b"q"), false, &mut |key, _| {
        let Some((member, [kind])) = key[1..].split_first_chunk::<8>() else {
            broken = true;
            return ControlFlow::Break(());
        };
        alarms.push(AlarmMember { member_id: u64::from_be_bytes(*member), alarm: i32::from(*kind) });
        ControlFlow::Continue(())
    })?;
    if broken {
        return Err(EngineError::Corrupt("an alarm's key cannot be read".to_owned()));
    }
    alarms.retain(|alarm| kind == AlarmType::None || alarm.alarm == kind as i32);
    Ok(alarms)
}

fn alarm_key(alarm: &AlarmMember) -> Bytes {
    let kind = u8::try_from(alarm.alarm).expect("kinds of alarms are small numbers");
    let mut key = BytesMut::with_capacity(10);
    key.put_u8(b'q');
    key.put_u64(alarm.member_id);
    key.put_u8(kind);
    key.freeze()
}

/// Why a command is not carried out while alarms stand.
pub(super) fn check_command(gate: Gate, command: &Command) -> Result<(), Refusal> {
    let concerns_data = !matches!(
        command,
        Command::Alarm(_) | Command::Auth(_) | Command::Sweep(_) | Command::LeaseExpire(_)
    );
    if gate.has(Gate::CORRUPT) && concerns_data {
        return Err(Refusal::Corrupt);
    }
    let needs_space = match command {
        Command::Put(_) | Command::LeaseGrant(_) => true,
        Command::Txn(request) => puts(request),
        _ => false,
    };
    if gate.has(Gate::NO_SPACE) && needs_space { Err(Refusal::NoSpace) } else { Ok(()) }
}

/// Whether space is short, as far as this view knows.
///
/// # Errors
/// [`EngineError`].
pub fn space_is_short(view: &dyn View) -> Result<bool, EngineError> {
    Ok(Gate::read(view)?.has(Gate::NO_SPACE))
}

/// Why nothing is read while alarms stand.
pub(super) fn check_read(gate: Gate) -> Result<(), Refusal> {
    if gate.has(Gate::CORRUPT) { Err(Refusal::Corrupt) } else { Ok(()) }
}

// Whether it may put something, whatever its comparisons say.
fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}
