//! Transactions: decide every branch on the state before, check every operation of the chosen
//! branches, and only then write.
//!
//! ```text
//!   compare (nested too) --> path of branches --> check ops on that path --> execute in order
//!        reads only               pure                  reads only              writes
//! ```
//! Invariant: all writes stand at one revision, and after the checks nothing can refuse, so a
//! refused transaction has written nothing.
//!
//! Not here: the checks that need no store (`check`).

use bytes::Bytes;
use replica::engine::EngineError;
use world::mutant::{Mutant, armed};

use super::mvcc::{Mvcc, Span};
use super::{Fault, lease, range};
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::response_op::Response;
use crate::wire::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RequestOp, ResponseHeader,
    ResponseOp, TxnRequest, TxnResponse,
};
use crate::wire::mvccpb::KeyValue;

/// Which branch each transaction takes, parents before children, in order.
type Path = Vec<bool>;

/// Runs a transaction that has passed `check::txn`.
pub(super) fn txn(store: &mut Mvcc<'_, '_>, request: &TxnRequest) -> Result<TxnResponse, Fault> {
    let mut path = Path::new();
    choose(store, request, &mut path)?;
    check(store, request, &mut path.iter().copied())?;
    assert!(store.changes() == 0, "nothing is written before every check has passed");
    let mut response = execute(store, request, &mut path.iter().copied())?;
    response.header = header(store);
    Ok(response)
}

/// Whether a put may be made now: its lease is in force, and the pair it wants to keep parts of.
pub(super) fn check_put(store: &Mvcc<'_, '_>, request: &PutRequest) -> Result<(), Fault> {
    check_lease(store, request)?;
    check_kept(store, request)
}

fn check_lease(store: &Mvcc<'_, '_>, request: &PutRequest) -> Result<(), Fault> {
    if request.lease != 0 && lease::get(store.view(), request.lease)?.is_none() {
        return Err(Refusal::LeaseNotFound.into());
    }
    Ok(())
}

fn check_kept(store: &Mvcc<'_, '_>, request: &PutRequest) -> Result<(), Fault> {
    if (request.ignore_value || request.ignore_lease) && store.get(&request.key)?.is_none() {
        return Err(Refusal::KeyNotFound.into());
    }
    Ok(())
}

/// Makes a put that `check_put` has passed.
pub(super) fn put(store: &mut Mvcc<'_, '_>, request: &PutRequest) -> Result<PutResponse, EngineError> {
    let wants_previous = request.prev_kv || request.ignore_value || request.ignore_lease;
    let previous = if wants_previous { store.get(&request.key)? } else { None };
    // The pair can be gone only when an operation before this one deleted it "from a key on", which
    // the duplicate check lets pass (see there). etcd crashes then; here the kept parts are empty.
    let kept = previous.clone().unwrap_or_default();
    let value = if request.ignore_value { kept.value } else { request.value.clone() };
    let lease = if request.ignore_lease { kept.lease } else { request.lease };
    store.put(request.key.clone(), value, lease)?;
    Ok(PutResponse { header: header(store), prev_kv: previous.filter(|_| request.prev_kv) })
}

/// Deletes a range.
pub(super) fn delete_range(
    store: &mut Mvcc<'_, '_>,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, EngineError> {
    let span = Span::new(&request.key, &request.range_end);
    let deleted = if armed(Mutant::DeleteForgotten) {
        store.range(span, usize::MAX)?.pairs
    } else {
        store.delete_range(span)?
    };
    let count = deleted.len() as i64;
    let prev_kvs = if request.prev_kv { deleted } else { Vec::new() };
    Ok(DeleteRangeResponse { header: header(store), deleted: count, prev_kvs })
}

fn header(store: &Mvcc<'_, '_>) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision: store.revision(), ..ResponseHeader::default() })
}

fn branch(request: &TxnRequest, holds: bool) -> &[RequestOp] {
    if holds { &request.success } else { &request.failure }
}

fn choose(store: &Mvcc<'_, '_>, request: &TxnRequest, path: &mut Path) -> Result<(), EngineError> {
    let mut holds = true;
    for compare in &request.compare {
        holds = holds && (compare_holds(store, compare)? || armed(Mutant::CompareIgnored));
    }
    path.push(holds);
    for op in branch(request, holds) {
        if let Some(Request::RequestTxn(nested)) = &op.request {
            choose(store, nested, path)?;
        }
    }
    Ok(())
}

fn check(
    store: &Mvcc<'_, '_>,
    request: &TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
) -> Result<(), Fault> {
    let holds = path.next().expect("the path names a branch for every transaction on it");
    for op in branch(request, holds) {
        match &op.request {
            Some(Request::RequestRange(request)) => range::check_in_txn(store, request)?,
            // The other way round than for a put that stands alone; so does etcd.
            Some(Request::RequestPut(request)) => {
                check_kept(store, request)?;
                check_lease(store, request)?;
            }
            Some(Request::RequestTxn(nested)) => check(store, nested, path)?,
            Some(Request::RequestDeleteRange(_)) | None => {}
        }
    }
    Ok(())
}

fn execute(
    store: &mut Mvcc<'_, '_>,
    request: &TxnRequest,
    path: &mut dyn Iterator<Item = bool>,
) -> Result<TxnResponse, Fault> {
    let succeeded = path.next().expect("the path names a branch for every transaction on it");
    let mut responses = Vec::new();
    for op in branch(request, succeeded) {
        let response = match &op.request {
            Some(Request::RequestRange(request)) => {
                Some(Response::ResponseRange(range::range(store, request)?))
            }
            Some(Request::RequestPut(request)) => Some(Response::ResponsePut(put(store, request)?)),
            Some(Request::RequestDeleteRange(request)) => {
                Some(Response::ResponseDeleteRange(delete_range(store, request)?))
            }
            Some(Request::RequestTxn(nested)) => Some(Response::ResponseTxn(execute(store, nested, path)?)),
            None => None,
        };
        responses.push(ResponseOp { response });
    }
    // Only the outermost header carries a revision, as at etcd.
    Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
}

// Holds when it holds for every live key of the range; an empty range is compared as one key of
// zeros, except by value, which no missing key has.
fn compare_holds(store: &Mvcc<'_, '_>, compare: &Compare) -> Result<bool, EngineError> {
    let found = store.range(Span::new(&compare.key, &compare.range_end), usize::MAX)?;
    if found.pairs.is_empty() {
        return Ok(compare.target != CompareTarget::Value as i32 && pair_holds(&KeyValue::default(), compare));
    }
    Ok(found.pairs.iter().all(|pair| pair_holds(pair, compare)))
}

fn pair_holds(pair: &KeyValue, compare: &Compare) -> bool {
    // A union of another kind than the target counts as zero or empty, as at etcd.
    let ordering = match (CompareTarget::try_from(compare.target), &compare.target_union) {
        (Ok(CompareTarget::Value), Some(TargetUnion::Value(value))) => pair.value.cmp(value),
        (Ok(CompareTarget::Value), _) => pair.value.cmp(&Bytes::new()),
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(given))) => pair.version.cmp(given),
        (Ok(CompareTarget::Version), _) => pair.version.cmp(&0),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(given))) => {
            pair.create_revision.cmp(given)
        }
        (Ok(CompareTarget::Create), _) => pair.create_revision.cmp(&0),
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(given))) => pair.mod_revision.cmp(given),
        (Ok(CompareTarget::Mod), _) => pair.mod_revision.cmp(&0),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(given))) => pair.lease.cmp(given),
        (Ok(CompareTarget::Lease), _) => pair.lease.cmp(&0),
        (Err(_), _) => std::cmp::Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}
