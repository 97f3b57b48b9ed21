//! What users' devices suffer: they fail, and what they send arrives twice.
//!
//! Invariant: at rest it changes nothing, and draws nothing.
//!
//! Not here: what a device does and forgets (crowd.rs).

use std::sync::atomic::{AtomicU32, Ordering};

use rand::RngExt;
use tokio::sync::watch;
use world::rng::Stream;

/// What happens to the users' devices, and to what they send; set while the crowd is at work.
#[derive(Debug)]
pub struct Trouble {
    crashes: watch::Sender<u32>,
    twice_percent: AtomicU32,
}

impl Default for Trouble {
    fn default() -> Trouble {
        Trouble { crashes: watch::Sender::new(0), twice_percent: AtomicU32::new(0) }
    }
}

impl Trouble {
    /// Lets this share of the devices that are in use fail, now.
    pub fn crash(&self, percent: u32) {
        self.crashes.send_replace(percent);
    }

    /// Lets this share of the requests arrive twice from now on.
    pub fn send_twice(&self, percent: u32) {
        self.twice_percent.store(percent, Ordering::Relaxed);
    }

    /// Whether one more request is to arrive twice. Draws only when some are.
    pub fn is_sent_twice(&self, chance: &mut Stream) -> bool {
        let percent = self.twice_percent.load(Ordering::Relaxed);
        percent > 0 && chance.random_range(0..100) < percent
    }

    /// The luck of one device.
    #[must_use]
    pub fn luck(&self, chance: Stream) -> Luck {
        Luck { crashes: self.crashes.subscribe(), chance }
    }
}

/// Whether the device in use is among those that fail.
pub struct Luck {
    crashes: watch::Receiver<u32>,
    chance: Stream,
}

impl Luck {
    /// Resolves when the device fails.
    pub async fn runs_out(&mut self) {
        while self.crashes.changed().await.is_ok() {
            let percent = *self.crashes.borrow_and_update();
            if self.chance.random_range(0..100) < percent {
                return;
            }
        }
        // Nobody is there any more who could let it fail.
        std::future::pending().await
    }
}
