//! Producers and consumers of a queue that is right by construction; then one thing is wrong at a time.

use rand::RngExt;
use world::rng::{Seed, Stream};

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
fn a_duplicate_with_another_body_is_seen_and_one_of_itself_is_not() {
    let mut bench = Bench::new();
    bench.enqueue("m", Outcome::Done(QueueReply::Duplicate { body: Some("bm".to_owned()) }));
    bench.check(None);
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
fn an_ack_that_comes_later_does_not_excuse_a_message_out_of_order() {
    let mut bench = Bench::new();
    bench.enqueue("m", new());
    bench.enqueue("n", new());
    bench.lease(1, "m", "r1", 1);
    bench.lease(2, "n", "r2", 1);
    bench.ack(1, "r1", done());
    bench.check(Some("message n of key k was delivered before m, which came before it"));
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

/// A queue that is right by construction: live messages in order, with the lease that holds each.
#[derive(Default)]
struct TrueQueue {
    live: Vec<TrueMessage>,
    known: BTreeSet<String>,
    receipts: u32,
}

struct TrueMessage {
    key: String,
    id: String,
    held: Option<String>,
    attempts: u32,
}

impl TrueQueue {
    fn enqueue(&mut self, key: &str, id: &str) -> QueueReply {
        if !self.known.insert(id.to_owned()) {
            return QueueReply::Duplicate { body: None };
        }
        self.live.push(TrueMessage { key: key.to_owned(), id: id.to_owned(), held: None, attempts: 0 });
        QueueReply::Accepted
    }

    /// Some leases are over, and every head that is free is given out.
    fn lease(&mut self, chance: &mut Stream) -> QueueReply {
        for message in &mut self.live {
            if chance.random_ratio(1, 8) {
                message.held = None;
            }
        }
        let first = |at: usize| self.live[..at].iter().all(|other| other.key != self.live[at].key);
        let heads: Vec<usize> = (0..self.live.len())
            .filter(|at| {
                first(*at) && self.live[*at].held.is_none() && self.live[*at].attempts < ATTEMPTS_MAX
            })
            .collect();
        let mut deliveries = Vec::new();
        for at in heads {
            self.receipts += 1;
            let (receipt, message) = (format!("r{}", self.receipts), &mut self.live[at]);
            message.attempts += 1;
            message.held = Some(receipt.clone());
            deliveries.push(Delivery {
                receipt,
                key: message.key.clone(),
                dedup_id: message.id.clone(),
                body: format!("b{}", message.id),
                attempts: message.attempts,
                tenure: 1,
            });
        }
        QueueReply::Leased(deliveries)
    }

    fn ack(&mut self, receipt: &str) -> bool {
        let held = self.live.iter().position(|message| message.held.as_deref() == Some(receipt));
        held.map(|at| self.live.remove(at)).is_some()
    }
}

/// Producers and consumers whose answers are sometimes lost.
fn made(seed: u64) -> QueueHistory {
    let mut chance = Seed::from_number(seed).stream(4);
    let (mut bench, mut queue) = (Bench::new(), TrueQueue::default());
    let mut given: Vec<String> = Vec::new();
    let mut ids = 0;
    for _ in 0..400 {
        let client = chance.random_range(0..6);
        let told = chance.random_ratio(9, 10);
        let (call, outcome) = match chance.random_range(0..4) {
            0 => {
                let again = chance.random_ratio(1, 5) && ids > 0;
                let number = if again { chance.random_range(0..ids) } else { ids };
                ids = ids.max(number + 1);
                let (key, id) = (format!("k{}", number % 3), format!("m{number}"));
                let reply = queue.enqueue(&key, &id);
                let body = format!("b{id}");
                (QueueCall::Enqueue { key, dedup_id: id, body, delay_ms: 0 }, Outcome::Done(reply))
            }
            1 | 2 => {
                let reply = queue.lease(&mut chance);
                if let (QueueReply::Leased(deliveries), true) = (&reply, told) {
                    given.extend(deliveries.iter().map(|one| one.receipt.clone()));
                }
                (QueueCall::Lease { most: 9, lease_ms: 100 }, Outcome::Done(reply))
            }
            _ if given.is_empty() => continue,
            _ => {
                let receipt = given[chance.random_range(0..given.len())].clone();
                // One that is lost may be lost on the way there.
                let arrives = told || chance.random_ratio(1, 2);
                let outcome = if arrives && queue.ack(&receipt) { done() } else { gone() };
                (QueueCall::Ack { receipt }, outcome)
            }
        };
        bench.run(client, call, if told { outcome } else { Outcome::Unknown });
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
