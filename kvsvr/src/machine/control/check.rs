//! What a control request must satisfy before it is looked at against the store.
//!
//! Invariant: pure and the same as etcd's checks before consensus, in the same order, so that a
//! request with two faults is refused for the same one.
//!
//! Not here: checks that need the store (`txn`).

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::limits::TXN_OPS_MAX;
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

/// Checks a range request.
///
/// # Errors
/// The [`Refusal`] that etcd gives.
pub fn range(request: &RangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(Refusal::InvalidSortOption);
    }
    Ok(())
}

/// Checks a put request.
///
/// # Errors
/// The [`Refusal`] that etcd gives.
pub fn put(request: &PutRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete request.
///
/// # Errors
/// The [`Refusal`] that etcd gives.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}

/// Checks a transaction, nested ones included.
///
/// # Errors
/// The [`Refusal`] that etcd gives.
pub fn txn(request: &TxnRequest) -> Result<(), Refusal> {
    txn_shape(request, TXN_OPS_MAX)?;
    intervals(&request.success)?;
    intervals(&request.failure)?;
    Ok(())
}

// The budget of a nested transaction is what its parent's longest list left over; so the depth of
// the recursion is at most the budget.
fn txn_shape(request: &TxnRequest, ops_max: usize) -> Result<(), Refusal> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    if ops > ops_max {
        return Err(Refusal::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => txn_shape(request, ops_max - ops)?,
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// What a list of operations puts and deletes.
#[derive(Default)]
struct Footprint {
    puts: BTreeSet<Bytes>,
    // As given: key and range end.
    deletes: Vec<(Bytes, Bytes)>,
}

impl Footprint {
    // etcd compares intervals of plain strings in which an empty end is infinity but a zero byte is
    // just that byte. So "from this key on" (range end of one zero byte) covers here only its own
    // key. Kept, because programs that pass at etcd must pass here.
    fn deletes_key(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|(from, to)| {
            if to.is_empty() {
                return *from == key;
            }
            let starts_after = from.as_ref() > key;
            let ends_before = from.as_ref() < key && to.as_ref() <= key;
            !starts_after && !ends_before
        })
    }

    fn add_put(&mut self, key: &Bytes, allowed_twice: &BTreeSet<Bytes>) -> Result<(), Refusal> {
        if self.puts.contains(key) && !allowed_twice.contains(key) {
            return Err(Refusal::DuplicateKey);
        }
        if self.deletes_key(key) {
            return Err(Refusal::DuplicateKey);
        }
        self.puts.insert(key.clone());
        Ok(())
    }
}

// Refuses lists that put a key twice, or put and delete it. The two branches of a nested
// transaction exclude each other and may both put it.
fn intervals(ops: &[RequestOp]) -> Result<Footprint, Refusal> {
    let mut all = Footprint::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.push((delete.key.clone(), delete.range_end.clone()));
        }
    }
    let none = BTreeSet::new();
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else { continue };
        let then = intervals(&nested.success)?;
        let otherwise = intervals(&nested.failure)?;
        for key in &then.puts {
            all.add_put(key, &none)?;
        }
        for key in &otherwise.puts {
            all.add_put(key, &then.puts)?;
        }
        all.deletes.extend(then.deletes);
        all.deletes.extend(otherwise.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            all.add_put(&put.key, &none)?;
        }
    }
    Ok(all)
}

/// Whether a transaction writes nothing whatever its comparisons say. As etcd, a nested one counts
/// as writing.
#[must_use]
pub fn is_read_only(request: &TxnRequest) -> bool {
    request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// Whether any member may answer: it reads something, and only what was asked for as serializable.
/// A transaction of comparisons alone is not: etcd answers it from any member, but then a
/// comparison may hold that held only in the past.
#[must_use]
pub fn is_serializable(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure).peekable();
    ops.peek().is_some()
        && ops.all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}
