//! What a replicated state machine promises, and the transaction it writes through.
//!
//! A machine keeps everything durable in the key space handed to it (its group's own range of the
//! state engine) and may hold caches in memory that it can rebuild from there. The replica commits
//! the writes of a run of commands together with the applied index in one atomic batch, takes and
//! installs snapshots of the key space without the machine's help, and then calls
//! [`Machine::restore`].
//!
//! [`Txn`] lays writes over a [`View`]; [`PrefixView`] cuts the machine's range out of a larger one.
//!
//! Invariant: `apply` is a function of the key space, the caches and the command. It reads no
//! clock, draws no random number, does no input or output but through `Txn`.
//!
//! Not here: how writes reach the disk (`state`), and any particular machine.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use world::{NodeId, UnixMs};

use crate::engine::{EngineError, View, Visit};

/// Where and when a command stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// Raft log index of the entry that carries the command.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The leader that proposed it. Term and leader together are the fencing token.
    pub leader: NodeId,
    /// The group's clock at proposal (`world::pace`): the leader's wall clock, but never running
    /// backwards along the log.
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
    fn apply(&mut self, txn: &mut Txn<'_>, at: At, command: &Bytes) -> Result<Bytes, EngineError>;
}

/// What a transaction wants changed: first every range is removed, then every point is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Ranges `[from, to)` to remove, in the order they were asked for.
    pub ranges: Vec<(Bytes, Bytes)>,
    /// Keys to set, or to remove where `None`, in key order.
    pub points: BTreeMap<Bytes, Option<Bytes>>,
}

/// Writes over a [`View`]: reads see them, the view does not change.
pub struct Txn<'a> {
    base: &'a dyn View,
    writes: Writes,
    attached: Option<Bytes>,
}

impl<'a> Txn<'a> {
    /// A transaction without writes.
    #[must_use]
    pub fn new(base: &'a dyn View) -> Txn<'a> {
        Txn { base, writes: Writes::default(), attached: None }
    }

    /// What is attached to the commands that follow.
    pub fn attach(&mut self, content: Option<Bytes>) {
        self.attached = content;
    }

    /// What is attached to the command: part of it, as it is on every member.
    #[must_use]
    pub fn attached(&self) -> Option<&Bytes> {
        self.attached.as_ref()
    }

    /// Sets `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.points.insert(key.into(), Some(value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.writes.points.insert(key.into(), None);
    }

    /// Removes every key with `from <= key < to`, without reading them. Nothing happens when the
    /// range is empty; an empty `to` is an empty range here, not the end of the key space.
    pub fn delete_range(&mut self, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        let (from, to) = (from.into(), to.into());
        if from >= to {
            return;
        }
        // Ranges take effect before points, so what was written inside the range so far must go:
        // only what is written from now on may shine through.
        let covered: Vec<Bytes> =
            self.writes.points.range(from.clone()..to.clone()).map(|(key, _)| key.clone()).collect();
        for key in covered {
            self.writes.points.remove(&key);
        }
        self.writes.ranges.push((from, to));
    }

    /// The writes in key order: `None` is a removal.
    ///
    /// # Panics
    /// When a range was deleted; then only [`Txn::into_parts`] tells everything.
    #[must_use]
    pub fn into_writes(self) -> BTreeMap<Bytes, Option<Bytes>> {
        assert!(self.writes.ranges.is_empty(), "ranges were deleted: use into_parts");
        self.writes.points
    }

    /// Everything that was written.
    #[must_use]
    pub fn into_parts(self) -> Writes {
        self.writes
    }

    fn removed(&self, key: &[u8]) -> bool {
        self.writes.ranges.iter().any(|(from, to)| from.as_ref() <= key && key < to.as_ref())
    }
}

impl View for Txn<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.writes.points.get(key) {
            Some(written) => Ok(written.clone()),
            None if self.removed(key) => Ok(None),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let upper = if to.is_empty() { Bound::Unbounded } else { Bound::Excluded(to) };
        let points = self.writes.points.range::<[u8], _>((Bound::Included(from), upper));
        if reverse {
            self.merge(points.rev(), from, to, true, visit)
        } else {
            self.merge(points, from, to, false, visit)
        }
    }
}

impl Txn<'_> {
    /// Walks the base and the written points side by side, both already in the asked direction.
    fn merge<'w>(
        &self,
        mut points: impl Iterator<Item = (&'w Bytes, &'w Option<Bytes>)>,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: Visit<'_>,
    ) -> Result<(), EngineError> {
        let mut pending = points.next();
        let mut stopped = false;
        self.base.scan(from, to, reverse, &mut |key, value| {
            while let Some((written_key, written)) = pending {
                let order = written_key.as_ref().cmp(key);
                let order = if reverse { order.reverse() } else { order };
                if order == Ordering::Greater {
                    break;
                }
                pending = points.next();
                let flow = match written {
                    Some(written) => visit(written_key, written),
                    None => ControlFlow::Continue(()),
                };
                stopped = flow.is_break();
                if stopped || order == Ordering::Equal {
                    return flow;
                }
            }
            if self.removed(key) {
                return ControlFlow::Continue(());
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        while !stopped && let Some((key, written)) = pending {
            stopped = written.as_ref().is_some_and(|value| visit(key, value).is_break());
            pending = points.next();
        }
        Ok(())
    }
}

/// The keys of `base` that begin with a prefix, without it. A machine sees its range of the state
/// engine through this.
pub struct PrefixView<'a> {
    base: &'a dyn View,
    prefix: Bytes,
    end: Bytes,
}

impl<'a> PrefixView<'a> {
    /// The range of `base` under `prefix`.
    #[must_use]
    pub fn new(base: &'a dyn View, prefix: Bytes) -> PrefixView<'a> {
        let end = prefix_end(&prefix);
        PrefixView { base, prefix, end }
    }
}

impl View for PrefixView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        // Most keys are short: no allocation for them.
        let len = self.prefix.len() + key.len();
        let mut short = [0u8; 128];
        if len > short.len() {
            return self.base.get(&[self.prefix.as_ref(), key].concat());
        }
        short[..self.prefix.len()].copy_from_slice(&self.prefix);
        short[self.prefix.len()..len].copy_from_slice(key);
        self.base.get(&short[..len])
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        let prefix_len = self.prefix.len();
        let lower = [self.prefix.as_ref(), from].concat();
        let upper = if to.is_empty() { self.end.clone() } else { [self.prefix.as_ref(), to].concat().into() };
        self.base.scan(&lower, &upper, reverse, &mut |key, value| {
            assert!(key.starts_with(&self.prefix), "a scan stays inside its bounds");
            visit(&key[prefix_len..], value)
        })
    }
}

/// The smallest key greater than every key that begins with `prefix`; empty (no bound) when the
/// prefix is all ones.
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

#[cfg(test)]
mod tests;
