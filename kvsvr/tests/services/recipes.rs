//! The Lock and Election services.

use std::time::Duration;

use bytes::Bytes;
use kvsvr::wire::election::election_client::ElectionClient;
use kvsvr::wire::election::{CampaignRequest, LeaderRequest, ProclaimRequest, ResignRequest};
use kvsvr::wire::etcdserverpb::lease_client::LeaseClient;
use kvsvr::wire::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest};
use kvsvr::wire::lock::lock_client::LockClient;
use kvsvr::wire::lock::{LockRequest, LockResponse, UnlockRequest};
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{get, refused, trio};

const SOON: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(10);

async fn grant(channel: &Channel, id: i64) {
    let request = LeaseGrantRequest { ttl: 600, id };
    LeaseClient::new(channel.clone()).lease_grant(request).await.expect("granted");
}

async fn lock(channel: Channel, lease: i64) -> Result<LockResponse, Status> {
    let request = LockRequest { name: Bytes::from("l"), lease };
    Ok(LockClient::new(channel).lock(request).await?.into_inner())
}

async fn unlock(channel: &Channel, key: Bytes) {
    LockClient::new(channel.clone()).unlock(UnlockRequest { key }).await.expect("unlocked");
}

#[tokio::test]
async fn one_at_a_time_holds_a_lock_in_the_order_of_asking_at_any_endpoint() {
    let (trio, _) = trio().await;
    let channels = [trio.channel(0).await, trio.channel(1).await, trio.channel(2).await];
    for id in [0xa, 0xb, 0xc] {
        grant(&channels[0], id).await;
    }
    let first = lock(channels[0].clone(), 0xa).await.expect("it is free");
    assert_eq!(first.key, "l/a", "the key of etcd's client library");
    assert!(first.header.expect("a header").revision > 1);
    let again = lock(channels[1].clone(), 0xa).await.expect("it holds it already");
    assert_eq!(again.key, first.key);
    let mut second = tokio::spawn(lock(channels[1].clone(), 0xb));
    assert!(timeout(SOON, &mut second).await.is_err(), "a holds it");
    let mut third = tokio::spawn(lock(channels[2].clone(), 0xc));
    assert!(timeout(SOON, &mut third).await.is_err(), "a holds it");
    unlock(&channels[2], first.key).await;
    let second = timeout(LONG, second).await.expect("its turn").expect("no panic").expect("locked");
    assert_eq!(second.key, "l/b");
    assert!(timeout(SOON, &mut third).await.is_err(), "b holds it");
    let revoke = LeaseRevokeRequest { id: 0xb };
    LeaseClient::new(channels[0].clone()).lease_revoke(revoke).await.expect("revoked");
    let third = timeout(LONG, third).await.expect("its turn").expect("no panic").expect("locked");
    assert_eq!(third.key, "l/c", "a lock ends with its lease");
}

#[tokio::test]
async fn who_stops_waiting_for_a_lock_leaves_nothing_behind() {
    let (trio, _) = trio().await;
    let channel = trio.channel(1).await;
    grant(&channel, 0xa).await;
    grant(&channel, 0xb).await;
    let held = lock(channel.clone(), 0xa).await.expect("it is free");
    let waiting = tokio::spawn(lock(channel.clone(), 0xb));
    while get(&channel, "l/b").await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    waiting.abort();
    let gone = async {
        while get(&channel, "l/b").await.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, gone).await.expect("its key is deleted");
    assert!(get(&channel, "l/a").await.is_some(), "the holder keeps it");
    unlock(&channel, held.key).await;
}

#[tokio::test]
async fn a_lock_needs_a_lease_in_force_and_a_wait_that_outlasts_it_fails() {
    let (trio, _) = trio().await;
    let channel = trio.channel(2).await;
    refused(lock(channel.clone(), 9).await, Code::NotFound, "etcdserver: requested lease not found");
    grant(&channel, 0xa).await;
    grant(&channel, 0xb).await;
    let held = lock(channel.clone(), 0xa).await.expect("it is free");
    let waiting = tokio::spawn(lock(channel.clone(), 0xb));
    while get(&channel, "l/b").await.is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let revoke = LeaseRevokeRequest { id: 0xb };
    LeaseClient::new(channel.clone()).lease_revoke(revoke).await.expect("revoked");
    unlock(&channel, held.key).await;
    let ended = timeout(LONG, waiting).await.expect("it ends").expect("no panic");
    refused(ended, Code::Unknown, "mutex: session is expired");
    let brought_none = lock(channel.clone(), 0).await.expect("it gets a lease of its own");
    assert!(brought_none.key.starts_with(b"l/"));
}

#[tokio::test]
async fn one_candidate_leads_until_it_resigns_and_everybody_can_see_it() {
    let (trio, _) = trio().await;
    let (here, there) = (trio.channel(0).await, trio.channel(2).await);
    grant(&here, 0xa).await;
    grant(&here, 0xb).await;
    let name = Bytes::from("e");
    let ask = LeaderRequest { name: name.clone() };
    let mut client = ElectionClient::new(there.clone());
    refused(client.leader(ask.clone()).await, Code::Unknown, "election: no leader");
    let mut told = client.observe(ask.clone()).await.expect("a stream").into_inner();
    let mut observed = async || {
        let leader =
            timeout(LONG, told.next()).await.expect("in time").expect("an answer").expect("no error");
        leader.kv.expect("a leader").value
    };
    let stand = |channel: Channel, lease, value: &str| {
        let request = CampaignRequest { name: name.clone(), lease, value: Bytes::from(value.to_owned()) };
        async move { ElectionClient::new(channel).campaign(request).await }
    };
    let won = stand(here.clone(), 0xa, "one").await.expect("nobody else stands").into_inner();
    let first = won.leader.expect("a key");
    assert_eq!((first.key.as_ref(), first.lease), (&b"e/a"[..], 0xa));
    assert_eq!(observed().await, "one");
    let mut second = tokio::spawn(stand(there.clone(), 0xb, "two"));
    assert!(timeout(SOON, &mut second).await.is_err(), "one leads");
    let proclaim = |leader, value: &str| ProclaimRequest { leader, value: Bytes::from(value.to_owned()) };
    client.proclaim(proclaim(Some(first.clone()), "one again")).await.expect("it leads");
    assert_eq!(observed().await, "one again");
    let leader = client.leader(ask.clone()).await.expect("one leads").into_inner();
    assert_eq!(leader.kv.expect("a leader").value, "one again");
    client.resign(ResignRequest { leader: Some(first.clone()) }).await.expect("resigned");
    timeout(LONG, second).await.expect("its turn").expect("no panic").expect("it leads");
    assert_eq!(observed().await, "two");
    let late = client.proclaim(proclaim(Some(first.clone()), "three")).await;
    refused(late, Code::Unknown, "election: not leader");
    client.resign(ResignRequest { leader: Some(first) }).await.expect("nothing to give up");
    let text = "\"leader\" field must be provided";
    refused(client.proclaim(proclaim(None, "x")).await, Code::Unknown, text);
    refused(client.resign(ResignRequest { leader: None }).await, Code::Unknown, text);
}
