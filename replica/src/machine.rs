//! What a replicated state machine promises, and the transaction it writes through.
//!
//! A machine keeps everything durable in the key space handed to it (its group's own range of the
//! state engine) and may hold caches in memory that it can rebuild from there. The replica commits
//! the writes of a run of commands together with the applied index in one atomic batch, takes and
//! installs snapshots of the key space without the machine's help, and then calls
//! [`Machine::restore`].
//!
//! Invariant: `apply` is a function of the key space, the caches and the command. It reads no
//! clock, draws no random number, does no input or output but through `Txn`.

use std::collections::{BTreeMap, btree_map};
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use world::{NodeId, UnixMs};

use crate::engine::{EngineError, View};

/// Where and when a command stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Raft log index of the entry that carries the command.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The leader that proposed it. Term and leader together are the fencing token.
    pub leader: NodeId,
    /// The leader's wall clock at proposal, made non-decreasing along the log by the replica.
    pub now: UnixMs,
}

/// A deterministic replicated state machine.
pub trait Machine: Send + Sync + 'static {
    /// Rebuilds caches from the durable state: at start, and after a snapshot was installed.
    ///
    /// # Errors
    /// [`EngineError`] when the state cannot be read; the replica then refuses to start.
    fn restore(&mut self, view: &dyn View) -> Result<(), EngineError>;

    /// Applies one command and answers its reply. A refused command writes nothing.
    ///
    /// # Errors
    /// [`EngineError`] only; it stops the replica. Refusals are replies, not errors.
    fn apply(&mut self, txn: &mut Txn<'_>, at: At, command: &[u8]) -> Result<Bytes, EngineError>;
}

/// Writes over a [`View`]: reads see them, the view does not change.
pub struct Txn<'a> {
    base: &'a dyn View,
    writes: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Txn<'a> {
    /// A transaction without writes.
    #[must_use]
    pub fn new(base: &'a dyn View) -> Txn<'a> {
        Txn { base, writes: BTreeMap::new() }
    }

    /// Sets `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.insert(key.into(), Some(value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.insert(key.into(), None);
    }

    /// The writes in key order: `None` is a removal.
    #[must_use]
    pub fn into_writes(self) -> BTreeMap<Bytes, Option<Bytes>> {
        self.writes
    }
}

impl View for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        // Two sorted runs merged: the base calls us with its pairs, and before each one go the writes
        // that come earlier. A write under the same key hides the pair.
        if !to.is_empty() && to <= from {
            return Ok(());
        }
        let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let mut writes =
            Pending { range: self.writes.range::<[u8], _>((Bound::Included(from), upper)), reverse }
                .peekable();
        let mut flow = ControlFlow::Continue(());
        self.base.scan(from, to, reverse, &mut |key, value| {
            let earlier =
                |written: &Bytes| if reverse { written.as_ref() > key } else { written.as_ref() < key };
            while let Some((written, change)) = writes.next_if(|(written, _)| earlier(written)) {
                if let Some(new_value) = change {
                    flow = visit(written, new_value);
                }
                if flow.is_break() {
                    return flow;
                }
            }
            flow = match writes.next_if(|(written, _)| written.as_ref() == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((_, Some(new_value))) => visit(key, new_value),
                None => visit(key, value),
            };
            flow
        })?;
        while flow.is_continue() {
            match writes.next() {
                Some((written, Some(new_value))) => flow = visit(written, new_value),
                Some((_, None)) => {}
                None => break,
            }
        }
        Ok(())
    }
}

// The writes of a transaction within bounds, in either direction.
struct Pending<'t> {
    range: btree_map::Range<'t, Bytes, Option<Bytes>>,
    reverse: bool,
}

impl<'t> Iterator for Pending<'t> {
    type Item = (&'t Bytes, &'t Option<Bytes>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.reverse { self.range.next_back() } else { self.range.next() }
    }
}
