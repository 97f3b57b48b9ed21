//! Random steps for the control machine and its model.

use bytes::Bytes;
use proptest::prelude::*;

use crate::wire::etcdserverpb::compare::{CompareResult, TargetUnion};
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::*;
use crate::wire::native::LeaseExpire;
use crate::wire::native::control_command::Command;

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just("a"), Just("a\0"), Just("ab"), Just("b"), Just("c")]
        .prop_map(|key: &str| Bytes::from(key.to_owned()))
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![Just(""), Just("x"), Just("y")].prop_map(|value: &str| Bytes::from(value.to_owned()))
}

fn span() -> impl Strategy<Value = (Bytes, Bytes)> {
    let end = prop_oneof![3 => Just(Bytes::new()), 1 => Just(Bytes::from_static(b"\0")), 3 => key()];
    (key(), end)
}

fn small() -> impl Strategy<Value = i64> {
    prop_oneof![3 => Just(0i64), 5 => 1i64..14, 1 => Just(-1)]
}

prop_compose! {
    fn range()(
        (key, range_end) in span(), limit in prop_oneof![2 => Just(0i64), 1 => 1i64..4], revision in small(),
        sort_order in 0i32..3, sort_target in 0i32..5, keys_only in any::<bool>(),
        count_only in prop::bool::weighted(0.2), filters in prop::array::uniform4(prop_oneof![4 => Just(0i64), 1 => 1i64..14]),
    ) -> RangeRequest {
        let [min_mod_revision, max_mod_revision, min_create_revision, max_create_revision] = filters;
        RangeRequest {
            key, range_end, limit, revision, sort_order, sort_target, keys_only, count_only,
            min_mod_revision, max_mod_revision, min_create_revision, max_create_revision, serializable: false,
        }
    }
}

fn lease_id() -> impl Strategy<Value = i64> {
    prop_oneof![Just(5i64), Just(6i64), Just(-7i64)]
}

fn lease_command() -> impl Strategy<Value = Command> {
    let expire = (lease_id(), 1u64..6, 1u64..3)
        .prop_map(|(id, grant, term)| Command::LeaseExpire(LeaseExpire { id, grant, term, leader: 1 }));
    prop_oneof![
        4 => (lease_id(), -1i64..9).prop_map(|(id, ttl)| Command::LeaseGrant(LeaseGrantRequest { id, ttl })),
        2 => lease_id().prop_map(|id| Command::LeaseRevoke(LeaseRevokeRequest { id })),
        2 => expire,
    ]
}

prop_compose! {
    fn put()(
        key in key(), given in value(), prev_kv in any::<bool>(),
        ignore_value in prop::bool::weighted(0.15), ignore_lease in prop::bool::weighted(0.15),
        lease in prop_oneof![6 => Just(0i64), 1 => lease_id()],
    ) -> PutRequest {
        let value = if ignore_value { Bytes::new() } else { given };
        PutRequest { key, value, lease, prev_kv, ignore_value, ignore_lease }
    }
}

prop_compose! {
    fn delete()((key, range_end) in span(), prev_kv in any::<bool>()) -> DeleteRangeRequest {
        DeleteRangeRequest { key, range_end, prev_kv }
    }
}

fn compare() -> impl Strategy<Value = Compare> {
    (span(), 0i32..4, 0i32..5, 0i64..8, value()).prop_map(
        |((key, range_end), result, target, number, value)| {
            assert!(CompareResult::try_from(result).is_ok(), "the generator stays in range");
            let union = match target {
                0 => TargetUnion::Version(number),
                1 => TargetUnion::CreateRevision(number),
                2 => TargetUnion::ModRevision(number),
                3 => TargetUnion::Value(value),
                _ => TargetUnion::Lease(number),
            };
            Compare { result, target, key, target_union: Some(union), range_end }
        },
    )
}

fn leaf() -> impl Strategy<Value = Request> {
    // Reads of old revisions within a transaction have their own test.
    let present = range().prop_map(|request| RangeRequest { revision: 0, ..request });
    prop_oneof![
        3 => put().prop_map(Request::RequestPut),
        2 => delete().prop_map(Request::RequestDeleteRange),
        2 => present.prop_map(Request::RequestRange),
    ]
}

fn txn_of(op: impl Strategy<Value = Request> + Clone) -> impl Strategy<Value = TxnRequest> {
    let ops = prop::collection::vec(op.prop_map(|request| RequestOp { request: Some(request) }), 0..4);
    (prop::collection::vec(compare(), 0..3), ops.clone(), ops)
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let nested = txn_of(leaf().boxed()).prop_map(Request::RequestTxn);
    txn_of(prop_oneof![5 => leaf(), 1 => nested].boxed())
}

/// What is done to the machine and to the model alike.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Command(Command),
    Read(RangeRequest),
    Sweep,
}

/// Any step, over few keys and leases, so that they meet.
pub(super) fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => put().prop_map(|request| Step::Command(Command::Put(request))),
        2 => delete().prop_map(|request| Step::Command(Command::DeleteRange(request))),
        5 => txn().prop_map(|request| Step::Command(Command::Txn(request))),
        2 => small().prop_map(|revision| Step::Command(Command::Compact(CompactionRequest { revision, physical: false }))),
        3 => lease_command().prop_map(Step::Command),
        5 => range().prop_map(Step::Read),
        1 => Just(Step::Sweep),
    ]
}
