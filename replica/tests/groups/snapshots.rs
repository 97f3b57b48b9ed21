//! Snapshots: taken by bytes, sent while writes go on, resumed after a broken stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use replica::config::ReplicaConfig;
use world::GroupId;

use crate::cluster::chain::held;
use crate::cluster::{Cluster, NODES, Plan};

const GROUP: GroupId = GroupId(1);

async fn cluster(replica: ReplicaConfig) -> Cluster {
    let mut cluster = Cluster::new(replica, &[Plan { group: GROUP, first: "a1" }]);
    for name in NODES {
        cluster.start(name).await;
    }
    cluster.leader(GROUP).await;
    cluster
}

/// A command of about `bytes` bytes.
fn large(number: usize, bytes: usize) -> String {
    format!("{number:06}{}", "x".repeat(bytes))
}

/// Waits until something is so.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_huge_entries_do_not_let_the_log_grow_without_bound() {
    let replica =
        ReplicaConfig { snapshot_every_bytes: 2 << 20, keep_bytes: 1 << 20, ..ReplicaConfig::default() };
    let cluster = cluster(replica).await;
    for number in 0..30 {
        cluster.put(GROUP, &large(number, 500 << 10)).await;
    }
    cluster.wait_equal(GROUP, 30).await;
    for name in NODES {
        let member = cluster.group(name, GROUP);
        eventually(&format!("{name} forgets the beginning of its log"), || {
            let status = member.status();
            // At most a snapshot's worth and what is kept behind it: 3 MiB, 6 entries of 30.
            status.last_index - status.purged_index <= 9
        })
        .await;
    }
}

/// Writes until it is told to stop; answers how many were acknowledged.
fn writers(cluster: &Cluster, stop: &Arc<AtomicBool>, done: &Arc<AtomicU64>) -> tokio::task::JoinSet<()> {
    let leader = cluster.group("a1", GROUP);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (leader, stop, done) = (Arc::clone(&leader), Arc::clone(stop), Arc::clone(done));
        writers.spawn(async move {
            for number in 0u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let command = format!("w{writer}.{number}");
                if leader.propose(Bytes::from(command.into_bytes())).await.is_ok() {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    writers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_behind_the_log_catches_up_while_writes_go_on() {
    let replica = ReplicaConfig { snapshot_every_entries: 200, keep_entries: 20, ..ReplicaConfig::default() };
    let mut cluster = cluster(replica).await;
    cluster.put(GROUP, "first").await;
    cluster.kill("c1").await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = writers(&cluster, &stop, &done);
    let leader = cluster.group("a1", GROUP);
    eventually("the log before c1's end is gone", || leader.status().purged_index > 200).await;
    cluster.start("c1").await;
    let before = done.load(Ordering::Relaxed);
    let lagging = cluster.group("c1", GROUP);
    eventually("c1 is within a hundred entries of a leader that is written to", || {
        let (there, here) = (leader.status().last_index, lagging.status().applied_index);
        here > 200 && there.saturating_sub(here) < 100
    })
    .await;
    let during = done.load(Ordering::Relaxed) - before;
    stop.store(true, Ordering::Relaxed);
    writing.join_all().await;
    assert!(during > 0, "no write was acknowledged while c1 caught up");
    assert!(lagging.status().snapshot_index > 200, "no snapshot came: {:?}", lagging.status());
    drop((leader, lagging));
    cluster.wait_equal(GROUP, 1 + done.load(Ordering::Relaxed)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_stream_breaks_goes_on_where_it_broke() {
    let replica = ReplicaConfig { snapshot_every_entries: 60, keep_entries: 5, ..ReplicaConfig::default() };
    let mut cluster = cluster(replica).await;
    cluster.put(GROUP, "first").await;
    cluster.wait_equal(GROUP, 1).await;
    cluster.kill("c1").await;
    // 300 keys of 60 kB: a state of 18 MB, 70 pages.
    let (count, each) = (300, 60 << 10);
    for number in 0..count {
        cluster.put(GROUP, &large(number, each)).await;
    }
    let total = (count * each) as u64;
    let leader = cluster.group("a1", GROUP);
    eventually("the log is gone", || leader.status().purged_index > 200).await;
    let (a1, c1) = (cluster.address("a1").to_owned(), cluster.address("c1").to_owned());
    let before = cluster.cuts.carried(&a1, &c1);
    cluster.cuts.cut_after(&a1, &c1, before + total * 2 / 3);
    cluster.start("c1").await;
    eventually("the stream breaks", || cluster.cuts.is_cut(&a1, &c1)).await;
    let follower = cluster.group("c1", GROUP);
    assert_eq!(held(&follower).0, 1, "half a snapshot is in force");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let broken_at = cluster.cuts.carried(&a1, &c1);
    cluster.cuts.heal();
    cluster.wait_equal(GROUP, 1 + count as u64).await;
    let again = cluster.cuts.carried(&a1, &c1) - broken_at;
    println!("a state of {total} bytes; {} before the break, {again} after it", broken_at - before);
    assert!(again < total * 2 / 3, "{again} bytes of {total} were sent again");
}
