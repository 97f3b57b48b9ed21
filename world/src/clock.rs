//! Time as a value that is handed in.
//!
//! Two readings: the wall clock (slots begin by it; people read it) and a monotonic one (delays
//! and rates are measured by it). Timers are tokio's: a simulator pauses and steps those.
//!
//! Invariant: no correctness argument of this project rests on two hosts' wall clocks agreeing;
//! a wall clock that is wrong may cost service, never money.
//!
//! Not here: calendars and time zones (the plan parses those, the command line prints them).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// This instant moved later; stops at the end of time rather than wrapping.
    #[must_use]
    pub fn plus(self, delay: Duration) -> UnixMs {
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        UnixMs(self.0.saturating_add(delay_ms))
    }

    /// How long after `earlier` this is; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: UnixMs) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

/// The door through which time enters.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. May jump in either direction.
    fn now(&self) -> UnixMs;

    /// Time since some fixed moment of this process; never runs backwards.
    fn uptime(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: std::time::Instant,
}

impl SystemClock {
    /// A clock whose uptime starts at zero now.
    #[must_use]
    #[allow(clippy::disallowed_methods)] // This is the door.
    pub fn new() -> SystemClock {
        SystemClock { started: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // This is the door.
    fn now(&self) -> UnixMs {
        let since_epoch =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        UnixMs(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// A clock that moves only when told to. For tests of pure cores.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_ms: AtomicU64,
}

impl ManualClock {
    /// A clock standing at `now`.
    #[must_use]
    pub fn at(now: UnixMs) -> ManualClock {
        ManualClock { now_ms: AtomicU64::new(now.0) }
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.now_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixMs {
        UnixMs(self.now_ms.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.now_ms.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_never_wraps() {
        assert_eq!(UnixMs(u64::MAX).plus(Duration::from_secs(1)), UnixMs(u64::MAX));
        assert_eq!(UnixMs(5).since(UnixMs(9)), Duration::ZERO);
        assert_eq!(UnixMs(9).since(UnixMs(5)), Duration::from_millis(4));
    }

    #[test]
    fn the_manual_clock_moves_only_when_told() {
        let clock = ManualClock::at(UnixMs(10));
        assert_eq!(clock.now(), UnixMs(10));
        clock.advance(Duration::from_millis(7));
        assert_eq!(clock.now(), UnixMs(17));
        assert_eq!(clock.uptime(), Duration::from_millis(17));
    }
}
