//! Groups that begin with state.

use bytes::Bytes;
use replica::config::ReplicaConfig;
use replica::members::Wish;
use world::GroupId;

use crate::cluster::chain::{commands, held};
use crate::cluster::{Cluster, NODES, Plan};

const GROUP: GroupId = GroupId(1);

/// What a chain holds after these commands.
async fn pairs_after(commands: &[&str]) -> Vec<(Bytes, Bytes)> {
    let cluster = Cluster::with_one_group().await;
    for command in commands {
        cluster.put(GROUP, command).await;
    }
    cluster.leader(GROUP).await.read(|_, view| {
        let mut pairs = Vec::new();
        let mut visit = |key: &[u8], value: &[u8]| {
            pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            std::ops::ControlFlow::Continue(())
        };
        view.scan(&[], &[], false, &mut visit).expect("readable");
        pairs
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_group_serves_what_it_was_given_and_survives_a_kill_of_everybody() {
    let pairs = pairs_after(&["one", "two", "three"]).await;
    let plans = [Plan { group: GROUP, first: "a1" }, Plan { group: GroupId(2), first: "b1" }];
    let mut cluster = Cluster::new(ReplicaConfig::default(), &plans);
    cluster.plant(GROUP, &pairs).await.expect("empty disks");
    for name in NODES {
        cluster.start(name).await;
    }
    assert_eq!(commands(&*cluster.leader(GROUP).await), ["one", "three", "two"]);
    cluster.put(GROUP, "four").await;
    cluster.put(GroupId(2), "a group that was not planted is formed as ever").await;
    let before = cluster.wait_equal(GROUP, 4).await;
    for name in NODES {
        cluster.kill(name).await;
    }
    for name in NODES {
        cluster.start(name).await;
    }
    cluster.leader(GROUP).await;
    assert_eq!(cluster.wait_equal(GROUP, 4).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_knows_a_group_is_not_planted_with_it_again() {
    let pairs = pairs_after(&["one"]).await;
    let cluster = Cluster::new(ReplicaConfig::default(), &[]);
    cluster.plant(GROUP, &pairs).await.expect("empty disks");
    let again = cluster.plant(GROUP, &pairs).await.expect_err("twice");
    assert!(again.to_string().contains("knows g1"), "{again}");
    let mut disordered = pairs;
    disordered.reverse();
    let refused = cluster.plant(GroupId(2), &disordered).await.expect_err("keys do not ascend");
    assert!(refused.to_string().contains("ascend"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_member_that_loses_its_disk_is_filled_again() {
    let pairs = pairs_after(&["one", "two"]).await;
    let mut cluster = Cluster::new(ReplicaConfig::default(), &[Plan { group: GROUP, first: "a1" }]);
    cluster.plant(GROUP, &pairs).await.expect("empty disks");
    for name in NODES {
        cluster.start(name).await;
    }
    cluster.leader(GROUP).await;
    cluster.kill("c1").await;
    cluster.lose_disk("c1");
    cluster.start("c1").await;
    let (new, address) = (cluster.member("c1"), cluster.address("c1").to_owned());
    for _ in 0..400 {
        for name in ["a1", "b1"] {
            // Refused until the leader has seen that the old disk is gone; the next round asks again.
            let _ = cluster.host(name).towards(Wish::Voter(new), &address, false).await;
        }
        if held(&cluster.group("c1", GROUP)).0 == 2 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the new disk was never filled");
}
