//! Promises of the state: atomic applies, snapshots, and crashes at every step of installing one.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftSnapshotBuilder};
use world::GroupId;

use crate::engine::sim::{Faults, SimDisk, SimEngine};
use crate::engine::{Batch, Engine, EngineError, View};
use crate::log::{LogStore, LogWriter};
use crate::state::{OutgoingSnapshot, SnapshotData, StageError, StateStore};
use crate::testing::Sums;
use crate::types::{Entry, LeaderId, LogId, Membership, Proposal};

const GROUP: GroupId = GroupId(5);

fn id(index: u64) -> LogId {
    // Disk 7 of node b1.
    LogId::new(LeaderId::new(2, 0x0101_0000_0000_0007), index)
}

fn add(index: u64, now_ms: u64, sums: &[(&str, u64)]) -> Entry {
    let commands: Vec<Bytes> = sums.iter().map(|(name, amount)| Sums::add(name, *amount)).collect();
    let proposal = Proposal::pack(now_ms, commands.iter().map(AsRef::as_ref));
    Entry { log_id: id(index), payload: EntryPayload::Normal(proposal) }
}

async fn apply(store: &mut StateStore<Sums>, entries: Vec<Entry>) {
    let stream = futures_util::stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
    store.apply(stream).await.expect("healthy");
}

fn open(disk: &SimDisk) -> StateStore<Sums> {
    StateStore::open(GROUP, SimEngine::open(disk), Sums::default()).expect("opens")
}

/// All sums, the cached total, and the applied index.
type Seen = (Vec<(String, u64)>, u64, Option<u64>);

fn seen(store: &StateStore<Sums>) -> Seen {
    let handle = store.handle();
    handle
        .read(|sums, view| {
            let mut all = Vec::new();
            view.scan(&[], &[], false, &mut |name, sum| {
                let sum = u64::from_be_bytes(sum.try_into().expect("8 bytes"));
                all.push((String::from_utf8(name.to_vec()).expect("a name"), sum));
                ControlFlow::Continue(())
            })
            .expect("readable");
            (all, sums.total())
        })
        .into_seen(handle.applied().map(|id| id.index))
}

trait IntoSeen {
    fn into_seen(self, applied: Option<u64>) -> Seen;
}

impl IntoSeen for (Vec<(String, u64)>, u64) {
    fn into_seen(self, applied: Option<u64>) -> Seen {
        assert_eq!(self.0.iter().map(|(_, sum)| sum).sum::<u64>(), self.1, "the cache is off");
        (self.0, self.1, applied)
    }
}

async fn build(
    store: &mut StateStore<Sums>,
) -> openraft::Snapshot<LeaderId, u64, crate::types::Peer, SnapshotData> {
    let mut builder = store.try_create_snapshot_builder(true).await.expect("always");
    builder.build_snapshot().await.expect("healthy")
}

fn outgoing(data: SnapshotData) -> OutgoingSnapshot {
    match data {
        SnapshotData::Outgoing(outgoing) => outgoing,
        SnapshotData::Incoming(_) => panic!("a snapshot taken here goes out"),
    }
}

fn keys_in(view: &dyn View) -> usize {
    let mut count = 0;
    view.scan(&[], &[], false, &mut |_, _| {
        count += 1;
        ControlFlow::Continue(())
    })
    .expect("readable");
    count
}

#[tokio::test]
async fn a_run_is_applied_and_the_clock_never_runs_backwards() {
    let mut store = open(&SimDisk::new());
    let voters = BTreeSet::from([257]);
    let membership = Membership::new_with_defaults(vec![voters], []);
    apply(
        &mut store,
        vec![
            Entry { log_id: id(0), payload: EntryPayload::Membership(membership.clone()) },
            add(1, 50, &[("a", 1), ("b", 2)]),
            Entry { log_id: id(2), payload: EntryPayload::Blank },
            add(3, 40, &[("a", 10)]),
        ],
    )
    .await;
    assert_eq!(seen(&store), (vec![("a".into(), 11), ("b".into(), 2)], 13, Some(3)));
    assert_eq!(store.handle().now().0, 50);
    let (applied, stored) = store.applied_state().await.expect("known");
    assert_eq!((applied, *stored.log_id()), (Some(id(3)), Some(id(0))));
    assert_eq!(stored.membership(), &membership);
}

#[tokio::test]
async fn an_entry_is_not_applied_twice() {
    let mut store = open(&SimDisk::new());
    apply(&mut store, vec![add(1, 1, &[("a", 1)])]).await;
    let again = futures_util::stream::iter([Ok((add(1, 1, &[("a", 1)]), None))]);
    assert!(store.apply(again).await.is_err());
}

#[tokio::test]
async fn after_a_power_cut_the_state_is_an_earlier_one_and_applying_again_heals_it() {
    for kept in 0..=3 {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        apply(&mut store, vec![add(0, 1, &[("a", 1)])]).await;
        let _ = build(&mut store).await;
        let entries: Vec<Entry> = (1..4).map(|index| add(index, index, &[("a", 10), ("z", 1)])).collect();
        for entry in &entries {
            apply(&mut store, vec![entry.clone()]).await;
        }
        let whole = seen(&store);
        disk.crash(&mut |_| kept);

        let mut store = open(&disk);
        let applied = seen(&store).2.expect("the flushed part is there");
        assert_eq!(applied, kept as u64, "the state is not the prefix that survived");
        assert_eq!(store.handle().flushed_next().get(), applied + 1);
        apply(&mut store, entries[kept..].to_vec()).await;
        assert_eq!(seen(&store), whole);
    }
}

#[tokio::test]
async fn a_snapshot_travels_in_pages_and_replaces_the_state() {
    let mut leader = open(&SimDisk::new());
    let names: Vec<String> = (0..100).map(|number| format!("name{number:03}")).collect();
    let sums: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 3)).collect();
    apply(&mut leader, vec![add(0, 70, &sums)]).await;
    let snapshot = build(&mut leader).await;
    let expected = seen(&leader);
    // What is applied meanwhile is not in it.
    apply(&mut leader, vec![add(1, 80, &[("late", 1)])]).await;

    let disk = SimDisk::new();
    let mut follower = open(&disk);
    apply(&mut follower, vec![add(0, 5, &[("old", 9)])]).await;
    let mut staged = follower.handle().stage_snapshot();
    let mut pages = 0;
    let mut from = outgoing(snapshot.snapshot);
    while let Some(page) = from.next_page(200).expect("readable") {
        staged.write_page(page).expect("in order");
        pages += 1;
    }
    assert!(pages > 5, "only {pages} pages");
    assert_eq!(seen(&follower).0, [("old".to_owned(), 9)], "visible before it is installed");
    staged.seal(&from.seal()).expect("complete");
    follower.install_snapshot(&snapshot.meta, SnapshotData::Incoming(staged)).await.expect("installed");
    assert_eq!(seen(&follower), expected);
    assert_eq!(follower.handle().now().0, 70);
    assert_eq!(follower.handle().flushed_next().get(), 1);
    let current = follower.get_current_snapshot().await.expect("known").expect("installed");
    assert_eq!(current.meta, snapshot.meta);

    disk.crash(&mut |_| 0);
    let follower = open(&disk);
    assert_eq!(seen(&follower), expected, "an installed snapshot was lost");
    let engine = SimEngine::open(&disk);
    assert_eq!(keys_in(&*engine), 100 + 3, "the old generation is still there");
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_was_sent_is_refused_and_leaves_nothing() {
    let mut leader = open(&SimDisk::new());
    apply(&mut leader, vec![add(0, 1, &[("a", 1), ("b", 2)])]).await;
    let snapshot = build(&mut leader).await;
    let mut from = outgoing(snapshot.snapshot);
    let page = from.next_page(1 << 20).expect("readable").expect("one page");
    assert_eq!(from.next_page(1 << 20), Ok(None));
    let seal = from.seal();

    let disk = SimDisk::new();
    let follower = open(&disk);
    let mut altered = page.to_vec();
    *altered.last_mut().expect("not empty") ^= 1;
    for (pages, sealed) in [
        (vec![Bytes::from(altered)], seal),
        (vec![], seal),
        (vec![page.clone()], crate::state::SnapshotSeal { now_ms: 9, ..seal }),
    ] {
        let mut staged = follower.handle().stage_snapshot();
        for page in pages {
            staged.write_page(page).expect("well formed");
        }
        assert!(matches!(staged.seal(&sealed), Err(StageError::Seal { .. })));
    }
    let mut staged = follower.handle().stage_snapshot();
    staged.write_page(page.clone()).expect("well formed");
    assert!(matches!(staged.write_page(page.clone()), Err(StageError::Page(_))));
    assert!(matches!(staged.write_page(page.slice(1..)), Err(StageError::Page(_))));
    drop(staged);
    assert_eq!(keys_in(&*SimEngine::open(&disk)), 0, "given up, and not cleaned away");
}

#[tokio::test]
async fn an_unsealed_snapshot_cannot_be_installed() {
    let mut store = open(&SimDisk::new());
    apply(&mut store, vec![add(0, 1, &[("a", 1)])]).await;
    let before = seen(&store);
    let staged = store.handle().stage_snapshot();
    let meta = build(&mut store).await.meta;
    assert!(store.install_snapshot(&meta, SnapshotData::Incoming(staged)).await.is_err());
    assert_eq!(seen(&store), before);
}

/// An engine whose process dies at one of its writes.
struct Mortal {
    engine: Arc<SimEngine>,
    lives: AtomicUsize,
}

impl Mortal {
    fn step(&self) -> Result<(), EngineError> {
        let left = self.lives.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        left.map(|_| ()).map_err(|_| EngineError::Failed("killed".to_owned()))
    }
}

impl View for Mortal {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.engine.get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), EngineError> {
        self.engine.scan(from, to, reverse, visit)
    }
}

impl Engine for Mortal {
    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.step()?;
        self.engine.write(batch)
    }

    fn write_durable(&self, batch: Batch) -> Result<(), EngineError> {
        self.write(batch)?;
        self.flush()
    }

    fn flush(&self) -> Result<(), EngineError> {
        self.step()?;
        self.engine.flush()
    }

    fn snapshot(&self) -> Arc<dyn View> {
        self.engine.snapshot()
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_installing_leaves_the_old_state_or_the_new_one() {
    let mut leader = open(&SimDisk::new());
    apply(&mut leader, (0..9).map(|index| add(index, 9, &[("a", 1), ("n", index)])).collect()).await;
    let snapshot = build(&mut leader).await;
    let new = seen(&leader);
    let source = outgoing(snapshot.snapshot);
    let mut outcomes = BTreeSet::new();
    for lives in 0..12 {
        for kept in 0..4 {
            let disk = SimDisk::new();
            let mut follower = open(&disk);
            apply(&mut follower, vec![add(0, 5, &[("old", 9)])]).await;
            let _ = build(&mut follower).await;
            let old = seen(&follower);
            drop(follower);

            let engine = Arc::new(Mortal { engine: SimEngine::open(&disk), lives: AtomicUsize::new(lives) });
            let mut follower = StateStore::open(GROUP, engine, Sums::default()).expect("opens");
            let result =
                follower.install_snapshot(&snapshot.meta, SnapshotData::Outgoing(source.clone())).await;
            drop(follower);
            disk.crash(&mut |below| kept % below);

            let left = seen(&open(&disk));
            assert!(left == old || left == new, "a mix after {lives} steps: {left:?}");
            assert!(result.is_err() || left == new, "installed, and then lost");
            outcomes.insert(left == new);
            // Whatever was staged is gone after the restart.
            let stale = keys_in(&*SimEngine::open(&disk)) - left.0.len();
            assert!(stale <= 3, "{stale} keys besides the state");
        }
    }
    assert_eq!(outcomes.len(), 2, "the crashes did not cover both sides of the switch");
}

#[tokio::test]
async fn a_snapshot_is_not_reported_when_it_could_not_be_flushed() {
    let disk = SimDisk::new();
    let mut store = open(&disk);
    apply(&mut store, vec![add(0, 1, &[("a", 1)])]).await;
    disk.set_faults(Faults { fail_next_sync: true, ..Faults::default() });
    let mut builder = store.try_create_snapshot_builder(true).await.expect("always");
    assert!(builder.build_snapshot().await.is_err());
    assert!(store.get_current_snapshot().await.expect("known").is_none());
    assert_eq!(store.handle().flushed_next().get(), 0);
}

#[tokio::test]
async fn the_log_is_not_purged_beyond_the_flushed_state() {
    let engine = SimEngine::open(&SimDisk::new());
    let writer = LogWriter::start_task(engine.clone(), Arc::new(|| Box::pin(std::future::ready(()))));
    let mut state = open(&SimDisk::new());
    let mut log =
        LogStore::open(GROUP, engine, writer).expect("empty").guarded_by(state.handle().flushed_next());
    let entries: Vec<Entry> = (0..6).map(|index| add(index, 1, &[("a", 1)])).collect();
    log.blocking_append(entries.clone()).await.expect("durable");
    apply(&mut state, entries[..4].to_vec()).await;
    assert!(log.purge(id(3)).await.is_err(), "purged what a power cut would take");
    let _ = build(&mut state).await;
    assert!(log.purge(id(4)).await.is_err(), "purged what was not applied");
    log.purge(id(3)).await.expect("the state holds it durably");
}

#[tokio::test]
async fn a_snapshot_goes_on_behind_what_was_kept_and_its_seal_covers_both_parts() {
    let mut store = open(&SimDisk::new());
    let sums: Vec<(String, u64)> = (0..50).map(|number| (format!("n{number:02}"), number)).collect();
    let named: Vec<(&str, u64)> = sums.iter().map(|(name, sum)| (name.as_str(), *sum)).collect();
    apply(&mut store, vec![add(0, 5, &named)]).await;
    let built = store.get_snapshot_builder().await.build_snapshot().await.expect("built");
    let SnapshotData::Outgoing(source) = built.snapshot else { panic!("taken here") };

    for pages in [1, 3, 7] {
        let follower = open(&SimDisk::new());
        let mut staged = follower.handle().stage_snapshot();
        let mut broken = source.clone();
        for _ in 0..pages {
            let page = broken.next_page(60).expect("readable").expect("more than that");
            staged.write_page(page).expect("well formed");
        }
        let (after, pairs) = staged.position().expect("something arrived");
        let mut again = source.clone();
        assert!(again.skip(b"n", pairs).is_ok_and(|fits| !fits), "another key stands there");
        assert!(again.skip(&after, pairs + 1).is_ok_and(|fits| !fits), "one more pair does");
        assert!(again.skip(&after, pairs).expect("readable"));
        let mut sent = 0;
        while let Some(page) = again.next_page(60).expect("readable") {
            sent += 1;
            staged.write_page(page).expect("in order");
        }
        assert!(sent > 0);
        staged.seal(&again.seal()).expect("both parts together are the snapshot");
    }
}

#[tokio::test]
async fn a_pinned_state_stays_as_it_was_while_applying_goes_on() {
    let disk = SimDisk::default();
    let mut store = open(&disk);
    apply(&mut store, vec![add(1, 10, &[("a", 1)])]).await;
    let pinned = store.handle().pin();
    let mut announced = store.handle().announcements();
    assert_eq!(*announced.borrow_and_update(), 1);
    apply(&mut store, vec![add(2, 11, &[("a", 2), ("b", 5)])]).await;
    assert!(announced.has_changed().expect("the store is there"), "what was applied was not announced");
    assert_eq!(*announced.borrow(), 2);
    assert_eq!(Sums::sum(&pinned.view(), "a"), Ok(1));
    assert_eq!(keys_in(&pinned.view()), 1);
    assert_eq!(store.handle().read(|_, view| Sums::sum(view, "a")), Ok(3));
}
