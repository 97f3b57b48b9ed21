//! A stream's session against plain history: whatever pages come when, and whoever falls behind,
//! each watch must be told exactly the events it asked for, once, in order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use replica::engine::EngineError;

use super::{Change, Page, Session, Span};
use crate::machine::control::Event;
use crate::wire::etcdserverpb::{WatchCreateRequest, WatchResponse};
use crate::wire::mvccpb::KeyValue;

#[derive(Clone, Debug)]
enum Step {
    /// One revision that writes or deletes these keys.
    Write(Vec<(u8, bool)>),
    Create {
        from: u8,
        end: Option<u8>,
        start: i64,
        filters: Vec<i32>,
        progress: bool,
    },
    Cancel(usize),
    /// The live watches get pages up to now, each of this many revisions.
    Live(i64),
    /// What the live watches have not seen is lost to them.
    Lose,
    /// Those behind get a page of this many revisions.
    Behind(i64),
    AskProgress,
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    let create =
        (0u8..5, prop::option::of(0u8..6), 0i64..12, prop::collection::vec(0i32..2, 0..2), any::<bool>());
    prop_oneof![
        6 => prop::collection::vec((0u8..5, any::<bool>()), 1..4).prop_map(Step::Write),
        3 => create.prop_map(|(from, end, start, filters, progress)| Step::Create { from, end, start, filters, progress }),
        1 => (0usize..6).prop_map(Step::Cancel),
        4 => (1i64..4).prop_map(Step::Live),
        1 => Just(Step::Lose),
        4 => (1i64..4).prop_map(Step::Behind),
        1 => Just(Step::AskProgress),
        1 => Just(Step::Tick),
    ]
}

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'a' + number])
}

/// What a watch asked for, and what it was told.
struct Wanted {
    span: Span,
    start: i64,
    filters: Vec<i32>,
    told: Vec<(i64, Bytes, bool)>,
    /// It was told that it had everything through here.
    progress: i64,
    cancelled_at: Option<i64>,
}

struct World {
    session: Session,
    history: Vec<Arc<Change>>,
    newest: i64,
    watches: BTreeMap<i64, Wanted>,
    asked: VecDeque<i64>,
}

impl World {
    fn page(&self, from: i64, revisions: i64) -> Page {
        let through = (from + revisions - 1).min(self.newest);
        let within = |change: &&Arc<Change>| (from..=through).contains(&change.revision());
        Page { changes: self.history.iter().filter(within).cloned().collect(), through }
    }

    fn hear(&mut self, responses: Vec<WatchResponse>) {
        for response in responses {
            let through = response.header.expect("a header").revision;
            if response.events.is_empty() {
                self.hear_progress(response.watch_id, through);
                continue;
            }
            let watch = self.watches.get_mut(&response.watch_id).expect("a watch that was created");
            assert!(watch.cancelled_at.is_none(), "told after its end");
            for event in response.events {
                let pair = event.kv.expect("a pair");
                assert!(pair.mod_revision > watch.progress, "progress overtook an event");
                assert!(pair.mod_revision <= through, "the header is behind the events");
                watch.told.push((pair.mod_revision, pair.key, event.r#type == 1));
            }
        }
    }

    fn hear_progress(&mut self, id: i64, revision: i64) {
        let everybody = id == -1;
        if everybody {
            let asked = self.asked.pop_front().expect("told without being asked");
            assert!(revision >= asked, "the answer is older than the question");
        }
        for (other, watch) in &mut self.watches {
            if watch.cancelled_at.is_none() && (everybody || *other == id) {
                assert!(revision + 1 >= watch.start, "told of a time before its beginning");
                watch.progress = watch.progress.max(revision);
                let expected = expected(&self.history, watch, revision);
                assert_eq!(watch.told, expected, "progress at {revision} overtook an event");
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(keys) => {
                self.newest += 1;
                let keys: BTreeMap<u8, bool> = keys.into_iter().collect();
                for (number, tombstone) in keys {
                    let pair =
                        KeyValue { key: key(number), mod_revision: self.newest, ..KeyValue::default() };
                    self.history.push(Change::new(Event { pair, tombstone }));
                }
            }
            Step::Create { from, end, start, filters, progress } => {
                self.create(from, end, start, filters, progress)
            }
            Step::Cancel(place) => {
                if let Some(id) = self.watches.keys().nth(place).copied() {
                    let ended = self.session.cancel(id, self.newest).is_some();
                    let watch = self.watches.get_mut(&id).expect("just named");
                    assert_eq!(ended, watch.cancelled_at.is_none(), "a watch ends once");
                    watch.cancelled_at.get_or_insert(self.newest);
                }
            }
            Step::Live(revisions) => {
                while self.session.seen() < self.newest {
                    let page = self.page(self.session.seen() + 1, revisions);
                    let told = self.session.deliver(&page, &mut |_| Ok(None)).expect("told");
                    self.hear(told);
                }
            }
            Step::Lose => self.session.fall_behind(self.session.seen() + 1, self.newest),
            Step::Behind(revisions) => {
                if let Some(from) = self.session.behind_from() {
                    let page = self.page(from, revisions);
                    let told = self.session.deliver_behind(&page, &mut |_| Ok(None)).expect("told");
                    self.hear(told);
                }
            }
            Step::AskProgress => {
                self.session.ask_progress(self.newest);
                self.asked.push_back(self.newest);
            }
            Step::Tick => {
                let told = self.session.tick();
                self.hear(told);
            }
        }
        while let Some(told) = self.session.progress() {
            self.hear(vec![told]);
        }
    }

    fn create(&mut self, from: u8, end: Option<u8>, start: i64, filters: Vec<i32>, progress: bool) {
        let range_end =
            end.map_or(Bytes::new(), |end| if end == 5 { Bytes::from_static(b"\0") } else { key(end) });
        let request = WatchCreateRequest {
            key: key(from),
            range_end: range_end.clone(),
            start_revision: start,
            filters: filters.clone(),
            progress_notify: progress,
            ..WatchCreateRequest::default()
        };
        let (response, created) = self.session.create(&request, self.newest);
        let span = Span::of_watch(&request.key, &range_end);
        assert_eq!(created, span.is_some());
        assert_eq!(response.canceled, span.is_none());
        let Some(span) = span else { return };
        let start = if start == 0 { self.newest + 1 } else { start };
        let wanted = Wanted { span, start, filters, told: Vec::new(), progress: 0, cancelled_at: None };
        let replaced = self.watches.insert(response.watch_id, wanted);
        assert!(replaced.is_none(), "an id was given twice");
    }
}

fn expected(history: &[Arc<Change>], watch: &Wanted, through: i64) -> Vec<(i64, Bytes, bool)> {
    let wanted = |change: &&Arc<Change>| {
        let deleted = change.event.tombstone;
        (watch.start..=through).contains(&change.revision())
            && watch.span.contains(&change.event.pair.key)
            && !watch.filters.contains(&i32::from(deleted))
    };
    let told =
        |change: &Arc<Change>| (change.revision(), change.event.pair.key.clone(), change.event.tombstone);
    history.iter().filter(wanted).map(told).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_watch_is_told_what_it_asked_for_once_and_in_order(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World {
            session: Session::new(1, usize::MAX),
            history: Vec::new(),
            newest: 1,
            watches: BTreeMap::new(),
            asked: VecDeque::new(),
        };
        for step in steps {
            world.take(step);
        }
        world.take(Step::Live(2));
        for _ in 0..1_000 {
            world.take(Step::Behind(2));
        }
        prop_assert!(world.session.behind_from().is_none(), "somebody never catches up");
        let begun = world.watches.values().all(|watch| watch.cancelled_at.is_some() || watch.start <= world.newest + 1);
        prop_assert!(world.asked.is_empty() || !begun, "a question was not answered: {:?}", world.asked);
        for watch in world.watches.values() {
            let all = expected(&world.history, watch, world.newest);
            match watch.cancelled_at {
                None => prop_assert_eq!(&watch.told, &all),
                Some(_) => prop_assert!(all.starts_with(&watch.told), "{:?} of {:?}", watch.told, all),
            }
        }
    }
}

#[test]
fn a_large_response_comes_in_parts_where_that_was_allowed() {
    let pair = |number: i64| KeyValue {
        key: format!("k{number}").into(),
        value: Bytes::from(vec![7; 100]),
        mod_revision: 2,
        ..KeyValue::default()
    };
    let changes: Vec<Arc<Change>> =
        (0..10).map(|number| Change::new(Event { pair: pair(number), tombstone: false })).collect();
    let check = |fragment: bool, bytes_max: usize, expected: &[usize]| {
        let mut session = Session::new(1, bytes_max);
        let all = Bytes::from_static(b"\0");
        let request = WatchCreateRequest {
            key: all.clone(),
            range_end: all,
            fragment,
            ..WatchCreateRequest::default()
        };
        assert!(session.create(&request, 1).1);
        let told =
            session.deliver(&Page { changes: changes.clone(), through: 2 }, &mut |_| Ok(None)).expect("told");
        let sizes: Vec<usize> = told.iter().map(|part| part.events.len()).collect();
        assert_eq!(sizes, expected);
        let keys: Vec<Bytes> =
            told.iter().flat_map(|part| &part.events).map(|e| e.kv.clone().expect("a pair").key).collect();
        assert_eq!(keys.len(), 10);
        assert!(keys.is_sorted(), "the parts are in order");
        let (last, others) = told.split_last().expect("something was told");
        assert!(!last.fragment && others.iter().all(|part| part.fragment), "only the last part is the last");
        let fits =
            |part: &WatchResponse| prost::Message::encoded_len(part) < bytes_max || part.events.len() == 1;
        assert!(!fragment || told.iter().all(fits), "a part is too large");
    };
    check(false, 300, &[10]);
    check(true, 300, &[2, 2, 2, 2, 2]);
    check(true, 1, &[1; 10]);
    check(true, 1 << 20, &[10]);
}

/// Found by seed 83585: the pair was on a rotten block, and the event said that there had been none.
#[test]
fn a_pair_before_that_cannot_be_read_is_an_error_and_not_left_out() {
    let all = Bytes::from_static(b"\0");
    let check = |start_revision: i64, seen: i64| {
        let mut session = Session::new(seen, 1 << 20);
        let request = WatchCreateRequest {
            key: all.clone(),
            range_end: all.clone(),
            start_revision,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        assert!(session.create(&request, seen).1);
        let pair = KeyValue { key: "k".into(), mod_revision: 5, ..KeyValue::default() };
        let change = Change::new(Event { pair, tombstone: true });
        let page = Page { changes: vec![change], through: 5 };
        let rotten = &mut |_: &Change| Err(EngineError::Corrupt("a block".to_owned()));
        match session.behind_from() {
            Some(from) => {
                assert_eq!(from, start_revision);
                session.deliver_behind(&page, rotten)
            }
            None => session.deliver(&page, rotten),
        }
    };
    assert!(check(5, 6).is_err(), "a watch that is behind");
    assert!(check(0, 4).is_err(), "a live watch");
}
