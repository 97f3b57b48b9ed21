//! A host's clocks: simulated time, with the host's own error on the wall clock.
//!
//! Invariant: the uptime is right on every host (timers are tokio's and keep simulated time); only
//! the wall clock errs, by an offset, a drift and jumps, as operating systems' clocks do.
//!
//! Not here: drifting timers. What depends on a timer's length is exercised by delays instead.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use world::{Clock, UnixMs};

use super::time::{self, EPOCH_MS};

#[derive(Clone, Copy, Debug, Default)]
struct Error {
    offset_ms: i64,
    drift_ppm: i64,
    drift_from_ms: i64,
}

impl Error {
    fn at(self, elapsed_ms: i64) -> i64 {
        self.offset_ms + (elapsed_ms - self.drift_from_ms) * self.drift_ppm / 1_000_000
    }
}

/// The clocks of one host. Clones are the same clocks.
#[derive(Clone, Debug, Default)]
pub struct SimClock {
    error: Arc<Mutex<Error>>,
}

impl SimClock {
    /// Moves the wall clock by `by_ms`, at once.
    pub fn jump(&self, by_ms: i64) {
        self.error.lock().offset_ms += by_ms;
    }

    /// Lets the wall clock run fast (or slow) by so many millionths from now on.
    pub fn drift(&self, ppm: i64) {
        let now_ms = elapsed_ms();
        let mut error = self.error.lock();
        *error = Error { offset_ms: error.at(now_ms), drift_ppm: ppm, drift_from_ms: now_ms };
    }

    /// Sets the wall clock right, as a time server would.
    pub fn set_right(&self) {
        *self.error.lock() = Error::default();
    }

    /// How wrong the wall clock is now.
    #[must_use]
    pub fn error_ms(&self) -> i64 {
        self.error.lock().at(elapsed_ms())
    }
}

/// Inside a host turmoil knows the time within the step; outside, the driver's does.
fn elapsed() -> Duration {
    turmoil::sim_elapsed().or_else(time::elapsed).unwrap_or_default()
}

fn elapsed_ms() -> i64 {
    i64::try_from(elapsed().as_millis()).unwrap_or(i64::MAX)
}

impl Clock for SimClock {
    fn now(&self) -> UnixMs {
        let elapsed_ms = elapsed_ms();
        let right = i64::try_from(EPOCH_MS).unwrap_or(i64::MAX).saturating_add(elapsed_ms);
        let shown = right.saturating_add(self.error.lock().at(elapsed_ms));
        UnixMs(u64::try_from(shown).unwrap_or(0))
    }

    fn uptime(&self) -> Duration {
        elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_errs_by_offset_and_drift_and_the_uptime_does_not() {
        time::enter(1);
        let clock = SimClock::default();
        clock.jump(-250);
        time::advance(Duration::from_secs(10));
        clock.drift(10_000);
        time::advance(Duration::from_secs(20));
        assert_eq!(clock.now(), UnixMs(EPOCH_MS + 20_000 - 250 + 100));
        clock.drift(0);
        time::advance(Duration::from_secs(30));
        assert_eq!(clock.error_ms(), -150);
        assert_eq!(clock.uptime(), Duration::from_secs(30));
        clock.set_right();
        assert_eq!(clock.now(), UnixMs(EPOCH_MS + 30_000));
        time::leave();
    }
}
