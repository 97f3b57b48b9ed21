//! What clients of real processes asked and were told, as the simulator's oracles want it.
//!
//! Invariant: a moment is numbered while the list it goes into is locked, before a request leaves and after
//! its answer came; so the order of numbers is never stricter than that of real time. All times are of one
//! monotonic clock.
//!
//! Not here: judging (judge.rs).

use sim::history::kv::{KvCall, KvContents, KvHistory, KvReply, WatchItem, Watcher};
use sim::history::{Moment, Moments, OpId, Outcome};
use sim::oracle::i8_leases::LeaseLife;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use world::Clock;
use world::clock::SystemClock;

/// One group's clients and watchers.
#[derive(Default)]
pub struct Side {
    /// What clients did.
    pub history: Mutex<KvHistory>,
    /// What watchers were sent.
    pub watchers: Mutex<Vec<Watcher>>,
    /// What was there at the end.
    pub scan: Mutex<Option<KvContents>>,
    /// Revision of the last write of all, once there is one: watchers go home when they have it.
    pub last: AtomicI64,
}

/// Everything that was recorded.
pub struct Record {
    clock: SystemClock,
    moments: Mutex<Moments>,
    home: AtomicBool,
    /// The keys of etcd's clients.
    pub etcd: Side,
    /// The cluster's own keys.
    pub native: Side,
    /// Leases that were granted.
    pub leases: Mutex<Vec<LeaseLife>>,
    /// What was done to the zones, and how often.
    pub faults: Mutex<BTreeMap<&'static str, u32>>,
}

impl Record {
    /// Nothing yet.
    pub fn new() -> Record {
        Record {
            clock: SystemClock::new(),
            moments: Mutex::default(),
            home: AtomicBool::new(false),
            etcd: Side::default(),
            native: Side::default(),
            leases: Mutex::default(),
            faults: Mutex::default(),
        }
    }

    /// Milliseconds since the start, rounded down: for when something began.
    pub fn began_ms(&self) -> u64 {
        u64::try_from(self.clock.uptime().as_millis()).expect("a test is short")
    }

    /// The same rounded up: for when something was over.
    pub fn over_ms(&self) -> u64 {
        self.began_ms() + 1
    }

    /// The next moment.
    pub fn moment(&self) -> Moment {
        let mut moments = self.moments.lock().expect("nobody panicked");
        moments.next(self.began_ms())
    }

    /// Sends everybody home.
    pub fn go_home(&self) {
        self.home.store(true, Ordering::SeqCst);
    }

    /// Whether everybody was sent home.
    pub fn going_home(&self) -> bool {
        self.home.load(Ordering::SeqCst)
    }

    /// Before a call leaves.
    pub fn invoke(&self, side: &Side, client: u32, call: KvCall) -> OpId {
        let mut history = side.history.lock().expect("nobody panicked");
        history.invoke(self.moment(), client, None, call)
    }

    /// When its outcome is certain.
    pub fn finish(&self, side: &Side, id: OpId, outcome: Outcome<KvReply>) {
        let mut history = side.history.lock().expect("nobody panicked");
        history.finish(self.moment(), id, outcome);
    }

    /// What a watcher was sent; the item is made when its moment is known.
    pub fn watched(&self, side: &Side, watcher: usize, item: impl FnOnce(Moment) -> WatchItem) {
        let mut watchers = side.watchers.lock().expect("nobody panicked");
        watchers[watcher].items.push(item(self.moment()));
    }

    /// A new watcher; answers its place.
    pub fn new_watcher(&self, side: &Side, prefix: &str, with_before: bool) -> usize {
        let mut watchers = side.watchers.lock().expect("nobody panicked");
        let place = watchers.len();
        watchers.push(Watcher {
            name: format!("w{place}"),
            prefix: prefix.to_owned(),
            from_revision: 1,
            with_before,
            items: Vec::new(),
        });
        place
    }

    /// Something was done to the zones.
    pub fn fault(&self, what: &'static str) {
        *self.faults.lock().expect("nobody panicked").entry(what).or_default() += 1;
    }
}
