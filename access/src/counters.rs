//! What the node counts: shakes by outcome, opens by result code.
//!
//! Invariant: every shake that was answered is counted once, under the outcome it was answered
//! with; every open likewise, `opened` or the code of its refusal.
//!
//! Not here: rates and histories; whoever scrapes derives those.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;

use crate::desk::Shaken;

/// The live counters.
#[derive(Debug, Default)]
pub struct Counters {
    packet: AtomicU64,
    page: AtomicU64,
    nothing: AtomicU64,
    throttled: AtomicU64,
    closed: AtomicU64,
    spoiled: AtomicU64,
    history_rejected: AtomicU64,
    unauthorized: AtomicU64,
    /// By code. A lock: opens cost a network round trip each, so it is never contended.
    opens: Mutex<BTreeMap<&'static str, u64>>,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CounterReadings {
    /// Shakes by outcome: `packet`, `page`, `nothing`, `throttled`, `closed`.
    pub shakes: BTreeMap<&'static str, u64>,
    /// Opens by result: `opened`, or the code of the refusal.
    pub opens: BTreeMap<&'static str, u64>,
    /// Records that left and could not be given to anybody.
    pub spoiled: u64,
    /// Histories that did not verify.
    pub history_rejected: u64,
    /// Calls without a valid session token.
    pub unauthorized: u64,
}

impl Counters {
    /// Counts an answered shake.
    pub fn shaken(&self, shaken: &Shaken) {
        let counter = match shaken {
            Shaken::Packet { .. } => &self.packet,
            Shaken::Page(_) => &self.page,
            Shaken::Nothing => &self.nothing,
            Shaken::Throttled { .. } => &self.throttled,
            Shaken::Closed { .. } => &self.closed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an open by its result.
    pub fn opened(&self, code: &'static str) {
        *self.opens.lock().entry(code).or_default() += 1;
    }

    /// Counts a record that was skipped.
    pub fn spoiled(&self) {
        self.spoiled.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a history that did not verify.
    pub fn history_rejected(&self) {
        self.history_rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a call without a valid token.
    pub fn unauthorized(&self) {
        self.unauthorized.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn read(&self) -> CounterReadings {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CounterReadings {
            shakes: BTreeMap::from([
                ("packet", get(&self.packet)),
                ("page", get(&self.page)),
                ("nothing", get(&self.nothing)),
                ("throttled", get(&self.throttled)),
                ("closed", get(&self.closed)),
            ]),
            opens: self.opens.lock().clone(),
            spoiled: get(&self.spoiled),
            history_rejected: get(&self.history_rejected),
            unauthorized: get(&self.unauthorized),
        }
    }
}
