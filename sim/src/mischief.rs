//! What happens to whoever is outside of the zones: users, producers and consumers, the bank.
//!
//! ```text
//!   nemesis --sets--> switches --read by--> crowd, apps, bank
//! ```
//! Invariant: at rest nothing here changes what anybody does; [`Mischief::end`] brings it to rest.
//!
//! Not here: when (nemesis.rs), and what nodes suffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deploy::demo::trouble::Trouble;
use tokio::sync::watch;

use crate::host::bank::Bank;

/// More of those who come of their own accord, until a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Burst {
    /// How many times as many.
    pub factor: u32,
    /// Simulated milliseconds since the start of the run.
    pub until_ms: u64,
}

/// See the module.
#[derive(Default)]
pub struct Mischief {
    /// The users' devices.
    pub devices: Arc<Trouble>,
    /// The recording clients' devices.
    pub apps: Arc<Trouble>,
    /// The payment back end.
    pub bank: Bank,
    bursts: watch::Sender<Burst>,
    consumers_stand_until_ms: AtomicU64,
}

impl Mischief {
    /// So many times as many come, until then.
    pub fn burst(&self, factor: u32, until_ms: u64) {
        self.bursts.send_replace(Burst { factor, until_ms });
    }

    /// Tells of bursts.
    #[must_use]
    pub fn bursts(&self) -> watch::Receiver<Burst> {
        self.bursts.subscribe()
    }

    /// Nobody consumes from the queue until then.
    pub fn stop_consumers(&self, until_ms: u64) {
        self.consumers_stand_until_ms.fetch_max(until_ms, Ordering::Relaxed);
    }

    /// Until when nobody consumes.
    #[must_use]
    pub fn consumers_stand_until_ms(&self) -> u64 {
        self.consumers_stand_until_ms.load(Ordering::Relaxed)
    }

    /// Everything outside is well from now on.
    pub fn end(&self) {
        self.devices.send_twice(0);
        self.apps.send_twice(0);
        self.bank.set_mood(None);
        self.bursts.send_replace(Burst::default());
        self.consumers_stand_until_ms.store(0, Ordering::Relaxed);
    }
}
