//! What everybody after the settler relies on: one row, one credit or one explained rejection,
//! whatever fails in between.

use std::sync::Arc;

use kvsvr::api::Unit;
use proptest::prelude::*;
use queue::api::NewMessage;
use ticket::id::{BatchId, FileNo, UserId};
use ticket::keys::KeyList;
use ticket::money::Fen;
use ticket::opening::Opening;

use super::*;
use crate::claims::Limits;
use crate::row::{Reason, RowState};
use crate::testing::audit::{Stored, audit};
use crate::testing::build::{KEY_COUNT, TestBuild};
use crate::testing::faults::{Fault, Injector};
use crate::testing::kv::MemKv;
use crate::testing::queue::MemQueue;

struct Setting {
    test: TestBuild,
    kv: MemKv,
    queue: MemQueue,
}

impl Setting {
    fn new() -> Setting {
        let setting = Setting { test: TestBuild::new(8), kv: MemKv::default(), queue: MemQueue::default() };
        for (packet, amount) in setting.test.instant() {
            let kvsvr::api::DataKey { partition, key } = keyspace::instant(packet);
            setting.put(Unit {
                partition,
                ops: vec![kvsvr::api::DataOp::Put { key, value: keyspace::fen_value(amount.get()) }],
            });
        }
        setting
    }

    fn put(&self, unit: Unit) {
        let written = futures_util::FutureExt::now_or_never(tokio::task::unconstrained(async {
            // The double yields once before it answers, so it is driven by hand here.
            let write = self.kv.write(vec![unit]);
            tokio::pin!(write);
            loop {
                if let Some(outcomes) = futures_util::FutureExt::now_or_never(&mut write) {
                    return outcomes;
                }
            }
        }));
        assert!(written.expect("no waiting here")[0].is_ok());
    }

    fn settler(&self, faults: Injector) -> Settler {
        self.settler_with(faults, self.test.all_keys())
    }

    fn settler_with(&self, faults: Injector, keys: Arc<OpenKeyring>) -> Settler {
        let limits = Limits { event_max: Some(self.test.manifest.claims_per_user_max), ..Limits::default() };
        let rules = Rules { limits, instant_credit: true };
        let config = SettlerConfig { pause: Duration::from_millis(1), ..SettlerConfig::default() };
        let (kv, queue) = (self.kv.through(faults.clone()), self.queue.through(faults));
        let (_, keys) = watch::channel(keys);
        Settler::new(Arc::new(kv), Arc::new(queue), keys, self.test.build, rules, config)
    }

    async fn enqueue(&self, openings: &[Opening]) {
        let message = |opening: &Opening| NewMessage {
            key: keyspace::packet_partition(opening.packet),
            dedup_id: keyspace::packet_partition(opening.packet),
            body: Bytes::copy_from_slice(&opening.encode()),
            delay: Duration::ZERO,
        };
        let outcomes = self.queue.enqueue(openings.iter().map(message).collect()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_ok()));
    }

    /// Settles until nothing is left, as redelivery would have it.
    async fn drain(&self) {
        for _ in 0..64 {
            if self.queue.drained() {
                return;
            }
            self.queue.expire();
            self.settler(Injector::default()).settle_once().await.expect("no faults any more");
        }
        panic!("the queue never drained");
    }

    fn audit(&self, acknowledged: &[Opening]) -> Stored {
        assert!(self.queue.drained(), "the audit is of a drained queue");
        audit(&self.test, &self.kv, acknowledged)
    }

    fn state(&self, stored: &Stored, packet: usize) -> Option<RowState> {
        stored.rows.get(&self.test.packets[packet].packet).map(|row| row.state)
    }
}

#[tokio::test(start_paused = true)]
async fn large_packets_are_credited_at_once_and_small_ones_wait() {
    let setting = Setting::new();
    let openings = [setting.test.opening(1, 0), setting.test.opening(1, 1)];
    setting.enqueue(&openings).await;
    let settler = setting.settler(Injector::default());
    assert_eq!(settler.settle_once().await, Ok(Settled { leased: 2, acked: 2 }));
    let stored = setting.audit(&openings);
    assert_eq!(setting.state(&stored, 0), Some(RowState::Credited));
    assert_eq!(setting.state(&stored, 1), Some(RowState::Pending));
    let counts = settler.counters().snapshot();
    assert!(counts.contains(&("credited", 1)) && counts.contains(&("pending", 1)), "{counts:?}");
}

#[tokio::test(start_paused = true)]
async fn a_user_over_the_limit_gets_an_explained_row_and_no_money() {
    let setting = Setting::new();
    let openings = [1, 2, 3, 4].map(|packet| setting.test.opening(1, packet));
    setting.enqueue(&openings).await;
    setting.drain().await;
    let stored = setting.audit(&openings);
    let states: Vec<_> = (1..5).filter_map(|packet| setting.state(&stored, packet)).collect();
    let count = |state| states.iter().filter(|found| **found == state).count();
    assert_eq!(count(RowState::Pending), 2);
    assert_eq!(count(RowState::Rejected(Reason::OverEventLimit)), 2);
}

#[tokio::test(start_paused = true)]
async fn keys_are_checked_again_at_settlement() {
    let setting = Setting::new();
    let openings = [setting.test.opening(1, 0), setting.test.opening(2, 3)];
    setting.enqueue(&openings).await;
    let mut list = KeyList::all(KEY_COUNT);
    list.blacklist.insert(openings[0].key);
    list.whitelist.remove(&openings[1].key);
    let settler = setting.settler_with(Injector::default(), setting.test.keyring(list));
    settler.settle_once().await.expect("settled");
    let stored = setting.audit(&openings);
    assert_eq!(setting.state(&stored, 0), Some(RowState::Rejected(Reason::KeyRevoked)));
    assert_eq!(setting.state(&stored, 3), Some(RowState::Rejected(Reason::KeyUnlisted)));
}

/// Openings that somebody put into the queue past the opener.
fn forgeries(test: &TestBuild) -> Vec<(Opening, Reason)> {
    let genuine = test.opening(9, 6);
    let mut flipped = genuine;
    flipped.record.0[20] ^= 1;
    let mut dearer = genuine;
    dearer.amount = Fen::new(777);
    let mut other_slot = genuine;
    other_slot.slot.0 += 1;
    let mut other_build = genuine;
    other_build.packet.build_tag[0] ^= 1;
    let mut counterfeit = test.opening(9, 5);
    counterfeit.amount = Fen::new(160_000);
    counterfeit.record = test.counterfeit(1, counterfeit.slot, counterfeit.packet, 160_000);
    counterfeit.key = counterfeit.record.key_id();
    vec![
        (flipped, Reason::Forged),
        (dearer, Reason::Altered),
        (other_slot, Reason::Forged),
        (other_build, Reason::Altered),
        (counterfeit, Reason::Altered),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_forgery_is_turned_down_and_leaves_the_packet_to_its_owner() {
    let test = TestBuild::new(8);
    for (forged, reason) in forgeries(&test) {
        let setting = Setting::new();
        setting.queue.force(Bytes::copy_from_slice(&forged.encode()));
        setting.drain().await;
        let place = if forged.packet == test.packets[5].packet { 5 } else { 6 };
        let rightful = setting.test.opening(1, place);
        setting.enqueue(&[rightful]).await;
        setting.drain().await;
        let stored = setting.audit(&[rightful, forged]);
        assert_eq!(stored.rejections[&(forged.packet, forged.user)].reason, reason);
        assert!(setting.state(&stored, place).is_some_and(RowState::accepted), "{reason:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_user_of_a_packet_is_a_duplicate_and_keeps_no_claim() {
    let setting = Setting::new();
    let (first, second) = (setting.test.opening(1, 1), setting.test.opening(2, 1));
    setting.enqueue(&[first]).await;
    setting.queue.force(Bytes::copy_from_slice(&second.encode()));
    setting.drain().await;
    // Not in order of arrival: either may be first, but only one.
    let stored = setting.audit(&[first, second]);
    assert_eq!(stored.rows.len(), 1);
    assert_eq!(stored.rejections.len(), 1);
    assert!(stored.rejections.values().all(|rejection| rejection.reason == Reason::Duplicate));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_no_opening_is_kept_as_evidence() {
    let setting = Setting::new();
    setting.queue.force(Bytes::from_static(b"what is this"));
    setting.queue.force(Bytes::from_static(b"what is this"));
    setting.drain().await;
    assert_eq!(setting.audit(&[]).unread, 1);
}

#[tokio::test(start_paused = true)]
async fn after_the_closing_mark_nothing_earns_a_row_that_costs() {
    let setting = Setting::new();
    let early = setting.test.opening(1, 1);
    setting.enqueue(&[early]).await;
    setting.drain().await;
    let kvsvr::api::DataKey { partition, key } = keyspace::closing(setting.test.build.tag());
    setting
        .put(Unit { partition, ops: vec![kvsvr::api::DataOp::Put { key, value: keyspace::fen_value(1) }] });
    let late = setting.test.opening(2, 2);
    setting.enqueue(&[late]).await;
    setting.queue.force(Bytes::copy_from_slice(&early.encode()));
    setting.drain().await;
    let stored = setting.audit(&[early, late]);
    assert_eq!(setting.state(&stored, 1), Some(RowState::Pending));
    assert_eq!(setting.state(&stored, 2), Some(RowState::Rejected(Reason::Closed)));
}

/// Six openings: credited, pending, over the limit, of another user.
fn mixed(test: &TestBuild) -> Vec<Opening> {
    [(1, 0), (1, 1), (1, 2), (2, 5), (2, 6), (3, 10)]
        .map(|(user, packet)| test.opening(user, packet))
        .to_vec()
}

#[tokio::test(start_paused = true)]
async fn any_fault_at_any_call_leaves_one_row_and_one_credit() {
    let calls = {
        let setting = Setting::new();
        setting.enqueue(&mixed(&setting.test)).await;
        let faults = Injector::default();
        setting.settler(faults.clone()).settle_once().await.expect("settled");
        faults.calls()
    };
    assert!(5 <= calls, "lease, read, two writes and an ack at least, not {calls}");
    for call in 0..calls + 4 {
        for fault in Fault::ALL {
            let setting = Setting::new();
            let openings = mixed(&setting.test);
            setting.enqueue(&openings).await;
            let faults = Injector::with([(call, fault)]);
            // Whatever this one says: what counts is what the next one finds.
            let _ = setting.settler(faults).settle_once().await;
            setting.drain().await;
            let stored = setting.audit(&openings);
            assert_eq!(stored.rows.len(), openings.len(), "{fault:?} at call {call}");
            assert!(stored.rejections.is_empty(), "{fault:?} at call {call}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_kv_is_waited_out_before_more_is_leased() {
    let setting = Setting::new();
    setting.enqueue(&mixed(&setting.test)).await;
    let plan = (1..40).map(|call| (call, Fault::Unavailable));
    let faults = Injector::with(plan);
    let settler = setting.settler(faults.clone());
    assert!(settler.settle_once().await.is_err());
    let after_first = faults.calls();
    assert!(matches!(settler.settle_once().await, Err(SettleError::Kv(_))));
    assert_eq!(faults.calls(), after_first + 1, "one probe, no lease");
    setting.drain().await;
}

#[tokio::test(start_paused = true)]
async fn run_stops_when_told_and_has_settled_what_was_there() {
    let setting = Setting::new();
    let openings = mixed(&setting.test);
    setting.enqueue(&openings).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let settler = setting.settler(Injector::default());
    let waiting = async {
        while !setting.queue.drained() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let _ = stop.send(());
    };
    tokio::join!(settler.run(async { drop(stopped.await) }), waiting);
    setting.audit(&openings);
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(Fault::ALL.to_vec())
}

#[derive(Clone, Debug)]
struct Run {
    opens: Vec<(u64, usize)>,
    forged: Vec<usize>,
    lives: Vec<Vec<(u64, Fault)>>,
    stir: u64,
    revoked: Option<u16>,
}

fn any_run() -> impl Strategy<Value = Run> {
    let opens = prop::collection::vec((1u64..6, 0usize..32), 1..40);
    let forged = prop::collection::vec(0usize..5, 0..4);
    let life = prop::collection::vec((0u64..12, any_fault()), 0..3);
    let lives = prop::collection::vec(life, 0..6);
    (opens, forged, lives, any::<u64>(), prop::option::of(1u16..=KEY_COUNT))
        .prop_map(|(opens, forged, lives, stir, revoked)| Run { opens, forged, lives, stir, revoked })
}

/// Two settlers at a time live and die as told; then healthy ones finish.
async fn check(run: &Run) {
    let setting = Setting::new();
    let openings: Vec<Opening> =
        run.opens.iter().map(|(user, packet)| setting.test.opening(*user, *packet)).collect();
    for opening in &openings {
        // Past the deduplication, as if the queue's promise did not hold.
        setting.queue.force(Bytes::copy_from_slice(&opening.encode()));
    }
    let forgeries = forgeries(&setting.test);
    for which in &run.forged {
        setting.queue.force(Bytes::copy_from_slice(&forgeries[*which].0.encode()));
    }
    for (number, pair) in run.lives.chunks(2).enumerate() {
        setting.queue.stir(run.stir.rotate_left(number as u32));
        let mut list = KeyList::all(KEY_COUNT);
        list.blacklist.extend(run.revoked.filter(|_| number == 1).map(ticket::id::KeyId));
        let keys = setting.test.keyring(list);
        let settlers: Vec<Settler> = pair
            .iter()
            .map(|life| setting.settler_with(Injector::with(life.clone()), keys.clone()))
            .collect();
        futures_util::future::join_all(settlers.iter().map(Settler::settle_once)).await;
        setting.queue.expire();
    }
    setting.drain().await;
    let stored = setting.audit(&openings);
    for row in stored.rows.values() {
        // Under a revoked key genuine and forged cannot be told apart (its records are not looked
        // into), so there a forgery's row may stand; it is rejected and costs nothing.
        let blind = row.state == RowState::Rejected(Reason::KeyRevoked);
        let genuine = run.opens.contains(&(row.user.0, place(&setting.test, row.file, row.index)));
        assert!(genuine || blind, "the row of {} came from no opening", row.packet);
    }
    for rejection in stored.rejections.values() {
        let expected = [Reason::Duplicate, Reason::Forged, Reason::Altered];
        assert!(expected.contains(&rejection.reason), "{:?}", rejection.reason);
    }
}

fn place(test: &TestBuild, file: FileNo, index: u32) -> usize {
    test.packets
        .iter()
        .position(|planned| planned.file == file && planned.index == index)
        .expect("in the plan")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_run_with_crashes_and_two_settlers_keeps_the_money_right(run in any_run()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(check(&run));
    }
}

#[test]
fn merchants_limits_are_taken_from_the_rules() {
    let limits = Limits { merchant_max: Some(1), ..Limits::default() };
    let test = TestBuild::new(8);
    let rules = Rules { limits, instant_credit: true };
    let (first, second) = (test.opening(1, 1), test.opening(1, 3));
    assert_eq!(first.packet.batch, BatchId(2));
    assert_eq!(second.packet.batch, BatchId(2));
    let mut doc = crate::claims::ClaimDoc::default();
    doc.add(first.packet);
    let step = decide::decide(&second, Ok(()), &decide::Seen::default(), &doc, &rules);
    let decide::Step::Insert(row) = step else { panic!("{step:?}") };
    assert_eq!(row.state, RowState::Rejected(Reason::OverMerchantLimit));
    assert_eq!(row.user, UserId(1));
}
