//! The machine against a naive model: the same answers, whatever the commands, and wherever the
//! machine is thrown away and rebuilt from its key space.

use std::collections::BTreeMap;

use proptest::prelude::*;
use world::{NodeId, UnixMs};

use super::*;
use crate::receipt::LeaseId;
use crate::testing::MemoryView;

fn node(number: u8) -> NodeId {
    NodeId::from_u16(u16::from(number)).expect("a node of the first zone")
}

fn at(index: u64, term: u64) -> At {
    At { index, term, leader: node(1), now: UnixMs(index * 10) }
}

fn lease(term: u64, number: u64) -> LeaseId {
    LeaseId { token: Token { term, node: node(1) }, number }
}

fn id(number: u8) -> Bytes {
    Bytes::from(vec![b'i', number])
}

fn offer(key: u8, dedup: u8, delay_ms: u64) -> Offer {
    Offer { key: Bytes::from(vec![key]), dedup_id: id(dedup), body: Bytes::from(vec![dedup; 3]), delay_ms }
}

fn settle(seq: u64, dedup: Bytes, lease: LeaseId) -> Settle {
    Settle { seq, lease, dedup_id: dedup }
}

/// Where a message of the model is.
#[derive(Clone, Debug, PartialEq)]
enum Place {
    Live { due_ms: u64, attempts: u32 },
    Dead,
    Acked { at_ms: u64, lease: LeaseId },
    Purged { at_ms: u64 },
    Forgotten,
}

/// What the machine should be, as one list that is searched from the front.
#[derive(Default)]
struct Model {
    /// (key, dedup id, place), at position seq - 1.
    messages: Vec<(Bytes, Bytes, Place)>,
    duplicates: u64,
    paused: bool,
}

impl Model {
    fn run(&mut self, at: At, command: &Command) -> Reply {
        match command {
            Command::Enqueue(offers) => {
                Reply::Enqueued(offers.iter().map(|offer| self.enqueue(at, offer)).collect())
            }
            Command::Ack(settles) => {
                Reply::Settled(settles.iter().map(|settle| self.ack(at, settle)).collect())
            }
            Command::Return(returns) => {
                Reply::Settled(returns.iter().map(|back| self.give_back(at, back)).collect())
            }
            Command::Redrive(span) => self.move_dead(*span, &Place::Live { due_ms: at.now.0, attempts: 0 }),
            Command::PurgeDead(span) => self.move_dead(*span, &Place::Purged { at_ms: at.now.0 }),
            Command::Forget(forget) => self.forget(forget),
            Command::Pause(paused) => {
                self.paused = *paused;
                Reply::Paused
            }
        }
    }

    fn enqueue(&mut self, at: At, offer: &Offer) -> Accepted {
        let known =
            self.messages.iter().any(|(_, id, place)| id == &offer.dedup_id && *place != Place::Forgotten);
        if known {
            self.duplicates += 1;
            return Accepted::Duplicate;
        }
        let place = Place::Live { due_ms: at.now.0 + offer.delay_ms, attempts: 0 };
        self.messages.push((offer.key.clone(), offer.dedup_id.clone(), place));
        Accepted::New
    }

    fn find(&mut self, settle: &Settle) -> Option<&mut Place> {
        let position = usize::try_from(settle.seq).ok()?.checked_sub(1)?;
        let (_, id, place) = self.messages.get_mut(position)?;
        (*id == settle.dedup_id).then_some(place)
    }

    fn ack(&mut self, at: At, settle: &Settle) -> Settled {
        match self.find(settle) {
            Some(Place::Acked { lease, .. }) if *lease == settle.lease => Settled::Done,
            Some(Place::Live { .. }) if settle.lease.token != token_of(at) => Settled::Fenced,
            Some(place @ Place::Live { .. }) => {
                *place = Place::Acked { at_ms: at.now.0, lease: settle.lease };
                Settled::Done
            }
            _ => Settled::Gone,
        }
    }

    fn give_back(&mut self, at: At, back: &Return) -> Settled {
        match self.find(&back.settle) {
            Some(Place::Live { .. }) if back.settle.lease.token != token_of(at) => Settled::Fenced,
            Some(place @ Place::Live { .. }) => {
                *place = match back.fate {
                    Fate::Again { delay_ms } => {
                        Place::Live { due_ms: at.now.0 + delay_ms, attempts: back.attempts }
                    }
                    Fate::Bury => Place::Dead,
                };
                Settled::Done
            }
            _ => Settled::Gone,
        }
    }

    fn move_dead(&mut self, span: Span, to: &Place) -> Reply {
        let (mut count, mut last) = (0, None);
        for (seq, (_, _, place)) in (1u64..).zip(&mut self.messages) {
            let inside = span.from <= seq && seq < span.to;
            if inside && *place == Place::Dead && count < span.most {
                *place = to.clone();
                count += 1;
                last = Some(seq + 1);
            }
        }
        Reply::Moved { count, next: last.filter(|_| count == span.most) }
    }

    fn forget(&mut self, forget: &Forget) -> Reply {
        let mut known: BTreeMap<Bytes, &mut Place> = BTreeMap::new();
        for (_, id, place) in &mut self.messages {
            if *place != Place::Forgotten {
                known.insert(id.clone(), place);
            }
        }
        let page: Vec<(Bytes, &mut Place)> =
            known.into_iter().filter(|(id, _)| forget.from <= id).take(forget.most as usize).collect();
        let full = page.len() == forget.most as usize;
        let next = page.last().filter(|_| full).map(|(id, _)| Bytes::from([&id[..], &[0]].concat()));
        let mut count = 0;
        for (_, place) in page {
            match *place {
                Place::Acked { at_ms, .. } | Place::Purged { at_ms } if at_ms < forget.done_before_ms => {
                    *place = Place::Forgotten;
                    count += 1;
                }
                _ => {}
            }
        }
        Reply::Forgotten { count, next }
    }

    /// (seq, due, attempts) of live messages that nothing of their key stands before, by due time.
    fn heads(&self) -> Vec<(u64, u64, u32)> {
        let mut seen: Vec<&Bytes> = Vec::new();
        let mut heads = Vec::new();
        for (seq, (key, _, place)) in (1u64..).zip(&self.messages) {
            if let Place::Live { due_ms, attempts } = place
                && !seen.contains(&key)
            {
                seen.push(key);
                heads.push((*due_ms, seq, *attempts));
            }
        }
        heads.sort_unstable();
        heads
    }

    fn count(&self, place: impl Fn(&Place) -> bool) -> u64 {
        self.messages.iter().filter(|(_, _, one)| place(one)).count() as u64
    }
}

fn check_equal(model: &Model, machine: &QueueMachine, view: &MemoryView) {
    let tally = machine.tally();
    let counts = [tally.accepted, tally.duplicates, tally.live, tally.dead, tally.purged, tally.acked];
    let live = model.count(|place| matches!(place, Place::Live { .. }));
    let dead = model.count(|place| *place == Place::Dead);
    let accepted = model.messages.len() as u64;
    // A forgotten message was acked or purged; only the sum of both is known afterwards.
    assert_eq!(counts[..4], [accepted, model.duplicates, live, dead]);
    assert_eq!(tally.purged + tally.acked, accepted - live - dead);
    assert_eq!(tally.paused, model.paused);
    let heads = machine
        .backlog()
        .heads()
        .map(|(due_ms, seq)| (due_ms, seq, machine.backlog().get(seq).expect("a head is live").attempts));
    assert_eq!(heads.collect::<Vec<_>>(), model.heads());
    for (seq, (_, id, place)) in (1u64..).zip(&model.messages) {
        let known = QueueMachine::known(view, id).expect("index");
        match place {
            Place::Live { .. } | Place::Dead => {
                assert_eq!(known, Some(Known::Kept { seq }));
                assert_eq!(QueueMachine::body(view, seq).expect("body")[..], [id[1]; 3]);
            }
            Place::Acked { at_ms, lease } => {
                assert_eq!(known, Some(Known::Acked { seq, done_ms: *at_ms, lease: *lease }));
            }
            Place::Purged { at_ms } => assert_eq!(known, Some(Known::Purged { seq, done_ms: *at_ms })),
            Place::Forgotten => {}
        }
    }
}

fn settles() -> impl Strategy<Value = Settle> {
    (1u64..14, 0u8..12, 1u64..3, 1u64..3)
        .prop_map(|(seq, dedup, term, number)| settle(seq, id(dedup), lease(term, number)))
}

fn returns() -> impl Strategy<Value = Return> {
    let fate = prop_oneof![(0u64..50).prop_map(|delay_ms| Fate::Again { delay_ms }), Just(Fate::Bury)];
    (settles(), 1u32..5, fate).prop_map(|(settle, attempts, fate)| Return {
        settle,
        attempts,
        fate,
        reason: "why".to_owned(),
    })
}

fn spans() -> impl Strategy<Value = Span> {
    (0u64..10, 0u64..20, 1u32..4).prop_map(|(from, to, most)| Span { from, to, most })
}

fn commands() -> impl Strategy<Value = Command> {
    let offers =
        prop::collection::vec((0u8..4, 0u8..12, 0u64..30).prop_map(|(k, d, ms)| offer(k, d, ms)), 1..4);
    let forget = (0u8..12, 1u32..5, 0u64..900).prop_map(|(from, most, done_before_ms)| {
        Command::Forget(Forget { from: id(from), most, done_before_ms })
    });
    prop_oneof![
        4 => offers.prop_map(Command::Enqueue),
        4 => prop::collection::vec(settles(), 1..4).prop_map(Command::Ack),
        4 => prop::collection::vec(returns(), 1..4).prop_map(Command::Return),
        1 => spans().prop_map(Command::Redrive),
        1 => spans().prop_map(Command::PurgeDead),
        1 => forget,
        1 => any::<bool>().prop_map(Command::Pause),
    ]
}

/// Random settles rarely name the right dedup id, so most are aimed at the message they number.
fn aim(model: &Model, command: Command) -> Command {
    let aimed = |mut settle: Settle| {
        let position = usize::try_from(settle.seq - 1).expect("small");
        // The last lease number is left alone, so that wrong ids stay in the mix.
        if settle.lease.number == 1 && position < model.messages.len() {
            settle.dedup_id = model.messages[position].1.clone();
        }
        settle
    };
    match command {
        Command::Ack(settles) => Command::Ack(settles.into_iter().map(aimed).collect()),
        Command::Return(returns) => {
            let aim = |back: Return| Return { settle: aimed(back.settle), ..back };
            Command::Return(returns.into_iter().map(aim).collect())
        }
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_machine_answers_as_the_model_does_wherever_it_is_restored(
        steps in prop::collection::vec((commands(), 1u64..3, any::<bool>()), 1..60)
    ) {
        let (mut model, mut machine, mut view) = (Model::default(), QueueMachine::new(), MemoryView::default());
        for (index, (command, term, restore)) in (1u64..).zip(steps) {
            let command = aim(&model, command);
            let at = at(index, term);
            let reply = view.apply(&mut machine, at, &command.encode()).expect("apply");
            prop_assert_eq!(Reply::decode(&reply).expect("reply"), model.run(at, &command), "{:?}", command);
            check_equal(&model, &machine, &view);
            let mut rebuilt = QueueMachine::new();
            rebuilt.restore(&view).expect("restore");
            if rebuilt.tally == machine.tally {
                prop_assert_eq!(&rebuilt, &machine);
            }
            if restore {
                machine = rebuilt;
            }
        }
    }

    #[test]
    fn any_number_of_offers_of_one_id_make_one_message(
        batches in prop::collection::vec(prop::collection::vec(0u8..5, 1..6), 1..20)
    ) {
        let (mut machine, mut view) = (QueueMachine::new(), MemoryView::default());
        for (index, batch) in (1u64..).zip(&batches) {
            let offers = batch.iter().map(|dedup| offer(*dedup, *dedup, 0)).collect();
            view.apply(&mut machine, at(index, 1), &Command::Enqueue(offers).encode()).expect("apply");
        }
        let mut different: Vec<u8> = batches.concat();
        let offered = different.len() as u64;
        different.sort_unstable();
        different.dedup();
        prop_assert_eq!(machine.tally().accepted, different.len() as u64);
        prop_assert_eq!(machine.tally().duplicates, offered - different.len() as u64);
    }

    #[test]
    fn no_command_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let (mut machine, mut view) = (QueueMachine::new(), MemoryView::default());
        view.apply(&mut machine, at(1, 1), &bytes.into()).expect("a bad command is a reply, not an error");
    }
}

#[test]
fn a_refused_command_writes_nothing() {
    let (mut machine, mut view) = (QueueMachine::new(), MemoryView::default());
    let huge = Offer { key: Bytes::from(vec![0; KEY_LEN_MAX + 1]), ..offer(1, 1, 0) };
    let batch = Command::Enqueue(vec![offer(1, 1, 0), huge]);
    for bytes in [batch.encode(), Bytes::from_static(b"\x02nonsense"), Bytes::new()] {
        let reply = view.apply(&mut machine, at(1, 1), &bytes).expect("apply");
        assert!(matches!(Reply::decode(&reply), Ok(Reply::Refused(_))));
        assert_eq!(view, MemoryView::default());
        assert_eq!(machine, QueueMachine::new());
    }
}

#[test]
fn the_key_space_after_a_life_is_frozen() {
    let (mut machine, mut view) = (QueueMachine::new(), MemoryView::default());
    let both = Command::Enqueue(vec![offer(b'k', 1, 0), offer(b'k', 2, 5)]);
    view.apply(&mut machine, at(1, 1), &both.encode()).expect("apply");
    let ack = Command::Ack(vec![settle(1, id(1), lease(1, 1))]);
    view.apply(&mut machine, at(2, 1), &ack.encode()).expect("apply");
    let bury = Return {
        settle: settle(2, id(2), lease(1, 2)),
        attempts: 3,
        fate: Fate::Bury,
        reason: "no".to_owned(),
    };
    view.apply(&mut machine, at(3, 1), &Command::Return(vec![bury]).encode()).expect("apply");
    let mut text = String::new();
    for (key, value) in &view.0 {
        for byte in key.iter() {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push_str(" = ");
        for byte in value.iter() {
            text.push_str(&format!("{byte:02x}"));
        }
        text.push('\n');
    }
    assert_eq!(text, include_str!("golden.txt"));
}

#[test]
fn a_key_space_whose_counts_do_not_match_is_corrupt() {
    let (mut machine, mut view) = (QueueMachine::new(), MemoryView::default());
    view.apply(&mut machine, at(1, 1), &Command::Enqueue(vec![offer(1, 1, 0)]).encode()).expect("apply");
    view.0.remove(&Bytes::from(table::header_key(1)));
    assert!(matches!(QueueMachine::new().restore(&view), Err(EngineError::Corrupt(_))));
}

#[test]
fn a_settle_of_an_old_leadership_is_fenced_and_changes_nothing() {
    let (mut machine, mut view) = (QueueMachine::new(), MemoryView::default());
    view.apply(&mut machine, at(1, 1), &Command::Enqueue(vec![offer(1, 1, 0)]).encode()).expect("apply");
    let before = machine.clone();
    let other_node = LeaseId { token: Token { term: 2, node: node(2) }, number: 1 };
    for lease in [lease(1, 1), other_node] {
        let ack = Command::Ack(vec![settle(1, id(1), lease)]);
        let reply = view.apply(&mut machine, at(1, 2), &ack.encode()).expect("apply");
        assert_eq!(Reply::decode(&reply), Ok(Reply::Settled(vec![Settled::Fenced])));
        assert_eq!(machine, before);
    }
}
