//! The queue: every acknowledged message is delivered and in the end settled, once, in the order of
//! its key; whoever lost a lease settles nothing.
//!
//! Evidence: the histories of producers and consumers, and the queue's contents at the end.
//!
//! ```text
//!   delivered   what was enqueued, as it was enqueued, not before it was, not after it was acked
//!   dedup       one id is accepted once
//!   fenced      an ack under a lease is not accepted once another consumer holds the message
//!   in order    of one key, a message is delivered only when those accepted before it are settled
//!   bounded     deliveries of a message are at most the limit
//! ```
//! Invariant: the order of two messages is judged only where it is certain: one enqueue was over
//! before the other began.
//!
//! Limits: two leases of one message at the same time are no violation (a new leader redelivers what
//! the old one had given out); messages an operator redrove or purged are not followed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Findings, Verdict};
use crate::history::queue::{Delivery, QueueCall, QueueContents, QueueHistory, QueueOp, QueueReply};

/// Judges the history. `attempts_max`: deliveries after which a message is buried. `drained`: the
/// consumers went on until nothing was left.
#[must_use]
pub fn check(history: &QueueHistory, contents: &QueueContents, attempts_max: u32, drained: bool) -> Verdict {
    let mut findings = Findings::new("QD", "messages are delivered, settled once, and in order");
    let ledger = Ledger::of(history);
    ledger.accepted_once(&mut findings);
    ledger.delivered_as_enqueued(attempts_max, &mut findings);
    ledger.settled_once_and_fenced(&mut findings);
    ledger.in_order(contents, &mut findings);
    if drained {
        findings.must(contents.live.is_empty(), None, || {
            let first = contents.live.first().map_or("", String::as_str);
            format!("{} messages were never settled, {first} is one of them", contents.live.len())
        });
    }
    let (messages, deliveries) = (ledger.enqueues.len(), ledger.receipts.len());
    findings
        .verdict(|_| format!("{messages} messages, {deliveries} deliveries, each settled once and in order"))
}

/// A message in somebody's hands.
struct Held<'a> {
    lease: &'a QueueOp,
    delivery: &'a Delivery,
}

struct Ledger<'a> {
    /// By dedup id, the enqueues that may have happened.
    enqueues: BTreeMap<&'a str, Vec<&'a QueueOp>>,
    receipts: BTreeMap<&'a str, Held<'a>>,
    /// By dedup id, in order of the lease's return.
    deliveries: BTreeMap<&'a str, Vec<Held<'a>>>,
    /// Acks that may have happened, by dedup id.
    acks: BTreeMap<&'a str, Vec<(&'a str, &'a QueueOp)>>,
    strangers: Vec<(&'a str, &'a QueueOp)>,
}

impl<'a> Ledger<'a> {
    fn of(history: &'a QueueHistory) -> Ledger<'a> {
        let mut ledger = Ledger {
            enqueues: BTreeMap::new(),
            receipts: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            acks: BTreeMap::new(),
            strangers: Vec::new(),
        };
        let mut leases: Vec<&QueueOp> = Vec::new();
        for op in history.ops().iter().filter(|op| op.may_have_happened()) {
            if let QueueCall::Enqueue { dedup_id, .. } = &op.call {
                ledger.enqueues.entry(dedup_id).or_default().push(op);
            }
            if let Some(QueueReply::Leased(_)) = op.reply() {
                leases.push(op);
            }
        }
        leases.sort_by_key(|op| op.over());
        for lease in leases {
            let Some(QueueReply::Leased(deliveries)) = lease.reply() else { continue };
            for delivery in deliveries {
                ledger.receipts.insert(&delivery.receipt, Held { lease, delivery });
                ledger.deliveries.entry(&delivery.dedup_id).or_default().push(Held { lease, delivery });
            }
        }
        for op in history.ops().iter().filter(|op| op.may_have_happened()) {
            let QueueCall::Ack { receipt } = &op.call else { continue };
            match ledger.receipts.get(receipt.as_str()) {
                Some(held) => {
                    ledger.acks.entry(&held.delivery.dedup_id).or_default().push((receipt, op));
                }
                None => ledger.strangers.push((receipt, op)),
            }
        }
        ledger
    }

    fn accepted_once(&self, findings: &mut Findings) {
        for (dedup_id, enqueues) in &self.enqueues {
            let accepted = || enqueues.iter().filter(|op| op.reply() == Some(&QueueReply::Accepted));
            findings.must(accepted().count() <= 1, None, || {
                format!("message {dedup_id} was accepted {} times", accepted().count())
            });
            for op in enqueues {
                let Some(QueueReply::Duplicate { body }) = op.reply() else { continue };
                // The client repeats an enqueue that was not answered: it may be a duplicate of itself.
                let carried = |body: &String| {
                    enqueues
                        .iter()
                        .any(|op| matches!(&op.call, QueueCall::Enqueue { body: own, .. } if own == body))
                };
                findings.must(body.as_ref().is_none_or(carried), op.returned, || {
                    format!("a duplicate of message {dedup_id} was shown a body nobody had sent")
                });
            }
        }
    }

    fn delivered_as_enqueued(&self, attempts_max: u32, findings: &mut Findings) {
        for held in self.deliveries.values().flatten() {
            let Delivery { dedup_id, key, body, attempts, .. } = held.delivery;
            let at = held.lease.returned;
            let same = |op: &&QueueOp| {
                op.invoked.number < held.lease.over()
                    && matches!(&op.call, QueueCall::Enqueue { key: k, body: b, .. } if k == key && b == body)
            };
            let sent = self.enqueues.get(dedup_id.as_str()).is_some_and(|enqueues| enqueues.iter().any(same));
            findings.must(sent, at, || {
                format!("message {dedup_id} was delivered with key {key} and body {body:?}, which nobody had enqueued by then")
            });
            findings.must((1..=attempts_max).contains(attempts), at, || {
                format!(
                    "message {dedup_id} was delivered for the {attempts}th time; {attempts_max} are allowed"
                )
            });
            let acks = self.acks.get(dedup_id.as_str()).map_or(&[][..], Vec::as_slice);
            // A leader that was deposed and does not know it yet may deliver once more what was acked
            // elsewhere; its leases settle nothing.
            let deposed = |receipt: &str| held.delivery.tenure < self.receipts[receipt].delivery.tenure;
            let acked = acks
                .iter()
                .find(|(receipt, ack)| settled(ack) && ack.precedes(held.lease) && !deposed(receipt));
            findings
                .must(acked.is_none(), at, || format!("message {dedup_id} was delivered after it was acked"));
        }
    }

    fn settled_once_and_fenced(&self, findings: &mut Findings) {
        for (receipt, op) in &self.strangers {
            findings.must(!settled(op), op.returned, || {
                format!("an ack under receipt {receipt} was accepted, which nobody was given")
            });
        }
        for (dedup_id, acks) in &self.acks {
            let done: BTreeSet<&str> =
                acks.iter().filter(|(_, op)| settled(op)).map(|(receipt, _)| *receipt).collect();
            findings.must(done.len() <= 1, None, || {
                format!("message {dedup_id} was acked under {} leases", done.len())
            });
            for (receipt, ack) in acks.iter().filter(|(_, op)| settled(op)) {
                let held = &self.receipts[receipt];
                // Asking again under the receipt that settled the message is answered in the same way.
                let first =
                    acks.iter().filter(|(own, _)| own == receipt).map(|(_, op)| op.invoked.number).min();
                let later = self.deliveries[dedup_id].iter().find(|other| {
                    other.delivery.receipt != **receipt
                        && held.lease.precedes(other.lease)
                        && held.delivery.tenure <= other.delivery.tenure
                        && Some(other.lease.over()) < first
                });
                findings.must(later.is_none(), ack.returned, || {
                    let holder = later.map_or(0, |other| other.lease.client);
                    format!(
                        "client {} acked message {dedup_id} after its lease was over and client {holder} held the message",
                        ack.client
                    )
                });
            }
        }
    }

    /// When an enqueue was certainly accepted for the first time: its first acceptance is over, and no
    /// other enqueue of the id may have come later.
    fn certain(&self, dedup_id: &str) -> Option<&'a QueueOp> {
        let enqueues = self.enqueues.get(dedup_id)?;
        match enqueues.as_slice() {
            [only] if only.reply() == Some(&QueueReply::Accepted) => Some(only),
            _ => None,
        }
    }

    fn in_order(&self, contents: &QueueContents, findings: &mut Findings) {
        let dead: BTreeSet<&str> = contents.dead.iter().map(String::as_str).collect();
        let mut by_key: BTreeMap<&str, Vec<(&QueueOp, &str)>> = BTreeMap::new();
        for dedup_id in self.enqueues.keys().filter(|id| !dead.contains(**id)) {
            if let Some(op) = self.certain(dedup_id)
                && let QueueCall::Enqueue { key, .. } = &op.call
            {
                by_key.entry(key).or_default().push((op, dedup_id));
            }
        }
        for (key, mut messages) in by_key {
            messages.sort_by_key(|(op, _)| op.over());
            for (late, late_id) in &messages {
                let before: Vec<&str> =
                    messages.iter().take_while(|(op, _)| op.precedes(*late)).map(|(_, id)| *id).collect();
                for held in self.deliveries.get(late_id).into_iter().flatten() {
                    let open = before.iter().find(|id| !self.may_be_settled(id, held.lease));
                    findings.must(open.is_none(), held.lease.returned, || {
                        let open = open.map_or("", |id| *id);
                        format!(
                            "message {late_id} of key {key} was delivered before {open}, which came before it"
                        )
                    });
                }
            }
        }
    }

    /// Whether the message may have been settled when `lease` was answered.
    fn may_be_settled(&self, dedup_id: &str, lease: &QueueOp) -> bool {
        let acks = self.acks.get(dedup_id).map_or(&[][..], Vec::as_slice);
        acks.iter().any(|(_, ack)| ack.invoked.number < lease.over())
    }
}

fn settled(op: &QueueOp) -> bool {
    op.reply() == Some(&QueueReply::Settled)
}

#[cfg(test)]
#[path = "queue_delivery_test.rs"]
mod tests;
