//! A refund happens once, only at rest, and never while somebody may still be paid.

use kvsvr::api::Kv;
use ticket::control::EventState;
use ticket::id::BuildId;

use super::*;
use crate::reconcile::credit_pending;
use crate::testing::faults::{Fault, Injector};
use crate::testing::scene::Scene;
use crate::trace::trace;

/// (user, packet): two credited at once, the rest credited by reconcile.
const OPENS: [(u64, usize); 4] = [(1, 0), (1, 1), (2, 5), (3, 9)];

async fn credited_scene() -> Scene {
    let (scene, _) = Scene::settled(&OPENS).await;
    credit_pending(&scene.sources(Injector::default()), &scene.keys()).await.expect("credited");
    scene
}

fn left(scene: &Scene) -> u64 {
    let credited: u64 = OPENS.iter().map(|(_, packet)| scene.test.packets[*packet].amount.get()).sum();
    scene.test.manifest.amount_fen.get() - credited
}

async fn refused(scene: &Scene, state: EventState, words: &str) {
    let error = scene.refund(Injector::default(), state).await.expect_err("a guard");
    assert!(matches!(&error, RefundError::Guard(sentence) if sentence.contains(words)), "{error}");
    assert!(scene.kv.all(keyspace::CLOSING).is_empty(), "a refund that is refused changes nothing");
    assert!(scene.kv.all(keyspace::REFUND).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refund_twice_pays_once() {
    let scene = credited_scene().await;
    let first = scene.refund(Injector::default(), EventState::Closed).await.expect("refunded");
    assert_eq!((first.fen.get(), first.batches, first.new), (left(&scene), 2, 2));
    let again = scene.refund(Injector::default(), EventState::Closed).await.expect("refunded before");
    assert_eq!((again.fen, again.batches, again.new), (first.fen, 2, 0));
    let report = scene.report().await;
    assert!(report.clean(), "{:?}", report.findings);
    assert_eq!(report.totals.refunded_fen, left(&scene));
    assert_eq!(report.totals.unissued_fen, 0);
}

#[tokio::test(start_paused = true)]
async fn the_guards_refuse_and_change_nothing() {
    let scene = credited_scene().await;
    refused(&scene, EventState::Open, "still open").await;
    scene.enqueue(&[scene.test.opening(8, 21)]).await;
    refused(&scene, EventState::Closed, "queue still holds 1 ready").await;
    scene.drain().await;
    refused(&scene, EventState::Closed, "pending").await;
    let mut other = scene.test.event(EventState::Closed);
    other.build = BuildId([1; 16]);
    let error =
        refund(&scene.kv, &scene.queue, &scene.test.manifest, &other).await.expect_err("another build");
    assert!(error.to_string().contains("manifest"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_opening_in_a_settlers_hands_holds_the_refund_up() {
    let scene = credited_scene().await;
    scene.enqueue(&[scene.test.opening(8, 20)]).await;
    let leased =
        scene.queue.lease(1, std::time::Duration::ZERO, std::time::Duration::ZERO).await.expect("leased");
    assert_eq!(leased.len(), 1);
    refused(&scene, EventState::Closed, "1 in flight").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_enqueued_after_the_refund_earns_nothing() {
    let scene = credited_scene().await;
    scene.refund(Injector::default(), EventState::Closed).await.expect("refunded");
    scene.enqueue(&[scene.test.opening(8, 20)]).await;
    scene.drain().await;
    let report = scene.report().await;
    assert!(report.clean(), "{:?}", report.findings);
    assert_eq!(report.rejections["closed"].count, 1);
    assert_eq!(report.totals.refunded_fen, left(&scene));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_never_funded_is_not_refunded() {
    let scene = Scene::new().await;
    let empty = crate::testing::kv::MemKv::default();
    let event = scene.test.event(EventState::Closed);
    let error = refund(&empty, &scene.queue, &scene.test.manifest, &event).await.expect_err("no deposit");
    assert!(error.to_string().contains("was it funded"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn books_that_do_not_add_up_are_not_refunded() {
    let scene = credited_scene().await;
    let packet = scene.test.packets[9].packet;
    assert!(scene.kv.tamper(&keyspace::row(packet).key, None), "a credited row is lost");
    refused(&scene, EventState::Closed, "its rows leave").await;
}

#[tokio::test(start_paused = true)]
async fn a_refund_interrupted_at_any_call_and_repeated_is_exact() {
    let calls = {
        let scene = credited_scene().await;
        let faults = Injector::default();
        scene.refund(faults.clone(), EventState::Closed).await.expect("refunded");
        faults.calls()
    };
    for call in 0..calls {
        for fault in Fault::ALL {
            let scene = credited_scene().await;
            let _ = scene.refund(Injector::with([(call, fault)]), EventState::Closed).await;
            let again = scene.refund(Injector::default(), EventState::Closed).await.expect("healthy again");
            assert_eq!(again.fen.get(), left(&scene), "{fault:?} at call {call}");
            let report = scene.report().await;
            assert!(report.clean(), "{fault:?} at call {call}: {:?}", report.findings);
            assert_eq!(report.totals.refunded_fen, left(&scene));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn funding_and_preloading_again_change_nothing() {
    let scene = Scene::new().await;
    let everything = scene.kv.all(b"");
    let funded = crate::fund::fund(&scene.kv, &scene.test.manifest).await.expect("funded");
    assert_eq!((funded.fen, funded.batches, funded.new), (scene.test.manifest.amount_fen, 2, 0));
    let dir = scene.test.dir.path();
    let preloaded =
        crate::instant::preload(&scene.kv, &world::disk::RealDisk, dir, &scene.test.manifest).await;
    assert_eq!(preloaded.expect("preloaded"), scene.test.instant().len() as u64);
    assert_eq!(scene.kv.all(b""), everything);
}

#[tokio::test(start_paused = true)]
async fn funding_interrupted_anywhere_is_funding_once() {
    for fault in Fault::ALL {
        let scene = Scene::new().await;
        let kv = crate::testing::kv::MemKv::default();
        let _ = crate::fund::fund(&kv.through(Injector::with([(0, fault)])), &scene.test.manifest).await;
        crate::fund::fund(&kv, &scene.test.manifest).await.expect("funded");
        let escrow: i64 = kv
            .all(keyspace::ACCOUNT)
            .iter()
            .filter_map(|(key, value)| {
                let account = keyspace::parse_account(key)?;
                (account.kind == AccountKind::Escrow).then(|| keyspace::parse_balance(value))?
            })
            .sum();
        assert_eq!(escrow as u64, scene.test.manifest.amount_fen.get(), "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instant_set_that_is_not_the_plans_is_refused() {
    let scene = Scene::new().await;
    let (packet, _) = scene.test.instant()[0];
    let (disk, dir, manifest) = (world::disk::RealDisk, scene.test.dir.path(), &scene.test.manifest);
    let key = keyspace::instant(packet);
    assert!(scene.kv.tamper(&key.key, Some(&keyspace::fen_value(1))));
    let error = crate::instant::preload(&scene.kv, &disk, dir, manifest).await.expect_err("another amount");
    assert!(error.to_string().contains("another amount"), "{error}");
    assert!(scene.kv.tamper(&key.key, None));
    let invented = keyspace::instant(ticket::id::PacketId { serial: 1 << 40, ..packet });
    let ops = vec![DataOp::Put { key: invented.key, value: keyspace::fen_value(5_000) }];
    let written = scene.kv.write(vec![Unit { partition: invented.partition, ops }]).await;
    assert!(written[0].is_ok());
    let error = crate::instant::preload(&scene.kv, &disk, dir, manifest).await.expect_err("one too many");
    assert!(error.to_string().contains("the manifest says"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_trace_tells_what_became_of_a_packet() {
    let scene = credited_scene().await;
    let second = scene.test.opening(9, 0);
    scene.queue.force(bytes::Bytes::copy_from_slice(&second.encode()));
    scene.drain().await;
    let told = trace(&scene.kv, second.packet).await.expect("told");
    assert_eq!(told.row.as_ref().map(|row| (row.user.0, row.state)), Some((1, RowState::Credited)));
    assert_eq!(
        (told.instant, told.wallet, told.claimed),
        (Some(second.amount), Some(second.amount), Some(true))
    );
    assert_eq!(told.rejections.len(), 1);
    assert_eq!((told.rejections[0].user.0, told.rejections[0].reason), (9, "duplicate"));
    assert!(told.funded_batch && !told.refunded_batch);
    let shown = serde_json::to_value(&told).expect("JSON");
    assert_eq!(shown["rejections"][0]["reason"], "duplicate");
    scene.refund(Injector::default(), EventState::Closed).await.expect("refunded");
    let unopened = trace(&scene.kv, scene.test.packets[20].packet).await.expect("told");
    assert!(unopened.row.is_none() && unopened.refunded_batch && unopened.rejections.is_empty());
}
