//! Disks that are lost, wiped, swapped or put back, under running groups: nobody votes who has
//! forgotten what it promised, and a lost disk is replaced.

use std::time::Duration;

use replica::change::ChangeError;
use replica::config::ReplicaConfig;
use replica::members::{MemberError, Step, Wish};
use tokio::time::Instant;
use world::GroupId;

use crate::cluster::chain::{held, times};
use crate::cluster::{Cluster, NODES, Plan, node, open};

const GROUP: GroupId = GroupId(1);

/// A wiped disk under the old rules: it would say yes to a leader that lacks what it has forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_does_not_help_a_member_that_lacks_an_acknowledged_write_to_lead() {
    let mut cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "everywhere").await;
    cluster.wait_equal(GROUP, 1).await;
    // Acknowledged by a1 and c1; b1 never hears of it.
    cluster.kill("b1").await;
    cluster.put(GROUP, "on two disks").await;
    // c1's disk is lost while a1 is away: only b1, which lacks the write, and c1 are there.
    cluster.kill("a1").await;
    cluster.kill("c1").await;
    cluster.lose_disk("c1");
    cluster.start("b1").await;
    cluster.start("c1").await;
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(3) {
        for name in ["b1", "c1"] {
            assert!(!cluster.group(name, GROUP).is_leader(), "{name} leads by the vote of a wiped disk");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = cluster.host("c1").problems().join("\n");
    assert!(told.contains("none of the group's members") && told.contains("kv member replace c1"), "{told}");
    let told = cluster.host("b1").problems().join("\n");
    assert!(told.contains("in the place of c1-") && told.contains("kv member replace c1"), "{told}");
    // With a1's disk back, two of the three disks are there, and so is the write.
    cluster.start("a1").await;
    cluster.put(GROUP, "afterwards").await;
    assert_eq!(times(&*cluster.leader(GROUP).await, "on two disks"), 1);
    assert_eq!(held(&cluster.group("c1", GROUP)).0, 0, "the wiped disk was filled without being admitted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_first_leader_forms_no_second_group() {
    let mut cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "kept").await;
    cluster.wait_equal(GROUP, 1).await;
    for name in NODES {
        cluster.kill(name).await;
    }
    cluster.lose_disk("a1");
    cluster.start("a1").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!cluster.group("a1", GROUP).is_leader(), "formed alone");
    cluster.start("c1").await;
    cluster.start("b1").await;
    cluster.put(GROUP, "after").await;
    assert_eq!(times(&*cluster.leader(GROUP).await, "kept"), 1);
    assert_ne!(cluster.leader(GROUP).await.status().node, node("a1"));
    let told = cluster.host("a1").problems().join("\n");
    assert!(told.contains("kv member replace a1"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapped_disks_are_refused_and_put_back_they_serve() {
    let mut cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    cluster.wait_equal(GROUP, 1).await;
    cluster.kill("b1").await;
    cluster.kill("c1").await;
    let refused = open(cluster.dir("c1"), node("b1")).err().expect("c1's disk under b1");
    assert!(refused.contains("the disk of node c1, and this node is b1"), "{refused}");
    assert!(refused.contains(&cluster.dir("c1").display().to_string()), "{refused}");
    cluster.start("b1").await;
    cluster.start("c1").await;
    cluster.put(GROUP, "two").await;
    cluster.wait_equal(GROUP, 2).await;
}

/// Puts the disk that a host runs on in the place of its lost one; answers how many steps were taken.
pub async fn replace(cluster: &Cluster, name: &str, hosts: &[&str]) -> Result<usize, ChangeError> {
    drive(cluster, Wish::Voter(cluster.member(name)), cluster.address(name), hosts).await
}

/// Does on every host what comes next until nothing is left to do; answers how many steps were taken.
async fn drive(cluster: &Cluster, wish: Wish, address: &str, hosts: &[&str]) -> Result<usize, ChangeError> {
    let mut steps = 0;
    for _ in 0..1_000 {
        let mut done = false;
        for host in hosts {
            for (_, step) in cluster.host(host).towards(wish, address, false).await.expect("the right disk") {
                match step {
                    Ok(Step::Done) => done = true,
                    Ok(Step::Wait { .. }) => {}
                    Ok(_) => steps += 1,
                    Err(ChangeError::NotLeader { .. } | ChangeError::Unknown(_)) => {}
                    // Who has just died is missed a moment later.
                    Err(ChangeError::Refused(MemberError::Alive { .. })) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if done {
            return Ok(steps);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not as wished ({wish:?}): {:#?}", cluster.leader(GROUP).await.status());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_is_replaced_by_a_snapshot_and_three_vote_again() {
    let replica = ReplicaConfig { snapshot_every_entries: 50, keep_entries: 5, ..ReplicaConfig::default() };
    let mut cluster = Cluster::new(replica, &[Plan { group: GROUP, first: "a1" }]);
    for name in NODES {
        cluster.start(name).await;
    }
    for number in 0..200 {
        cluster.put(GROUP, &format!("n{number}")).await;
    }
    let lost = cluster.member("c1");
    cluster.kill("c1").await;
    cluster.lose_disk("c1");
    cluster.start("c1").await;
    let new = cluster.member("c1");
    assert_ne!(lost, new);
    replace(&cluster, "c1", &["a1", "b1"]).await.expect("replaced");
    cluster.put(GROUP, "after").await;
    let (count, _) = cluster.wait_equal(GROUP, 201).await;
    assert_eq!(count, 201);
    let status = cluster.leader(GROUP).await.status();
    let members: Vec<_> = status.members.iter().map(|member| (member.member, member.votes)).collect();
    assert_eq!(members, ["a1", "b1", "c1"].map(|name| (cluster.member(name), true)));
    assert!(!status.joint);
    // Who was kept out asks twice a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for name in NODES {
        let problems = cluster.host(name).problems();
        assert!(problems.is_empty(), "{name}: {problems:?}");
    }
    assert_eq!(replace(&cluster, "c1", &["a1", "b1"]).await.expect("nothing left to do"), 0);
    // The new disk counts: with a1 gone, b1 and the new c1 are a quorum.
    cluster.kill("a1").await;
    cluster.put(GROUP, "by the new disk").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_disk_is_removed_and_its_node_added_again_as_at_etcd() {
    const SURVIVORS: &[&str] = &["a1", "b1"];
    let mut cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    cluster.wait_equal(GROUP, 1).await;
    let old = cluster.member("c1");
    cluster.kill("c1").await;
    drive(&cluster, Wish::NoVoter(old.node), "", SURVIVORS).await.expect("removed");
    let voters = |status: &replica::status::GroupStatus| status.voters.clone();
    assert_eq!(voters(&cluster.leader(GROUP).await.status()), [node("a1"), node("b1")]);
    cluster.put(GROUP, "by two").await;
    // The old disk comes back after all: nobody listens to it, and it takes nothing away.
    cluster.start("c1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    cluster.put(GROUP, "beside the removed one").await;
    cluster.kill("c1").await;
    cluster.lose_disk("c1");
    cluster.start("c1").await;
    let (new, address) = (cluster.member("c1"), cluster.address("c1").to_owned());
    drive(&cluster, Wish::Learner(new), &address, SURVIVORS).await.expect("added");
    assert_eq!(cluster.leader(GROUP).await.status().learners, [node("c1")]);
    drive(&cluster, Wish::NoLearner(new.node), "", SURVIVORS).await.expect("taken back");
    assert!(cluster.leader(GROUP).await.status().learners.is_empty());
    drive(&cluster, Wish::Learner(new), &address, SURVIVORS).await.expect("added again");
    drive(&cluster, Wish::Voter(new), &address, SURVIVORS).await.expect("promoted");
    assert_eq!(voters(&cluster.leader(GROUP).await.status()), ["a1", "b1", "c1"].map(node));
    cluster.kill("a1").await;
    cluster.put(GROUP, "by the new disk").await;
    cluster.start("a1").await;
    cluster.wait_equal(GROUP, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_that_is_cut_off_goes_on_where_it_stood() {
    let mut cluster = Cluster::with_one_group().await;
    for number in 0..20 {
        cluster.put(GROUP, &format!("n{number}")).await;
    }
    cluster.kill("c1").await;
    cluster.lose_disk("c1");
    cluster.start("c1").await;
    let (abandoned, address) = (cluster.member("c1"), cluster.address("c1").to_owned());
    // Who has just died is missed a moment later, and leaders may change on a busy machine.
    for _ in 0..500 {
        let leader = cluster.leader(GROUP).await;
        let step = leader.towards(Wish::Voter(abandoned), &address, false).await;
        if matches!(step, Ok(Step::AddLearner | Step::Wait { .. })) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.leader(GROUP).await.status().learners, [node("c1")]);
    // The leader dies, and the new disk with it: the next one finds another learner already there.
    cluster.kill("c1").await;
    cluster.lose_disk("c1");
    cluster.start("c1").await;
    cluster.kill("a1").await;
    cluster.start("a1").await;
    cluster.leader(GROUP).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    replace(&cluster, "c1", &["a1", "b1"]).await.expect("replaced");
    cluster.put(GROUP, "after").await;
    cluster.wait_equal(GROUP, 21).await;
    let members = cluster.leader(GROUP).await.status().members;
    let members: Vec<_> = members.iter().map(|member| member.member).collect();
    assert_eq!(members, ["a1", "b1", "c1"].map(|name| cluster.member(name)), "an abandoned disk is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_answers_and_a_group_without_quorum_are_left_alone() {
    let mut cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "one").await;
    cluster.wait_equal(GROUP, 1).await;
    let (c1, address) = (cluster.member("c1"), cluster.address("c1").to_owned());
    let leader = cluster.leader(GROUP).await;
    assert_eq!(
        leader.towards(Wish::Voter(c1), &address, false).await,
        Ok(Step::Done),
        "c1 is what it should be"
    );
    let b1 = cluster.member("b1");
    let other = replica::member_id::MemberId { node: c1.node, disk: b1.disk };
    let refused = cluster.host("a1").towards(Wish::Voter(other), &address, false).await;
    assert!(refused.expect_err("c1 is not that disk").contains("answers as c1-"));
    let alive = leader.towards(Wish::Voter(other), &address, false).await;
    assert_eq!(alive, Err(ChangeError::Refused(MemberError::Alive { member: c1 })));
    drop(leader);
    cluster.kill("b1").await;
    cluster.kill("c1").await;
    cluster.lose_disk("c1");
    cluster.start("c1").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let steps =
        cluster.host("a1").towards(Wish::Voter(cluster.member("c1")), &address, false).await.expect("asked");
    let refused = steps.iter().all(|(_, step)| step.is_err());
    assert!(refused, "replaced without a quorum: {steps:?}");
}
