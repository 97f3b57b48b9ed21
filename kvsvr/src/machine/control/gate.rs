//! What is asked before every request, in one small record: whether alarms stand, and whether
//! authors count.
//!
//! ```text
//!   key   value
//!   'g'   1 | flags u8
//! ```
//! Invariant: the flags say what the list of alarms and the auth store say. They are apart because
//! one lookup must be all that a cluster without alarms and users pays for them.

use bytes::Bytes;
use replica::engine::{EngineError, View};
use replica::machine::Txn;

const FORMAT: u8 = 1;
const KEY: &[u8] = b"g";

/// What stands above all requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gate(u8);

impl Gate {
    /// Some member has no space left.
    pub(super) const NO_SPACE: u8 = 1;
    /// Members are known to differ.
    pub(super) const CORRUPT: u8 = 2;
    /// Authentication is enabled.
    pub(super) const AUTH: u8 = 4;

    /// Reads it.
    pub(super) fn read(view: &dyn View) -> Result<Gate, EngineError> {
        match view.get(KEY)?.as_deref() {
            None => Ok(Gate::default()),
            Some([FORMAT, flags]) => Ok(Gate(*flags)),
            Some(_) => Err(EngineError::Corrupt("the gate has another size or format".to_owned())),
        }
    }

    /// Whether a flag is set.
    pub(super) fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// Sets or clears a flag.
    pub(super) fn set(txn: &mut Txn<'_>, flag: u8, on: bool) -> Result<(), EngineError> {
        let before = Gate::read(txn)?.0;
        let after = if on { before | flag } else { before & !flag };
        txn.put(KEY, Bytes::copy_from_slice(&[FORMAT, after]));
        Ok(())
    }
}
