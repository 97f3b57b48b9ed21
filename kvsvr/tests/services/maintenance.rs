//! The Maintenance and Cluster services.

use std::sync::Arc;

use bytes::Bytes;
use kvsvr::quota::Quota;
use kvsvr::testing::trio::{Trio, nodes};
use kvsvr::wire::etcdserverpb::alarm_request::AlarmAction;
use kvsvr::wire::etcdserverpb::cluster_client::ClusterClient;
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::lease_client::LeaseClient;
use kvsvr::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use kvsvr::wire::etcdserverpb::request_op::Request;
use kvsvr::wire::etcdserverpb::*;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::Channel;
use world::UnixMs;
use world::clock::ManualClock;

use super::{get, put, refused, trio};

async fn alarm(channel: &Channel, action: AlarmAction, member_id: u64, alarm: AlarmType) -> Vec<AlarmMember> {
    let request = AlarmRequest { action: action as i32, member_id, alarm: alarm as i32 };
    MaintenanceClient::new(channel.clone()).alarm(request).await.expect("answered").into_inner().alarms
}

#[tokio::test]
async fn every_member_tells_its_status() {
    let (trio, _) = trio().await;
    put(&trio.channel(0).await, "k", "v", 0).await.expect("written");
    for number in 0..3 {
        let mut service = MaintenanceClient::new(trio.channel(number).await);
        let status = service.status(StatusRequest {}).await.expect("told").into_inner();
        let header = status.header.expect("a header");
        assert_eq!(header.member_id, u64::from(nodes()[number].as_u16()));
        assert_eq!(header.revision, 2);
        assert_eq!(status.leader, u64::from(nodes()[0].as_u16()));
        assert_eq!(status.version, kvsvr::etcd::ETCD_VERSION);
        assert_eq!((status.db_size, status.raft_term), (4_096, 1));
        assert!(status.raft_index >= 1 && status.raft_applied_index >= 1, "{status:?}");
        assert!(status.errors.is_empty() && !status.is_learner, "{status:?}");
    }
    trio.shared.elect(None);
    let mut service = MaintenanceClient::new(trio.channel(1).await);
    let status = service.status(StatusRequest {}).await.expect("told").into_inner();
    assert_eq!((status.leader, status.errors), (0, vec!["etcdserver: no leader".to_owned()]));
}

#[tokio::test]
async fn while_space_is_short_nothing_that_needs_space_is_taken() {
    let (trio, _) = trio().await;
    let channel = trio.channel(1).await;
    put(&channel, "k", "v", 0).await.expect("written");
    let raised = alarm(&channel, AlarmAction::Activate, 7, AlarmType::Nospace).await;
    let expected = AlarmMember { member_id: 7, alarm: AlarmType::Nospace as i32 };
    assert_eq!(raised, [expected]);
    let text = "etcdserver: mvcc: database space exceeded";
    refused(put(&channel, "k", "w", 0).await, Code::ResourceExhausted, text);
    let grant = LeaseClient::new(channel.clone()).lease_grant(LeaseGrantRequest { ttl: 5, id: 0 }).await;
    refused(grant, Code::ResourceExhausted, text);
    let op = |request| RequestOp { request: Some(request) };
    let putting = PutRequest { key: "k".into(), ..PutRequest::default() };
    // Whether it puts in the branch that is not taken does not matter, as at etcd.
    let txn = TxnRequest { failure: vec![op(Request::RequestPut(putting))], ..TxnRequest::default() };
    let mut kv = KvClient::new(channel.clone());
    refused(kv.txn(txn).await, Code::ResourceExhausted, text);
    let delete = DeleteRangeRequest { key: "k".into(), ..DeleteRangeRequest::default() };
    let txn = TxnRequest {
        success: vec![op(Request::RequestDeleteRange(delete.clone()))],
        ..TxnRequest::default()
    };
    kv.txn(txn).await.expect("deleting gives space back");
    kv.delete_range(delete).await.expect("deleting gives space back");
    assert_eq!(get(&channel, "k").await, None);
    let other = trio.channel(2).await;
    assert_eq!(alarm(&other, AlarmAction::Get, 0, AlarmType::None).await, [expected]);
    assert_eq!(alarm(&other, AlarmAction::Get, 0, AlarmType::Corrupt).await, []);
    let status = MaintenanceClient::new(other.clone()).status(StatusRequest {}).await.expect("told");
    assert_eq!(status.into_inner().errors, ["memberID:7 alarm:NOSPACE "]);
    assert_eq!(alarm(&other, AlarmAction::Deactivate, 8, AlarmType::Nospace).await, [], "8 raised none");
    refused(put(&channel, "k", "w", 0).await, Code::ResourceExhausted, text);
    assert_eq!(alarm(&other, AlarmAction::Deactivate, 7, AlarmType::Nospace).await, [expected]);
    put(&channel, "k", "w", 0).await.expect("there is space again");
}

#[tokio::test]
async fn a_member_whose_quota_is_exceeded_raises_the_alarm_for_all_until_space_was_freed() {
    let clock = Arc::new(ManualClock::at(UnixMs(1)));
    let trio = Trio::start_with(clock, Quota::new(20_000)).await;
    let (channel, other) = (trio.channel(1).await, trio.channel(2).await);
    let text = "etcdserver: mvcc: database space exceeded";
    let mut written = 0;
    while put(&channel, &format!("k{written}"), &"v".repeat(500), 0).await.is_ok() {
        written += 1;
        assert!(written < 40, "nothing was refused");
    }
    assert!(written > 10, "refused after {written} puts of 500 bytes");
    let expected =
        AlarmMember { member_id: u64::from(nodes()[1].as_u16()), alarm: AlarmType::Nospace as i32 };
    assert_eq!(alarm(&other, AlarmAction::Get, 0, AlarmType::None).await, [expected]);
    // The alarm holds on every member, for what would have had room as well.
    refused(put(&other, "k", "", 0).await, Code::ResourceExhausted, text);
    let status =
        MaintenanceClient::new(other.clone()).status(StatusRequest {}).await.expect("told").into_inner();
    assert!((15_000..=20_000).contains(&status.db_size_in_use), "{status:?}");
    // Disarmed before anything was freed, it is raised again.
    alarm(&other, AlarmAction::Deactivate, expected.member_id, AlarmType::Nospace).await;
    refused(put(&channel, "k0", &"v".repeat(5_000), 0).await, Code::ResourceExhausted, text);
    assert_eq!(alarm(&other, AlarmAction::Get, 0, AlarmType::None).await, [expected]);
    let mut kv = KvClient::new(channel.clone());
    let all = DeleteRangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let deleted = kv.delete_range(all).await.expect("deleting frees").into_inner();
    let revision = deleted.header.expect("a header").revision;
    kv.compact(CompactionRequest { revision, physical: true }).await.expect("compacting frees");
    alarm(&other, AlarmAction::Deactivate, expected.member_id, AlarmType::Nospace).await;
    put(&channel, "k", "v", 0).await.expect("there is room again");
    assert_eq!(alarm(&other, AlarmAction::Get, 0, AlarmType::None).await, []);
}

#[tokio::test]
async fn a_corrupt_store_answers_nothing_about_its_data() {
    let (trio, _) = trio().await;
    let channel = trio.channel(0).await;
    put(&channel, "k", "v", 0).await.expect("written");
    alarm(&channel, AlarmAction::Activate, 7, AlarmType::Corrupt).await;
    let text = "etcdserver: corrupt cluster";
    refused(put(&channel, "k", "w", 0).await, Code::DataLoss, text);
    let range = RangeRequest { key: "k".into(), ..RangeRequest::default() };
    refused(KvClient::new(channel.clone()).range(range).await, Code::DataLoss, text);
    alarm(&channel, AlarmAction::Deactivate, 7, AlarmType::Corrupt).await;
    assert_eq!(get(&channel, "k").await.expect("it is there"), "v");
}

#[tokio::test]
async fn hashes_depend_on_what_can_be_read_and_not_on_what_was_swept() {
    let (trio, _) = trio().await;
    let channel = trio.channel(0).await;
    let mut service = MaintenanceClient::new(channel.clone());
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3")] {
        put(&channel, key, value, 0).await.expect("written");
    }
    let mut kv = KvClient::new(channel.clone());
    kv.delete_range(DeleteRangeRequest { key: "b".into(), ..Default::default() }).await.expect("deleted");
    let mut hash = async |revision| {
        let told = service.hash_kv(HashKvRequest { revision }).await?.into_inner();
        Ok::<_, tonic::Status>((told.hash, told.compact_revision, told.hash_revision))
    };
    let now = hash(0).await.expect("told");
    assert_eq!((now.1, now.2), (-1, 7));
    assert_eq!(hash(7).await.expect("told"), now);
    let before = hash(6).await.expect("told");
    assert_ne!(before.0, now.0, "a tombstone makes a difference");
    refused(hash(8).await, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");
    // Compaction leaves sweeping to later commands; deleting a key that is not there sweeps.
    kv.compact(CompactionRequest { revision: 5, physical: false }).await.expect("compacted");
    let owed = hash(7).await.expect("told");
    kv.compact(CompactionRequest { revision: 6, physical: true }).await.expect("compacted");
    let swept = hash(7).await.expect("told");
    assert_eq!((owed.1, swept.1), (5, 6));
    refused(hash(4).await, Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted");
    put(&channel, "a", "4", 0).await.expect("written");
    assert_eq!(hash(7).await.expect("told"), swept, "what comes after the revision does not count");
    let whole = service.hash(HashRequest {}).await.expect("told").into_inner();
    assert_eq!(whole.header.expect("a header").revision, 8);
}

#[tokio::test]
async fn a_snapshot_holds_the_whole_state() {
    let (trio, _) = trio().await;
    let channel = trio.channel(2).await;
    for number in 0..300 {
        put(&channel, &format!("key/{number:03}"), &"x".repeat(1_000), 0).await.expect("written");
    }
    let mut service = MaintenanceClient::new(channel);
    let mut pieces = service.snapshot(SnapshotRequest {}).await.expect("a stream").into_inner();
    let mut file = Vec::new();
    while let Some(piece) = pieces.next().await {
        file.extend_from_slice(&piece.expect("no error").blob);
    }
    let (revision, pairs) = kvsvr::snapshot::read(&file).expect("a whole snapshot");
    assert_eq!(revision, 301);
    let expected: Vec<(Bytes, Bytes)> =
        trio.shared.state().iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    assert_eq!(pairs, expected);
}

#[tokio::test]
async fn leadership_moves_from_the_leader_to_a_voter_and_nothing_else() {
    let (trio, _) = trio().await;
    let id = |number: usize| u64::from(nodes()[number].as_u16());
    let mut leader = MaintenanceClient::new(trio.channel(0).await);
    let mut follower = MaintenanceClient::new(trio.channel(1).await);
    let to = |target_id| MoveLeaderRequest { target_id };
    refused(follower.move_leader(to(id(2))).await, Code::FailedPrecondition, "etcdserver: not leader");
    for nobody in [0, 77, u64::MAX] {
        let result = leader.move_leader(to(nobody)).await;
        refused(result, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    }
    leader.move_leader(to(id(2))).await.expect("moved");
    let status = follower.status(StatusRequest {}).await.expect("told").into_inner();
    assert_eq!((status.leader, status.raft_term), (id(2), 2));
}

#[tokio::test]
async fn there_is_nothing_to_downgrade_to() {
    let (trio, _) = trio().await;
    let mut service = MaintenanceClient::new(trio.channel(0).await);
    let mut ask = async |action, version: &str| {
        service.downgrade(DowngradeRequest { action, version: version.to_owned() }).await
    };
    refused(ask(0, "x").await, Code::InvalidArgument, "etcdserver: wrong downgrade target version format");
    refused(ask(1, "3.4.0").await, Code::InvalidArgument, "etcdserver: invalid downgrade target version");
    refused(ask(2, "").await, Code::FailedPrecondition, "etcdserver: no inflight downgrade job");
}

#[tokio::test]
async fn every_endpoint_lists_the_members_and_refuses_to_change_their_number() {
    let (trio, _) = trio().await;
    let mut lists = Vec::new();
    for number in 0..3 {
        let mut service = ClusterClient::new(trio.channel(number).await);
        let told = service.member_list(MemberListRequest { linearizable: true }).await.expect("told");
        lists.push(told.into_inner().members);
    }
    assert!(lists.iter().all(|list| *list == lists[0]), "{lists:?}");
    let names: Vec<&str> = lists[0].iter().map(|member| member.name.as_str()).collect();
    assert_eq!(names, ["a1", "b1", "c1"]);
    assert_eq!(lists[0][1].client_ur_ls, [format!("http://{}", trio.etcd_address(1))]);

    let mut service = ClusterClient::new(trio.channel(1).await);
    let few = "etcdserver: re-configuration failed due to not enough started members";
    let invalid = "etcdserver: given member URLs are invalid";
    let learners = "etcdserver: too many learner members in cluster";
    let add = |url: &str, is_learner| MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
    refused(service.member_add(add("nonsense", true)).await, Code::InvalidArgument, invalid);
    refused(service.member_add(MemberAddRequest::default()).await, Code::InvalidArgument, invalid);
    let taken = "etcdserver: Peer URLs already exists";
    let others = lists[0][2].peer_ur_ls.clone();
    refused(service.member_add(add(&others[0], false)).await, Code::FailedPrecondition, taken);
    refused(service.member_add(add("http://h:1", false)).await, Code::FailedPrecondition, few);
    refused(service.member_add(add("http://h:1", true)).await, Code::FailedPrecondition, learners);
    let missing = "etcdserver: member not found";
    refused(service.member_remove(MemberRemoveRequest { id: 3 }).await, Code::NotFound, missing);
    let id = lists[0][0].id;
    refused(service.member_remove(MemberRemoveRequest { id }).await, Code::FailedPrecondition, few);
    refused(service.member_promote(MemberPromoteRequest { id: 3 }).await, Code::NotFound, missing);
    let promoted = service.member_promote(MemberPromoteRequest { id }).await;
    refused(promoted, Code::FailedPrecondition, "etcdserver: can only promote a learner member");
    let peer_ur_ls = lists[0][0].peer_ur_ls.clone();
    service.member_update(MemberUpdateRequest { id, peer_ur_ls }).await.expect("nothing changes");
    let both = MemberUpdateRequest { id, peer_ur_ls: others };
    refused(service.member_update(both).await, Code::FailedPrecondition, taken);
    let elsewhere = MemberUpdateRequest { id, peer_ur_ls: vec!["http://h:1".to_owned()] };
    refused(service.member_update(elsewhere).await, Code::InvalidArgument, invalid);
}
