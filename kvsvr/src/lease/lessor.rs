//! Deadlines of leases, as the leader of one term sees them. Pure: state, event and now in, verdict
//! out.
//!
//! ```text
//!   lead(term) -> every lease: now + its time + extension
//!   granted, renewed -> now + its time
//!   due(now) -> those whose deadline has passed; from then on they are *ending* and cannot be
//!               renewed, for the entry that ends them may be on its way
//! ```
//! Invariant: nothing is due before its deadline, and a deadline never moves closer in one term.
//!
//! Not here: which leases there are; the log says that. A lease the lessor has not heard of gets
//! its whole time when it first does, which is late but never early.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::{LEASE_EXPIRY_RETRY, LEASE_EXTENSION};
use crate::machine::control::lease::Lease;

/// Milliseconds since the node started.
pub(super) type Ms = u64;

/// A term of leadership of this node.
pub(super) type Term = u64;

#[derive(Clone, Copy, Debug)]
struct Deadline {
    grant: u64,
    ttl_s: i64,
    at: Ms,
    // Due: proposed to end, and when to propose it again.
    ending: Option<Ms>,
}

/// What became of a wish to keep a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// It has its whole time again.
    Renewed,
    /// Its time is up; it is about to end. Ask again once the log has decided.
    Ending,
    /// This term is not the one whose deadlines are here.
    OtherTerm,
}

/// The deadlines of one term.
#[derive(Debug, Default)]
pub(super) struct Lessor {
    term: Option<Term>,
    // The last grant it has been told of.
    seen: u64,
    leases: BTreeMap<i64, Deadline>,
    queue: BTreeSet<(Ms, i64)>,
}

impl Lessor {
    /// The term whose deadlines are here; `None` while this node does not lead.
    pub(super) fn term(&self) -> Option<Term> {
        self.term
    }

    /// The last grant this lessor has been told of.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Begins a term with all leases in force, given everything up to grant `seen`. Nothing happens
    /// when this or a later term has begun already.
    pub(super) fn lead(&mut self, term: Term, leases: &[(i64, Lease)], seen: u64, now: Ms) {
        if self.term >= Some(term) {
            return;
        }
        *self = Lessor { term: Some(term), ..Lessor::default() };
        self.granted(leases, seen, now.saturating_add(LEASE_EXTENSION.as_millis() as Ms));
    }

    /// Lets go of deadlines once a later term is known to have begun: this one cannot come back.
    pub(super) fn retire(&mut self, current: Term) {
        if self.term < Some(current) {
            self.leases.clear();
            self.queue.clear();
        }
    }

    /// Learns of leases, given everything up to grant `seen`.
    pub(super) fn granted(&mut self, leases: &[(i64, Lease)], seen: u64, now: Ms) {
        for (id, lease) in leases {
            let known = self.leases.get(id).is_some_and(|known| known.grant >= lease.grant);
            if !known {
                self.set(*id, *lease, now);
            }
        }
        self.seen = self.seen.max(seen);
    }

    fn set(&mut self, id: i64, lease: Lease, now: Ms) {
        assert!(lease.ttl_s > 0, "a lease has time");
        let at = now.saturating_add((lease.ttl_s as Ms).saturating_mul(1_000));
        let deadline = Deadline { grant: lease.grant, ttl_s: lease.ttl_s, at, ending: None };
        if let Some(old) = self.leases.insert(id, deadline) {
            self.queue.remove(&(old.ending.unwrap_or(old.at), id));
        }
        self.queue.insert((at, id));
    }

    /// Gives a lease that is in force its whole time again.
    pub(super) fn renew(&mut self, term: Term, id: i64, lease: Lease, now: Ms) -> Renewal {
        if self.term != Some(term) {
            return Renewal::OtherTerm;
        }
        match self.leases.get(&id) {
            Some(known) if known.grant == lease.grant && known.at <= now => Renewal::Ending,
            _ => {
                self.set(id, lease, now);
                Renewal::Renewed
            }
        }
    }

    /// Milliseconds until a lease that is in force is due; its whole time when it is not known yet.
    pub(super) fn remaining(&self, id: i64, lease: Lease, now: Ms) -> Ms {
        match self.leases.get(&id) {
            Some(known) if known.grant == lease.grant => known.at.saturating_sub(now),
            _ => (lease.ttl_s as Ms).saturating_mul(1_000),
        }
    }

    /// Leases whose time is up, the longest overdue first, at most `max`, with their grants. They
    /// are told again after a while unless they are forgotten.
    pub(super) fn due(&mut self, now: Ms, max: usize) -> Vec<(i64, u64)> {
        let mut due = Vec::new();
        while due.len() < max {
            let Some((at, id)) = self.queue.first().copied().filter(|(at, _)| *at <= now) else { break };
            self.queue.remove(&(at, id));
            let deadline = self.leases.get_mut(&id).expect("what is queued is known");
            assert!(deadline.at <= now, "lease {id:x} is due before its deadline");
            let again = now.saturating_add(LEASE_EXPIRY_RETRY.as_millis() as Ms);
            deadline.ending = Some(again);
            self.queue.insert((again, id));
            due.push((id, deadline.grant));
        }
        due
    }

    /// Forgets a grant that has ended.
    pub(super) fn forget(&mut self, id: i64, grant: u64) {
        let Some(known) = self.leases.get(&id).copied() else { return };
        if known.grant <= grant {
            self.leases.remove(&id);
            self.queue.remove(&(known.ending.unwrap_or(known.at), id));
        }
    }

    /// How many leases it keeps, and the seconds they were granted in all.
    pub(super) fn size(&self) -> (usize, i64) {
        assert!(self.leases.len() == self.queue.len(), "every lease is queued once");
        (self.leases.len(), self.leases.values().fold(0, |sum, lease| sum.saturating_add(lease.ttl_s)))
    }
}
