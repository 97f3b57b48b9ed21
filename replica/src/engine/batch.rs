//! Writes that happen together or not at all.
//!
//! Invariant: operations take effect in the order they were added; a later one wins.
//!
//! Not here: how an engine stores them.

use bytes::Bytes;

/// One change of the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Bytes, Bytes),
    /// Removes a key.
    Delete(Bytes),
    /// Removes every key with `from <= key < to`.
    DeleteRange(Bytes, Bytes),
}

/// An ordered run of changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    ops: Vec<Op>,
    size_bytes: usize,
}

impl Batch {
    /// A batch without operations.
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }

    /// An empty batch with room for `ops` operations.
    #[must_use]
    pub fn with_capacity(ops: usize) -> Batch {
        Batch { ops: Vec::with_capacity(ops), size_bytes: 0 }
    }

    /// Sets `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.push(Op::Put(key.into(), value.into()));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.push(Op::Delete(key.into()));
    }

    /// Removes every key with `from <= key < to`; nothing when the range is empty. Unlike a scan,
    /// an empty `to` is an empty range: nobody deletes everything by leaving a bound out.
    pub fn delete_range(&mut self, from: impl Into<Bytes>, to: impl Into<Bytes>) {
        let (from, to) = (from.into(), to.into());
        if from < to {
            self.push(Op::DeleteRange(from, to));
        }
    }

    /// Adds the operations of `other` after those of this batch.
    pub fn append(&mut self, mut other: Batch) {
        if self.ops.is_empty() {
            *self = other;
            return;
        }
        self.size_bytes += other.size_bytes;
        self.ops.append(&mut other.ops);
    }

    /// The operations in order.
    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    fn push(&mut self, op: Op) {
        self.size_bytes += match &op {
            Op::Put(a, b) | Op::DeleteRange(a, b) => a.len() + b.len(),
            Op::Delete(key) => key.len(),
        };
        self.ops.push(op);
    }
}
