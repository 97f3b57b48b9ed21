//! Each rule broken once, and made histories: the valid are accepted, the spoilt are found.

use super::*;
use crate::history::{Moments, Outcome};
use crate::oracle::testing::{Shape, kv_history, spoil_a_read};

fn put(value: &str, revision: i64) -> (KvCall, Outcome<KvReply>) {
    let call = KvCall::Put { key: "k".to_owned(), value: value.to_owned() };
    (call, Outcome::Done(KvReply::Put { revision }))
}

fn lost(value: &str) -> (KvCall, Outcome<KvReply>) {
    (put(value, 0).0, Outcome::Unknown)
}

fn removed(revision: i64) -> (KvCall, Outcome<KvReply>) {
    (KvCall::Delete { key: "k".to_owned() }, Outcome::Done(KvReply::Delete { revision, deleted: true }))
}

/// A read at `revision`: value, creation, modification, version.
fn get(revision: i64, pair: Option<(&str, i64, i64, i64)>) -> (KvCall, Outcome<KvReply>) {
    let pair = pair.map(|(value, create_revision, mod_revision, version)| Pair {
        value: value.to_owned(),
        create_revision,
        mod_revision,
        version,
    });
    (KvCall::Get { key: "k".to_owned() }, Outcome::Done(KvReply::Get { revision, pair }))
}

fn check_ops(ops: Vec<(KvCall, Outcome<KvReply>)>, expected: Option<&str>) {
    let (mut moments, mut history) = (Moments::default(), KvHistory::default());
    for (call, outcome) in ops {
        let id = history.invoke(moments.next(0), 1, None, call);
        history.finish(moments.next(0), id, outcome);
    }
    let verdict = check(&history, None);
    let said = verdict.violations.first().map(|violation| violation.what.as_str());
    assert!(
        said.is_some() == expected.is_some()
            && said.unwrap_or_default().contains(expected.unwrap_or_default()),
        "{said:?} where {expected:?} was expected"
    );
}

#[test]
fn a_life_of_a_key_is_accepted() {
    let ops = vec![
        get(0, None),
        put("x", 1),
        get(1, Some(("x", 1, 1, 1))),
        lost("y"),
        get(2, Some(("y", 1, 2, 2))),
        removed(3),
        get(3, None),
        put("z", 4),
        get(5, Some(("z", 4, 4, 1))),
    ];
    check_ops(ops, None);
}

#[test]
fn a_revision_that_goes_back_in_time_is_seen() {
    check_ops(vec![put("x", 2), get(1, None)], Some("was told revision 1 though"));
    check_ops(vec![put("x", 2), put("y", 1)], Some("was told revision 1 though"));
}

#[test]
fn two_writes_of_one_revision_are_seen() {
    check_ops(vec![put("x", 2), put("y", 2)], Some("was told revision 2 though"));
    let (mut moments, mut history) = (Moments::default(), KvHistory::default());
    let ids: Vec<_> =
        ["x", "y"].map(|value| history.invoke(moments.next(0), 1, None, put(value, 2).0)).to_vec();
    for id in ids {
        history.finish(moments.next(0), id, Outcome::Done(KvReply::Put { revision: 2 }));
    }
    let verdict = check(&history, None);
    assert!(verdict.detail.contains("two writes were told revision 2"), "{}", verdict.detail);
}

#[test]
fn a_stale_read_is_seen() {
    check_ops(
        vec![put("x", 1), put("y", 2), get(2, Some(("x", 1, 1, 1)))],
        Some("shows x as of revision 1, though revision 2 wrote"),
    );
    check_ops(
        vec![put("x", 1), removed(2), get(2, Some(("x", 1, 1, 1)))],
        Some("though revision 2 wrote Removed"),
    );
    check_ops(vec![put("x", 1), get(1, None)], Some("which nobody removed"));
}

#[test]
fn a_read_of_the_future_or_of_another_value_is_seen() {
    check_ops(
        vec![put("x", 1), lost("y"), get(1, Some(("y", 1, 2, 2)))],
        Some("shows key k as of revision 2"),
    );
    check_ops(vec![put("x", 1), get(1, Some(("y", 1, 1, 1)))], Some("at which it is known to be"));
    check_ops(vec![put("x", 1), get(2, Some(("y", 1, 2, 2)))], Some("which nobody had written by then"));
}

#[test]
fn wrong_creations_and_versions_are_seen() {
    check_ops(vec![put("x", 1), get(1, Some(("x", 1, 1, 2)))], Some("has creation 1 and version 2"));
    check_ops(
        vec![put("x", 1), get(1, Some(("x", 1, 1, 1))), put("y", 2), get(2, Some(("y", 1, 2, 3)))],
        None, // an unknown write may have been in between
    );
    check_ops(
        vec![
            put("x", 1),
            get(1, Some(("x", 1, 1, 1))),
            put("y", 2),
            put("z", 3),
            get(3, Some(("z", 1, 3, 2))),
        ],
        Some("goes from version 1"),
    );
    check_ops(
        vec![
            put("x", 1),
            get(1, Some(("x", 1, 1, 1))),
            removed(2),
            put("y", 3),
            get(3, Some(("y", 1, 3, 2))),
        ],
        Some("keeps creation 1"),
    );
    check_ops(
        vec![put("x", 1), get(1, Some(("x", 1, 1, 1))), get(1, Some(("x", 1, 1, 4)))],
        Some("and with others before"),
    );
}

#[test]
fn the_scan_at_the_end_counts_as_a_read() {
    let (mut moments, mut history) = (Moments::default(), KvHistory::default());
    let (call, outcome) = put("x", 5);
    let id = history.invoke(moments.next(0), 1, None, call);
    history.finish(moments.next(0), id, outcome);
    let pair = Pair { value: "w".to_owned(), create_revision: 4, mod_revision: 4, version: 1 };
    let verdict = check(&history, Some(&KvContents::from([("k".to_owned(), pair)])));
    assert!(verdict.detail.contains("shows w as of revision 4, though revision 5"), "{}", verdict.detail);
}

#[test]
fn made_histories_are_accepted() {
    for seed in 0..300 {
        let (history, kv) = kv_history(seed, Shape { clients: 8, ops: 300, keys: 4, unknown: 15 });
        let verdict = check(&history, Some(&kv.pairs));
        assert!(verdict.held, "seed {seed}: {}", verdict.detail);
    }
}

#[test]
fn spoilt_reads_are_found() {
    let (mut spoilt, mut found) = (0, 0);
    for seed in 0..300 {
        let (history, _) = kv_history(seed, Shape { clients: 4, ops: 80, keys: 3, unknown: 10 });
        let Some(bad) = spoil_a_read(&history, seed) else { continue };
        spoilt += 1;
        found += u32::from(check(&bad, None).violation_count > 0);
    }
    println!("of {spoilt} spoilt histories, {found} were found");
    assert!(found * 100 >= spoilt * 95, "{found} of {spoilt} were found");
}
