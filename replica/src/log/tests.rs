//! Promises of the log: group commit, acknowledgement after durability, crashes, reads.

use std::sync::Arc;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftLogStorageExt};
use openraft::type_config::TypeConfigExt;
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftLogReader};
use tokio::sync::Semaphore;
use tokio::sync::oneshot;
use world::GroupId;

use crate::engine::sim::{Faults, SimDisk, SimEngine};
use crate::log::keys::{self, Kind};
use crate::log::{LogStore, LogWriter, Pause};
use crate::types::{Entry, LeaderId, LogId, Proposal, TypeConfig, Vote};

const GROUP: GroupId = GroupId(3);

fn id(index: u64) -> LogId {
    LogId::new(LeaderId::new(1, 257), index)
}

pub(super) fn entry(index: u64, text: &str) -> Entry {
    let proposal = Proposal::pack(index, [text.as_bytes()].into_iter());
    Entry { log_id: id(index), payload: EntryPayload::Normal(proposal) }
}

pub(super) fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId::new(term, 257), committed: false }
}

/// Syncs pass one by one, each when the test says so.
fn gate() -> (Pause, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let shared = Arc::clone(&gate);
    let pause: Pause = Arc::new(move || {
        let gate = Arc::clone(&shared);
        Box::pin(async move { gate.acquire().await.expect("open").forget() })
    });
    (pause, gate)
}

fn at_once() -> Pause {
    Arc::new(|| Box::pin(std::future::ready(())))
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

type Flushed = oneshot::Receiver<Result<(), std::io::Error>>;

async fn append(store: &mut LogStore, entries: Vec<Entry>) -> Flushed {
    let (sender, receiver) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(sender)).await.expect("accepted");
    receiver
}

#[tokio::test]
async fn appends_of_all_groups_that_wait_share_one_sync() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let (pause, gate) = gate();
    let writer = LogWriter::start_task(engine.clone(), pause);
    let mut stores: Vec<LogStore> = (0..5)
        .map(|group| LogStore::open(GroupId(group), engine.clone(), writer.clone()).expect("empty"))
        .collect();

    let first = append(&mut stores[0], vec![entry(0, "first")]).await;
    settle().await;
    let mut waiting = Vec::new();
    for store in &mut stores[1..] {
        for index in 0..10 {
            waiting.push(append(store, vec![entry(index, "later")]).await);
        }
    }
    gate.add_permits(1);
    first.await.expect("fired").expect("durable");
    settle().await;
    assert!(waiting.iter_mut().all(|flushed| flushed.try_recv().is_err()), "acknowledged early");
    gate.add_permits(1);
    settle().await;
    for mut flushed in waiting {
        flushed.try_recv().expect("one sync was enough for all that waited").expect("durable");
    }
    let stats = writer.stats();
    assert_eq!((stats.syncs, stats.requests), (2, 41));
    assert_eq!(disk.usage().syncs, 2);
}

/// Whether an acknowledged append is on the platter at the moment it is acknowledged.
async fn acknowledged_is_durable(faults: Faults) -> bool {
    let disk = SimDisk::new();
    disk.set_faults(faults);
    let engine = SimEngine::open(&disk);
    let (pause, gate) = gate();
    let writer = LogWriter::start_task(engine.clone(), pause);
    let mut store = LogStore::open(GROUP, engine, writer).expect("empty");
    let mut flushed = append(&mut store, vec![entry(0, "a")]).await;
    settle().await;
    assert!(flushed.try_recv().is_err(), "acknowledged before the sync");
    assert_eq!(disk.durable_value(&keys::entry(GROUP, 0)), None);
    gate.add_permits(1);
    flushed.await.expect("fired").expect("the disk says so");
    disk.durable_value(&keys::entry(GROUP, 0)).is_some()
}

#[tokio::test]
async fn an_append_is_acknowledged_only_when_it_is_durable() {
    assert!(acknowledged_is_durable(Faults::default()).await);
    // The check itself is checked: a disk that lies about syncing is found out.
    let lying = Faults { ignore_syncs: true, ..Faults::default() };
    assert!(!acknowledged_is_durable(lying).await);
}

#[tokio::test]
async fn a_vote_is_durable_when_saving_returns() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine, writer).expect("empty");
    store.save_vote(&vote(4)).await.expect("saved");
    assert!(disk.durable_value(&keys::single(GROUP, Kind::Vote)).is_some());
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine, writer).expect("empty");
    disk.set_faults(Faults { fail_next_sync: true, ..Faults::default() });
    for index in 0..3 {
        let flushed = append(&mut store, vec![entry(index, "x")]).await;
        assert!(flushed.await.expect("fired").is_err(), "entry {index} was acknowledged");
    }
    assert!(store.save_vote(&vote(1)).await.is_err());
    assert!(store.truncate_after(None).await.is_err());
}

/// Appends, truncates and votes at random, cuts the power at a random moment, and checks that what
/// was acknowledged is there and what was taken back is not.
async fn crash_once(seed: u64) {
    let mut state = seed;
    let mut draw = move |below: usize| -> usize {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).expect("31 bits") % below
    };
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let (pause, gate) = gate();
    let writer = LogWriter::start_task(engine.clone(), pause);
    let mut store = LogStore::open(GROUP, engine, writer).expect("empty");
    let mut expected: Vec<String> = Vec::new();
    let mut pending: Vec<(usize, Flushed)> = Vec::new();
    let mut voted = 0;
    for step in 0..draw(30) {
        match draw(8) {
            0 if !expected.is_empty() => {
                gate.add_permits(9);
                let keep = draw(expected.len() + 1);
                let after = keep.checked_sub(1).map(|index| id(index as u64));
                store.truncate_after(after).await.expect("healthy");
                // Taking nothing back is no durable point.
                if keep < expected.len() {
                    expected.truncate(keep);
                    pending.clear();
                    pending.push((keep, done()));
                }
            }
            1 => {
                gate.add_permits(9);
                voted += 1;
                store.save_vote(&vote(voted)).await.expect("healthy");
            }
            2 => gate.add_permits(1),
            3 => settle().await,
            _ => {
                let text = format!("{seed}-{step}");
                let flushed = append(&mut store, vec![entry(expected.len() as u64, &text)]).await;
                expected.push(text);
                pending.push((expected.len(), flushed));
            }
        }
    }
    let mut acknowledged = 0;
    for (len, mut flushed) in pending {
        if matches!(flushed.try_recv(), Ok(Ok(()))) {
            acknowledged = len;
        }
    }
    disk.crash(&mut draw);
    check_after_crash(&disk, &expected, acknowledged, voted).await;
}

fn done() -> Flushed {
    let (sender, receiver) = oneshot::channel();
    sender.send(Ok(())).expect("the receiver is there");
    receiver
}

async fn check_after_crash(disk: &SimDisk, expected: &[String], acknowledged: usize, voted: u64) {
    let engine = SimEngine::open(disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine, writer).expect("the log opens after a crash");
    let mut reader = store.get_log_reader().await;
    let found: Vec<String> = reader
        .try_get_log_entries(..)
        .await
        .expect("no hole")
        .into_iter()
        .map(|entry| match entry.payload {
            EntryPayload::Normal(proposal) => {
                let command = proposal.commands().next().expect("one").expect("framed");
                String::from_utf8(command.to_vec()).expect("text")
            }
            other => panic!("never appended: {other}"),
        })
        .collect();
    assert!(found.len() >= acknowledged, "{acknowledged} were acknowledged, {} found", found.len());
    assert_eq!(found, expected[..found.len()], "something that was taken back is there");
    let saved = reader.read_vote().await.expect("readable").map_or(0, |vote| vote.leader_id.term);
    assert_eq!(saved, voted, "a saved vote is lost");
}

#[tokio::test]
async fn a_power_cut_takes_no_acknowledged_append_and_no_vote() {
    for seed in 0..400 {
        crash_once(seed).await;
    }
}

#[tokio::test]
async fn what_left_the_cache_is_read_from_the_engine_without_a_hole() {
    let engine = SimEngine::open(&SimDisk::new());
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine, writer).expect("empty").with_cache_bytes_max(100);
    for index in 0..50 {
        store.blocking_append([entry(index, "twelve bytes")]).await.expect("durable");
    }
    let mut reader = store.get_log_reader().await;
    assert!(reader.shared.tail.lock().base > 40, "nothing was evicted");
    for (from, to) in [(0, 50), (0, 10), (40, 50), (49, 50), (30, 30), (45, 99)] {
        let entries = reader.try_get_log_entries(from..to).await.expect("no hole");
        let indexes: Vec<u64> = entries.iter().map(RaftEntry::index).collect();
        assert_eq!(indexes, (from..to.min(50)).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn one_limited_read_is_bounded_by_bytes_and_never_empty() {
    let engine = SimEngine::open(&SimDisk::new());
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine, writer).expect("empty").with_cache_bytes_max(0);
    let large = "x".repeat(600 << 10);
    for index in 0..6 {
        store.blocking_append([entry(index, &large)]).await.expect("durable");
    }
    let mut reader = store.get_log_reader().await;
    let mut next = 0;
    while next < 6 {
        let page = reader.limited_get_log_entries(next, 6).await.expect("readable");
        assert!((1..=2).contains(&page.len()), "{} large entries in one page", page.len());
        next += page.len() as u64;
    }
    let whole = {
        use futures_util::TryStreamExt;
        let stream = reader.entries_stream(1..).await;
        stream.map_ok(|entry| entry.index()).try_collect::<Vec<_>>().await.expect("readable")
    };
    assert_eq!(whole, [1, 2, 3, 4, 5]);
}

/// What a power cut can take apart is one round: none is written without a durable point.
#[tokio::test]
async fn a_commit_position_makes_no_round_of_its_own_but_the_last() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine.clone(), writer.clone()).expect("empty");
    store.blocking_append((0..3).map(|index| entry(index, "x"))).await.expect("durable");
    let syncs = writer.stats().syncs;
    let on_disk = async || {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let mut again = LogStore::open(GROUP, engine.clone(), writer.clone()).expect("sound");
        again.read_committed().await.expect("known")
    };
    store.save_committed(Some(id(1))).await.expect("queued");
    assert_eq!((on_disk().await, writer.stats().syncs), (None, syncs), "written on its own");
    store.save_vote(&vote(2)).await.expect("saved");
    assert_eq!((on_disk().await, writer.stats().syncs), (Some(id(1)), syncs + 1));
    store.save_committed(Some(id(2))).await.expect("queued");
    writer.stop();
    assert_eq!((on_disk().await, writer.stats().syncs), (Some(id(2)), syncs + 2), "lost at the end");
}

#[tokio::test]
async fn a_log_reopens_where_it_stood() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine.clone(), writer.clone()).expect("empty");
    store.blocking_append((0..10).map(|index| entry(index, "x"))).await.expect("durable");
    store.purge(id(3)).await.expect("purged");
    store.save_committed(Some(id(6))).await.expect("queued");
    store.save_vote(&vote(2)).await.expect("saved");

    let mut again = LogStore::open(GROUP, engine.clone(), writer.clone()).expect("sound");
    let found = again.get_log_state().await.expect("known");
    assert_eq!((found.last_purged_log_id, found.last_log_id), (Some(id(3)), Some(id(9))));
    assert_eq!(again.read_committed().await.expect("known"), Some(id(6)));
    let mut reader = again.get_log_reader().await;
    assert_eq!(reader.read_vote().await.expect("known"), Some(vote(2)));
    assert_eq!(reader.try_get_log_entries(..).await.expect("no hole").len(), 6);

    // Another group in the same engine sees none of it.
    let mut other = LogStore::open(GroupId(4), engine, writer).expect("empty");
    assert_eq!(other.get_log_state().await.expect("known").last_log_id, None);
}

#[tokio::test]
async fn a_log_with_a_hole_is_refused() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let mut store = LogStore::open(GROUP, engine.clone(), writer.clone()).expect("empty");
    store.blocking_append((0..10).map(|index| entry(index, "x"))).await.expect("durable");
    let mut batch = crate::engine::Batch::new();
    batch.delete(Bytes::copy_from_slice(&keys::entry(GROUP, 5)));
    crate::engine::Engine::write_durable(&*engine, batch).expect("healthy");
    let Err(error) = LogStore::open(GROUP, engine, writer) else { panic!("the hole was not seen") };
    assert!(error.to_string().contains("entry 5 is missing"), "{error}");
}

#[tokio::test]
async fn a_log_with_a_flipped_bit_anywhere_is_refused_before_anything_is_promised_on_it() {
    for place in 0..10 {
        let disk = SimDisk::new();
        let engine = SimEngine::open(&disk);
        let writer = LogWriter::start_task(engine.clone(), at_once());
        let mut store = LogStore::open(GROUP, engine.clone(), writer.clone()).expect("empty");
        store.blocking_append((0..10).map(|index| entry(index, "x"))).await.expect("durable");
        // The first draw chooses the entry, the second the bit.
        disk.rot(&mut |below| if below == 10 { place } else { below - 1 }).expect("something is stored");
        let Err(error) = LogStore::open(GROUP, engine, writer) else { panic!("rot at {place} was not seen") };
        assert!(error.to_string().contains("corrupt"), "{error}");
    }
}

#[tokio::test]
async fn a_stopped_writer_refuses_and_says_so() {
    let engine = SimEngine::open(&SimDisk::new());
    let writer = LogWriter::start_thread(engine.clone()).expect("a thread");
    let mut store = LogStore::open(GROUP, engine, writer.clone()).expect("empty");
    let flushed = append(&mut store, vec![entry(0, "x")]).await;
    writer.stop();
    flushed.await.expect("fired").expect("what was queued before is finished");
    let error = store.save_vote(&vote(1)).await.expect_err("stopped");
    assert!(error.to_string().contains("stopped"), "{error}");
}

#[tokio::test]
async fn a_promise_is_given_to_one_founder_only_and_survives_a_power_cut() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let store = LogStore::open(GROUP, engine, writer).expect("empty");
    let promise = store.promise();
    assert_eq!(promise.given(), Ok(None));
    assert_eq!(promise.give(7).await.expect("kept"), 7);
    assert_eq!(promise.give(8).await.expect("kept"), 7, "promised twice");
    disk.crash(&mut |_| 0);
    let engine = SimEngine::open(&disk);
    let writer = LogWriter::start_task(engine.clone(), at_once());
    let store = LogStore::open(GROUP, engine, writer).expect("a promise is no entry");
    assert_eq!(store.promise().give(8).await.expect("kept"), 7, "the promise was forgotten");
}
