//! The Lease service.

use std::time::Duration;

use bytes::Bytes;

use kvsvr::wire::etcdserverpb::lease_client::LeaseClient;
use kvsvr::wire::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};
use kvsvr::wire::grpc_health::HealthCheckRequest;
use kvsvr::wire::grpc_health::health_client::HealthClient;
use tokio_stream::StreamExt;
use tonic::Code;

use super::{get, put, refused, trio};

#[tokio::test]
async fn every_endpoint_grants_tells_and_revokes_leases() {
    let (trio, _) = trio().await;
    for number in 0..3 {
        let channel = trio.channel(number).await;
        let mut leases = LeaseClient::new(channel.clone());
        let id = 100 + number as i64;
        let granted =
            leases.lease_grant(LeaseGrantRequest { ttl: 60, id }).await.expect("granted").into_inner();
        assert_eq!((granted.id, granted.ttl), (id, 60));
        let header = granted.header.expect("a header");
        assert_eq!(header.cluster_id, 0xC1);
        assert_eq!(header.member_id, u64::from(kvsvr::testing::trio::nodes()[number].as_u16()));
        assert!(header.revision > 0, "{header:?}");
        put(&channel, "k", "v", id).await.expect("the lease is in force");
        let ask = LeaseTimeToLiveRequest { id, keys: true };
        let told = leases.lease_time_to_live(ask).await.expect("told").into_inner();
        assert_eq!((told.granted_ttl, &told.keys[..]), (60, &[Bytes::from("k")][..]));
        assert!((58..=60).contains(&told.ttl), "{told:?}");
        let listed = leases.lease_leases(LeaseLeasesRequest {}).await.expect("listed").into_inner();
        assert_eq!(listed.leases.len(), 1);
        let revoked = leases.lease_revoke(LeaseRevokeRequest { id }).await.expect("revoked").into_inner();
        assert!(revoked.header.expect("a header").revision > header.revision, "the key was deleted");
        assert_eq!(get(&channel, "k").await, None);
    }
}

#[tokio::test]
async fn what_etcd_refuses_about_leases_is_refused_in_its_words() {
    let (trio, _) = trio().await;
    for number in 0..2 {
        let channel = trio.channel(number).await;
        let mut leases = LeaseClient::new(channel.clone());
        let missing = "etcdserver: requested lease not found";
        refused(leases.lease_revoke(LeaseRevokeRequest { id: 9 }).await, Code::NotFound, missing);
        refused(put(&channel, "k", "v", 9).await, Code::NotFound, missing);
        let long = LeaseGrantRequest { ttl: 9_000_000_001, id: 0 };
        refused(leases.lease_grant(long).await, Code::OutOfRange, "etcdserver: too large lease TTL");
        let id = 5 + number as i64;
        leases.lease_grant(LeaseGrantRequest { ttl: 5, id }).await.expect("granted");
        let again = leases.lease_grant(LeaseGrantRequest { ttl: 5, id }).await;
        refused(again, Code::FailedPrecondition, "etcdserver: lease already exists");
    }
}

#[tokio::test]
async fn a_lease_without_a_wished_id_gets_one_and_a_short_wish_is_raised() {
    let (trio, _) = trio().await;
    let mut leases = LeaseClient::new(trio.channel(1).await);
    let mut ids = Vec::new();
    for ttl in [-1, 0, 1, 2] {
        let granted =
            leases.lease_grant(LeaseGrantRequest { ttl, id: 0 }).await.expect("granted").into_inner();
        assert_eq!(granted.ttl, 2);
        assert!(granted.id > 0, "{granted:?}");
        ids.push(granted.id);
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 4, "ids differ");
}

#[tokio::test]
async fn keep_alives_through_a_follower_keep_the_lease_and_a_silent_client_loses_it() {
    let (trio, clock) = trio().await;
    let channel = trio.channel(2).await;
    let mut leases = LeaseClient::new(channel.clone());
    leases.lease_grant(LeaseGrantRequest { ttl: 5, id: 7 }).await.expect("granted");
    put(&channel, "alive", "yes", 7).await.expect("the lease is in force");
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let requests = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut answers = leases.lease_keep_alive(requests).await.expect("a stream").into_inner();
    for id in [7, 7, 8, 7] {
        clock.advance(Duration::from_secs(4));
        ask.send(LeaseKeepAliveRequest { id: 7 }).await.expect("the stream is open");
        let told = answers.next().await.expect("an answer").expect("no error");
        assert_eq!((told.id, told.ttl), (7, 5));
        if id != 7 {
            ask.send(LeaseKeepAliveRequest { id }).await.expect("the stream is open");
            let told = answers.next().await.expect("an answer").expect("no error");
            assert_eq!((told.id, told.ttl), (id, 0), "there is no such lease");
        }
    }
    assert_eq!(get(&channel, "alive").await.expect("it lives"), "yes");
    clock.advance(Duration::from_secs(5));
    let gone = async {
        while get(&channel, "alive").await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("the lease ends by itself");
    ask.send(LeaseKeepAliveRequest { id: 7 }).await.expect("the stream is open");
    assert_eq!(answers.next().await.expect("an answer").expect("no error").ttl, 0);
}

#[tokio::test]
async fn a_request_waits_for_the_next_leader_and_is_told_when_there_is_none() {
    let (trio, _) = trio().await;
    let mut leases = LeaseClient::new(trio.channel(0).await);
    trio.shared.elect(None);
    let granting = leases.lease_grant(LeaseGrantRequest { ttl: 5, id: 7 });
    let elected = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        trio.shared.elect(Some(kvsvr::testing::trio::nodes()[1]));
    };
    let (granted, ()) = tokio::join!(granting, elected);
    assert_eq!(granted.expect("the new leader grants it").into_inner().id, 7);
    trio.shared.elect(None);
    let result = leases.lease_grant(LeaseGrantRequest { ttl: 5, id: 8 }).await;
    refused(result, Code::Unavailable, "etcdserver: no leader");
}

#[tokio::test]
async fn a_server_that_stops_ends_the_streams_it_keeps() {
    let (trio, _) = trio().await;
    let channel = trio.channel(1).await;
    let asks = tokio_stream::pending::<LeaseKeepAliveRequest>();
    let mut leases = LeaseClient::new(channel.clone());
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    ask.send(LeaseKeepAliveRequest { id: 7 }).await.expect("there is room");
    let asks = tokio_stream::wrappers::ReceiverStream::new(asked).chain(asks);
    let mut answers = leases.lease_keep_alive(asks).await.expect("a stream").into_inner();
    assert_eq!(answers.next().await.expect("an answer").expect("no error").ttl, 0);
    let health = HealthCheckRequest::default();
    let mut told = HealthClient::new(channel).watch(health).await.expect("a stream").into_inner();
    assert_eq!(told.next().await.expect("an answer").expect("no error").status, 1);
    trio.end_streams();
    let end = tokio::time::timeout(Duration::from_secs(5), answers.next()).await.expect("it ends");
    refused(end.expect("a last word"), Code::Unavailable, "etcdserver: server stopped");
    let end = tokio::time::timeout(Duration::from_secs(5), told.next()).await.expect("it ends");
    assert!(end.is_none(), "{end:?}");
}
