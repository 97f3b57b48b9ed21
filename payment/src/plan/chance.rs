//! Draws from a random stream whose results are fixed for ever.
//!
//! A build must give the same bytes on every machine and with every later version of every
//! library, or an audit could not repeat it. So nothing here uses a library's distributions
//! (they may change between releases) or the platform's logarithm (it differs in the last bit):
//! only the stream's words, integers, and the float operations that IEEE 754 fixes exactly.
//!
//! Invariant: the result is a function of the stream's words alone.
//!
//! Not here: where streams come from (`world::rng`).

use rand::Rng;
use world::rng::Stream;

/// 2 to the power of -53: the distance between the values of [`unit`].
const UNIT_STEP: f64 = 1.0 / 9_007_199_254_740_992.0;

/// A whole number from 0 to `bound - 1`, each equally likely (Lemire 2019, "Fast random integer
/// generation in an interval"): a multiplication, and a division once in a long while.
#[inline]
pub(crate) fn below(rng: &mut Stream, bound: u32) -> u32 {
    assert!(bound > 0, "nothing lies below 0");
    let mut wide = u64::from(rng.next_u32()) * u64::from(bound);
    if (wide as u32) < bound {
        // The low halves below this threshold would make some results likelier than others.
        let threshold = bound.wrapping_neg() % bound;
        while (wide as u32) < threshold {
            wide = u64::from(rng.next_u32()) * u64::from(bound);
        }
    }
    (wide >> 32) as u32
}

/// A number from 0 up to but not including 1, in steps of 2^-53.
#[inline]
pub(crate) fn unit(rng: &mut Stream) -> f64 {
    (rng.next_u64() >> 11) as f64 * UNIT_STEP
}

/// A number from the exponential distribution with mean 1; never negative, never infinite.
#[inline]
pub(crate) fn exponential(rng: &mut Stream) -> f64 {
    -ln(1.0 - unit(rng))
}

/// The natural logarithm of a positive normal number, to about 12 digits: good enough to propose
/// an amount, and the same on every machine.
#[inline]
fn ln(x: f64) -> f64 {
    assert!(x > 0.0, "the logarithm of {x}");
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) as i64 - 1023) as f64;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    // ln m = 2 artanh((m - 1) / (m + 1)); here |s| <= 0.1716, so s^15 is below 1e-11.
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let q = s * s;
    let series = 1.0
        + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0)))));
    2.0 * s * series + exponent * std::f64::consts::LN_2
}

/// Puts `items` into a random order, each order equally likely (Fisher and Yates, as Durstenfeld
/// 1964 wrote it).
pub(crate) fn shuffle(rng: &mut Stream, items: &mut [u32]) {
    let count = u32::try_from(items.len()).expect("a file's records are counted in 32 bits");
    for last in (1..count).rev() {
        let chosen = below(rng, last + 1);
        items.swap(last as usize, chosen as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use world::rng::Seed;

    #[test]
    fn the_logarithm_is_right_to_ten_digits() {
        for x in [1.0, 0.5, 1.0 - UNIT_STEP, UNIT_STEP, 0.707, 0.708, 0.1, 1e-9] {
            let (ours, theirs) = (ln(x), f64::ln(x));
            assert!((ours - theirs).abs() <= 1e-10 * theirs.abs().max(1e-6), "ln {x}: {ours}, not {theirs}");
        }
    }

    #[test]
    fn bounded_draws_are_uniform() {
        let mut rng = Seed::from_number(1).stream(0);
        let mut seen = [0u64; 7];
        for _ in 0..70_000 {
            seen[below(&mut rng, 7) as usize] += 1;
        }
        let chi_square: f64 = seen.iter().map(|n| (*n as f64 - 10_000.0).powi(2) / 10_000.0).sum();
        assert!(chi_square < 22.46, "6 degrees of freedom, 0.1 %: {chi_square}");
    }

    #[test]
    fn bounds_that_do_not_divide_the_words_favour_nothing() {
        // Without rejection every third result below 3 * 2^30 would come twice as often.
        let mut rng = Seed::from_number(1).stream(1);
        let thirds = (0..30_000).filter(|_| below(&mut rng, 3 << 30).is_multiple_of(3)).count();
        assert!((9_600..10_400).contains(&thirds), "{thirds} of 30000");
    }

    #[test]
    fn every_order_of_four_is_equally_likely() {
        let mut rng = Seed::from_number(2).stream(0);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..24_000 {
            let mut items = [0, 1, 2, 3];
            shuffle(&mut rng, &mut items);
            *seen.entry(items).or_insert(0u64) += 1;
        }
        assert_eq!(seen.len(), 24);
        let chi_square: f64 = seen.values().map(|n| (*n as f64 - 1000.0).powi(2) / 1000.0).sum();
        assert!(chi_square < 49.73, "23 degrees of freedom, 0.1 %: {chi_square}");
    }

    #[test]
    fn draws_are_the_same_for_ever() {
        let mut rng = Seed::from_number(3).stream(4);
        let drawn = (below(&mut rng, 1000), unit(&mut rng).to_bits(), exponential(&mut rng).to_bits());
        assert_eq!(drawn, GOLDEN, "a change here makes every audit of an old build fail");
    }

    const GOLDEN: (u32, u64, u64) = (27, 4603878545580628243, 4604111727505736949);
}
