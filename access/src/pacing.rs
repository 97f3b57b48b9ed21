//! How fast packets leave: the release curve of a slot and the quota of a node, as arithmetic.
//!
//! ```text
//!   released
//!      all |            ________     the plan's weights shape the curve, `finish` says by when
//!          |        ___/             everything is out, `factor` bends it live, and the quota
//!     half |    ___/                 caps its slope
//!          |___/
//!        0 +------------|------|---- time in the slot
//!        start              finish  end
//! ```
//! The quota is the generic cell rate algorithm: one number, the time at which the bucket would be
//! level again, moves forward by the emission interval with every packet.
//!
//! Invariant: what is released never exceeds the file's count and never shrinks while the clock
//! and the rules stand; a quota of `n` lets at most `n` packets and one burst through per second.
//!
//! Not here: who may shake (see `shake`), and where the numbers are kept (see `desk`).

use world::UnixMs;

/// How much of a second's quota may leave at once, as a divisor of the second.
const BURST_DIVISOR: u64 = 10;
/// Nanoseconds of a second.
const SECOND_NS: u64 = 1_000_000_000;
/// Resolution of the curve.
const MILLION: u64 = 1_000_000;

/// How one slot releases its files.
#[derive(Clone, Copy, Debug)]
pub struct Pace<'a> {
    /// Issuing starts.
    pub start: UnixMs,
    /// Issuing ends; later than the start.
    pub end: UnixMs,
    /// Weights of equal parts of the curve. Empty, or all zero, is evenly.
    pub curve: &'a [u32],
    /// The share of the slot's time in which the curve runs, 1..=1000.
    pub finish_permille: u32,
    /// Multiplies the curve: 1000 is as planned, 0 stops issuing.
    pub factor_permille: u32,
}

impl Pace<'_> {
    /// How many of a file's `count` records may have left by `now`.
    ///
    /// Rounded up, so that a file of one record is not held back until the curve's end.
    #[must_use]
    pub fn released(&self, count: u32, now: UnixMs) -> u32 {
        assert!(self.start < self.end, "a slot without time");
        if now < self.start {
            return 0;
        }
        let factored = u128::from(self.curve_ppm(now)) * u128::from(self.factor_permille) / 1_000;
        let share_ppm = factored.min(u128::from(MILLION));
        let records = (share_ppm * u128::from(count)).div_ceil(u128::from(MILLION));
        let released = u32::try_from(records).expect("a share of at most one of a u32 fits a u32");
        assert!(released <= count, "the curve released {released} of {count}");
        released
    }

    fn curve_ppm(&self, now: UnixMs) -> u64 {
        assert!(self.start <= now, "the curve begins with the slot");
        let span_ms = u128::from(self.end.0 - self.start.0) * u128::from(self.finish_permille) / 1_000;
        let elapsed_ms = u128::from(now.0 - self.start.0);
        if span_ms <= elapsed_ms {
            return MILLION;
        }
        let along_ppm = elapsed_ms * u128::from(MILLION) / span_ms;
        let total: u128 = self.curve.iter().map(|weight| u128::from(*weight)).sum();
        let ppm = if total == 0 { along_ppm } else { weighted_ppm(self.curve, total, along_ppm) };
        u64::try_from(ppm).expect("a share is at most a million parts")
    }
}

/// The weights of the parts already past, and of the current one in proportion.
fn weighted_ppm(curve: &[u32], total: u128, along_ppm: u128) -> u128 {
    let million = u128::from(MILLION);
    let scaled = along_ppm * curve.len() as u128;
    let part = usize::try_from(scaled / million).expect("an index of a list");
    assert!(part < curve.len(), "a curve that is over still runs");
    let past: u128 = curve[..part].iter().map(|weight| u128::from(*weight)).sum();
    (past * million + u128::from(curve[part]) * (scaled % million)) / total
}

/// Takes one packet from the quota. `level_at_ns` is the state; the answer is its new value, or
/// nothing when the quota is used up for now. Times count from any fixed moment.
#[must_use]
pub fn admit(level_at_ns: u64, now_ns: u64, quota_per_s: u32) -> Option<u64> {
    if quota_per_s == 0 {
        return None;
    }
    let from_ns = level_at_ns.max(now_ns);
    if SECOND_NS / BURST_DIVISOR < from_ns - now_ns {
        return None;
    }
    from_ns.checked_add(SECOND_NS / u64::from(quota_per_s))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn even() -> Pace<'static> {
        Pace {
            start: UnixMs(1_000),
            end: UnixMs(11_000),
            curve: &[],
            finish_permille: 1_000,
            factor_permille: 1_000,
        }
    }

    #[test]
    fn an_even_curve_releases_in_proportion() {
        let check = |now: u64, want: u32| assert_eq!(even().released(100, UnixMs(now)), want, "at {now}");
        check(0, 0);
        check(999, 0);
        check(1_000, 0);
        check(1_001, 1);
        check(6_000, 50);
        check(11_000, 100);
        check(u64::MAX, 100);
    }

    #[test]
    fn a_slot_can_be_done_before_it_ends() {
        let pace = Pace { finish_permille: 900, ..even() };
        assert_eq!(pace.released(1_000, UnixMs(10_000)), 1_000);
        assert!(pace.released(1_000, UnixMs(9_900)) < 1_000);
    }

    #[test]
    fn weights_shape_the_curve() {
        let pace = Pace { curve: &[3, 0, 1], ..even() };
        let check = |share: u64, want: u32| {
            assert_eq!(pace.released(400, UnixMs(1_000 + share)), want, "after {share} ms");
        };
        check(1_667, 151);
        check(3_400, 300);
        check(6_600, 300);
        check(8_334, 351);
        check(10_000, 400);
    }

    #[test]
    fn the_factor_bends_the_curve_and_zero_stops_it() {
        let at_half = |factor_permille| Pace { factor_permille, ..even() }.released(1_000, UnixMs(6_000));
        assert_eq!(at_half(0), 0);
        assert_eq!(at_half(500), 250);
        assert_eq!(at_half(1_000), 500);
        assert_eq!(at_half(10_000), 1_000);
    }

    #[test]
    fn a_quota_of_none_admits_none() {
        assert_eq!(admit(0, 5, 0), None);
    }

    proptest! {
        #[test]
        fn a_release_never_shrinks_and_never_exceeds_the_file(
            count in any::<u32>(), span in 1u64..10_000_000, a in 0u64..10_000_000, b in 0u64..10_000_000,
            curve in proptest::collection::vec(0u32..100, 0..8), finish_permille in 1u32..=1_000,
            factor_permille in 0u32..5_000,
        ) {
            let pace = Pace { start: UnixMs(7), end: UnixMs(7 + span), curve: &curve, finish_permille, factor_permille };
            prop_assert!(pace.released(count, UnixMs(a.min(b))) <= pace.released(count, UnixMs(a.max(b))));
            prop_assert!(pace.released(count, UnixMs(a)) <= count);
        }

        #[test]
        fn at_the_factor_of_the_plan_everything_is_out_by_the_end(
            count in any::<u32>(), span in 1u64..10_000_000, curve in proptest::collection::vec(0u32..100, 0..8),
            finish_permille in 1u32..=1_000,
        ) {
            let pace =
                Pace { start: UnixMs(7), end: UnixMs(7 + span), curve: &curve, finish_permille, factor_permille: 1_000 };
            prop_assert_eq!(pace.released(count, UnixMs(7 + span)), count);
        }

        #[test]
        fn a_quota_lets_no_more_through_than_its_rate_and_one_burst(
            quota in 1u32..20_000, steps in proptest::collection::vec(0u64..2_000_000, 1..2_000),
        ) {
            let (mut level, mut now, mut admitted) = (0, 0, 0u64);
            for step in steps {
                now += step;
                if let Some(next) = admit(level, now, quota) {
                    level = next;
                    admitted += 1;
                }
            }
            let earned = u128::from(now) * u128::from(quota) / u128::from(SECOND_NS);
            let burst = u128::from(quota / 10) + 2;
            // Integer intervals are rounded down, so a rate that does not divide a second runs
            // fast by less than one part in (second / rate).
            prop_assert!(u128::from(admitted) <= earned * 10_001 / 10_000 + burst, "{admitted} > {earned} + {burst}");
        }
    }
}
