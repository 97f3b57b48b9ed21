//! The lease table alone, and against random consumers.

use std::collections::BTreeMap;

use proptest::prelude::*;
use world::NodeId;

use super::*;
use crate::table::Header;

fn token(term: u64) -> Token {
    Token { term, node: NodeId::from_u16(1).expect("a node") }
}

fn header(key: u8, due_ms: u64) -> Header {
    let key = Bytes::from(vec![key]);
    Header { enqueued_ms: 0, deliver_at_ms: due_ms, attempts: 0, body_len: 0, dedup_id: key.clone(), key }
}

fn moment(ms: u64) -> Moment {
    Moment { now: UnixMs(ms), uptime: Duration::from_millis(ms) }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Messages 1, 2 of key 1 and 3 of key 2, all due at 0.
fn backlog() -> Backlog {
    let mut backlog = Backlog::default();
    for (seq, key) in [(1, 1), (2, 1), (3, 2)] {
        backlog.insert(seq, header(key, 0));
    }
    backlog
}

fn seqs(round: &Round) -> Vec<u64> {
    round.granted.iter().map(|granted| granted.seq).collect()
}

#[test]
fn one_message_of_a_key_is_granted_until_it_is_settled() {
    let (mut backlog, mut table) = (backlog(), LeaseTable::new(token(1), 20, 100));
    let round = table.grant(&backlog, 10, ms(50), moment(0));
    assert_eq!(seqs(&round), [1, 3]);
    assert!(!table.may_grant(&backlog, moment(0)));
    let lease = round.granted[0].lease;
    assert_eq!(table.begin(1, lease, ms(1)), Ok(1));
    assert_eq!(table.begin(1, lease, ms(1)), Err(LeaseError::Busy));
    backlog.remove(1);
    table.finish(1, lease, Finish::Applied, ms(1));
    assert_eq!(table.begin(1, lease, ms(1)), Err(LeaseError::NotHeld));
    assert_eq!(seqs(&table.grant(&backlog, 10, ms(50), moment(1))), [2]);
}

#[test]
fn a_redriven_message_waits_while_a_later_one_of_its_key_is_in_flight() {
    let (mut backlog, mut table) = (backlog(), LeaseTable::new(token(1), 20, 100));
    backlog.remove(1);
    assert_eq!(seqs(&table.grant(&backlog, 1, ms(50), moment(0))), [2]);
    backlog.insert(1, header(1, 0));
    assert_eq!(seqs(&table.grant(&backlog, 10, ms(50), moment(0))), [3]);
}

#[test]
fn a_lease_expires_unless_it_is_extended_or_being_settled() {
    let (backlog, mut table) = (backlog(), LeaseTable::new(token(1), 20, 100));
    let round = table.grant(&backlog, 10, ms(50), moment(0));
    let (first, third) = (round.granted[0].lease, round.granted[1].lease);
    assert_eq!(table.next_event(&backlog, moment(20)), Some(ms(30)));
    assert_eq!(table.extend(1, first, ms(50), ms(49)), Ok(()));
    assert_eq!(table.begin(3, third, ms(49)), Ok(1));
    assert_eq!(table.grant(&backlog, 10, ms(50), moment(98)), Round::default());
    let again = table.grant(&backlog, 10, ms(50), moment(99));
    assert_eq!((seqs(&again), again.granted[0].attempts), (vec![1], 2));
    assert_eq!(table.begin(1, first, ms(99)), Err(LeaseError::NotHeld));
    assert_eq!(table.extend(1, first, ms(50), ms(99)), Err(LeaseError::NotHeld));
    assert!(table.holds(3), "its ack is on the way, however long that takes");
}

#[test]
fn an_unknown_outcome_keeps_the_lease_for_its_grace() {
    let (backlog, mut table) = (backlog(), LeaseTable::new(token(1), 20, 100));
    let lease = table.grant(&backlog, 1, ms(50), moment(0)).granted[0].lease;
    assert_eq!(table.begin(1, lease, ms(40)), Ok(1));
    table.finish(1, lease, Finish::Unknown, ms(60));
    let end = ms(60) + UNKNOWN_GRACE;
    assert_eq!(table.begin(1, lease, end - ms(1)), Ok(1), "its holder may try again");
    table.finish(1, lease, Finish::NotProposed, end - ms(1));
    assert_eq!(table.begin(1, lease, end), Err(LeaseError::NotHeld));
}

#[test]
fn another_leaderships_lease_is_not_held() {
    let (backlog, mut old) = (backlog(), LeaseTable::new(token(1), 20, 100));
    let mut new = LeaseTable::new(token(2), 20, 100);
    let stale = old.grant(&backlog, 1, ms(50), moment(0)).granted[0].lease;
    let fresh = new.grant(&backlog, 1, ms(50), moment(0)).granted[0].lease;
    assert_eq!(stale.number, fresh.number);
    assert_eq!(new.begin(1, stale, ms(1)), Err(LeaseError::NotHeld));
    new.finish(1, stale, Finish::Applied, ms(1));
    assert_eq!(new.begin(1, fresh, ms(1)), Ok(1));
}

#[test]
fn what_was_delivered_too_often_is_handed_over_to_be_buried() {
    let (mut backlog, mut table) = (backlog(), LeaseTable::new(token(1), 2, 100));
    for round in 0..2u64 {
        assert_eq!(seqs(&table.grant(&backlog, 1, ms(10), moment(round * 10))), [1]);
    }
    let round = table.grant(&backlog, 1, ms(10), moment(20));
    assert_eq!((round.worn_out[0].seq, round.worn_out[0].attempts), (1, 2));
    assert_eq!(seqs(&round), [3]);
    assert!(!table.may_grant(&backlog, moment(25)));
    backlog.remove(1);
    table.finish(1, round.worn_out[0].lease, Finish::Applied, ms(25));
    // Redriven, it begins anew.
    backlog.insert(1, header(1, 0));
    assert_eq!(table.grant(&backlog, 1, ms(10), moment(25)).granted[0].attempts, 1);
}

#[test]
fn limits_bound_a_round() {
    let mut backlog = backlog();
    let mut table = LeaseTable::new(token(1), 20, 1);
    assert_eq!(seqs(&table.grant(&backlog, 10, ms(50), moment(0))), [1], "one in flight is allowed");
    let mut table = LeaseTable::new(token(1), 20, 100);
    let half = u32::try_from(BATCH_BYTES_MAX / 2).expect("small");
    for seq in 10u64..15 {
        backlog.insert(seq, Header { body_len: half, ..header(u8::try_from(seq).expect("small"), 0) });
    }
    assert_eq!(seqs(&table.grant(&backlog, 10, ms(50), moment(0))), [1, 3, 10, 11]);
    assert_eq!(table.grant(&backlog, 0, ms(50), moment(0)), Round::default());
}

#[derive(Clone, Debug)]
enum Step {
    Insert { key: u8, delay_ms: u64 },
    Lease { most: usize, for_ms: u64 },
    Ack { pick: usize },
    Return { pick: usize, delay_ms: u64 },
    Extend { pick: usize, for_ms: u64 },
    Pass { ms: u64 },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..3, 0u64..20).prop_map(|(key, delay_ms)| Step::Insert { key, delay_ms }),
        3 => (1usize..4, 1u64..30).prop_map(|(most, for_ms)| Step::Lease { most, for_ms }),
        3 => (0usize..50).prop_map(|pick| Step::Ack { pick }),
        1 => (0usize..50, 0u64..20).prop_map(|(pick, delay_ms)| Step::Return { pick, delay_ms }),
        1 => (0usize..50, 1u64..30).prop_map(|(pick, for_ms)| Step::Extend { pick, for_ms }),
        2 => (1u64..25).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// What the promises are checked against: every lease ever granted, with its true end.
#[derive(Default)]
struct World {
    backlog: Backlog,
    now_ms: u64,
    next_seq: u64,
    /// (seq, lease, end), all ever granted.
    receipts: Vec<(u64, LeaseId, u64)>,
    /// The lease that holds a message, by message.
    current: BTreeMap<u64, LeaseId>,
    attempts: BTreeMap<u64, u32>,
}

impl World {
    /// Whether this receipt holds its message now.
    fn held(&self, pick: usize) -> bool {
        let (seq, lease, end) = self.receipts[pick];
        self.now_ms < end && self.current.get(&seq) == Some(&lease)
    }

    fn lease(&mut self, table: &mut LeaseTable, most: usize, for_ms: u64) {
        let round = table.grant(&self.backlog, most, ms(for_ms), moment(self.now_ms));
        assert!(round.granted.len() <= most && round.worn_out.is_empty());
        for granted in &round.granted {
            let header = self.backlog.get(granted.seq).expect("only live messages are granted");
            assert!(header.deliver_at_ms <= self.now_ms, "granted before it was due");
            for (pick, (seq, _, _)) in self.receipts.iter().enumerate() {
                let same_key = self.backlog.get(*seq).is_some_and(|other| other.key == header.key);
                assert!(!(self.held(pick) && same_key), "two of a key in flight");
            }
            let head = self.backlog.from(0).find(|(_, other)| other.key == header.key);
            assert_eq!(head.map(|(seq, _)| seq), Some(granted.seq), "overtook one of its key");
            let attempts = self.attempts.entry(granted.seq).or_default();
            *attempts += 1;
            assert_eq!(granted.attempts, *attempts);
            self.current.insert(granted.seq, granted.lease);
            self.receipts.push((granted.seq, granted.lease, self.now_ms + for_ms));
        }
        let full = round.granted.len() == most;
        assert!(full || !table.may_grant(&self.backlog, moment(self.now_ms)), "left something behind");
    }

    fn settle(&mut self, table: &mut LeaseTable, pick: usize, back_in: Option<u64>) {
        let (seq, lease, _) = self.receipts[pick];
        let begun = table.begin(seq, lease, ms(self.now_ms));
        assert_eq!(begun.is_ok(), self.held(pick), "lease {lease:?} at {}", self.now_ms);
        if begun.is_err() {
            return;
        }
        let mut header = self.backlog.remove(seq).expect("held messages are live");
        if let Some(delay_ms) = back_in {
            header.attempts = self.attempts[&seq];
            header.deliver_at_ms = self.now_ms + delay_ms;
            self.backlog.insert(seq, header);
        }
        table.finish(seq, lease, Finish::Applied, ms(self.now_ms));
        self.current.remove(&seq);
    }

    fn run(&mut self, table: &mut LeaseTable, step: &Step) {
        let some =
            |pick: usize, world: &World| (!world.receipts.is_empty()).then(|| pick % world.receipts.len());
        match *step {
            Step::Insert { key, delay_ms } => {
                self.next_seq += 1;
                self.backlog.insert(self.next_seq, header(key, self.now_ms + delay_ms));
            }
            Step::Lease { most, for_ms } => self.lease(table, most, for_ms),
            Step::Ack { pick } => {
                if let Some(pick) = some(pick, self) {
                    self.settle(table, pick, None);
                }
            }
            Step::Return { pick, delay_ms } => {
                if let Some(pick) = some(pick, self) {
                    self.settle(table, pick, Some(delay_ms));
                }
            }
            Step::Extend { pick, for_ms } => {
                if let Some(pick) = some(pick, self) {
                    let (seq, lease, _) = self.receipts[pick];
                    let extended = table.extend(seq, lease, ms(for_ms), ms(self.now_ms));
                    assert_eq!(extended.is_ok(), self.held(pick));
                    if extended.is_ok() {
                        self.receipts[pick].2 = self.now_ms + for_ms;
                    }
                }
            }
            Step::Pass { ms } => self.now_ms += ms,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whoever_holds_a_lease_holds_it_alone_and_only_they_may_settle(
        steps in prop::collection::vec(steps(), 1..120)
    ) {
        let (mut world, mut table) = (World::default(), LeaseTable::new(token(1), 1_000, 1_000));
        for step in &steps {
            world.run(&mut table, step);
        }
        // Everything comes back in the end.
        world.now_ms += 1_000;
        let live = world.backlog.len();
        for _ in 0..live {
            let before = world.receipts.len();
            world.lease(&mut table, 1, 10);
            prop_assert_eq!(world.receipts.len(), before + 1);
            world.settle(&mut table, before, None);
        }
        prop_assert!(world.backlog.is_empty());
    }
}
