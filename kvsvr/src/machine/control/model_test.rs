//! The control machine against a naive etcd: a list of whole snapshots, one per revision.
//!
//! The model knows nothing of indexes, history or sweeping. It keeps every revision's key space as
//! a map and answers every question by looking at one of them. Both get the same random requests;
//! every answer must be equal.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message;

use super::model_steps_test::{Step, step};
use super::{ControlMachine, Fault, bytes, layout, lease, read_range, read_txn};
use crate::machine::control::check;
use crate::machine::encode_command;
use crate::refusal::Refusal;
use crate::testing::LocalMachine;
use crate::wire::etcdserverpb::compare::{CompareTarget, TargetUnion};
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::response_op::Response;
use crate::wire::etcdserverpb::*;
use crate::wire::mvccpb::KeyValue;
use crate::wire::native::control_command::{Command, Sweep};
use crate::wire::native::control_reply::Reply;
use crate::wire::native::{Author, ControlCommand, ControlReply, LeaseExpire, LeaseExpired};

type Space = BTreeMap<Bytes, KeyValue>;

struct Model {
    // The key space at each revision from 1; the last one is now.
    past: Vec<Space>,
    compacted: i64,
    // Leases in force: seconds, and which grant it is.
    leases: BTreeMap<i64, (i64, u64)>,
    grants: u64,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

fn within(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        [0] => key >= from,
        _ => key >= from && key < end,
    }
}

impl Model {
    fn revision(&self) -> i64 {
        self.past.len() as i64
    }

    fn now(&self) -> &Space {
        self.past.last().expect("revision 1 is always there")
    }

    // `draft`: the key space within a transaction that has written.
    fn range(&self, request: &RangeRequest, draft: Option<&Space>) -> Result<RangeResponse, Refusal> {
        let newest = self.revision() + i64::from(draft.is_some());
        let asked = if request.revision <= 0 { newest } else { request.revision };
        if asked > newest {
            return Err(Refusal::FutureRevision);
        }
        if asked < self.compacted {
            return Err(Refusal::Compacted);
        }
        let space = match draft {
            Some(draft) if asked == newest => draft,
            _ => &self.past[asked as usize - 1],
        };
        let all = space.values().filter(|pair| within(&pair.key, &request.key, &request.range_end));
        let mut pairs: Vec<KeyValue> = all.cloned().collect();
        let count = pairs.len() as i64;
        if request.count_only {
            return Ok(RangeResponse { header: header(newest), count, ..RangeResponse::default() });
        }
        pairs.retain(|pair| request.min_mod_revision == 0 || pair.mod_revision >= request.min_mod_revision);
        pairs.retain(|pair| request.max_mod_revision == 0 || pair.mod_revision <= request.max_mod_revision);
        pairs.retain(|pair| {
            request.min_create_revision == 0 || pair.create_revision >= request.min_create_revision
        });
        pairs.retain(|pair| {
            request.max_create_revision == 0 || pair.create_revision <= request.max_create_revision
        });
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        // Without an order, a target other than the key sorts what the limit (and one) left; a filter
        // makes etcd read everything first.
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        if request.sort_order == 0 && filters == [0; 4] {
            pairs.truncate(limit.saturating_add(1));
        }
        let rank = |pair: &KeyValue| match request.sort_target {
            1 => (pair.version, Bytes::new()),
            2 => (pair.create_revision, Bytes::new()),
            3 => (pair.mod_revision, Bytes::new()),
            4 => (0, pair.value.clone()),
            _ => (0, pair.key.clone()),
        };
        pairs.sort_by_key(rank);
        if request.sort_order == 2 {
            // Reversed by rank, equals stay in key order.
            pairs.sort_by(|a, b| rank(b).cmp(&rank(a)).then(a.key.cmp(&b.key)));
        }
        let more = pairs.len() > limit;
        pairs.truncate(limit);
        if request.keys_only {
            pairs.iter_mut().for_each(|pair| pair.value = Bytes::new());
        }
        Ok(RangeResponse { header: header(newest), kvs: pairs, more, count })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let pairs: Vec<&KeyValue> =
            self.now().values().filter(|pair| within(&pair.key, &compare.key, &compare.range_end)).collect();
        let nothing = KeyValue::default();
        if pairs.is_empty() && compare.target == CompareTarget::Value as i32 {
            return false;
        }
        let pairs = if pairs.is_empty() { vec![&nothing] } else { pairs };
        pairs.iter().all(|pair| {
            let order = match compare.target_union.as_ref().expect("the generator sets one") {
                TargetUnion::Version(given) => pair.version.cmp(given),
                TargetUnion::CreateRevision(given) => pair.create_revision.cmp(given),
                TargetUnion::ModRevision(given) => pair.mod_revision.cmp(given),
                TargetUnion::Value(given) => pair.value.cmp(given),
                TargetUnion::Lease(given) => pair.lease.cmp(given),
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                _ => order.is_ne(),
            }
        })
    }

    fn run(&self, ops: &[RequestOp], draft: &mut Option<Space>) -> Result<Vec<ResponseOp>, Refusal> {
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().expect("the generator sets one") {
                Request::RequestRange(request) => {
                    Response::ResponseRange(self.range(request, draft.as_ref())?)
                }
                Request::RequestPut(request) => Response::ResponsePut(self.put(request, draft, true)?),
                Request::RequestDeleteRange(request) => {
                    Response::ResponseDeleteRange(self.delete(request, draft))
                }
                Request::RequestTxn(request) => Response::ResponseTxn(self.branch(request, draft)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(responses)
    }

    fn branch(&self, request: &TxnRequest, draft: &mut Option<Space>) -> Result<TxnResponse, Refusal> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &request.success } else { &request.failure };
        let responses = self.run(ops, draft)?;
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    fn put(
        &self,
        request: &PutRequest,
        draft: &mut Option<Space>,
        in_txn: bool,
    ) -> Result<PutResponse, Refusal> {
        let keeps = request.ignore_value || request.ignore_lease;
        let mut refusals = Vec::new();
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            refusals.push(Refusal::LeaseNotFound);
        }
        if keeps && !self.now().contains_key(&request.key) {
            refusals.push(Refusal::KeyNotFound);
        }
        // Within a transaction etcd looks for the key first.
        let refusal = if in_txn { refusals.last() } else { refusals.first() };
        if let Some(refusal) = refusal {
            return Err(*refusal);
        }
        let revision = self.revision() + 1;
        let space = draft.get_or_insert_with(|| self.now().clone());
        let before = space.get(&request.key).cloned();
        let kept = before.clone().unwrap_or_default();
        let pair = KeyValue {
            key: request.key.clone(),
            value: if request.ignore_value { kept.value } else { request.value.clone() },
            create_revision: before.as_ref().map_or(revision, |pair| pair.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(0, |pair| pair.version) + 1,
            lease: if request.ignore_lease { kept.lease } else { request.lease },
        };
        space.insert(request.key.clone(), pair);
        Ok(PutResponse { header: header(revision), prev_kv: before.filter(|_| request.prev_kv) })
    }

    fn delete(&self, request: &DeleteRangeRequest, draft: &mut Option<Space>) -> DeleteRangeResponse {
        let space = draft.as_ref().unwrap_or(self.now());
        let dead: Vec<KeyValue> = space
            .values()
            .filter(|pair| within(&pair.key, &request.key, &request.range_end))
            .cloned()
            .collect();
        if !dead.is_empty() {
            let space = draft.get_or_insert_with(|| self.now().clone());
            dead.iter().for_each(|pair| assert!(space.remove(&pair.key).is_some(), "it was just listed"));
        }
        let revision = self.revision() + i64::from(draft.is_some());
        let deleted = dead.len() as i64;
        DeleteRangeResponse {
            header: header(revision),
            deleted,
            prev_kvs: if request.prev_kv { dead } else { vec![] },
        }
    }

    fn apply(&mut self, command: &Command) -> Reply {
        let mut draft = None;
        let result = match command {
            Command::Put(request) => {
                check::put(request).and_then(|()| self.put(request, &mut draft, false)).map(Reply::Put)
            }
            Command::DeleteRange(request) => Ok(Reply::DeleteRange(self.delete(request, &mut draft))),
            Command::Txn(request) => check::txn(request).and_then(|()| {
                let mut response = self.branch(request, &mut draft)?;
                response.header = header(self.revision() + i64::from(draft.is_some()));
                Ok(Reply::Txn(response))
            }),
            Command::Compact(request) => self.compact(request.revision).map(Reply::Compact),
            Command::LeaseGrant(request) => self.grant(request).map(Reply::LeaseGrant),
            Command::LeaseRevoke(request) => self.end_lease(request.id, &mut draft).map(|()| {
                let revision = self.revision() + i64::from(draft.is_some());
                Reply::LeaseRevoke(LeaseRevokeResponse { header: header(revision) })
            }),
            Command::LeaseExpire(expire) => Ok(Reply::LeaseExpired(self.expire(expire, &mut draft))),
            other => unreachable!("the generator makes no {other:?}"),
        };
        match result {
            Ok(reply) => {
                self.past.extend(draft);
                reply
            }
            Err(refusal) => Reply::Refused(refusal as i32),
        }
    }

    fn grant(&mut self, request: &LeaseGrantRequest) -> Result<LeaseGrantResponse, Refusal> {
        if self.leases.contains_key(&request.id) {
            return Err(Refusal::LeaseExists);
        }
        self.grants += 1;
        let ttl = request.ttl.max(2);
        self.leases.insert(request.id, (ttl, self.grants));
        let error = String::new();
        Ok(LeaseGrantResponse { header: header(self.revision()), id: request.id, ttl, error })
    }

    fn end_lease(&mut self, id: i64, draft: &mut Option<Space>) -> Result<(), Refusal> {
        self.leases.remove(&id).ok_or(Refusal::LeaseNotFound)?;
        if self.now().values().any(|pair| pair.lease == id) {
            let mut space = self.now().clone();
            space.retain(|_, pair| pair.lease != id);
            *draft = Some(space);
        }
        Ok(())
    }

    fn expire(&mut self, expire: &LeaseExpire, draft: &mut Option<Space>) -> LeaseExpired {
        let named = self.leases.get(&expire.id).is_some_and(|(_, grant)| *grant == expire.grant);
        // Local machines apply everything in term 1.
        if named && expire.term != 1 {
            return LeaseExpired { gone: false };
        }
        if named {
            self.end_lease(expire.id, draft).expect("it was just found");
        }
        LeaseExpired { gone: true }
    }

    fn compact(&mut self, revision: i64) -> Result<CompactionResponse, Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision() {
            return Err(Refusal::FutureRevision);
        }
        self.compacted = revision;
        Ok(CompactionResponse { header: header(self.revision()) })
    }
}

fn apply(machine: &mut LocalMachine<ControlMachine>, command: Command) -> Reply {
    let command = encode_command(&ControlCommand { command: Some(command), author: None });
    let reply = machine.apply(&command).expect("memory does not fail");
    ControlReply::decode(reply).expect("a reply").reply.expect("a reply of some kind")
}

fn run(steps: Vec<Step>) {
    let mut machine = LocalMachine::new(ControlMachine);
    let mut model = Model { past: vec![Space::new()], compacted: -1, leases: BTreeMap::new(), grants: 0 };
    for step in steps {
        match step {
            Step::Command(command) => {
                let before = machine.view().clone();
                let reply = apply(&mut machine, command.clone());
                assert_eq!(reply, model.apply(&command), "{command:?}");
                if matches!(reply, Reply::Refused(_)) {
                    assert_eq!(*machine.view(), before, "a refused command wrote: {command:?}");
                }
            }
            Step::Read(request) => {
                match (read_range(machine.view(), &Author::default(), &request), model.range(&request, None))
                {
                    (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{request:?}"),
                    (Err(Fault::Refused(found)), Err(expected)) => assert_eq!(found, expected, "{request:?}"),
                    (found, expected) => panic!("{request:?}: {found:?} instead of {expected:?}"),
                }
            }
            Step::Sweep => {
                apply(&mut machine, Command::Sweep(Sweep {}));
            }
        }
    }
    leases_know_their_keys(&machine, &model);
    the_bytes_are_counted_rightly(&machine);
    every_kept_revision_reads_as_it_was(&mut machine, &model);
    what_is_swept_leaves_only_what_can_be_read(&mut machine, &model);
}

fn the_bytes_are_counted_rightly(machine: &LocalMachine<ControlMachine>) {
    let counted = |key: &[u8]| [b"k", b"v", b"r"].iter().any(|kind| key.starts_with(*kind));
    let pairs = machine.view().iter().filter(|(key, _)| counted(key));
    let taken: u64 = pairs.map(|(key, value)| (key.len() + value.len()) as u64).sum();
    assert_eq!(bytes(machine.view()), Ok(taken));
}

fn leases_know_their_keys(machine: &LocalMachine<ControlMachine>, model: &Model) {
    let view = machine.view();
    let mut in_force = lease::granted_after(view, 0).expect("memory does not fail");
    in_force.sort_by_key(|(id, _)| *id);
    let found: Vec<_> = in_force.iter().map(|(id, lease)| (*id, (lease.ttl_s, lease.grant))).collect();
    let expected: Vec<_> = model.leases.iter().map(|(id, lease)| (*id, *lease)).collect();
    assert_eq!(found, expected);
    for id in [5, 6, -7] {
        let hung: Vec<Bytes> =
            model.now().values().filter(|pair| pair.lease == id).map(|pair| pair.key.clone()).collect();
        assert_eq!(lease::keys(view, id).expect("memory does not fail"), hung, "on lease {id}");
    }
    assert_eq!(lease::last_grant(view), Ok(model.grants));
}

fn every_kept_revision_reads_as_it_was(machine: &mut LocalMachine<ControlMachine>, model: &Model) {
    for revision in model.compacted.max(1)..=model.revision() {
        let all = Bytes::from_static(b"\0");
        let request = RangeRequest { key: all.clone(), range_end: all, revision, ..RangeRequest::default() };
        let found = read_range(machine.view(), &Author::default(), &request).expect("a kept revision");
        let expected: Vec<KeyValue> = model.past[revision as usize - 1].values().cloned().collect();
        assert_eq!(found.kvs, expected, "at revision {revision}");
        let txn = TxnRequest {
            success: vec![RequestOp { request: Some(Request::RequestRange(request)) }],
            ..TxnRequest::default()
        };
        let read = read_txn(machine.view(), &Author::default(), &txn).expect("a kept revision");
        let Some(Response::ResponseRange(range)) = &read.responses[0].response else { panic!("{read:?}") };
        assert_eq!(range.kvs, expected, "in a transaction, at revision {revision}");
    }
}

fn what_is_swept_leaves_only_what_can_be_read(machine: &mut LocalMachine<ControlMachine>, model: &Model) {
    apply(machine, Command::Sweep(Sweep {}));
    the_bytes_are_counted_rightly(machine);
    every_kept_revision_reads_as_it_was(machine, model);
    let compacted = model.compacted.max(0);
    let mut survivors = Vec::new();
    for (key, _) in machine.view().iter().filter(|(key, _)| key.starts_with(b"r")) {
        let place = layout::decode_event_key(key).expect("an event");
        if place.revision < compacted {
            survivors.push(place.revision);
        }
    }
    let live = if compacted > 0 { Some(&model.past[compacted as usize - 1]) } else { None };
    let last_writes = live.into_iter().flat_map(|space| space.values().map(|pair| pair.mod_revision));
    let mut expected: Vec<i64> = last_writes.filter(|revision| *revision < compacted).collect();
    expected.sort_unstable();
    assert_eq!(
        survivors, expected,
        "history below the compacted revision holds the last write of every live key"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn the_machine_answers_as_a_list_of_snapshots_does(steps in prop::collection::vec(step(), 1..40)) {
        run(steps);
    }
}

#[test]
fn a_filter_makes_a_limit_cut_what_is_sorted_not_what_was_found_first() {
    let put = |key: &'static str| {
        Step::Command(Command::Put(PutRequest { key: key.into(), ..PutRequest::default() }))
    };
    let read = RangeRequest {
        key: "a".into(),
        range_end: Bytes::from_static(b"\0"),
        limit: 1,
        sort_target: range_request::SortTarget::Create as i32,
        ..RangeRequest::default()
    };
    let filtered = RangeRequest { max_create_revision: 4, ..read.clone() };
    run(vec![put("c"), put("b"), put("a"), Step::Read(read), Step::Read(filtered)]);
}

#[test]
fn what_a_compaction_kept_for_watches_goes_with_the_next_one() {
    let mut machine = LocalMachine::new(ControlMachine);
    let put = |key: &'static str| Command::Put(PutRequest { key: key.into(), ..PutRequest::default() });
    let delete = DeleteRangeRequest { key: "a".into(), ..DeleteRangeRequest::default() };
    let compact = |revision| Command::Compact(CompactionRequest { revision, physical: false });
    let history = |machine: &LocalMachine<ControlMachine>| -> Vec<i64> {
        let events = machine.view().iter().filter(|(key, _)| key.starts_with(b"r"));
        events.map(|(key, _)| layout::decode_event_key(key).expect("an event").revision).collect()
    };
    for command in [put("a"), Command::DeleteRange(delete), compact(3), put("b")] {
        apply(&mut machine, command);
    }
    assert_eq!(history(&machine), [3, 4], "the tombstone at the compacted revision is kept");
    apply(&mut machine, compact(4));
    assert_eq!(history(&machine), [4], "it is an old one now");
    let versions = machine.view().iter().filter(|(key, _)| key.starts_with(b"v")).count();
    assert_eq!(versions, 0, "the index goes with it, and a live pair that is its only version has none");
}
