//! The clock of a replicated group, read off that of whoever leads it.
//!
//! ```text
//!   wall clock                 /|        set right
//!                             / |
//!   group's clock   ---------/  '.........    half as fast, until the wall clock has caught up
//!                                 '''
//! ```
//! Leaders' clocks differ, and one may have been wrong by hours. What falls due by the group's clock
//! (a message's delay) must not wait for hours because an earlier leader was ahead.
//!
//! Invariant: readings never run backwards and never stand still: two readings are at least half as
//! far apart as the time between them. They are the wall clock's whenever that is not behind.
//!
//! Not here: agreement. Every member reads off its own; what counts is what the leader writes into the
//! log, which is the floor of everybody's readings.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, UnixMs};

/// How many times slower than time itself the group's clock runs while it is ahead.
const SLOWER: u32 = 2;

#[derive(Debug, Default)]
struct Reading {
    /// Since the Unix epoch. Finer than what is told, so that frequent readings lose nothing.
    time: Duration,
    uptime: Duration,
}

/// One member's view of its group's clock.
pub struct Pace {
    clock: Arc<dyn Clock>,
    last: Mutex<Reading>,
}

impl Pace {
    /// A pace over this member's clock.
    pub fn new(clock: Arc<dyn Clock>) -> Pace {
        Pace { clock, last: Mutex::default() }
    }

    /// The group's clock, not before `floor`: the latest reading that stands in the log.
    #[must_use]
    pub fn now(&self, floor: UnixMs) -> UnixMs {
        let mut last = self.last.lock();
        let uptime = self.clock.uptime();
        let passed = uptime.saturating_sub(last.uptime);
        let paced = last.time.saturating_add(passed / SLOWER);
        let wall = Duration::from_millis(self.clock.now().0);
        let time = if wall < last.time { paced } else { wall }.max(Duration::from_millis(floor.0));
        assert!(last.time <= time, "a group's clock never runs backwards");
        *last = Reading { time, uptime };
        UnixMs(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Wall clock and uptime, each set by hand.
    #[derive(Default)]
    struct Hands {
        wall_ms: AtomicU64,
        uptime_us: AtomicU64,
    }

    impl Clock for Hands {
        fn now(&self) -> UnixMs {
            UnixMs(self.wall_ms.load(Ordering::SeqCst))
        }

        fn uptime(&self) -> Duration {
            Duration::from_micros(self.uptime_us.load(Ordering::SeqCst))
        }
    }

    impl Hands {
        fn set(&self, wall_ms: u64, uptime_ms: u64) {
            self.wall_ms.store(wall_ms, Ordering::SeqCst);
            self.uptime_us.store(uptime_ms * 1000, Ordering::SeqCst);
        }
    }

    fn at(wall_ms: u64) -> (Arc<Hands>, Pace) {
        let hands = Arc::new(Hands::default());
        hands.set(wall_ms, 0);
        (Arc::clone(&hands), Pace::new(hands))
    }

    #[test]
    fn a_clock_that_is_right_is_followed() {
        let (hands, pace) = at(1_000);
        assert_eq!(pace.now(UnixMs(0)), UnixMs(1_000));
        hands.set(1_700, 700);
        assert_eq!(pace.now(UnixMs(1_000)), UnixMs(1_700));
        // Ahead of time by a leap: the wall clock is believed.
        hands.set(9_000, 701);
        assert_eq!(pace.now(UnixMs(1_700)), UnixMs(9_000));
    }

    #[test]
    fn a_clock_that_was_ahead_is_waited_for_without_standing_still() {
        let (hands, pace) = at(600_000);
        assert_eq!(pace.now(UnixMs(0)), UnixMs(600_000));
        // Set right, ten minutes back.
        hands.set(100, 100);
        assert_eq!(pace.now(UnixMs(0)), UnixMs(600_050));
        hands.set(1_000, 1_000);
        assert_eq!(pace.now(UnixMs(0)), UnixMs(600_500));
        // Twenty minutes after it was set right they agree again, and stay so.
        hands.set(1_200_000, 1_200_000);
        assert_eq!(pace.now(UnixMs(0)), UnixMs(1_200_000));
        hands.set(1_200_500, 1_200_500);
        assert_eq!(pace.now(UnixMs(0)), UnixMs(1_200_500));
    }

    #[test]
    fn what_an_earlier_leader_wrote_is_not_undercut_and_not_stuck_at() {
        let (hands, pace) = at(5_000);
        assert_eq!(pace.now(UnixMs(900_000)), UnixMs(900_000));
        hands.set(7_000, 2_000);
        assert_eq!(pace.now(UnixMs(900_000)), UnixMs(901_000));
    }

    #[test]
    fn frequent_readings_lose_nothing() {
        let (hands, pace) = at(0);
        let _ = pace.now(UnixMs(10_000));
        for us in (0..=1_000_000).step_by(100) {
            hands.uptime_us.store(us, Ordering::SeqCst);
            let _ = pace.now(UnixMs(10_000));
        }
        assert_eq!(pace.now(UnixMs(0)), UnixMs(10_500));
    }

    #[test]
    fn the_end_of_time_is_not_passed() {
        let (hands, pace) = at(0);
        assert_eq!(pace.now(UnixMs(u64::MAX)), UnixMs(u64::MAX));
        hands.set(0, 1_000);
        assert_eq!(pace.now(UnixMs(0)), UnixMs(u64::MAX));
    }
}
