//! Groups over real TCP and real disks: forming, replicating, losing members, catching up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use replica::config::ReplicaConfig;
use replica::error::{ProposeError, ReadError};
use tokio::time::Instant;
use world::GroupId;

use crate::cluster::chain::{commands, times};
use crate::cluster::{Cluster, NODES, Plan, node};

const GROUP: GroupId = GroupId(1);

fn bytes(text: String) -> Bytes {
    Bytes::from(text.into_bytes())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_proposals_are_applied_once_and_equally_everywhere() {
    let cluster = Cluster::with_one_group().await;
    let leader = cluster.leader(GROUP).await;
    let mut proposals = tokio::task::JoinSet::new();
    for number in 0..1_000 {
        let leader = Arc::clone(&leader);
        proposals.spawn(async move { leader.propose(bytes(format!("p{number}"))).await.expect("applied") });
    }
    let replies: BTreeSet<Bytes> = proposals.join_all().await.into_iter().collect();
    assert_eq!(replies.len(), 1_000, "each command has a reply of its own");
    let (count, _) = cluster.wait_equal(GROUP, 1_000).await;
    assert_eq!(count, 1_000);
    let counts = leader.status().counts;
    assert_eq!(counts.commands, 1_000);
    assert!(counts.proposals < 500, "commands share entries: {counts:?}");
    assert!(leader.term_token().is_some_and(|(term, by)| term > 0 && by == node("a1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_forms_once_whatever_the_order_of_starts() {
    let mut cluster = Cluster::new(ReplicaConfig::default(), &[Plan { group: GROUP, first: "b1" }]);
    cluster.start("b1").await;
    cluster.start("a1").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!cluster.group("b1", GROUP).is_leader(), "formed without a voter whose disk nobody knows");
    let problems = cluster.host("b1").problems();
    assert!(problems.iter().any(|problem| problem.contains("every voter must be there")), "{problems:?}");
    cluster.start("c1").await;
    let started = Instant::now();
    cluster.put(GROUP, "first").await;
    assert!(started.elapsed() < Duration::from_secs(2), "formed only after {:?}", started.elapsed());
    let before = cluster.wait_equal(GROUP, 1).await;
    cluster.kill("b1").await;
    cluster.start("b1").await;
    let after = cluster.wait_equal(GROUP, 1).await;
    assert_eq!(before, after, "a restarted first leader forms nothing new");
    cluster.put(GROUP, "second").await;
    assert_eq!(cluster.wait_equal(GROUP, 2).await.0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_follower_catches_up_from_its_disk() {
    let mut cluster = Cluster::with_one_group().await;
    for number in 0..50 {
        cluster.put(GROUP, &format!("before{number}")).await;
    }
    cluster.kill("c1").await;
    for number in 0..50 {
        cluster.put(GROUP, &format!("while{number}")).await;
    }
    cluster.start("c1").await;
    let restarted = Instant::now();
    cluster.wait_equal(GROUP, 100).await;
    println!("caught up {:?} after the restart", restarted.elapsed());
    assert_eq!(times(&cluster.group("c1", GROUP), "while49"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_costs_under_two_seconds_and_nothing_acknowledged() {
    let mut cluster = Cluster::with_one_group().await;
    let leader = cluster.group("a1", GROUP);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..16 {
        let leader = Arc::clone(&leader);
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for number in 0..10_000 {
                let command = format!("w{writer}.{number}");
                match leader.propose(bytes(command.clone())).await {
                    Ok(_) => acknowledged.push(command),
                    Err(_) => break,
                }
            }
            acknowledged
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    drop(leader);
    cluster.kill("a1").await;
    let killed = Instant::now();
    cluster.put(GROUP, "after").await;
    let gap = killed.elapsed();
    println!("writes again after {gap:?}");
    assert!(gap < Duration::from_secs(2), "writes stopped for {gap:?}");
    let acknowledged: Vec<String> = writers.join_all().await.into_iter().flatten().collect();
    assert!(acknowledged.len() > 100, "only {} writes before the kill", acknowledged.len());
    cluster.start("a1").await;
    cluster.wait_equal(GROUP, acknowledged.len() as u64 + 1).await;
    let held: BTreeSet<String> = commands(&cluster.group("b1", GROUP)).into_iter().collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|command| !held.contains(*command)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_killed_at_once_come_back_with_everything() {
    let mut cluster = Cluster::with_one_group().await;
    for number in 0..100 {
        cluster.put(GROUP, &format!("n{number}")).await;
    }
    for name in NODES {
        cluster.kill(name).await;
        assert_eq!(cluster.pairs_on_disk(name), 0, "the state was to be replayed from the log");
    }
    for name in NODES {
        cluster.start(name).await;
    }
    cluster.put(GROUP, "again").await;
    cluster.wait_equal(GROUP, 101).await;
    for number in 0..100 {
        assert_eq!(times(&cluster.group("b1", GROUP), &format!("n{number}")), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_fell_behind_the_log_gets_a_snapshot() {
    let replica = ReplicaConfig { snapshot_every_entries: 50, keep_entries: 5, ..ReplicaConfig::default() };
    let mut cluster = Cluster::new(replica, &[Plan { group: GROUP, first: "a1" }]);
    for name in NODES {
        cluster.start(name).await;
    }
    cluster.put(GROUP, "first").await;
    cluster.wait_equal(GROUP, 1).await;
    cluster.kill("c1").await;
    for number in 0..300 {
        cluster.put(GROUP, &format!("while{number}")).await;
    }
    let purged = cluster.leader(GROUP).await.status().purged_index;
    assert!(purged > 50, "the log was not purged: {purged}");
    cluster.start("c1").await;
    cluster.wait_equal(GROUP, 301).await;
    let status = cluster.group("c1", GROUP).status();
    assert!(status.snapshot_index > 50, "no snapshot came: {status:?}");
    cluster.put(GROUP, "last").await;
    cluster.wait_equal(GROUP, 302).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_isolated_leader_serves_nothing_and_rejoins() {
    let cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "before").await;
    let isolated = cluster.group("a1", GROUP);
    isolated.read_barrier().await.expect("a leader with a quorum serves reads");
    cluster.cuts.cut(cluster.address("a1"), cluster.address("b1"));
    cluster.cuts.cut(cluster.address("a1"), cluster.address("c1"));
    let read = isolated.read_barrier().await;
    assert!(matches!(read, Err(ReadError::Unavailable(_) | ReadError::NotLeader { .. })), "{read:?}");
    let write = isolated.propose(bytes("isolated".to_owned())).await;
    assert!(write.is_err(), "an isolated leader acknowledged a write");
    for _ in 0..400 {
        if cluster.group("b1", GROUP).is_leader() || cluster.group("c1", GROUP).is_leader() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.put(GROUP, "elsewhere").await;
    assert_eq!(times(&isolated, "elsewhere"), 0, "the cut did not hold");
    cluster.cuts.heal();
    let healed = Instant::now();
    cluster.put(GROUP, "healed").await;
    cluster.wait_equal(GROUP, 3).await;
    println!("rejoined {:?} after healing", healed.elapsed());
    for name in NODES {
        assert_eq!(times(&cluster.group(name, GROUP), "elsewhere"), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_says_who_leads() {
    let cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    cluster.wait_equal(GROUP, 1).await;
    let follower = cluster.group("b1", GROUP);
    let hint = Some(node("a1"));
    assert_eq!(follower.propose(bytes("x".to_owned())).await, Err(ProposeError::NotLeader { hint }));
    assert_eq!(follower.read_barrier().await, Err(ReadError::NotLeader { hint }));
    let leader = cluster.group("a1", GROUP);
    let large = leader.propose(Bytes::from(vec![0; replica::limits::COMMAND_BYTES_MAX + 1])).await;
    assert!(matches!(large, Err(ProposeError::Refused(_))), "{large:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_reads_what_was_acknowledged_elsewhere() {
    let cluster = Cluster::with_one_group().await;
    let (leader, follower) = (cluster.group("a1", GROUP), cluster.group("c1", GROUP));
    for number in 0..100 {
        let command = format!("n{number}");
        leader.propose(bytes(command.clone())).await.expect("acknowledged");
        follower.read_barrier_anywhere().await.expect("the leader answers");
        assert_eq!(times(&follower, &command), 1, "{command} was acknowledged before it was read");
    }
    leader.read_barrier_anywhere().await.expect("a leader passes by itself");
    assert!(follower.status().counts.reads >= 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_reads_nothing_as_new() {
    let cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "before").await;
    cluster.wait_equal(GROUP, 1).await;
    let follower = cluster.group("c1", GROUP);
    follower.read_barrier_anywhere().await.expect("the leader answers");
    cluster.cuts.cut(cluster.address("c1"), cluster.address("a1"));
    cluster.cuts.cut(cluster.address("c1"), cluster.address("b1"));
    cluster.put(GROUP, "after").await;
    assert_eq!(times(&follower, "after"), 0, "the cut did not hold");
    let read = follower.read_barrier_anywhere().await;
    assert!(read.is_err(), "a follower that is cut off took an old state for a new one");
    cluster.cuts.heal();
    let healed = Instant::now();
    while let Err(error) = follower.read_barrier_anywhere().await {
        assert!(healed.elapsed() < Duration::from_secs(20), "it does not come back: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("reads again {:?} after healing", healed.elapsed());
    assert_eq!(times(&follower, "after"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_applied_index_is_told_only_when_it_can_be_read() {
    let cluster = Cluster::with_one_group().await;
    let follower = cluster.group("b1", GROUP);
    let mut applied = follower.applied();
    for number in 0..50 {
        let command = format!("n{number}");
        let before = *applied.borrow_and_update();
        cluster.put(GROUP, &command).await;
        while times(&follower, &command) == 0 {
            tokio::time::timeout(Duration::from_secs(5), applied.changed())
                .await
                .expect("told")
                .expect("alive");
        }
        assert!(*applied.borrow() > before, "what was applied was not told");
    }
}
