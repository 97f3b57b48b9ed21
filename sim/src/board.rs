//! What the hosts of a run and its driver tell each other: phases, and what clients lived through.
//!
//! ```text
//!   driver: healed -------------------> operator, clients
//!   operator: event is active --------> crowd          operator: go home --> crowd, clients
//!   crowd: memory --------------------> operator       clients: histories
//!   operator: closing evidence -------> driver
//! ```
//! Invariant: nothing that a server sees goes through here; servers are reached over the network.
//!
//! Not here: judging (oracles).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use deploy::demo::crowd::Memory;
use parking_lot::Mutex;
use ticket::control::EventRecord;
use ticket::id::{FileNo, KeyId, PacketId, SlotNo};
use world::NodeId;

use crate::fabric::time;
use crate::history::access::Issue;
use crate::history::ingest::{IngestContents, IngestFile};
use crate::history::kv::{KvContents, KvHistory, Watcher};
use crate::history::operator::OperatorHistory;
use crate::history::queue::{Counts, QueueContents, QueueHistory};
use crate::history::{Moment, Moments};
use crate::host::operator::Closing;
use crate::mischief::Mischief;
use crate::oracle::i2_claims::ControlWrite;
use crate::oracle::i5_balance::Reading;
use crate::oracle::i8_leases::LeaseLife;
use crate::oracle::i10_convergence::Probe;

/// See the module.
#[derive(Default)]
pub struct Board {
    healed: AtomicBool,
    go_home: AtomicBool,
    operations: AtomicU64,
    /// The event, once it is active.
    pub event: Mutex<Option<EventRecord>>,
    /// What the crowd remembers, once it has gone home.
    pub memory: Mutex<Option<Memory>>,
    /// What the operator found at the end.
    pub closing: Mutex<Option<Closing>>,
    /// Operations on the control group, and what is in it at the end.
    pub kv: Mutex<(KvHistory, Option<KvContents>)>,
    /// Operations of etcd's clients, and what is there at the end.
    pub etcd: Mutex<(KvHistory, Option<KvContents>)>,
    /// What watchers of etcd's API were sent.
    pub watchers: Mutex<Vec<Watcher>>,
    /// Leases, as their holders saw them.
    pub leases: Mutex<Vec<LeaseLife>>,
    /// Whether each zone serves when everything works again.
    pub probes: Mutex<Vec<Probe>>,
    /// Sorted files that were ingested, and what is there of them at the end.
    pub ingests: Mutex<(Vec<IngestFile>, Option<IngestContents>)>,
    /// Operations on the queue, and what is in it at the end.
    pub queue: Mutex<(QueueHistory, Option<QueueContents>)>,
    /// What the queue said of itself, in order of time.
    pub readings: Mutex<Vec<(Moment, Counts)>>,
    /// Every record that left a node.
    pub issues: Mutex<Vec<Issue>>,
    /// Which incarnation of its disk a node said it was when it took this boot epoch.
    pub boots: Mutex<BTreeMap<(NodeId, u64), String>>,
    /// Every write to claims and zones, by revision.
    pub control: Mutex<Vec<(i64, ControlWrite)>>,
    /// The accounts of all batches, in order of time.
    pub accounts: Mutex<Vec<Reading>>,
    /// Packets that an insider made up.
    pub made_up: Mutex<BTreeSet<PacketId>>,
    /// A data key that was revoked before anything under it could be opened.
    pub revoked: Mutex<BTreeSet<KeyId>>,
    /// Commands of people.
    pub operator: Mutex<OperatorHistory>,
    /// What happens to those outside of the zones.
    pub mischief: Mischief,
    /// Copies of ticket files that were damaged before their node took them up.
    pub ticket_files_damaged: Mutex<BTreeSet<(NodeId, SlotNo, FileNo)>>,
    effects: Mutex<BTreeMap<String, u64>>,
    waiting: Mutex<String>,
    moments: Mutex<Moments>,
}

impl Board {
    /// An empty board.
    #[must_use]
    pub fn new() -> Arc<Board> {
        Arc::new(Board::default())
    }

    /// The faults are over.
    pub fn heal(&self) {
        self.healed.store(true, Ordering::SeqCst);
    }

    /// Whether the faults are over.
    #[must_use]
    pub fn healed(&self) -> bool {
        self.healed.load(Ordering::SeqCst)
    }

    /// Sends crowd and clients home.
    pub fn send_home(&self) {
        self.go_home.store(true, Ordering::SeqCst);
    }

    /// Whether crowd and clients are to go home.
    #[must_use]
    pub fn going_home(&self) -> bool {
        self.go_home.load(Ordering::SeqCst)
    }

    /// Notes what the run waits for; said when it waits too long.
    pub fn wait_for(&self, what: &str) {
        tracing::info!(target: "sim::board", "waiting for {what}");
        what.clone_into(&mut self.waiting.lock());
    }

    /// What the run waits for.
    #[must_use]
    pub fn waiting_for(&self) -> String {
        self.waiting.lock().clone()
    }

    /// The next moment of the run. Counts as half an operation.
    pub fn moment(&self) -> Moment {
        self.operations.fetch_add(1, Ordering::Relaxed);
        self.moments.lock().next(time::elapsed_ms())
    }

    /// A fault had this effect once more, where it was aimed at.
    pub fn happened(&self, effect: &str) {
        self.count(effect, 1);
    }

    /// The same, so many times.
    pub fn count(&self, effect: &str, times: u64) {
        if times > 0 {
            *self.effects.lock().entry(effect.to_owned()).or_default() += times;
        }
    }

    /// Something grew to this; the most is kept.
    pub fn grew_to(&self, effect: &str, size: u64) {
        if size > 0 {
            let mut effects = self.effects.lock();
            let most = effects.entry(effect.to_owned()).or_default();
            *most = size.max(*most);
        }
    }

    /// What faults came to, by name.
    #[must_use]
    pub fn effects(&self) -> BTreeMap<String, u64> {
        self.effects.lock().clone()
    }

    /// Operations that were recorded.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed) / 2
    }
}
