//! Producers and consumers of a queue that is right by construction; then one thing is wrong at a time.

use rand::RngExt;
use world::rng::Seed;

use super::*;
use crate::history::{Moments, Op, Outcome};

const ATTEMPTS_MAX: u32 = 5;

struct Bench {
    moments: Moments,
    history: QueueHistory,
    tenure: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { moments: Moments::default(), history: QueueHistory::default(), tenure: 1 }
    }

    fn run(&mut self, client: u32, call: QueueCall, outcome: Outcome<QueueReply>) {
        let id = self.history.invoke(self.moments.next(0), client, None, call);
        self.history.finish(self.moments.next(0), id, outcome);
    }

    fn enqueue(&mut self, id: &str, outcome: Outcome<QueueReply>) {
        let text = |text: &str| text.to_owned();
        let call =
            QueueCall::Enqueue { key: text("k"), dedup_id: text(id), body: format!("b{id}"), delay_ms: 0 };
        self.run(0, call, outcome);
    }

    fn lease(&mut self, client: u32, id: &str, receipt: &str, attempts: u32) {
        let text = |text: &str| text.to_owned();
        let delivery = Delivery {
            receipt: text(receipt),
            key: text("k"),
            dedup_id: text(id),
            body: format!("b{id}"),
            attempts,
            tenure: self.tenure,
        };
        let leased = Outcome::Done(QueueReply::Leased(vec![delivery]));
        self.run(client, QueueCall::Lease { most: 1, lease_ms: 100 }, leased);
    }

    fn ack(&mut self, client: u32, receipt: &str, outcome: Outcome<QueueReply>) {
        self.run(client, QueueCall::Ack { receipt: receipt.to_owned() }, outcome);
    }

    fn check(&self, expected: Option<&str>) {
        self.check_with(&QueueContents::default(), expected);
    }

    fn check_with(&self, contents: &QueueContents, expected: Option<&str>) {
        let verdict = check(&self.history, contents, ATTEMPTS_MAX, true);
        let said = verdict.violations.first().map(|violation| violation.what.as_str());
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_none());
    }
}

fn new() -> Outcome<QueueReply> {
    Outcome::Done(QueueReply::Accepted)
}

fn done() -> Outcome<QueueReply> {
    Outcome::Done(QueueReply::Settled)
}

fn gone() -> Outcome<QueueReply> {
    Outcome::Refused("the lease is no longer held".to_owned())
}

#[test]
fn a_message_that_is_delivered_again_after_its_lease_is_accepted() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.lease(1, "m", "r1", 1);
    bench.lease(2, "m", "r2", 2);
    bench.ack(1, "r1", gone());
    bench.ack(2, "r2", done());
    bench.ack(2, "r2", done()); // asked again
    bench.check(None);
}

#[test]
fn a_stale_ack_that_is_accepted_is_seen() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.lease(1, "m", "r1", 1);
    bench.lease(2, "m", "r2", 2);
    bench.ack(1, "r1", done());
    bench.check(Some("client 1 acked message m after its lease was over and client 2 held the message"));
}

#[test]
fn two_acks_that_are_accepted_are_seen() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.lease(1, "m", "r1", 1);
    bench.lease(2, "m", "r2", 2);
    bench.ack(2, "r2", done());
    bench.ack(1, "r1", done());
    let verdict = check(&bench.history, &QueueContents::default(), ATTEMPTS_MAX, true);
    let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
    assert!(said.contains(&"message m was acked under 2 leases"), "{said:?}");
}

#[test]
fn a_delivery_after_the_ack_is_seen() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.lease(1, "m", "r1", 1);
    bench.ack(1, "r1", done());
    bench.lease(2, "m", "r2", 2);
    bench.check(Some("message m was delivered after it was acked"));
}

#[test]
fn a_leader_that_was_deposed_may_deliver_what_was_acked_elsewhere() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.tenure = 7;
    bench.lease(1, "m", "r1", 1);
    bench.ack(1, "r1", done());
    bench.tenure = 6;
    bench.lease(2, "m", "r2", 2);
    bench.check(None);
}

#[test]
fn one_id_accepted_twice_is_seen() {
    let mut bench = Bench::new();
    bench.enqueue("m", Outcome::Unknown);
    bench.enqueue("m", Outcome::Done(QueueReply::Duplicate { body: Some("bm".to_owned()) }));
    bench.check(None);
    bench.enqueue("n", new());
    bench.enqueue("n", new());
    bench.check(Some("message n was accepted 2 times"));
}

#[test]
fn a_duplicate_of_nothing_or_with_another_body_is_seen() {
    let mut bench = Bench::new();
    bench.enqueue("m", Outcome::Done(QueueReply::Duplicate { body: None }));
    bench.check(Some("message m was called a duplicate, and nobody else had enqueued it"));
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.enqueue("m", Outcome::Done(QueueReply::Duplicate { body: Some("other".to_owned()) }));
    bench.check(Some("a duplicate of message m was shown a body nobody had sent"));
}

#[test]
fn what_nobody_enqueued_is_seen() {
    let mut bench = Bench::new();
    bench.lease(1, "m", "r1", 1);
    bench
        .check(Some("message m was delivered with key k and body \"bm\", which nobody had enqueued by then"));
    let mut bench = Bench::new();
    bench.enqueue("m", Outcome::Refused("full".to_owned()));
    bench.lease(1, "m", "r1", 1);
    bench
        .check(Some("message m was delivered with key k and body \"bm\", which nobody had enqueued by then"));
}

#[test]
fn messages_of_a_key_out_of_order_are_seen() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.enqueue("n", new());
    bench.lease(1, "n", "r1", 1);
    bench.check(Some("message n of key k was delivered before m, which came before it"));
    // Dead letters do not hold the others back.
    let dead = QueueContents { dead: vec!["m".to_owned()], ..QueueContents::default() };
    bench.check_with(&dead, None);
}

#[test]
fn an_ack_that_may_have_happened_lets_the_next_message_go() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.enqueue("n", new());
    bench.lease(1, "m", "r1", 1);
    bench.ack(1, "r1", Outcome::Unknown);
    bench.lease(1, "n", "r2", 1);
    bench.check(None);
}

#[test]
fn too_many_deliveries_and_messages_that_stay_are_seen() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.lease(1, "m", "r1", ATTEMPTS_MAX + 1);
    bench.check(Some("message m was delivered for the 6th time; 5 are allowed"));
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    let live = QueueContents { live: vec!["m".to_owned()], ..QueueContents::default() };
    bench.check_with(&live, Some("1 messages were never settled, m is one of them"));
}

/// A queue with overlapping clients, lost answers and expiring leases, right by construction.
fn made(seed: u64) -> QueueHistory {
    let mut chance = Seed::from_number(seed).stream(4);
    let mut bench = Bench::new();
    // In order: key, id, body; the lease that holds it; deliveries.
    let mut live: Vec<(String, String, Option<String>, u32)> = Vec::new();
    let (mut ids, mut receipts) = (0, 0);
    let mut given: Vec<String> = Vec::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    for step in 0..400 {
        let client = chance.random_range(0..6);
        let known_outcome = chance.random_ratio(9, 10);
        let begun = bench.moments.next(step);
        let (call, reply) = match chance.random_range(0..4) {
            0 => {
                let id = if chance.random_ratio(1, 5) && ids > 0 { chance.random_range(0..ids) } else { ids };
                ids = ids.max(id + 1);
                let (key, id) = (format!("k{}", id % 3), format!("m{id}"));
                let body = format!("b{id}");
                let reply = if known.insert(id.clone()) {
                    live.push((key.clone(), id.clone(), None, 0));
                    QueueReply::Accepted
                } else {
                    QueueReply::Duplicate { body: None }
                };
                (QueueCall::Enqueue { key, dedup_id: id, body, delay_ms: 0 }, reply)
            }
            1 | 2 => {
                // Some leases are over.
                for message in &mut live {
                    if chance.random_ratio(1, 8) {
                        message.2 = None;
                    }
                }
                let heads: Vec<usize> = (0..live.len())
                    .filter(|at| {
                        live[..*at].iter().all(|other| other.0 != live[*at].0) && live[*at].2.is_none()
                    })
                    .filter(|at| live[*at].3 < ATTEMPTS_MAX)
                    .collect();
                let mut deliveries = Vec::new();
                for at in heads {
                    let (key, id, held, attempts) = &mut live[at];
                    receipts += 1;
                    *attempts += 1;
                    *held = Some(format!("r{receipts}"));
                    deliveries.push(Delivery {
                        receipt: format!("r{receipts}"),
                        key: key.clone(),
                        dedup_id: id.clone(),
                        body: format!("b{id}"),
                        attempts: *attempts,
                        tenure: 1,
                    });
                }
                (QueueCall::Lease { most: 9, lease_ms: 100 }, QueueReply::Leased(deliveries))
            }
            _ => {
                if given.is_empty() {
                    continue;
                }
                let receipt = given[chance.random_range(0..given.len())].clone();
                let held = live.iter().position(|message| message.2.as_deref() == Some(&receipt));
                let id = bench.history.invoke(begun, client, None, QueueCall::Ack { receipt });
                let outcome = match (held, known_outcome) {
                    (Some(at), true) => {
                        live.remove(at);
                        done()
                    }
                    (Some(at), false) => {
                        if chance.random_ratio(1, 2) {
                            live.remove(at);
                        }
                        Outcome::Unknown
                    }
                    (None, _) => gone(),
                };
                bench.history.finish(bench.moments.next(step), id, outcome);
                continue;
            }
        };
        if let (QueueReply::Leased(deliveries), true) = (&reply, known_outcome) {
            given.extend(deliveries.iter().map(|one| one.receipt.clone()));
        }
        let id = bench.history.invoke(begun, client, None, call);
        let outcome = if known_outcome { Outcome::Done(reply) } else { Outcome::Unknown };
        bench.history.finish(bench.moments.next(step), id, outcome);
    }
    bench.history
}

#[test]
fn made_histories_are_accepted_and_spoilt_ones_found() {
    let contents = QueueContents::default();
    let (mut spoilt, mut found) = (0, 0);
    for seed in 0..200 {
        let history = made(seed);
        let verdict = check(&history, &contents, ATTEMPTS_MAX, false);
        assert!(verdict.held, "seed {seed}: {}", verdict.detail);
        // An ack that was refused because the message was settled under another lease is accepted.
        let ledger = Ledger::of(&history);
        let other = |op: &QueueOp| {
            let QueueCall::Ack { receipt } = &op.call else { return false };
            let id = ledger.receipts[receipt.as_str()].delivery.dedup_id.as_str();
            let acks = ledger.acks.get(id).map_or(&[][..], Vec::as_slice);
            acks.iter().any(|(own, ack)| settled(ack) && own != receipt)
        };
        let refused = |op: &QueueOp| matches!(op.outcome, Outcome::Refused(_)) && other(op);
        if let Some(at) = history.ops().iter().position(refused) {
            let mut ops: Vec<QueueOp> = history.ops().to_vec();
            ops[at].outcome = done();
            spoilt += 1;
            found += u32::from(
                check(&QueueHistory::from(ops), &contents, ATTEMPTS_MAX, false).violation_count > 0,
            );
        }
        // A delivery comes a second time at the end.
        let mut ops: Vec<Op<_, _>> = history.ops().to_vec();
        let acked = ops.iter().rposition(|op| op.reply() == Some(&QueueReply::Settled));
        let Some(QueueCall::Ack { receipt }) = acked.map(|at| ops[at].call.clone()) else { continue };
        let held = ops.iter().find(|op| matches!(op.reply(), Some(QueueReply::Leased(all)) if all.iter().any(|one| one.receipt == receipt)));
        let mut again = held.expect("it was leased").clone();
        let mut moments = Moments::default();
        (0..10_000).for_each(|_| assert!(moments.next(9_999).number <= 10_000));
        (again.invoked, again.returned) = (moments.next(9_999), Some(moments.next(9_999)));
        ops.push(again);
        spoilt += 1;
        found +=
            u32::from(check(&QueueHistory::from(ops), &contents, ATTEMPTS_MAX, false).violation_count > 0);
    }
    println!("of {spoilt} spoilt histories, {found} were found");
    assert!(spoilt > 300 && found == spoilt, "{found} of {spoilt} were found");
}
