//! Proposals with attachments over real TCP and real disks: whoever has the entry has what it names.

use std::time::Duration;

use bytes::Bytes;
use replica::config::ReplicaConfig;
use replica::error::ProposeError;
use replica::limits::ATTACHMENT_BYTES_MAX;
use world::GroupId;

use crate::cluster::chain::{held, times};
use crate::cluster::{Cluster, NODES, Plan, node};
use crate::identity::replace;

const GROUP: GroupId = GroupId(1);

/// More than two pieces, and different for each number.
fn content(number: u8) -> Bytes {
    (0..2_500_000u32).map(|at| (at % 251) as u8 ^ number).collect::<Vec<u8>>().into()
}

async fn attach(cluster: &Cluster, command: &'static str, number: u8) {
    let leader = cluster.leader(GROUP).await;
    let reply = leader.propose_attached(Bytes::from_static(command.as_bytes()), content(number)).await;
    reply.expect("applied");
}

/// The digest that members must hold: of commands and what was attached to them, in order.
fn digest(commands: &[(&str, Option<u8>)]) -> Bytes {
    let mut digest = Bytes::new();
    for (command, attached) in commands {
        let mut next = blake3::Hasher::new();
        next.update(&digest);
        next.update(command.as_bytes());
        next.update(&attached.map(content).unwrap_or_default());
        digest = Bytes::copy_from_slice(next.finalize().as_bytes());
    }
    digest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_attached_is_part_of_the_command_everywhere() {
    let cluster = Cluster::with_one_group().await;
    cluster.put(GROUP, "first").await;
    attach(&cluster, "second", 2).await;
    cluster.put(GROUP, "third").await;
    let (count, held) = cluster.wait_equal(GROUP, 3).await;
    assert_eq!(count, 3);
    assert_eq!(held, digest(&[("first", None), ("second", Some(2)), ("third", None)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_fetches_what_the_entry_names_and_one_that_restarts_has_it() {
    let mut cluster = Cluster::with_one_group().await;
    cluster.kill("c1").await;
    attach(&cluster, "away", 1).await;
    cluster.start("c1").await;
    cluster.wait_equal(GROUP, 1).await;
    // Nobody is there to ask: what was applied and is not in the state yet is applied again from the log.
    for name in NODES {
        cluster.kill(name).await;
        assert_eq!(cluster.pairs_on_disk(name), 0, "the state was to be replayed from the log");
    }
    for name in NODES {
        cluster.start(name).await;
    }
    let (_, held) = cluster.wait_equal(GROUP, 1).await;
    assert_eq!(held, digest(&[("away", Some(1))]));
    assert_eq!(times(&cluster.group("c1", GROUP), "away"), 1);
}

/// Found by the simulator: a new disk knows no address until it has the first entries, and those it is sent
/// first need not be those that its log begins with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_disk_gets_a_log_whose_entries_name_something() {
    for snapshot_every_entries in [5_000, 10] {
        let keep_entries = 5;
        let replica = ReplicaConfig { snapshot_every_entries, keep_entries, ..ReplicaConfig::default() };
        let mut cluster = Cluster::new(replica, &[Plan { group: GROUP, first: "a1" }]);
        for name in NODES {
            cluster.start(name).await;
        }
        attach(&cluster, "one", 1).await;
        for number in 0..20 {
            cluster.put(GROUP, &format!("n{number}")).await;
        }
        attach(&cluster, "two", 2).await;
        cluster.kill("c1").await;
        cluster.lose_disk("c1");
        cluster.start("c1").await;
        replace(&cluster, "c1", &["a1", "b1"]).await.expect("replaced");
        attach(&cluster, "three", 3).await;
        let (count, _) = cluster.wait_equal(GROUP, 23).await;
        assert_eq!(count, 23);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_entry_names_any_more_is_given_up() {
    let replica = ReplicaConfig { snapshot_every_entries: 20, keep_entries: 5, ..ReplicaConfig::default() };
    let mut cluster = Cluster::new(replica, &[Plan { group: GROUP, first: "a1" }]);
    for name in NODES {
        cluster.start(name).await;
    }
    attach(&cluster, "large", 3).await;
    cluster.wait_equal(GROUP, 1).await;
    let stored = |cluster: &Cluster| -> Vec<u64> {
        cluster.members(GROUP).iter().map(|member| member.attached_bytes()).collect()
    };
    assert_eq!(stored(&cluster), [content(3).len() as u64; 3]);
    for number in 0..200 {
        cluster.put(GROUP, &format!("n{number}")).await;
    }
    for _ in 0..500 {
        if stored(&cluster) == [0; 3] {
            break;
        }
        cluster.put(GROUP, "more").await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stored(&cluster), [0; 3], "kept for ever");
    // And a member that comes later gets the state without it.
    cluster.kill("c1").await;
    cluster.start("c1").await;
    let (count, _) = held(&*cluster.leader(GROUP).await);
    cluster.wait_equal(GROUP, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_nothing_is_proposed_and_too_much_is_refused() {
    let mut cluster = Cluster::with_one_group().await;
    let leader = cluster.leader(GROUP).await;
    let refused = |outcome: Result<Bytes, ProposeError>| match outcome {
        Err(ProposeError::Refused(reason)) => reason,
        other => panic!("{other:?}"),
    };
    let much = Bytes::from(vec![0; ATTACHMENT_BYTES_MAX + 1]);
    let reason = refused(leader.propose_attached(Bytes::from_static(b"x"), much).await);
    assert!(reason.contains("the limits are"), "{reason}");
    refused(leader.propose_attached(Bytes::from_static(b"x"), Bytes::new()).await);
    let leads = leader.leader().expect("it does");
    for name in NODES.into_iter().filter(|name| node(name) != leads) {
        cluster.kill(name).await;
    }
    let before = leader.standing().last_index;
    let outcome = leader.propose_attached(Bytes::from_static(b"x"), content(4)).await;
    // A leader that noticed meanwhile that it leads nobody says so.
    assert!(matches!(outcome, Err(ProposeError::Refused(_) | ProposeError::NotLeader { .. })), "{outcome:?}");
    assert_eq!(leader.standing().last_index, before, "something was appended");
}
