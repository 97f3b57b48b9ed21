//! Running nodes over one store: races, crashes, failovers, and a store that does not answer.
//!
//! Every test judges by the sealed tickets, opened with the event's key: what users hold is what
//! counts, not what nodes say about themselves.

mod way;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use kvsvr::api::KvError;
use kvsvr::testing::LocalKv;
use ticket::control::{
    ClaimRecord, FORMAT, FreezeRecord, ZoneRecord, ZoneState, claim_key, decode, encode, freeze_key, zone_key,
};
use ticket::id::{FileNo, SlotNo};
use world::clock::ManualClock;
use world::disk::RealDisk;
use world::{Epoch, UnixMs};

use self::way::Way;
use super::*;
use crate::status::FileState;
use crate::testkit::{Deployment, eventually, node, record};

/// When the first slot starts.
const START: UnixMs = UnixMs(1_000_000);
const SLOT_MS: u64 = 60_000;
/// So long after a slot's start everything is released, under the factor of [`Deployment::config`].
const MOMENT_MS: i64 = 10;
/// What a restart may skip, as in [`Deployment::config`].
const BLOCK: u32 = 8;

/// What users hold: who issued which record.
struct Users {
    unsealer: ticket::seal::Unsealer,
    held: Mutex<BTreeMap<(SlotNo, FileNo, u32), NodeId>>,
}

impl Users {
    fn new(deployment: &Deployment) -> Arc<Users> {
        Arc::new(Users { unsealer: deployment.unsealer(), held: Mutex::default() })
    }

    fn len(&self) -> usize {
        self.held.lock().len()
    }

    /// Indices held of one file, in order.
    fn of(&self, file: u32) -> Vec<u32> {
        let held = self.held.lock();
        held.keys().filter(|(_, no, _)| *no == FileNo(file)).map(|(.., index)| *index).collect()
    }

    /// One shake; whether it brought a packet that nobody holds yet.
    fn shake(&self, at: &AccessNode, user: u64) -> Shaken {
        let shaken = at.shake(UserId(user), None);
        if let Shaken::Packet { ticket, .. } = &shaken {
            let (issue, sealed_by) = self.unsealer.open(UserId(user), ticket).expect("a genuine ticket");
            assert_eq!(sealed_by, at.node());
            assert_eq!(issue.record, record(issue.file, issue.index), "another record than the file's");
            let held = (issue.slot, issue.file, issue.index);
            let before = self.held.lock().insert(held, sealed_by);
            assert_eq!(before, None, "{held:?} left twice");
        }
        shaken
    }

    /// Shakes for up to `packets` packets; ends early when there is nothing. Answers how many came.
    async fn take(&self, at: &AccessNode, packets: usize) -> usize {
        let mut came = 0;
        for user in 0..10_000 {
            if came == packets {
                return came;
            }
            match self.shake(at, user) {
                Shaken::Packet { .. } => came += 1,
                Shaken::Throttled { .. } => tokio::time::sleep(Duration::from_millis(1)).await,
                _ => return came,
            }
        }
        panic!("throttled without end");
    }
}

fn file_state(at: &AccessNode, file: u32) -> Option<FileState> {
    at.status().files.iter().find(|line| line.file == FileNo(file)).map(|line| line.state)
}

async fn issuing(at: &AccessNode, file: u32) {
    eventually(&format!("{} issues file {file}", at.node()), || {
        file_state(at, file) == Some(FileState::Issuing)
    })
    .await;
}

async fn claim_of(kv: &LocalKv, slot: u16, file: u32) -> Option<(ClaimRecord, i64)> {
    let key = claim_key(SlotNo(slot), FileNo(file));
    let pair = kv.get(key.as_bytes()).await.expect("get")?;
    Some((decode(&key, &pair.value).expect("a claim"), pair.version))
}

async fn set_zone(kv: &LocalKv, zone: &str, state: ZoneState, epoch: u64) {
    let zone = zone.parse().expect("a zone");
    let (reason, at_ms, operations) = ("test".to_owned(), START, Vec::new());
    let (epoch, from_slot) = (Epoch(epoch), SlotNo(0));
    let record = ZoneRecord { format: FORMAT, state, epoch, from_slot, reason, at_ms, operations };
    kv.put(zone_key(zone).as_bytes(), &encode(&record)).await.expect("put");
}

async fn freeze(kv: &LocalKv, file: u32, holder: &str) {
    let holder = node(holder);
    let record = FreezeRecord {
        format: FORMAT,
        zone: holder.zone(),
        zone_epoch: Epoch(1),
        node: holder,
        at_ms: START,
    };
    let key = freeze_key(SlotNo(0), FileNo(file));
    kv.put(key.as_bytes(), &encode(&record)).await.expect("put");
}

/// A store, a deployment in it, and a clock at `offset_ms` from the first slot's start.
async fn scene(
    files: &[(u16, &[&str], u32)],
    offset_ms: i64,
) -> (Arc<LocalKv>, Deployment, Arc<ManualClock>) {
    let deployment = Deployment::new(files, START, SLOT_MS);
    let kv = Arc::new(LocalKv::new(1));
    deployment.activate(&kv).await;
    let now = UnixMs(START.0.checked_add_signed(offset_ms).expect("a time"));
    (kv, deployment, Arc::new(ManualClock::at(now)))
}

/// A crash: nothing is written any more, and what ran is gone.
async fn crash(at: Arc<AccessNode>) {
    let tasks: Vec<_> = at.tasks.lock().drain(..).collect();
    assert_eq!(Arc::strong_count(&at), 1, "somebody else keeps the node alive");
    drop(at);
    for task in tasks {
        task.abort();
        let _ = task.await;
    }
}

/// What the operator does to a disk whose identity is damaged; its cursors stay behind.
fn forget_identity(deployment: &Deployment, name: &str) {
    let identity = deployment.dir(name).join("access").join("incarnation.json");
    RealDisk.remove(&identity).expect("remove");
}

/// Both nodes may claim everything at once, over slow ways that lose a quarter of requests and of
/// answers; users shake at both all the while.
async fn race(round: u64) {
    const COUNT: u32 = 30;
    let files: [(u16, &[&str], u32); 4] = [
        (0, &["a1", "b1"], COUNT),
        (0, &["b1", "a1"], COUNT),
        (0, &["a1", "b1"], COUNT),
        (0, &["b1", "a1"], COUNT),
    ];
    let (kv, deployment, clock) = scene(&files, 1_000).await;
    let users = Users::new(&deployment);
    let all = files.len() * COUNT as usize;
    let mut tasks = Vec::new();
    let mut nodes = Vec::new();
    for (number, name) in ["a1", "b1"].into_iter().enumerate() {
        let way = Way::new(&kv, round * 2 + number as u64, true);
        let late_us = way.draw(3_000);
        let at = deployment.start(name, way, &clock);
        let (shaken, users) = (Arc::clone(&at), Arc::clone(&users));
        tokio::time::sleep(Duration::from_micros(late_us)).await;
        tasks.push(tokio::spawn(async move {
            for user in 0..5_000 {
                if users.len() == all {
                    break;
                }
                users.shake(&shaken, user);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }));
        nodes.push(at);
    }
    for task in tasks {
        task.await.expect("users shake");
    }
    assert_eq!(users.len(), all, "records stayed behind in round {round}");
    for file in 0..files.len() as u32 {
        let (claim, version) = claim_of(&kv, 0, file).await.expect("a claim");
        let issuers: Vec<NodeId> =
            users.held.lock().iter().filter(|(key, _)| key.1 == FileNo(file)).map(|(_, by)| *by).collect();
        assert!(issuers.iter().all(|by| *by == claim.node), "file {file} left from more than its claimant");
        assert_eq!((issuers.len(), version), (COUNT as usize, 1), "file {file}");
    }
    for at in nodes {
        at.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_that_race_for_a_file_one_issues_it_and_every_record_leaves_once() {
    for round in 0..16 {
        race(round).await;
    }
}

/// Issues `first` records, ends the node by `stop` or by a crash, restarts it on the same disk and
/// issues the rest. Answers how many were skipped.
async fn skipped_by_restart(first: usize, stop: bool) -> u32 {
    const COUNT: u32 = 50;
    let (kv, deployment, clock) = scene(&[(0, &["a1", "b1"], COUNT)], MOMENT_MS).await;
    let users = Users::new(&deployment);
    let at = deployment.start("a1", Arc::clone(&kv) as Arc<dyn Kv>, &clock);
    issuing(&at, 0).await;
    assert_eq!(users.take(&at, first).await, first);
    if stop {
        at.stop().await;
        assert!(!matches!(users.shake(&at, 1), Shaken::Packet { .. }), "a packet after the stop");
    }
    crash(at).await;
    let again = deployment.start("a1", Arc::clone(&kv) as Arc<dyn Kv>, &clock);
    issuing(&again, 0).await;
    let resumed_at = again.status().files[0].resumed_at;
    users.take(&again, COUNT as usize).await;
    let skipped = resumed_at.checked_sub(first as u32).expect("a restart never goes back");
    assert_eq!(users.len() as u32, COUNT - skipped, "more was skipped than the restart explains");
    assert_eq!(users.of(0).last(), Some(&(COUNT - 1)));
    assert_eq!(again.status().boot_epoch, Some(2));
    assert_eq!(claim_of(&kv, 0, 0).await.expect("a claim").1, 1);
    skipped
}

#[tokio::test]
async fn a_crashed_node_goes_on_with_its_disk_and_skips_at_most_one_block() {
    let mut most = 0;
    for first in 0..20 {
        most = most.max(skipped_by_restart(first, false).await);
    }
    assert!((1..=BLOCK).contains(&most), "{most} skipped");
}

#[tokio::test]
async fn a_stopped_node_goes_on_with_its_disk_and_skips_nothing() {
    for first in [0, 1, 7, 8, 9, 19] {
        assert_eq!(skipped_by_restart(first, true).await, 0, "after {first}");
    }
}

#[tokio::test]
async fn a_node_that_stopped_is_closed_rather_than_out_of_packets() {
    let (kv, deployment, clock) = scene(&[(0, &["a1"], 50)], MOMENT_MS).await;
    let at = deployment.start("a1", kv, &clock);
    issuing(&at, 0).await;
    at.stop().await;
    assert_eq!(at.shake(UserId(1), None), Shaken::Closed { next_slot_at: None });
}

#[tokio::test]
async fn a_node_with_a_fresh_disk_does_not_continue_its_files_but_claims_new_ones() {
    let (kv, deployment, clock) = scene(&[(0, &["a1", "b1"], 50), (1, &["a1", "b1"], 50)], MOMENT_MS).await;
    let users = Users::new(&deployment);
    let at = deployment.start("a1", Arc::clone(&kv) as Arc<dyn Kv>, &clock);
    issuing(&at, 0).await;
    users.take(&at, 10).await;
    crash(at).await;
    forget_identity(&deployment, "a1");
    let way = Way::new(&kv, 1, false);
    let again = deployment.start("a1", Arc::clone(&way) as Arc<dyn Kv>, &clock);
    eventually("the node has read the store", || again.status().boot_epoch == Some(2)).await;
    way.ticks_more().await;
    assert_eq!(file_state(&again, 0), Some(FileState::Elsewhere));
    assert_eq!(users.take(&again, 50).await, 0);
    clock.advance(Duration::from_millis(SLOT_MS));
    issuing(&again, 1).await;
    assert_eq!(users.take(&again, 50).await, 50);
}

#[tokio::test]
async fn a_file_made_ready_by_a_lost_disk_is_still_issued_by_its_successor() {
    let (kv, deployment, clock) = scene(&[(0, &["a1"], 50)], MOMENT_MS).await;
    let users = Users::new(&deployment);
    // The cursor is made before the claim, and the claim never arrives.
    let way = Way::new(&kv, 1, false);
    way.takes_claims.store(false, Ordering::SeqCst);
    let at = deployment.start("a1", Arc::clone(&way) as Arc<dyn Kv>, &clock);
    way.ticks_more().await;
    assert!(claim_of(&kv, 0, 0).await.is_none());
    crash(at).await;
    forget_identity(&deployment, "a1");
    let again = deployment.start("a1", kv, &clock);
    issuing(&again, 0).await;
    assert_eq!(users.take(&again, 50).await, 50);
}

#[tokio::test]
async fn the_files_of_a_failed_zone_are_claimed_at_the_slot_start_by_the_next_holder_only() {
    let (kv, deployment, clock) = scene(&[(0, &["a1", "b1", "c1"], 20)], -500).await;
    set_zone(&kv, "a", ZoneState::Failed, 1).await;
    let ways = [1, 2, 3].map(|seed| Way::new(&kv, seed, false));
    let nodes: Vec<_> = ["a1", "b1", "c1"]
        .into_iter()
        .zip(&ways)
        .map(|(name, way)| deployment.start(name, Arc::clone(way) as Arc<dyn Kv>, &clock))
        .collect();
    for way in &ways {
        way.ticks_more().await;
    }
    assert!(claim_of(&kv, 0, 0).await.is_none(), "only the home node may claim before the start");
    clock.advance(Duration::from_millis(500));
    issuing(&nodes[1], 0).await;
    let (claim, version) = claim_of(&kv, 0, 0).await.expect("a claim");
    assert_eq!((claim.node, claim.zone_epoch, version), (node("b1"), Epoch(0), 1));
    ways[0].ticks_more().await;
    let users = Users::new(&deployment);
    clock.advance(Duration::from_millis(10));
    assert_eq!(users.take(&nodes[0], 20).await, 0, "the failed zone issues");
    assert_eq!(users.take(&nodes[1], 20).await, 20);
}

#[tokio::test]
async fn a_node_of_a_failed_zone_claims_nothing_until_the_zone_is_restored() {
    let (kv, deployment, clock) = scene(&[(0, &["a1", "b1"], 20), (0, &["b1", "a1"], 20)], 10_000).await;
    set_zone(&kv, "a", ZoneState::Failed, 1).await;
    let way = Way::new(&kv, 1, false);
    let at = deployment.start("a1", Arc::clone(&way) as Arc<dyn Kv>, &clock);
    eventually("the node has read the store", || at.status().boot_epoch.is_some()).await;
    way.ticks_more().await;
    assert!(claim_of(&kv, 0, 0).await.is_none() && claim_of(&kv, 0, 1).await.is_none());
    set_zone(&kv, "a", ZoneState::Active, 2).await;
    issuing(&at, 0).await;
    assert_eq!(claim_of(&kv, 0, 0).await.expect("a claim").0.zone_epoch, Epoch(2));
}

#[tokio::test]
async fn what_its_home_does_not_claim_the_next_holder_claims_after_the_grace_time() {
    let (kv, deployment, clock) = scene(&[(0, &["a1", "b1"], 20)], 0).await;
    let grace_ms = deployment.config("b1").timing.grace_ms;
    let way = Way::new(&kv, 1, false);
    let next = deployment.start("b1", Arc::clone(&way) as Arc<dyn Kv>, &clock);
    eventually("the node has read the store", || next.status().boot_epoch.is_some()).await;
    clock.advance(Duration::from_millis(grace_ms - 1));
    way.ticks_more().await;
    assert!(claim_of(&kv, 0, 0).await.is_none(), "the home node still has time");
    clock.advance(Duration::from_millis(1));
    issuing(&next, 0).await;
    let way = Way::new(&kv, 2, false);
    let home = deployment.start("a1", Arc::clone(&way) as Arc<dyn Kv>, &clock);
    eventually("the home node has read the store", || home.status().boot_epoch.is_some()).await;
    way.ticks_more().await;
    let users = Users::new(&deployment);
    assert_eq!(file_state(&home, 0), Some(FileState::Elsewhere));
    assert_eq!(users.take(&home, 20).await, 0, "the home node came too late");
    assert_eq!(users.take(&next, 20).await, 20);
}

#[tokio::test]
async fn a_frozen_file_is_closed_where_it_runs_and_not_continued_after_a_restart() {
    let (kv, deployment, clock) = scene(&[(0, &["a1", "b1"], 50)], MOMENT_MS).await;
    let users = Users::new(&deployment);
    let at = deployment.start("a1", Arc::clone(&kv) as Arc<dyn Kv>, &clock);
    issuing(&at, 0).await;
    users.take(&at, 10).await;
    freeze(&kv, 0, "a1").await;
    eventually("the running file is frozen", || file_state(&at, 0) == Some(FileState::Frozen)).await;
    assert_eq!(users.take(&at, 10).await, 0);
    let line = at.status().files[0].clone();
    assert_eq!((line.issued, line.remaining), (10, 40));
    crash(at).await;
    let way = Way::new(&kv, 1, false);
    let again = deployment.start("a1", Arc::clone(&way) as Arc<dyn Kv>, &clock);
    eventually("the node has read the store", || again.status().boot_epoch == Some(2)).await;
    way.ticks_more().await;
    assert_eq!(file_state(&again, 0), Some(FileState::Frozen));
    assert_eq!(users.take(&again, 10).await, 0);
}

#[tokio::test]
async fn without_the_store_a_node_finishes_what_it_claimed_and_claims_nothing() {
    for fault in [KvError::Unavailable("down".into()), KvError::Unknown("cut".into())] {
        let (kv, deployment, clock) = scene(&[(0, &["a1"], 40), (1, &["a1"], 40)], MOMENT_MS).await;
        let users = Users::new(&deployment);
        let way = Way::new(&kv, 1, false);
        let at = deployment.start("a1", Arc::clone(&way) as Arc<dyn Kv>, &clock);
        issuing(&at, 0).await;
        kv.fail_with(Some(fault));
        eventually("the node notices", || !at.status().problems.is_empty()).await;
        assert_eq!(users.take(&at, 50).await, 40);
        clock.advance(Duration::from_millis(SLOT_MS));
        way.ticks_more().await;
        assert_eq!(users.take(&at, 50).await, 0, "issued on a claim nobody confirmed");
        assert_ne!(file_state(&at, 1), Some(FileState::Issuing));
        kv.fail_with(None);
        issuing(&at, 1).await;
        assert_eq!(users.take(&at, 50).await, 40);
        assert_eq!(claim_of(&kv, 1, 1).await.expect("a claim").1, 1);
        eventually("the trouble is over", || at.status().problems.is_empty()).await;
    }
}

#[tokio::test]
async fn a_node_that_was_started_elsewhere_falls_silent() {
    let (kv, deployment, clock) = scene(&[(0, &["a1"], 50)], MOMENT_MS).await;
    let users = Users::new(&deployment);
    let first = deployment.start("a1", Arc::clone(&kv) as Arc<dyn Kv>, &clock);
    issuing(&first, 0).await;
    users.take(&first, 10).await;
    forget_identity(&deployment, "a1");
    let second = deployment.start("a1", kv, &clock);
    eventually("the second start has an epoch", || second.status().boot_epoch == Some(2)).await;
    eventually("the first one sees it", || first.status().superseded).await;
    assert_eq!(users.take(&first, 10).await, 0);
    assert_eq!(users.take(&second, 10).await, 0);
}
