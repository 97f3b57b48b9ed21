//! A watcher of a made history sees all of it; then one thing is wrong at a time.

use super::*;
use crate::history::Moments;
use crate::oracle::testing::{Shape, TrueKv, kv_history};

/// What a watcher of all keys must be sent: one message for each revision.
fn items(kv: &TrueKv) -> Vec<WatchItem> {
    let mut moments = Moments::default();
    let mut by_revision: BTreeMap<i64, Vec<Change>> = BTreeMap::new();
    let mut pairs: BTreeMap<&str, Pair> = BTreeMap::new();
    for (revision, key, pair) in &kv.changes {
        let before = pairs.get(key.as_str()).cloned();
        match pair {
            Some(pair) => drop(pairs.insert(key, pair.clone())),
            None => drop(pairs.remove(key.as_str())),
        }
        let change = Change { key: key.clone(), revision: *revision, pair: pair.clone(), before };
        by_revision.entry(*revision).or_default().push(change);
    }
    by_revision.into_values().map(|events| WatchItem::Events { at: moments.next(0), events }).collect()
}

fn watcher(items: Vec<WatchItem>) -> Watcher {
    Watcher { name: "w".to_owned(), prefix: "k".to_owned(), from_revision: 1, with_before: true, items }
}

fn check_items(change: impl FnOnce(&mut Vec<WatchItem>), expected: Option<&str>) {
    let (history, kv) = kv_history(3, Shape { clients: 4, ops: 120, keys: 3, unknown: 10 });
    let mut items = items(&kv);
    assert!(items.len() > 30, "there is something to see");
    change(&mut items);
    let verdict = check(&history, &[watcher(items)]);
    match expected {
        None => assert!(verdict.held, "{}", verdict.detail),
        Some(expected) => {
            let found = verdict.violations.iter().any(|violation| violation.what.contains(expected));
            assert!(found, "{:?} where {expected:?} was expected", verdict.violations);
        }
    }
}

fn events_of(item: &mut WatchItem) -> &mut Vec<Change> {
    match item {
        WatchItem::Events { events, .. } => events,
        other => panic!("{other:?} has no events"),
    }
}

fn next(items: &[WatchItem], at: usize) -> i64 {
    match &items[at] {
        WatchItem::Events { events, .. } => events[0].revision,
        other => panic!("{other:?} has no events"),
    }
}

fn moment() -> Moment {
    Moments::default().next(0)
}

#[test]
fn all_changes_in_order_are_accepted_however_often_the_watch_is_resumed() {
    check_items(|_| {}, None);
    for at in [1, 7, 20] {
        check_items(
            |items| {
                let revision = next(items, at);
                items.insert(at, WatchItem::Progress { at: moment(), revision: revision - 1 });
                items.insert(at + 1, WatchItem::Resumed { at: moment(), revision });
            },
            None,
        );
    }
}

#[test]
fn changes_of_several_revisions_may_share_a_message() {
    let join = |items: &mut Vec<WatchItem>| {
        let second = events_of(&mut items.remove(6)).clone();
        events_of(&mut items[5]).extend(second);
    };
    check_items(join, None);
}

#[test]
fn a_lost_change_is_seen() {
    check_items(|items| drop(items.remove(9)), Some("was never sent key"));
}

#[test]
fn a_gap_after_a_resumption_is_seen() {
    check_items(
        |items| {
            let revision = next(items, 9);
            items.insert(9, WatchItem::Resumed { at: moment(), revision });
            items.remove(10);
        },
        Some("was never sent key"),
    );
}

#[test]
fn a_change_sent_twice_is_seen() {
    check_items(|items| items.insert(9, items[8].clone()), Some("twice"));
}

#[test]
fn changes_out_of_order_are_seen() {
    check_items(|items| items.swap(8, 9), Some("in a message after one with revision"));
    let inside = |items: &mut Vec<WatchItem>| {
        let first = events_of(&mut items.remove(5)).clone();
        events_of(&mut items[5]).extend(first);
    };
    check_items(inside, Some("in one message"));
}

#[test]
fn a_transaction_in_two_messages_is_seen() {
    let (_, kv) = kv_history(3, Shape { clients: 4, ops: 120, keys: 3, unknown: 10 });
    let all = items(&kv);
    let joint =
        all.iter().position(|item| matches!(item, WatchItem::Events { events, .. } if events.len() > 1));
    let joint = joint.expect("a transaction over two keys");
    check_items(
        |items| {
            let rest = events_of(&mut items[joint]).split_off(1);
            items.insert(joint + 1, WatchItem::Events { at: moment(), events: rest });
        },
        Some("in a message after one with revision"),
    );
}

#[test]
fn a_change_after_the_notice_that_all_was_sent_is_seen() {
    check_items(
        |items| {
            let revision = next(items, 9);
            items.insert(9, WatchItem::Progress { at: moment(), revision });
        },
        Some("after it was told that all up to"),
    );
}

#[test]
fn another_value_than_was_written_is_seen() {
    let spoil = |items: &mut Vec<WatchItem>| {
        let event = items.iter_mut().flat_map(events_of).find(|event| event.pair.is_some());
        event.and_then(|event| event.pair.as_mut()).expect("a write").value = "other".to_owned();
    };
    check_items(spoil, Some("which is known to be"));
}

#[test]
fn a_wrong_pair_before_and_a_wrong_version_are_seen() {
    let before = |items: &mut Vec<WatchItem>| {
        let event = items.iter_mut().skip(20).flat_map(events_of).find(|event| event.before.is_some());
        event.expect("a second write").before = None;
    };
    check_items(before, Some("as the pair before revision"));
    let version = |items: &mut Vec<WatchItem>| {
        let event = items.iter_mut().skip(20).flat_map(events_of).find(|event| event.pair.is_some());
        event.and_then(|event| event.pair.as_mut()).expect("a write").version += 1;
    };
    check_items(version, Some("was sent Pair"));
}

#[test]
fn what_was_not_asked_for_is_seen() {
    check_items(
        |items| {
            let revision = next(items, 9);
            items.insert(9, WatchItem::Resumed { at: moment(), revision: revision + 1 });
        },
        Some("on and was sent"),
    );
    check_items(|items| events_of(&mut items[0])[0].key = "other".to_owned(), Some("was sent key other"));
}

#[test]
fn what_was_compacted_is_not_missed() {
    check_items(
        |items| {
            let compact_revision = next(items, 9);
            items.drain(7..=9);
            items.insert(7, WatchItem::Compacted { at: moment(), compact_revision });
            items.insert(8, WatchItem::Resumed { at: moment(), revision: compact_revision + 1 });
        },
        None,
    );
}

#[test]
fn two_watchers_that_were_sent_different_things_are_seen() {
    let (_, kv) = kv_history(3, Shape { clients: 4, ops: 120, keys: 3, unknown: 10 });
    let (one, mut other) = (watcher(items(&kv)), watcher(items(&kv)));
    other.items.remove(9);
    let verdict = check(&KvHistory::default(), &[one, other]);
    assert!(verdict.violations.iter().any(|violation| violation.what.contains("was never sent key")));
}
