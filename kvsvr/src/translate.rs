//! Between the words of `api` and the messages on the wire, for the client and the in-memory store
//! alike.
//!
//! Invariant: what the API promises is asked of the machine here, in the request; nothing is
//! decided after the answer.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::api::{
    self, Compare, ControlOp, DataOp, IngestOutcome, KvError, RangePage, TxnOutcome, UnitOutcome,
};
use crate::route::data_group;
use crate::sorted;
use crate::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::response_op::Response;
use crate::wire::etcdserverpb::{
    Compare as WireCompare, DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};
use crate::wire::mvccpb;
use crate::wire::native::ingest_reply::{self, Ingested};
use crate::wire::native::op::{Add, CompareAndSet, Delete, InsertIfAbsent, Op as Kind, Put};
use crate::wire::native::unit_reply::Outcome;
use crate::wire::native::{IngestReply, Op, Unit, UnitReply};

/// An answer that is not what the protocol says. The other side runs another program.
pub(crate) fn malformed(what: &str) -> String {
    format!("the answer is malformed: {what}")
}

/// Reads one key.
pub(crate) fn get_request(key: &[u8]) -> RangeRequest {
    RangeRequest { key: Bytes::copy_from_slice(key), ..RangeRequest::default() }
}

/// Reads all keys with a prefix.
pub(crate) fn prefix_request(prefix: &[u8]) -> RangeRequest {
    let (key, range_end) = match prefix {
        [] => (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
        _ => (Bytes::copy_from_slice(prefix), prefix_end(prefix)),
    };
    RangeRequest { key, range_end, ..RangeRequest::default() }
}

// The least key greater than every key with the prefix; one zero byte ("to the end") if none is.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let Some(last) = prefix.iter().rposition(|byte| *byte < u8::MAX) else {
        return Bytes::from_static(&[0]);
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    end.into()
}

/// Pairs as files of their groups.
pub(crate) fn ingest_files(
    pairs: Vec<(api::DataKey, Bytes)>,
    data_groups: u32,
    bytes_max: usize,
) -> Result<Vec<(u32, Bytes)>, KvError> {
    let mut groups: BTreeMap<u32, sorted::Pairs> = BTreeMap::new();
    for (key, value) in pairs {
        groups.entry(data_group(&key.partition, data_groups)).or_default().push((key.key, value));
    }
    let mut files = Vec::new();
    for (group, pairs) in groups {
        let cut = sorted::files(pairs, bytes_max).map_err(KvError::Refused)?;
        files.extend(cut.into_iter().map(|file| (group, file)));
    }
    Ok(files)
}

/// What became of one file.
pub(crate) fn ingest_outcome(reply: IngestReply) -> Result<IngestOutcome, KvError> {
    match reply.outcome {
        Some(ingest_reply::Outcome::Ingested(Ingested { written, present })) => {
            Ok(IngestOutcome::Done { written, present })
        }
        Some(ingest_reply::Outcome::Conflict(ingest_reply::Conflict { key, found })) => {
            Ok(IngestOutcome::Conflict { key, found })
        }
        Some(ingest_reply::Outcome::Refused(reason)) => Err(KvError::Refused(reason)),
        None => Err(KvError::Unknown(malformed("no outcome"))),
    }
}

/// A control transaction: on failure it reads the keys of the conditions.
pub(crate) fn txn_request(compares: &[Compare], writes: &[ControlOp]) -> TxnRequest {
    let compare = compares.iter().map(compare_to_wire).collect();
    let success = writes.iter().map(|write| RequestOp {
        request: Some(match write {
            ControlOp::Put(key, value) => Request::RequestPut(PutRequest {
                key: key.clone(),
                value: value.clone(),
                ..PutRequest::default()
            }),
            ControlOp::Delete(key) => Request::RequestDeleteRange(DeleteRangeRequest {
                key: key.clone(),
                ..DeleteRangeRequest::default()
            }),
        }),
    });
    let failure = compares.iter().map(|compare| {
        let (Compare::Absent(key) | Compare::ModRevision(key, _) | Compare::Value(key, _)) = compare;
        RequestOp { request: Some(Request::RequestRange(get_request(key))) }
    });
    TxnRequest { compare, success: success.collect(), failure: failure.collect() }
}

fn compare_to_wire(compare: &Compare) -> WireCompare {
    let (key, target, result, union) = match compare {
        Compare::Absent(key) => (key, CompareTarget::Version, CompareResult::Equal, TargetUnion::Version(0)),
        // An absent key compares as revision 0. "Exists, and was written at 0" must hold for none.
        Compare::ModRevision(key, revision) if *revision <= 0 => {
            (key, CompareTarget::Version, CompareResult::Less, TargetUnion::Version(0))
        }
        Compare::ModRevision(key, revision) => {
            (key, CompareTarget::Mod, CompareResult::Equal, TargetUnion::ModRevision(*revision))
        }
        Compare::Value(key, value) => {
            (key, CompareTarget::Value, CompareResult::Equal, TargetUnion::Value(value.clone()))
        }
    };
    WireCompare {
        result: result as i32,
        target: target as i32,
        key: key.clone(),
        target_union: Some(union),
        range_end: Bytes::new(),
    }
}

/// What a control transaction answered; an error is a sentence about a malformed answer.
pub(crate) fn txn_outcome(response: TxnResponse) -> Result<TxnOutcome, String> {
    let header = response.header.ok_or_else(|| malformed("no header"))?;
    let mut found = Vec::new();
    if !response.succeeded {
        for op in response.responses {
            let Some(Response::ResponseRange(range)) = op.response else {
                return Err(malformed("a condition was not answered by a range"));
            };
            found.push(range.kvs.into_iter().next().map(key_value));
        }
    }
    Ok(TxnOutcome { succeeded: response.succeeded, revision: header.revision, found })
}

/// What a range answered.
pub(crate) fn range_page(response: RangeResponse) -> Result<RangePage, String> {
    let header = response.header.ok_or_else(|| malformed("no header"))?;
    Ok(RangePage { pairs: response.kvs.into_iter().map(key_value).collect(), revision: header.revision })
}

/// A pair as the API shows it.
pub(crate) fn key_value(pair: mvccpb::KeyValue) -> api::KeyValue {
    api::KeyValue {
        key: pair.key,
        value: pair.value,
        create_revision: pair.create_revision,
        mod_revision: pair.mod_revision,
        version: pair.version,
        lease: pair.lease,
    }
}

/// A unit; its partition has done its work by then.
pub(crate) fn unit_to_wire(unit: &api::Unit) -> Unit {
    let ops = unit.ops.iter().cloned().map(|op| Op {
        op: Some(match op {
            DataOp::InsertIfAbsent { key, value } => Kind::InsertIfAbsent(InsertIfAbsent { key, value }),
            DataOp::CompareAndSet { key, expected, value } => {
                Kind::CompareAndSet(CompareAndSet { key, expected, value })
            }
            DataOp::Add { key, delta } => Kind::Add(Add { key, delta }),
            DataOp::Put { key, value } => Kind::Put(Put { key, value }),
            DataOp::Delete { key } => Kind::Delete(Delete { key }),
        }),
    });
    Unit { ops: ops.collect() }
}

/// What became of a unit.
pub(crate) fn unit_outcome(reply: UnitReply) -> Result<UnitOutcome, KvError> {
    match reply.outcome {
        Some(Outcome::Done(_)) => Ok(UnitOutcome::Done),
        Some(Outcome::Conflict(conflict)) => {
            Ok(UnitOutcome::Conflict { op: conflict.op as usize, found: conflict.found })
        }
        Some(Outcome::Refused(reason)) => Err(KvError::Refused(reason)),
        None => Err(KvError::Unknown(malformed("a unit has no outcome"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_prefix() {
        assert_eq!(prefix_end(b"ab"), &b"ac"[..]);
        assert_eq!(prefix_end(b"a\xff\xff"), &b"b"[..]);
        assert_eq!(prefix_end(b"\xff"), &b"\0"[..]);
        assert_eq!(prefix_request(b"").key, &b"\0"[..]);
    }

    #[test]
    fn a_condition_on_revision_zero_never_holds() {
        let wire = compare_to_wire(&Compare::ModRevision(Bytes::from_static(b"k"), 0));
        assert_eq!(wire.result, CompareResult::Less as i32);
        assert_eq!(wire.target_union, Some(TargetUnion::Version(0)));
    }
}
