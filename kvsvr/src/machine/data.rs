//! The data machine: units of conditional operations on plain keys, made for volume.
//!
//! ```text
//!   command:  DataCommand { units }  one Raft entry, many units
//!             DataCommand { ingest } a sorted file, attached (`ingest`)
//!   state:    'd' key -> value       the prefix is the format: no header, a value is stored as given
//! ```
//! Units are like envelopes in one mail bag: each is opened alone, in order, and either everything
//! in it happens or nothing. A later unit sees what an earlier one wrote.
//!
//! Invariant: a unit that conflicts or is refused writes nothing. The reply has one answer per
//! unit, in order.
//!
//! Not here: which group a key belongs to (`route`), revisions, watches.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use replica::engine::{EngineError, View};
use replica::machine::{At, Machine, Txn};
use world::mutant::{Mutant, armed};

use super::{decode_command, ingest};
use crate::limits::{
    DATA_KEY_BYTES_MAX, DATA_VALUE_BYTES_MAX, SCAN_PAGE_BYTES_MAX, SCAN_PAIRS_MAX, UNIT_OPS_MAX,
};
use crate::wire::native::op::{Add, CompareAndSet, Delete, InsertIfAbsent, Op as Kind, Put};
use crate::wire::native::unit_reply::{Conflict, Done, Outcome};
use crate::wire::native::{DataCommand, IngestReply, Unit, UnitReply, WriteResponse};

const PREFIX: u8 = b'd';
// The first key behind all data.
const END: &[u8] = b"e";

/// The machine of every data group. It keeps nothing in memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct DataMachine;

impl Machine for DataMachine {
    fn restore(&mut self, _view: &dyn View) -> Result<(), EngineError> {
        Ok(())
    }

    fn apply(&mut self, txn: &mut Txn<'_>, _at: At, command: &Bytes) -> Result<Bytes, EngineError> {
        let command: DataCommand = decode_command(command)?;
        if command.ingest.is_some() {
            let outcome = Some(ingest::apply(txn)?);
            return Ok(IngestReply { outcome }.encode_to_vec().into());
        }
        let mut replies = Vec::with_capacity(command.units.len());
        for unit in &command.units {
            let outcome = apply_unit(txn, unit)?;
            replies.push(UnitReply { outcome: Some(outcome) });
        }
        assert!(replies.len() == command.units.len(), "every unit is answered");
        Ok(WriteResponse { replies }.encode_to_vec().into())
    }
}

/// One value, from a view.
///
/// # Errors
/// [`EngineError`].
pub fn get(view: &dyn View, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
    view.get(&stored(key))
}

/// A page of pairs whose key begins with `prefix` and is greater than `after`, in key order: at
/// most `limit`, and fewer when the page grows large. Only an empty page is the end.
///
/// # Errors
/// [`EngineError`].
pub fn scan(
    view: &dyn View,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    let pairs_max = limit.clamp(1, SCAN_PAIRS_MAX);
    let first = stored(prefix);
    let from = match after {
        // The least key greater than `after` is `after` and a zero byte.
        Some(after) => first.clone().max(stored(&[after, &[0]].concat())),
        None => first.clone(),
    };
    let mut pairs: Vec<(Bytes, Bytes)> = Vec::new();
    let mut page_bytes = 0;
    view.scan(&from, END, false, &mut |key, value| {
        if !key.starts_with(&first) {
            return ControlFlow::Break(());
        }
        page_bytes += key.len() + value.len();
        pairs.push((Bytes::copy_from_slice(&key[1..]), Bytes::copy_from_slice(value)));
        let full = pairs.len() >= pairs_max || page_bytes >= SCAN_PAGE_BYTES_MAX;
        if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    assert!(pairs.len() <= pairs_max, "a page keeps its limit");
    Ok(pairs)
}

pub(super) fn stored(key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + key.len());
    bytes.put_u8(PREFIX);
    bytes.put_slice(key);
    bytes.freeze()
}

/// What a unit has written so far, over the transaction it has not touched yet.
struct Draft<'t, 'b> {
    txn: &'t mut Txn<'b>,
    writes: BTreeMap<Bytes, Option<Bytes>>,
}

impl Draft<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let stored_key = stored(key);
        match self.writes.get(&stored_key) {
            Some(written) => Ok(written.clone()),
            None => self.txn.get(&stored_key),
        }
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.writes.insert(stored(key), Some(value));
    }

    fn commit(self) {
        for (key, value) in self.writes {
            match value {
                Some(value) => self.txn.put(key, value),
                None => self.txn.delete(key),
            }
        }
    }
}

fn apply_unit(txn: &mut Txn<'_>, unit: &Unit) -> Result<Outcome, EngineError> {
    if let Err(reason) = check_unit(unit) {
        return Ok(Outcome::Refused(reason));
    }
    let mut draft = Draft { txn, writes: BTreeMap::new() };
    for (number, op) in unit.ops.iter().enumerate() {
        let kind = op.op.as_ref().expect("checked above");
        if let Err(found) = apply_op(&mut draft, kind)? {
            let op = u32::try_from(number).expect("a unit has few operations");
            return Ok(Outcome::Conflict(Conflict { op, found }));
        }
    }
    draft.commit();
    Ok(Outcome::Done(Done {}))
}

/// Made, or what the key held that forbade it.
type Attempt = Result<(), Option<Bytes>>;

fn apply_op(draft: &mut Draft<'_, '_>, kind: &Kind) -> Result<Attempt, EngineError> {
    Ok(match kind {
        Kind::InsertIfAbsent(InsertIfAbsent { key, value }) => match draft.get(key)? {
            Some(found) if !armed(Mutant::InsertOverwrites) => Err(Some(found)),
            _ => {
                draft.put(key, value.clone());
                Ok(())
            }
        },
        Kind::CompareAndSet(CompareAndSet { key, expected, value }) => {
            let found = draft.get(key)?;
            if found == *expected {
                draft.put(key, value.clone());
                Ok(())
            } else {
                Err(found)
            }
        }
        Kind::Add(Add { key, delta }) => {
            let found = draft.get(key)?;
            match add(found.as_deref(), *delta) {
                Some(sum) => {
                    draft.put(key, Bytes::copy_from_slice(&sum.to_be_bytes()));
                    Ok(())
                }
                None => Err(found),
            }
        }
        Kind::Put(Put { key, value }) => {
            draft.put(key, value.clone());
            Ok(())
        }
        Kind::Delete(Delete { key }) => {
            draft.writes.insert(stored(key), None);
            Ok(())
        }
    })
}

fn add(counter: Option<&[u8]>, delta: i64) -> Option<i64> {
    let value = match counter {
        Some(bytes) => i64::from_be_bytes(bytes.try_into().ok()?),
        None => 0,
    };
    value.checked_add(delta)
}

fn check_unit(unit: &Unit) -> Result<(), String> {
    if unit.ops.is_empty() {
        return Err("a unit holds at least one operation".to_owned());
    }
    if unit.ops.len() > UNIT_OPS_MAX {
        return Err(format!("a unit holds at most {UNIT_OPS_MAX} operations, this one {}", unit.ops.len()));
    }
    for op in &unit.ops {
        let (key, value_len) = match &op.op {
            Some(Kind::InsertIfAbsent(op)) => (&op.key, op.value.len()),
            Some(Kind::CompareAndSet(op)) => (&op.key, op.value.len()),
            Some(Kind::Add(op)) => (&op.key, 0),
            Some(Kind::Put(op)) => (&op.key, op.value.len()),
            Some(Kind::Delete(op)) => (&op.key, 0),
            None => return Err("an operation of no known kind".to_owned()),
        };
        if key.is_empty() || key.len() > DATA_KEY_BYTES_MAX {
            return Err(format!("a key is 1 to {DATA_KEY_BYTES_MAX} bytes long, this one {}", key.len()));
        }
        if value_len > DATA_VALUE_BYTES_MAX {
            return Err(format!(
                "a value is at most {DATA_VALUE_BYTES_MAX} bytes long, this one {value_len}"
            ));
        }
    }
    Ok(())
}
