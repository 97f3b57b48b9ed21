//! Leadership and membership on purpose: transfer, spreading, shutdown, replacing a member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use replica::config::ReplicaConfig;
use replica::members::MemberError;
use replica::transfer::TransferError;
use tokio::time::Instant;
use world::GroupId;

use crate::cluster::{Cluster, NODES, Plan, SPARE, node};

const GROUP: GroupId = GroupId(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_a_voter_that_has_caught_up() {
    let cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    cluster.wait_equal(GROUP, 1).await;
    let old = cluster.group("a1", GROUP);
    let before = old.term_token().expect("it leads");
    let asked = Instant::now();
    old.transfer_leader(node("b1")).await.expect("moved");
    println!("transferred in {:?}", asked.elapsed());
    // Who has applied what the new leader proposed knows who that is.
    cluster.put(GROUP, "two").await;
    cluster.wait_equal(GROUP, 2).await;
    let new = cluster.leader(GROUP).await;
    assert_eq!(new.status().node, node("b1"));
    assert!(new.term_token().expect("it leads") > before, "tokens grow");
    assert_eq!(old.term_token(), None);
    let refused = old.transfer_leader(node("c1")).await;
    assert_eq!(refused, Err(TransferError::NotLeader { hint: Some(node("b1")) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_not_handed_to_a_dead_voter() {
    let mut cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    let dead = cluster.member("c1");
    cluster.kill("c1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let leader = cluster.leader(GROUP).await;
    let refused = leader.transfer_leader(node("c1")).await;
    assert_eq!(refused, Err(TransferError::Refused(MemberError::Silent { member: dead })));
    let stranger = leader.transfer_leader(node("z1")).await;
    assert_eq!(stranger, Err(TransferError::Refused(MemberError::NotVoter { node: node("z1") })));
    let asked = Instant::now();
    cluster.put(GROUP, "still serving").await;
    assert!(asked.elapsed() < Duration::from_millis(500), "a refused transfer disturbs nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_start_under_their_own_leaders_and_go_back_to_them() {
    let plans = [
        Plan { group: GroupId(1), first: "a1" },
        Plan { group: GroupId(2), first: "b1" },
        Plan { group: GroupId(3), first: "c1" },
    ];
    let cluster_plans = plans;
    let mut cluster = Cluster::new(ReplicaConfig::default(), &cluster_plans);
    for name in NODES {
        cluster.start(name).await;
    }
    for plan in plans {
        cluster.put(plan.group, "one").await;
        assert_eq!(cluster.leader(plan.group).await.status().node, node(plan.first));
    }
    for plan in plans {
        cluster.wait_equal(plan.group, 1).await;
    }
    // A drained host leads nothing; once it may lead again, its groups are handed back to it.
    let moves = cluster.host("a1").drain().await;
    assert_eq!(moves.len(), 1, "{moves:?}");
    assert!(moves[0].2.is_ok(), "{moves:?}");
    let substitute = cluster.leader(GroupId(1)).await.status().node;
    assert_ne!(substitute, node("a1"));
    tokio::time::sleep(Duration::from_millis(500)).await;
    let back = cluster.host(&substitute.to_string()).rebalance().await;
    assert!(back.iter().all(|(_, to, moved)| *to == node("a1") && moved.is_ok()), "{back:?}");
    assert_eq!(cluster.leader(GroupId(1)).await.status().node, node("a1"));
    for plan in plans {
        cluster.put(plan.group, "two").await;
        cluster.wait_equal(plan.group, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_shuts_down_hands_over_without_a_gap() {
    let cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    cluster.wait_equal(GROUP, 1).await;
    let host = cluster.host("a1");
    let leaving = Instant::now();
    host.shutdown(Duration::from_secs(3)).await.expect("durable");
    let left = leaving.elapsed();
    cluster.put(GROUP, "two").await;
    let gap = leaving.elapsed();
    println!("left in {left:?}, written again {gap:?} after leaving began");
    assert!(gap < Duration::from_secs(1), "writes stopped for {gap:?}");
    let gone = cluster.group("a1", GROUP).propose(Bytes::from_static(b"x")).await;
    assert!(gone.is_err(), "a stopped member takes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_readers_share_rounds() {
    let cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    let leader = cluster.leader(GROUP).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let leader = Arc::clone(&leader);
        readers.spawn(async move { leader.read_barrier().await.expect("a quorum") });
    }
    readers.join_all().await;
    let counts = leader.status().counts;
    assert_eq!(counts.reads, 500);
    assert!(counts.read_rounds < 250, "readers share rounds: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_voter_is_replaced_and_its_substitute_counts() {
    let mut cluster = Cluster::with_one_group().await;
    for number in 0..20 {
        cluster.put(GROUP, &format!("n{number}")).await;
    }
    cluster.kill("c1").await;
    cluster.start(SPARE).await;
    let spare = cluster.member(SPARE);
    let leader = cluster.group("a1", GROUP);
    leader.add_learner(spare, cluster.address(SPARE)).await.expect("added");
    cluster.wait_equal(GROUP, 20).await;
    // Its answers reach the leader's report with the next heartbeats.
    for _ in 0..200 {
        if leader.members().check_caught_up(spare).is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let voters = BTreeSet::from([cluster.member("a1"), cluster.member("b1"), spare]);
    leader.change_voters(voters).await.expect("replaced");
    let status = leader.status();
    assert_eq!(status.voters, ["a1", "b1", SPARE].map(node));
    assert!(!status.joint && status.learners.is_empty(), "{status:?}");
    drop(leader);
    cluster.kill("b1").await;
    cluster.put(GROUP, "by two of the new three").await;
    cluster.wait_equal(GROUP, 21).await;
}
