//! How many of each kind of ball are among those drawn: the hypergeometric distribution.
//!
//! Files are filled by lot without moving a single record: from an urn with `successes` balls of
//! one batch among `population`, `draws` balls go to this file. Libraries' samplers are known to
//! loop or to be wrong for large urns, so this one is plain inversion from the mode: the weights
//! left and right of the mode follow from each other by one multiplication and division,
//! ```text
//!   w(k+1) / w(k) = (K-k)(n-k) / ((k+1)(N-K-n+k+1))
//! ```
//! are summed until they no longer count, and the drawn point is then searched in the same order.
//! The cost is some twenty standard deviations (a thousand steps for a million packets, a million
//! for 10^12); no logarithm or factorial is needed, so results are the same on every machine.
//!
//! Invariant: a draw lies in the support, whatever rounding did: counts never go below zero or
//! above what is there. Probabilities are exact but for float rounding, which grows with the number
//! of steps: below 1e-12 for a million packets, below 1e-8 at the limit.
//!
//! Not here: splitting in proportion. It would be cheaper for large urns, but would send a sponsor's
//! few packets always to the same files.

use world::rng::Stream;

use super::chance::unit;
use super::limits::PACKETS_MAX;

/// A weight this far below that of the mode no longer counts.
const NEGLIGIBLE: f64 = 1.0 / (1u64 << 60) as f64;

/// One urn.
#[derive(Clone, Copy)]
struct Urn {
    population: u64,
    successes: u64,
    draws: u64,
}

impl Urn {
    fn least(self) -> u64 {
        (self.draws + self.successes).saturating_sub(self.population)
    }

    fn most(self) -> u64 {
        self.draws.min(self.successes)
    }

    /// The likeliest number of successes.
    fn mode(self) -> u64 {
        let product = u128::from(self.draws + 1) * u128::from(self.successes + 1);
        let mode = product / u128::from(self.population + 2);
        let mode = u64::try_from(mode).expect("the mode is at most the number of draws");
        mode.clamp(self.least(), self.most())
    }

    /// w(k+1) / w(k); zero at the end of the support.
    fn up(self, k: u64) -> f64 {
        let failures_after = self.population + k + 1 - self.successes - self.draws;
        ((self.successes - k) as f64 * (self.draws - k) as f64) / ((k + 1) as f64 * failures_after as f64)
    }

    /// w(k-1) / w(k); zero at the start of the support.
    fn down(self, k: u64) -> f64 {
        let failures = self.population + k - self.successes - self.draws;
        (k as f64 * failures as f64) / ((self.successes - k + 1) as f64 * (self.draws - k + 1) as f64)
    }

    /// Visits the support from the mode outward with each weight (the mode's is 1), until nothing
    /// that counts is left or `visit` says to stop.
    fn walk(self, mut visit: impl FnMut(u64, f64) -> bool) {
        let mode = self.mode();
        if !visit(mode, 1.0) {
            return;
        }
        let (mut high, mut high_weight) = (mode, 1.0);
        let (mut low, mut low_weight) = (mode, 1.0);
        loop {
            high_weight = if high < self.most() { high_weight * self.up(high) } else { 0.0 };
            low_weight = if low > self.least() { low_weight * self.down(low) } else { 0.0 };
            if high_weight < NEGLIGIBLE && low_weight < NEGLIGIBLE {
                return;
            }
            if high_weight > 0.0 {
                high += 1;
                if !visit(high, high_weight) {
                    return;
                }
            }
            if low_weight > 0.0 {
                low -= 1;
                if !visit(low, low_weight) {
                    return;
                }
            }
        }
    }
}

/// How many of `draws` balls are among the `successes` special ones of an urn of `population`.
pub(crate) fn draw(rng: &mut Stream, population: u64, successes: u64, draws: u64) -> u64 {
    assert!(population <= PACKETS_MAX, "an urn of {population} balls");
    assert!(successes <= population && draws <= population, "{successes} or {draws} of {population}");
    let urn = Urn { population, successes, draws };
    let (least, most) = (urn.least(), urn.most());
    if least == most {
        return least;
    }
    let mut sum = 0.0;
    urn.walk(|_, weight| {
        sum += weight;
        true
    });
    let mut left = unit(rng) * sum;
    let mut drawn = urn.mode();
    urn.walk(|k, weight| {
        drawn = k;
        left -= weight;
        left >= 0.0
    });
    assert!((least..=most).contains(&drawn), "{drawn} of {least}..={most}");
    drawn
}

/// Deals `draws` balls from an urn with `counts[i]` balls of colour i; the number of each colour
/// among them goes to `drawn`.
pub(crate) fn deal(rng: &mut Stream, counts: &[u64], draws: u64, drawn: &mut Vec<u64>) {
    let mut population: u64 = counts.iter().sum();
    let mut left = draws;
    assert!(draws <= population, "{draws} draws from {population} balls");
    drawn.clear();
    for count in counts {
        let taken = draw(rng, population, *count, left);
        drawn.push(taken);
        population -= count;
        left -= taken;
    }
    assert!(left == 0, "{left} balls were not dealt");
}

#[cfg(test)]
mod tests {
    use super::super::chance;
    use super::*;
    use proptest::prelude::*;
    use world::rng::Seed;

    /// Draws really, by shuffling an urn.
    fn by_hand(rng: &mut Stream, population: u32, successes: u32, draws: usize) -> u64 {
        let mut balls: Vec<u32> = (0..population).collect();
        chance::shuffle(rng, &mut balls);
        balls[..draws].iter().filter(|ball| **ball < successes).count() as u64
    }

    /// Compares two samples by chi-square over pooled cells.
    fn check(population: u32, successes: u32, draws: u32) {
        let mut rng = Seed::from_number(11).stream(u64::from(population));
        let cells = draws.min(successes) as usize + 1;
        let (mut ours, mut theirs) = (vec![0f64; cells], vec![0f64; cells]);
        for _ in 0..20_000 {
            ours[draw(&mut rng, population.into(), successes.into(), draws.into()) as usize] += 1.0;
            theirs[by_hand(&mut rng, population, successes, draws as usize) as usize] += 1.0;
        }
        let (mut chi_square, mut degrees) = (0.0, -1.0);
        let (mut a, mut b) = (0.0, 0.0);
        for (our, their) in ours.iter().zip(&theirs) {
            (a, b) = (a + our, b + their);
            if a + b >= 20.0 {
                chi_square += (a - b) * (a - b) / (a + b);
                degrees += 1.0;
                (a, b) = (0.0, 0.0);
            }
        }
        // Wilson and Hilferty's approximation of the 0.01 % point.
        let spread: f64 = 2.0 / (9.0 * f64::max(degrees, 1.0));
        let limit = f64::max(degrees, 1.0) * (1.0 - spread + 3.72 * spread.sqrt()).powi(3);
        assert!(chi_square < limit, "{population} {successes} {draws}: {chi_square} of {limit}");
    }

    #[test]
    fn small_urns_agree_with_drawing_by_hand() {
        for (population, successes, draws) in
            [(2, 1, 1), (10, 3, 5), (10, 9, 9), (50, 25, 10), (60, 2, 30), (200, 150, 90)]
        {
            check(population, successes, draws);
        }
    }

    /// Compares mean and variance with the formulas.
    fn check_moments(population: u64, trials: u32, tolerance: f64) {
        let (successes, draws) = (population / 3, population / 2);
        let mut rng = Seed::from_number(12).stream(population);
        let drawn: Vec<f64> =
            (0..trials).map(|_| draw(&mut rng, population, successes, draws) as f64).collect();
        let mean = drawn.iter().sum::<f64>() / f64::from(trials);
        let variance = drawn.iter().map(|k| (k - mean).powi(2)).sum::<f64>() / f64::from(trials);
        let (n, k, d) = (population as f64, successes as f64, draws as f64);
        let (true_mean, true_variance) = (d * k / n, d * (k / n) * (1.0 - k / n) * (n - d) / (n - 1.0));
        let error = (true_variance / f64::from(trials)).sqrt();
        assert!((mean - true_mean).abs() < 5.0 * error, "{population}: mean {mean}, not {true_mean}");
        assert!(
            (variance / true_variance - 1.0).abs() < tolerance,
            "{population}: {variance}, not {true_variance}"
        );
    }

    #[test]
    fn large_urns_have_the_right_mean_and_variance() {
        check_moments(1 << 20, 2000, 0.16);
        check_moments(1 << 34, 60, 0.9);
    }

    proptest! {
        #[test]
        fn a_deal_takes_what_is_there_and_no_more(
            counts in proptest::collection::vec(0u64..5000, 1..20), part in 0.0f64..=1.0, seed: u64,
        ) {
            let population: u64 = counts.iter().sum();
            let draws = (population as f64 * part) as u64;
            let mut rng = Seed::from_number(seed).stream(0);
            let mut drawn = Vec::new();
            deal(&mut rng, &counts, draws, &mut drawn);
            prop_assert_eq!(drawn.iter().sum::<u64>(), draws);
            prop_assert!(drawn.iter().zip(&counts).all(|(taken, count)| taken <= count));
        }
    }
}
