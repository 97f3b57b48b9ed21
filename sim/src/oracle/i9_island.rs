//! I9: an isolated zone acknowledges nothing that needs a quorum, and rejoins by itself.
//!
//! Evidence: the times a zone was cut off from every other zone, as the player carried them out, and
//! everything clients were told by nodes of that zone; who claimed what.
//!
//! ```text
//!   cut off  |------------------------------|  healed   |---- within ----| served again
//!                 asked and answered in here: a violation if a quorum is needed
//!   trouble  |--- of any kind, anywhere ---|            |---- within ----| asked, and never answered: a violation
//! ```
//! Invariant: an operation that began before the cut, or ended after it, is not judged: its quorum
//! may have answered outside of it.
//!
//! Limits: a lease of a queued message and a local shake need no quorum and may go on. A zone that
//! nobody asked is not shown to be silent, nor to have come back.

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

use super::{Findings, Verdict};
use crate::history::access::{AccessCall, AccessHistory};
use crate::history::kv::KvHistory;
use crate::history::queue::{QueueCall, QueueHistory};
use crate::history::{Moment, Op};

/// A time in which a zone could reach no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The zone.
    pub zone: ZoneId,
    /// From when on.
    pub from: Moment,
    /// Until when; `None` if the run ended first.
    pub to: Option<Moment>,
}

/// A time in which something was wrong with a node, a disk or a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// From when on.
    pub from: Moment,
    /// Until when; `None` if the run ended first.
    pub to: Option<Moment>,
}

/// What was wrong, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outages {
    /// Zones that were cut off.
    pub isolations: Vec<Isolation>,
    /// All times that were not calm, in order.
    pub troubles: Vec<Trouble>,
}

impl Outages {
    /// Whether nothing was wrong from so long before a request until its end.
    fn calm(&self, request: &Answer, rejoin_ms: u64) -> bool {
        self.troubles.iter().all(|trouble| {
            let over = trouble.to.is_some_and(|to| to.at_ms + rejoin_ms <= request.asked.at_ms);
            over || request.answered.number < trouble.from.number
        })
    }
}

/// Something a node answered that only a quorum can.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The node that was asked.
    pub node: NodeId,
    /// When it was asked.
    pub asked: Moment,
    /// When it had answered.
    pub answered: Moment,
    /// What was asked.
    pub what: String,
}

/// What nodes were asked that only a quorum can answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// Acknowledged.
    pub answered: Vec<Answer>,
    /// Refused, or given up by the client: then `answered` is when.
    pub unanswered: Vec<Answer>,
}

impl Requests {
    /// Everything in the histories that one node was asked and needs a quorum for.
    #[must_use]
    pub fn of(kv: &KvHistory, queue: &QueueHistory, access: &AccessHistory) -> Requests {
        let mut requests = Requests::default();
        for op in kv.ops() {
            requests.add(op, || format!("{:?}", op.call));
        }
        for op in queue.ops().iter().filter(|op| !matches!(op.call, QueueCall::Lease { .. })) {
            requests.add(op, || format!("{:?}", op.call));
        }
        for op in access.ops() {
            if let AccessCall::Open { user, .. } = &op.call {
                requests.add(op, || format!("an open of user {user}"));
            }
        }
        requests
    }

    fn add<C, R>(&mut self, op: &Op<C, R>, what: impl FnOnce() -> String) {
        let (Some(node), Some(returned)) = (op.asked, op.returned) else { return };
        let answer = Answer { node, asked: op.invoked, answered: returned, what: what() };
        match op.reply() {
            Some(_) => self.answered.push(answer),
            None => self.unanswered.push(answer),
        }
    }
}

/// Judges the answers. `rejoin_ms`: within which a healed zone must serve again, if it is asked.
#[must_use]
pub fn check(outages: &Outages, requests: &Requests, rejoin_ms: u64) -> Verdict {
    let isolations = &outages.isolations;
    let mut findings = Findings::new("I9", "an isolated zone acknowledges nothing, and rejoins");
    let mut silent = 0u64;
    for island in isolations {
        let end = island.to.map_or(u64::MAX, |to| to.number);
        let inside = |answer: &&Answer| {
            answer.node.zone() == island.zone
                && island.from.number < answer.asked.number
                && answer.answered.number < end
        };
        findings.checked();
        silent += requests.unanswered.iter().filter(inside).count() as u64;
        for answer in requests.answered.iter().filter(inside) {
            findings.violation(
                Some(answer.answered),
                format!(
                    "{} answered {} at {} ms, though zone {} was cut off from {} ms on",
                    answer.node, answer.what, answer.answered.at_ms, island.zone, island.from.at_ms
                ),
            );
        }
        if let Some(healed) = island.to {
            rejoined((island.zone, healed), outages, requests, rejoin_ms, &mut findings);
        }
    }
    let islands = isolations.len();
    findings.verdict(|_| {
        format!("{islands} times a zone was cut off; {silent} requests to it were not acknowledged")
    })
}

/// Whether the zone answers again: whoever asks it after `rejoin_ms`, and before it is cut off again
/// or the run is over, must be answered at least once. Who asks it while something else is wrong need not be.
fn rejoined(
    (zone, healed): (ZoneId, Moment),
    outages: &Outages,
    requests: &Requests,
    rejoin_ms: u64,
    findings: &mut Findings,
) {
    let again =
        outages.isolations.iter().filter(|other| other.zone == zone && healed.number < other.from.number);
    let until = again.map(|other| other.from.number).min().unwrap_or(u64::MAX);
    let later = |answer: &&Answer| {
        answer.node.zone() == zone
            && healed.at_ms + rejoin_ms <= answer.asked.at_ms
            && answer.answered.number < until
    };
    let served = requests.answered.iter().filter(later).count();
    let denied = requests.unanswered.iter().filter(later);
    let denied = denied.filter(|request| outages.calm(request, rejoin_ms)).count();
    findings.must(served > 0 || denied == 0, Some(healed), || {
        format!("zone {zone} was healed at {} ms and answered none of {denied} requests from {rejoin_ms} ms later on", healed.at_ms)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64) -> Moment {
        Moment { number, at_ms: number * 100 }
    }

    fn answer_of(node: &str, asked: u64, answered: u64) -> Answer {
        let node = node.parse().expect("a node");
        Answer { node, asked: at(asked), answered: at(answered), what: "a put".to_owned() }
    }

    fn check_all(answers: &[Answer], refused: &[Answer], expected: &[&str]) {
        let zone = "b".parse().expect("a zone");
        let island = Isolation { zone, from: at(10), to: Some(at(20)) };
        let requests = Requests { answered: answers.to_vec(), unanswered: refused.to_vec() };
        let span = |from, to| Trouble { from: at(from), to: Some(at(to)) };
        let outages = Outages { isolations: vec![island], troubles: vec![span(10, 20), span(50, 52)] };
        let verdict = check(&outages, &requests, 1_000);
        let said: Vec<&str> = verdict.violations.iter().map(|violation| violation.what.as_str()).collect();
        assert_eq!(said, expected);
        assert_eq!(verdict.held, expected.is_empty());
    }

    #[test]
    fn an_island_that_is_silent_and_comes_back_is_accepted() {
        check_all(
            &[answer_of("b1", 2, 5), answer_of("a1", 12, 13), answer_of("b1", 31, 32)],
            &[answer_of("b1", 12, 15), answer_of("b1", 21, 22)],
            &[],
        );
    }

    #[test]
    fn an_answer_from_an_island_is_seen() {
        check_all(
            &[answer_of("b1", 12, 15)],
            &[],
            &["b1 answered a put at 1500 ms, though zone b was cut off from 1000 ms on"],
        );
    }

    #[test]
    fn what_began_before_or_ended_after_the_cut_is_not_judged() {
        check_all(&[answer_of("b1", 8, 11), answer_of("b1", 19, 23)], &[], &[]);
    }

    #[test]
    fn a_zone_that_does_not_come_back_is_seen() {
        check_all(
            &[],
            &[answer_of("b1", 31, 35)],
            &["zone b was healed at 2000 ms and answered none of 1 requests from 1000 ms later on"],
        );
        // Something else was wrong: before, during, or too shortly before.
        check_all(&[], &[answer_of("b1", 49, 50), answer_of("b1", 51, 52), answer_of("b1", 61, 62)], &[]);
        let later = "zone b was healed at 2000 ms and answered none of 1 requests from 1000 ms later on";
        check_all(&[], &[answer_of("b1", 61, 62), answer_of("b1", 62, 63)], &[later]);
        // Nobody asked: nothing can be said.
        check_all(&[], &[], &[]);
    }
}
