//! A machine small enough to check by eye: named sums. For tests, here and in the simulator.
//!
//! ```text
//!   command  'a' | amount u64 be | name          adds to a sum
//!            'c' | length of from u8 | from | to  clears every sum with from <= name < to
//!   reply    the new sum u64 be | now u64 be      empty when the command is refused
//!   state    name -> sum u64 be
//! ```
//!
//! Invariant: [`Sums::total`], kept in memory, is the sum of all sums in the key space.
//!
//! Not here: anything a real machine needs.

use std::ops::ControlFlow;

use bytes::{BufMut, Bytes};

use crate::engine::{EngineError, View};
use crate::machine::{At, Machine, Txn};

/// The machine.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    total: u64,
}

impl Sums {
    /// The sum of all sums.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The command that adds `amount` to `name`.
    #[must_use]
    pub fn add(name: &str, amount: u64) -> Bytes {
        let mut command = vec![b'a'];
        command.put_u64(amount);
        command.put_slice(name.as_bytes());
        command.into()
    }

    /// The command that clears every sum with `from <= name < to`.
    #[must_use]
    pub fn clear(from: &str, to: &str) -> Bytes {
        let from_len = u8::try_from(from.len()).expect("test names are short");
        let mut command = vec![b'c', from_len];
        command.put_slice(from.as_bytes());
        command.put_slice(to.as_bytes());
        command.into()
    }

    /// A sum in a state.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn sum(view: &dyn View, name: &str) -> Result<u64, EngineError> {
        view.get(name.as_bytes())?.map_or(Ok(0), |stored| decode(&stored))
    }

    fn sum_of_range(view: &dyn View, from: &[u8], to: &[u8]) -> Result<u64, EngineError> {
        let mut total = Ok(0u64);
        view.scan(from, to, false, &mut |_, stored| {
            total = decode(stored).and_then(|sum| {
                let total = total.clone()?;
                Ok(total.wrapping_add(sum))
            });
            if total.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        total
    }
}

impl Machine for Sums {
    fn restore(&mut self, view: &dyn View) -> Result<(), EngineError> {
        self.total = Sums::sum_of_range(view, &[], &[])?;
        Ok(())
    }

    fn apply(&mut self, txn: &mut Txn<'_>, at: At, command: &Bytes) -> Result<Bytes, EngineError> {
        let sum = match command.as_ref() {
            [b'a', rest @ ..] => {
                let Some((amount, name)) = rest.split_first_chunk() else { return Ok(Bytes::new()) };
                let amount = u64::from_be_bytes(*amount);
                let old = txn.get(name)?.map_or(Ok(0), |stored| decode(&stored))?;
                let sum = old.wrapping_add(amount);
                txn.put(Bytes::copy_from_slice(name), Bytes::copy_from_slice(&sum.to_be_bytes()));
                self.total = self.total.wrapping_add(amount);
                sum
            }
            [b'c', from_len, rest @ ..] => {
                let Some((from, to)) = rest.split_at_checked(usize::from(*from_len)) else {
                    return Ok(Bytes::new());
                };
                if from < to {
                    let cleared = Sums::sum_of_range(txn, from, to)?;
                    self.total = self.total.wrapping_sub(cleared);
                    txn.delete_range(Bytes::copy_from_slice(from), Bytes::copy_from_slice(to));
                }
                0
            }
            _ => return Ok(Bytes::new()),
        };
        let mut reply = Vec::with_capacity(16);
        reply.put_u64(sum);
        reply.put_u64(at.now.0);
        Ok(reply.into())
    }
}

fn decode(stored: &[u8]) -> Result<u64, EngineError> {
    let bytes = stored.try_into().map_err(|_| EngineError::Corrupt("a sum has 8 bytes".into()))?;
    Ok(u64::from_be_bytes(bytes))
}
