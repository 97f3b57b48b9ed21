//! The queue's own counts conserve, and agree with what producers were told.
//!
//! Evidence: counts read at moments of the run, each of one moment per partition, and the contents at
//! the end.
//!
//! Invariant: ready + in flight + delayed + dead + acked + purged = accepted, at each moment; what was
//! accepted, acked or purged stays so.
//!
//! Limits: it judges numbers; `queue_delivery` follows single messages.

use std::collections::BTreeSet;

use super::{Findings, Verdict};
use crate::history::Moment;
use crate::history::queue::{Counts, QueueCall, QueueContents, QueueHistory, QueueReply};

/// Judges the counts, in order of time.
#[must_use]
pub fn check(readings: &[(Moment, Counts)], history: &QueueHistory, contents: &QueueContents) -> Verdict {
    let mut findings = Findings::new("QC", "the queue's counts conserve");
    let mut before = Counts::default();
    for (at, now) in readings {
        sum(*at, now, &mut findings);
        for (name, was, is) in [
            ("accepted", before.accepted, now.accepted),
            ("acked", before.acked, now.acked),
            ("purged", before.purged, now.purged),
        ] {
            findings.must(was <= is, Some(*at), || format!("{name} messages fell from {was} to {is}"));
        }
        before = *now;
    }
    let (mut sure, mut possible): (BTreeSet<&str>, BTreeSet<&str>) = (BTreeSet::new(), BTreeSet::new());
    for op in history.ops().iter().filter(|op| op.may_have_happened()) {
        if let QueueCall::Enqueue { dedup_id, .. } = &op.call {
            possible.insert(dedup_id);
            if matches!(op.reply(), Some(QueueReply::Accepted | QueueReply::Duplicate { .. })) {
                sure.insert(dedup_id);
            }
        }
    }
    if let Some((at, last)) = readings.last().filter(|_| !possible.is_empty()) {
        let (least, most) = (sure.len() as u64, possible.len() as u64);
        findings.must((least..=most).contains(&last.accepted), Some(*at), || {
            format!(
                "{} messages accepted at the end; producers sent {most} and were told of {least}",
                last.accepted
            )
        });
        let (live, dead) = (contents.live.len() as u64, contents.dead.len() as u64);
        let counted = last.ready + last.in_flight + last.delayed;
        findings.must(counted == live && last.dead == dead, Some(*at), || {
            format!("{counted} live and {} dead messages counted, {live} and {dead} found", last.dead)
        });
    }
    let moments = readings.len();
    findings.verdict(|_| format!("the counts add up at {moments} moments"))
}

fn sum(at: Moment, now: &Counts, findings: &mut Findings) {
    let Counts { ready, in_flight, delayed, dead, acked, purged, accepted } = *now;
    let parts = ready + in_flight + delayed + dead + acked + purged;
    findings.must(parts == accepted, Some(at), || {
        format!(
            "{ready} ready + {in_flight} in flight + {delayed} delayed + {dead} dead + {acked} acked + {purged} purged = {parts}, and {accepted} were accepted"
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Moments, Outcome};

    fn check_counts(counts: &[Counts], live: usize, expected: &[&str]) {
        let (mut moments, mut history) = (Moments::default(), QueueHistory::default());
        for (id, outcome) in [("m", Outcome::Done(QueueReply::Accepted)), ("n", Outcome::Unknown)] {
            let text = |text: &str| text.to_owned();
            let call =
                QueueCall::Enqueue { key: text("k"), dedup_id: text(id), body: text("b"), delay_ms: 0 };
            let id = history.invoke(moments.next(0), 1, None, call);
            history.finish(moments.next(0), id, outcome);
        }
        let readings: Vec<(Moment, Counts)> =
            counts.iter().map(|counts| (moments.next(1), *counts)).collect();
        let contents = QueueContents { live: vec!["m".to_owned(); live], ..QueueContents::default() };
        let verdict = check(&readings, &history, &contents);
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    const ONE: Counts =
        Counts { ready: 1, in_flight: 0, delayed: 0, dead: 0, acked: 0, purged: 0, accepted: 1 };

    #[test]
    fn messages_that_move_along_are_accepted() {
        let two = Counts { ready: 0, in_flight: 1, acked: 1, accepted: 2, ..ONE };
        check_counts(&[ONE, two], 1, &[]);
    }

    #[test]
    fn a_message_that_vanished_from_the_counts_is_seen() {
        check_counts(
            &[Counts { ready: 0, ..ONE }, Counts { ready: 0, acked: 1, ..ONE }],
            0,
            &["0 ready + 0 in flight + 0 delayed + 0 dead + 0 acked + 0 purged = 0, and 1 were accepted"],
        );
    }

    #[test]
    fn an_ack_that_is_taken_back_is_seen() {
        check_counts(&[Counts { ready: 0, acked: 1, ..ONE }, ONE], 1, &["acked messages fell from 1 to 0"]);
    }

    #[test]
    fn more_or_fewer_messages_than_were_sent_are_seen() {
        check_counts(
            &[Counts { ready: 3, accepted: 3, ..ONE }],
            3,
            &["3 messages accepted at the end; producers sent 2 and were told of 1"],
        );
        check_counts(
            &[Counts::default()],
            0,
            &["0 messages accepted at the end; producers sent 2 and were told of 1"],
        );
    }

    #[test]
    fn counts_that_are_not_what_is_found_are_seen() {
        check_counts(&[ONE], 0, &["1 live and 0 dead messages counted, 0 and 0 found"]);
    }
}
