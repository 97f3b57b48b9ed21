//! The whole partition in memory, seen through the trait that everybody uses.

use super::*;
use crate::partition::Which;
use world::UnixMs;
use world::clock::ManualClock;

const LEASE: Duration = Duration::from_secs(10);

fn queue(config: PartitionConfig) -> (LocalQueue, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(UnixMs(1_000_000)));
    (LocalQueue::with_config(2, Arc::<ManualClock>::clone(&clock), config), clock)
}

fn quick() -> PartitionConfig {
    PartitionConfig { recheck_max: Duration::from_millis(2), ..PartitionConfig::default() }
}

fn message(key: &str, id: &str) -> NewMessage {
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    NewMessage {
        key: text(key),
        dedup_id: text(id),
        body: text(&format!("body of {id}")),
        delay: Duration::ZERO,
    }
}

async fn send(queue: &LocalQueue, key: &str, id: &str) {
    assert_eq!(queue.enqueue(vec![message(key, id)]).await, vec![Ok(Enqueued::New)]);
}

async fn take(queue: &LocalQueue, most: usize) -> Vec<Delivery> {
    let found = queue.lease(most, LEASE, Duration::ZERO).await.expect("lease");
    assert!(queue.stats().await.expect("stats").conserves());
    found
}

fn ids(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|delivery| std::str::from_utf8(&delivery.dedup_id).expect("text")).collect()
}

#[tokio::test]
async fn a_message_is_delivered_once_and_acked_and_its_id_stays_known() {
    let (queue, clock) = queue(quick());
    send(&queue, "k", "one").await;
    clock.advance(Duration::from_millis(250));
    assert_eq!(queue.stats().await.expect("stats").oldest_age_ms, 250);
    let found = take(&queue, 10).await;
    assert_eq!(ids(&found), ["one"]);
    assert_eq!((found[0].attempts, found[0].enqueued_ms), (1, 1_000_000));
    assert_eq!(&found[0].body[..], b"body of one");
    assert_eq!(take(&queue, 10).await, vec![], "it is in flight");
    let kept = Some(Bytes::from_static(b"body of one"));
    assert_eq!(queue.enqueue(vec![message("k", "one")]).await, vec![Ok(Enqueued::Duplicate { body: kept })]);
    assert_eq!(queue.ack(vec![found[0].receipt.clone()]).await, vec![Ok(())]);
    assert_eq!(queue.enqueue(vec![message("k", "one")]).await, vec![Ok(Enqueued::Duplicate { body: None })]);
    let stats = queue.stats().await.expect("stats");
    assert_eq!((stats.accepted, stats.acked, stats.duplicates), (1, 1, 2));
    clock.advance(LEASE * 100);
    assert_eq!(take(&queue, 10).await, vec![], "it is done");
}

#[tokio::test]
async fn messages_of_one_key_are_never_in_flight_together() {
    let (queue, _) = queue(quick());
    for id in ["a1", "a2", "a3"] {
        send(&queue, "a", id).await;
    }
    send(&queue, "b", "b1").await;
    let first = take(&queue, 10).await;
    assert_eq!(first.len(), 2, "{:?}", ids(&first));
    assert!(ids(&first).contains(&"a1") && ids(&first).contains(&"b1"));
    queue.ack(first.iter().map(|delivery| delivery.receipt.clone()).collect()).await;
    assert_eq!(ids(&take(&queue, 10).await), ["a2"]);
}

#[tokio::test]
async fn a_lease_that_ran_out_is_redelivered_and_its_ack_is_refused() {
    let (queue, clock) = queue(quick());
    send(&queue, "k", "one").await;
    let late = take(&queue, 1).await;
    clock.advance(LEASE);
    let again = take(&queue, 1).await;
    assert_eq!(again[0].attempts, 2);
    assert!(matches!(queue.ack(vec![late[0].receipt.clone()]).await[0], Err(QueueError::Refused(_))));
    assert!(matches!(queue.nack(late[0].receipt.clone(), LEASE, "late").await, Err(QueueError::Refused(_))));
    assert_eq!(queue.stats().await.expect("stats").acked, 0);
    assert_eq!(queue.ack(vec![again[0].receipt.clone()]).await, vec![Ok(())]);
}

#[tokio::test]
async fn an_ack_from_another_leadership_is_refused_unless_that_very_lease_was_acked() {
    let (queue, _) = queue(quick());
    send(&queue, "k", "one").await;
    let old = take(&queue, 1).await[0].receipt.clone();
    queue.depose();
    assert!(matches!(queue.ack(vec![old.clone()]).await[0], Err(QueueError::Refused(_))));
    let new = take(&queue, 1).await[0].receipt.clone();
    queue.lose_replies(1);
    assert!(matches!(queue.ack(vec![new.clone()]).await[0], Err(QueueError::Unknown(_))));
    queue.depose();
    assert_eq!(queue.ack(vec![new]).await, vec![Ok(())], "it was applied; only its answer was lost");
    assert!(matches!(queue.ack(vec![old]).await[0], Err(QueueError::Refused(_))));
    assert_eq!(queue.stats().await.expect("stats").acked, 1);
}

#[tokio::test]
async fn an_enqueue_whose_answer_was_lost_can_be_repeated() {
    let (queue, _) = queue(quick());
    queue.lose_replies(1);
    assert!(matches!(queue.enqueue(vec![message("k", "one")]).await[0], Err(QueueError::Unknown(_))));
    assert!(matches!(
        queue.enqueue(vec![message("k", "one")]).await[0],
        Ok(Enqueued::Duplicate { body: Some(_) })
    ));
    queue.lose_replies(0);
    queue.fail_proposals(1);
    assert!(matches!(queue.enqueue(vec![message("k", "two")]).await[0], Err(QueueError::Unavailable { .. })));
    queue.fail_proposals(0);
    assert_eq!(queue.enqueue(vec![message("k", "two")]).await, vec![Ok(Enqueued::New)]);
}

#[tokio::test]
async fn a_nack_delays_its_message_and_holds_back_its_key_only() {
    let (queue, clock) = queue(quick());
    for (key, id) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        send(&queue, key, id).await;
    }
    let found = take(&queue, 10).await;
    for delivery in found {
        queue
            .nack(
                delivery.receipt,
                Duration::from_secs(if &delivery.key[..] == b"a" { 5 } else { 0 }),
                "busy",
            )
            .await
            .expect("nack");
    }
    assert_eq!(ids(&take(&queue, 10).await), ["b1"]);
    assert_eq!(queue.stats().await.expect("stats").delayed, 1);
    clock.advance(Duration::from_secs(5));
    let back = take(&queue, 10).await;
    assert_eq!((ids(&back), back[0].attempts), (vec!["a1"], 2));
}

#[tokio::test]
async fn too_many_deliveries_make_a_dead_letter_whether_nacked_or_forgotten() {
    let (queue, clock) = queue(PartitionConfig { attempts_max: 2, ..quick() });
    send(&queue, "nacked", "n").await;
    for _ in 0..2 {
        let found = take(&queue, 1).await;
        queue.nack(found[0].receipt.clone(), Duration::ZERO, "poison").await.expect("nack");
    }
    assert_eq!(queue.stats().await.expect("stats").dead, 1);
    send(&queue, "forgotten", "f").await;
    for _ in 0..2 {
        assert_eq!(ids(&take(&queue, 1).await), ["f"]);
        clock.advance(LEASE);
    }
    assert_eq!(take(&queue, 1).await, vec![]);
    let stats = queue.stats().await.expect("stats");
    assert_eq!((stats.dead, stats.ready, stats.in_flight), (2, 0, 0));
    assert_eq!(queue.enqueue(vec![message("nacked", "n")]).await.len(), 1);
    assert_eq!(queue.stats().await.expect("stats").accepted, 2, "a dead letter's id is still known");
}

#[tokio::test]
async fn dead_letters_can_be_seen_redriven_and_purged() {
    let (queue, _) = queue(PartitionConfig { attempts_max: 1, ..quick() });
    for id in ["x", "y"] {
        send(&queue, "k", id).await;
        let found = take(&queue, 1).await;
        queue.nack(found[0].receipt.clone(), Duration::ZERO, "poison").await.expect("nack");
    }
    let partition = &queue.partitions()[partition_of(b"k", 2) as usize];
    let page = partition.peek(Which::Dead, 0, 10).await.expect("peek");
    assert_eq!(page.found.len(), 2);
    assert_eq!(page.found[0].dead, Some((1_000_000, "poison".to_owned())));
    let one = crate::command::Span { from: 0, to: u64::MAX, most: 1 };
    let moved = partition.redrive(one).await.expect("redrive");
    assert_eq!((moved.found, moved.next), (1, Some(2)));
    assert_eq!(partition.purge_dead(one).await.expect("purge").found, 1);
    let found = take(&queue, 10).await;
    assert_eq!((ids(&found), found[0].attempts), (vec!["x"], 1));
    queue.ack(vec![found[0].receipt.clone()]).await;
    let stats = queue.stats().await.expect("stats");
    assert_eq!((stats.acked, stats.purged, stats.dead), (1, 1, 0));
    assert!(stats.conserves());
}

#[tokio::test]
async fn past_the_high_water_mark_nothing_is_accepted_and_nothing_dropped() {
    let (queue, _) = queue(PartitionConfig { high_water_messages: 2, ..quick() });
    for id in ["1", "2"] {
        send(&queue, "k", id).await;
    }
    let refused = queue.enqueue(vec![message("k", "3")]).await;
    assert!(matches!(refused[0], Err(QueueError::Unavailable { .. })), "{refused:?}");
    let found = take(&queue, 1).await;
    assert!(queue.enqueue(vec![message("k", "3")]).await[0].is_err(), "in flight still counts");
    queue.ack(vec![found[0].receipt.clone()]).await;
    send(&queue, "k", "3").await;
    assert_eq!(ids(&take(&queue, 1).await), ["2"]);
}

#[tokio::test]
async fn a_waiting_consumer_wakes_for_a_new_message_and_for_a_lease_that_ends() {
    let clock = Arc::new(world::clock::SystemClock::new());
    let queue = Arc::new(LocalQueue::with_config(2, clock, PartitionConfig::default()));
    let waiting = {
        let queue = Arc::clone(&queue);
        tokio::spawn(async move { queue.lease(1, Duration::from_millis(50), Duration::from_secs(20)).await })
    };
    tokio::time::sleep(Duration::from_millis(20)).await;
    send(&queue, "k", "one").await;
    let found = waiting.await.expect("joined").expect("lease");
    assert_eq!(ids(&found), ["one"]);
    let again = queue.lease(1, LEASE, Duration::from_secs(20)).await.expect("lease");
    assert_eq!((ids(&again), again[0].attempts), (vec!["one"], 2));
}

#[tokio::test]
async fn a_settling_that_is_dropped_half_way_leaves_its_lease_usable() {
    let (queue, _) = queue(quick());
    send(&queue, "k", "one").await;
    let found = take(&queue, 1).await;
    // Polled never or once: either way nothing may stay pinned.
    drop(queue.ack(vec![found[0].receipt.clone()]));
    assert_eq!(queue.ack(vec![found[0].receipt.clone()]).await, vec![Ok(())]);
}

#[tokio::test]
async fn a_paused_partition_accepts_and_does_not_deliver() {
    let (queue, _) = queue(quick());
    for partition in queue.partitions() {
        partition.pause(true).await.expect("pause");
    }
    send(&queue, "k", "one").await;
    assert_eq!(take(&queue, 1).await, vec![]);
    for partition in queue.partitions() {
        partition.pause(false).await.expect("resume");
    }
    assert_eq!(ids(&take(&queue, 1).await), ["one"]);
}

#[tokio::test]
async fn bad_requests_are_refused_and_touch_nothing_else() {
    let (queue, _) = queue(quick());
    let answers = queue.enqueue(vec![message("", "x"), message("k", "good")]).await;
    assert!(matches!(answers[0], Err(QueueError::Refused(_))));
    assert_eq!(answers[1], Ok(Enqueued::New));
    assert!(matches!(queue.ack(vec![Bytes::from_static(b"junk")]).await[0], Err(QueueError::Refused(_))));
    let found = take(&queue, 1).await;
    let mut forged = Receipt::decode(&found[0].receipt).expect("receipt");
    forged.lease.number += 1;
    assert!(matches!(queue.ack(vec![forged.encode()]).await[0], Err(QueueError::Refused(_))));
    forged.lease.number -= 1;
    forged.dedup_id = Bytes::from_static(b"another");
    assert!(queue.ack(vec![forged.encode()]).await[0].is_err());
    assert_eq!(queue.stats().await.expect("stats").acked, 0);
}
