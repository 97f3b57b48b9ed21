//! Alarms: what members have raised, and what is refused while it stands.
//!
//! ```text
//!   key                      value
//!   'q' member u64 kind u8   1              one raised alarm
//!   'g'                      1 | flags u8   which kinds are raised at all, read before every command
//! ```
//! Invariant: the flags say what the list says. While space is short nothing that needs space is
//! taken; deleting and compacting go on. While the data is known to differ between members nothing
//! is answered.
//!
//! Not here: who raises them. Members propose that as anybody may.

use std::ops::ControlFlow;

use bytes::{BufMut, Bytes, BytesMut};
use replica::engine::{EngineError, View};
use replica::machine::{Txn, prefix_end};

use crate::refusal::Refusal;
use crate::wire::etcdserverpb::alarm_request::AlarmAction;
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, ResponseHeader, TxnRequest,
};
use crate::wire::native::control_command::Command;

const FORMAT: u8 = 1;
const FLAGS_KEY: &[u8] = b"g";
const NO_SPACE: u8 = 1;
const CORRUPT: u8 = 2;

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
    let flags = list(txn, AlarmType::None)?.iter().fold(0, |flags, alarm| flags | flag(alarm));
    txn.put(FLAGS_KEY, Bytes::copy_from_slice(&[FORMAT, flags]));
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

fn flag(alarm: &AlarmMember) -> u8 {
    match AlarmType::try_from(alarm.alarm) {
        Ok(AlarmType::Nospace) => NO_SPACE,
        Ok(AlarmType::Corrupt) => CORRUPT,
        Ok(AlarmType::None) | Err(_) => 0,
    }
}

fn flags(view: &dyn View) -> Result<u8, EngineError> {
    match view.get(FLAGS_KEY)?.as_deref() {
        None => Ok(0),
        Some([FORMAT, flags]) => Ok(*flags),
        Some(_) => Err(EngineError::Corrupt("the alarms' flags have another size or format".to_owned())),
    }
}

/// Why a command is not carried out while alarms stand.
pub(super) fn check_command(view: &dyn View, command: &Command) -> Result<Option<Refusal>, EngineError> {
    let flags = flags(view)?;
    let concerns_data = !matches!(command, Command::Alarm(_) | Command::Sweep(_) | Command::LeaseExpire(_));
    if flags & CORRUPT != 0 && concerns_data {
        return Ok(Some(Refusal::Corrupt));
    }
    let needs_space = match command {
        Command::Put(_) | Command::LeaseGrant(_) => true,
        Command::Txn(request) => puts(request),
        _ => false,
    };
    Ok((flags & NO_SPACE != 0 && needs_space).then_some(Refusal::NoSpace))
}

/// Why nothing is read while alarms stand.
pub(super) fn check_read(view: &dyn View) -> Result<Option<Refusal>, EngineError> {
    Ok((flags(view)? & CORRUPT != 0).then_some(Refusal::Corrupt))
}

// Whether it may put something, whatever its comparisons say.
fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts(nested),
        _ => false,
    })
}
