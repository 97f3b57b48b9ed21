//! I7: what was acknowledged is there at the end: writes of the KV and messages of the queue.
//!
//! Evidence: the histories of the clients against a scan of everything once all faults are over.
//!
//! ```text
//!   KV      of each key, the last acknowledged write: it, or a later one, is what the scan finds
//!   queue   each acknowledged message is live, dead, or somebody may have acknowledged it
//! ```
//! Invariant: only what may have happened excuses: a write that was refused explains nothing.
//!
//! Limits: an acknowledged write below the last acknowledged one of its key leaves no trace in the
//! scan; I8 sees it in reads. Purges and dead letters redriven by an operator are up to the caller.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Verdict};
use crate::history::kv::{KvContents, KvHistory, KvOp, Write};
use crate::history::queue::{QueueCall, QueueContents, QueueHistory, QueueReply};

/// Judges the final scans. A scan is `None` when the run had no such clients.
#[must_use]
pub fn check(
    kv: &KvHistory,
    pairs: Option<&KvContents>,
    queue: &QueueHistory,
    messages: Option<&QueueContents>,
) -> Verdict {
    let mut findings = Findings::new("I7", "what was acknowledged is there");
    if let Some(pairs) = pairs {
        writes(kv, pairs, &mut findings);
    }
    if let Some(messages) = messages {
        enqueues(queue, messages, &mut findings);
    }
    findings.verdict(|checked| format!("{checked} acknowledged writes and messages are there"))
}

fn key_of(write: &Write) -> &str {
    match write {
        Write::Put(key, _) | Write::Delete(key) => key,
    }
}

fn writes(kv: &KvHistory, pairs: &KvContents, findings: &mut Findings) {
    let mut last: BTreeMap<&str, (i64, &KvOp, Write)> = BTreeMap::new();
    let mut possible: BTreeMap<&str, Vec<(&KvOp, Write)>> = BTreeMap::new();
    let all: Vec<(&KvOp, Vec<Write>)> = kv.ops().iter().map(|op| (op, op.call.writes())).collect();
    for (op, writes) in &all {
        for write in writes {
            if let Some(reply) = op.reply().filter(|reply| reply.wrote(&op.call)) {
                let revision = reply.revision();
                let entry = last.entry(key_of(write)).or_insert((revision, op, write.clone()));
                if revision >= entry.0 {
                    *entry = (revision, op, write.clone());
                }
            }
            if op.may_have_happened() {
                possible.entry(key_of(write)).or_default().push((op, write.clone()));
            }
        }
    }
    for (key, (revision, op, write)) in last {
        let unknown =
            |wanted: &Write| possible[key].iter().any(|(op, write)| op.over() == u64::MAX && write == wanted);
        let found = pairs.get(key);
        let right = match (found, &write) {
            (Some(pair), Write::Put(_, value)) if pair.mod_revision == revision => pair.value == *value,
            (Some(pair), _) if pair.mod_revision > revision => {
                unknown(&Write::Put(key.to_owned(), pair.value.clone()))
            }
            (Some(_), _) => false,
            (None, Write::Delete(_)) => true,
            (None, Write::Put(..)) => unknown(&Write::Delete(key.to_owned())),
        };
        findings.must(right, op.returned, || {
            let found = found.map_or_else(
                || "is not there".to_owned(),
                |pair| format!("is {:?} of revision {}", pair.value, pair.mod_revision),
            );
            format!(
                "{write:?} was acknowledged to client {} at revision {revision}; at the end the key {found}",
                op.client
            )
        });
    }
}

fn enqueues(queue: &QueueHistory, messages: &QueueContents, findings: &mut Findings) {
    let kept: BTreeSet<&str> = messages.live.iter().chain(&messages.dead).map(String::as_str).collect();
    let mut leased: BTreeMap<&str, &str> = BTreeMap::new();
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    for op in queue.ops() {
        if let Some(QueueReply::Leased(deliveries)) = op.reply() {
            leased.extend(deliveries.iter().map(|one| (one.receipt.as_str(), one.dedup_id.as_str())));
        }
    }
    for op in queue.ops().iter().filter(|op| op.may_have_happened()) {
        if let QueueCall::Ack { receipt } = &op.call {
            settled.extend(leased.get(receipt.as_str()));
        }
    }
    for op in queue.ops() {
        let QueueCall::Enqueue { dedup_id, .. } = &op.call else { continue };
        if !matches!(op.reply(), Some(QueueReply::Accepted | QueueReply::Duplicate { .. })) {
            continue;
        }
        let there = kept.contains(dedup_id.as_str()) || settled.contains(dedup_id.as_str());
        findings.must(there, op.returned, || {
            format!("message {dedup_id} was acknowledged to client {}; at the end it is neither live nor dead, and nobody acked it", op.client)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::kv::{KvCall, KvReply, Pair};
    use crate::history::queue::Delivery;
    use crate::history::{Moments, Outcome};

    fn check_kv(ops: Vec<(KvCall, Outcome<KvReply>)>, found: Option<(&str, i64)>, expected: &[&str]) {
        let (mut moments, mut kv) = (Moments::default(), KvHistory::default());
        for (call, outcome) in ops {
            let id = kv.invoke(moments.next(0), 1, None, call);
            kv.finish(moments.next(0), id, outcome);
        }
        let pair = |(value, revision): (&str, i64)| Pair {
            value: value.to_owned(),
            create_revision: 1,
            mod_revision: revision,
            version: 1,
        };
        let pairs: KvContents = found.into_iter().map(|found| ("k".to_owned(), pair(found))).collect();
        said(&check(&kv, Some(&pairs), &QueueHistory::default(), None), expected);
    }

    fn said(verdict: &Verdict, expected: &[&str]) {
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    fn put(value: &str, revision: Option<i64>) -> (KvCall, Outcome<KvReply>) {
        let outcome = revision.map_or(Outcome::Unknown, |revision| Outcome::Done(KvReply::Put { revision }));
        (KvCall::Put { key: "k".to_owned(), value: value.to_owned() }, outcome)
    }

    fn delete(outcome: Outcome<KvReply>) -> (KvCall, Outcome<KvReply>) {
        (KvCall::Delete { key: "k".to_owned() }, outcome)
    }

    #[test]
    fn the_last_acknowledged_write_or_a_later_unknown_one_is_accepted() {
        check_kv(vec![put("x", Some(5)), put("y", Some(6))], Some(("y", 6)), &[]);
        check_kv(vec![put("x", Some(5)), put("y", None)], Some(("y", 6)), &[]);
        check_kv(vec![put("x", Some(5)), put("y", None)], Some(("x", 5)), &[]);
        check_kv(vec![put("x", Some(5)), delete(Outcome::Unknown)], None, &[]);
        let deleted = Outcome::Done(KvReply::Delete { revision: 6, deleted: true });
        check_kv(vec![put("x", Some(5)), delete(deleted)], None, &[]);
    }

    #[test]
    fn a_lost_write_is_seen() {
        check_kv(
            vec![put("x", Some(5)), put("y", Some(6))],
            Some(("x", 5)),
            &[
                "Put(\"k\", \"y\") was acknowledged to client 1 at revision 6; at the end the key is \"x\" of revision 5",
            ],
        );
        check_kv(
            vec![put("x", Some(5))],
            None,
            &[
                "Put(\"k\", \"x\") was acknowledged to client 1 at revision 5; at the end the key is not there",
            ],
        );
    }

    #[test]
    fn a_refused_write_excuses_nothing() {
        let refused = || Outcome::Refused("no".to_owned());
        check_kv(
            vec![put("x", Some(5)), delete(refused())],
            None,
            &[
                "Put(\"k\", \"x\") was acknowledged to client 1 at revision 5; at the end the key is not there",
            ],
        );
        let refused_put = (KvCall::Put { key: "k".to_owned(), value: "y".to_owned() }, refused());
        check_kv(
            vec![put("x", Some(5)), refused_put],
            Some(("y", 6)),
            &[
                "Put(\"k\", \"x\") was acknowledged to client 1 at revision 5; at the end the key is \"y\" of revision 6",
            ],
        );
    }

    #[test]
    fn an_acknowledged_write_excuses_nothing_but_itself() {
        check_kv(
            vec![put("x", Some(5))],
            Some(("x", 7)),
            &[
                "Put(\"k\", \"x\") was acknowledged to client 1 at revision 5; at the end the key is \"x\" of revision 7",
            ],
        );
        let deleted = Outcome::Done(KvReply::Delete { revision: 5, deleted: true });
        check_kv(
            vec![delete(deleted), put("x", Some(6))],
            None,
            &[
                "Put(\"k\", \"x\") was acknowledged to client 1 at revision 6; at the end the key is not there",
            ],
        );
    }

    #[test]
    fn a_deleted_key_that_is_back_is_seen() {
        let deleted = Outcome::Done(KvReply::Delete { revision: 6, deleted: true });
        check_kv(
            vec![put("x", Some(5)), delete(deleted)],
            Some(("x", 5)),
            &[
                "Delete(\"k\") was acknowledged to client 1 at revision 6; at the end the key is \"x\" of revision 5",
            ],
        );
    }

    fn check_queue(acked: Option<Outcome<QueueReply>>, live: &[&str], expected: &[&str]) {
        let (mut moments, mut queue) = (Moments::default(), QueueHistory::default());
        let mut run = |call, outcome| {
            let id = queue.invoke(moments.next(0), 1, None, call);
            queue.finish(moments.next(0), id, outcome);
        };
        let text = |text: &str| text.to_owned();
        let enqueue =
            QueueCall::Enqueue { key: text("k"), dedup_id: text("m"), body: text("b"), delay_ms: 0 };
        run(enqueue, Outcome::Done(QueueReply::Accepted));
        let delivery = Delivery {
            receipt: text("r"),
            key: text("k"),
            dedup_id: text("m"),
            body: text("b"),
            attempts: 1,
            tenure: 1,
        };
        run(QueueCall::Lease { most: 1, lease_ms: 9 }, Outcome::Done(QueueReply::Leased(vec![delivery])));
        if let Some(outcome) = acked {
            run(QueueCall::Ack { receipt: text("r") }, outcome);
        }
        let live = live.iter().map(|id| text(id)).collect();
        let contents = QueueContents { live, ..QueueContents::default() };
        said(&check(&KvHistory::default(), None, &queue, Some(&contents)), expected);
    }

    #[test]
    fn a_message_that_is_live_or_may_have_been_acked_is_accepted() {
        check_queue(None, &["m"], &[]);
        check_queue(Some(Outcome::Done(QueueReply::Settled)), &[], &[]);
        check_queue(Some(Outcome::Unknown), &[], &[]);
    }

    #[test]
    fn a_lost_message_is_seen_and_a_refused_ack_does_not_excuse_it() {
        let lost = "message m was acknowledged to client 1; at the end it is neither live nor dead, and nobody acked it";
        check_queue(None, &[], &[lost]);
        check_queue(Some(Outcome::Refused("the lease is no longer held".to_owned())), &[], &[lost]);
    }
}
