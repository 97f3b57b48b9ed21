//! An amount over many places: in proportion to weights, to the fen, no place above its cap.
//!
//! ```text
//!   1  each place gets floor(total * weight / weights), at most its cap     floats propose
//!   2  what is left goes once more by weight to places with room (twice)    floats propose
//!   3  what is left then goes by room: floor(left * room / rooms)           integers
//!   4  the last units go one by one to places with room, from a random start
//! ```
//! Weights decide the distribution; the integers decide the sum. Whatever the floats propose, the
//! result adds up, because every proposal is cut to the cap and to what is left.
//!
//! Invariant: the results add up to the total, and each is at most its cap.
//!
//! Not here: where weights come from (amounts and sub-budgets bring theirs).

use world::rng::Stream;

use super::chance::below;
use super::script::SHARE_WHOLE;

/// Keeps proposals from exceeding the total by rounding.
const A_LITTLE_LESS: f64 = 1.0 - 1.0 / (1u64 << 40) as f64;

/// Spreads `total` over `parts` (written from zero) by `weights`, with `cap(i)` as the most that
/// part i may get. The caps together must be at least `total`.
pub(crate) fn spread(
    rng: &mut Stream,
    total: u64,
    weights: &[u64],
    cap: impl Fn(usize) -> u64,
    parts: &mut Vec<u64>,
) {
    let room: u128 = (0..weights.len()).map(|at| u128::from(cap(at))).sum();
    assert!(room >= u128::from(total), "{total} does not fit into {room}");
    parts.clear();
    parts.resize(weights.len(), 0);
    let mut left = total;
    for _ in 0..3 {
        left = propose(left, weights, &cap, parts);
        if left < weights.len() as u64 {
            break;
        }
    }
    left = by_room(left, &cap, parts);
    one_by_one(rng, left, &cap, parts);
    assert!(parts.iter().sum::<u64>() == total, "the parts do not add up to {total}");
}

/// One round by weight over the parts that have room; returns what is left.
fn propose(left: u64, weights: &[u64], cap: &impl Fn(usize) -> u64, parts: &mut [u64]) -> u64 {
    let open = |at: usize, part: u64| part < cap(at);
    let weighed: u128 = weights
        .iter()
        .zip(parts.iter())
        .enumerate()
        .filter(|(at, (_, part))| open(*at, **part))
        .map(|(_, (weight, _))| u128::from(*weight))
        .sum();
    if left == 0 || weighed == 0 {
        return left;
    }
    let scale = left as f64 / weighed as f64 * A_LITTLE_LESS;
    let mut after = left;
    for (at, (part, weight)) in parts.iter_mut().zip(weights).enumerate() {
        let proposed = (*weight as f64 * scale) as u64;
        let given = proposed.min(cap(at) - *part).min(after);
        *part += given;
        after -= given;
    }
    after
}

/// One round by room, if there is more left than one for each part; returns what is left.
fn by_room(left: u64, cap: &impl Fn(usize) -> u64, parts: &mut [u64]) -> u64 {
    let with_room = parts.iter().enumerate().filter(|(at, part)| **part < cap(*at)).count();
    if left <= with_room as u64 {
        return left;
    }
    let rooms: u128 = parts.iter().enumerate().map(|(at, part)| u128::from(cap(at) - part)).sum();
    assert!(rooms >= u128::from(left), "{left} left, room for {rooms}");
    let mut after = left;
    for (at, part) in parts.iter_mut().enumerate() {
        let share = u128::from(left) * u128::from(cap(at) - *part) / rooms;
        let given = u64::try_from(share).expect("a share of what is left is at most what is left");
        *part += given;
        after -= given;
    }
    after
}

/// One unit for each of `left` parts with room.
fn one_by_one(rng: &mut Stream, left: u64, cap: &impl Fn(usize) -> u64, parts: &mut [u64]) {
    if left == 0 {
        return;
    }
    let count = u32::try_from(parts.len()).expect("parts are counted in 32 bits");
    let start = below(rng, count) as usize;
    let mut left = left;
    for at in (start..parts.len()).chain(0..start) {
        if left > 0 && parts[at] < cap(at) {
            parts[at] += 1;
            left -= 1;
        }
    }
    // Floors lose less than one unit for each part that has room, so one round was enough.
    assert!(left == 0, "{left} units found no room");
}

/// Spreads a count over slots by hundredths of a percent: largest remainders, earlier slots first.
/// A share of zero gets nothing.
pub(crate) fn by_shares(count: u64, shares: &[u32]) -> Vec<u64> {
    let sum: u64 = shares.iter().map(|share| u64::from(*share)).sum();
    assert!(sum == u64::from(SHARE_WHOLE), "shares were checked to add up to 100 %");
    let weights: Vec<u64> = shares.iter().map(|share| u64::from(*share)).collect();
    by_remainder(count, &weights)
}

/// Spreads a count in proportion to weights: largest remainders, earlier places first. A place
/// never gets more than the proportion rounded up, and nothing for a weight of zero.
pub(crate) fn by_remainder(count: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    assert!(sum > 0 || count == 0, "{count} for nobody");
    if count == 0 {
        return vec![0; weights.len()];
    }
    let product = |weight: &u64| u128::from(count) * u128::from(*weight);
    let floor = |weight: &u64| u64::try_from(product(weight) / sum).expect("at most count");
    let mut parts: Vec<u64> = weights.iter().map(floor).collect();
    let left = count - parts.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(product(&weights[*at]) % sum));
    for at in order.into_iter().take(usize::try_from(left).expect("fewer than places")) {
        parts[at] += 1;
    }
    assert!(parts.iter().sum::<u64>() == count, "the parts do not add up to {count}");
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use world::rng::Seed;

    #[test]
    fn remainders_go_to_the_largest_first() {
        assert_eq!(by_shares(10, &[3333, 3333, 3334]), vec![3, 3, 4]);
        assert_eq!(by_shares(1, &[1000, 0, 9000]), vec![0, 0, 1]);
        assert_eq!(by_shares(3, &[5000, 0, 5000]), vec![2, 0, 1]);
        assert_eq!(by_remainder(0, &[0, 0]), vec![0, 0]);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_respect_their_caps(
            places in proptest::collection::vec((0u64..1 << 40, 0u64..5000), 1..60),
            part in 0.0f64..=1.0, seed: u64,
        ) {
            let weights: Vec<u64> = places.iter().map(|(weight, _)| *weight).collect();
            let room: u64 = places.iter().map(|(_, cap)| cap).sum();
            let total = (room as f64 * part) as u64;
            let mut parts = Vec::new();
            let mut rng = Seed::from_number(seed).stream(0);
            spread(&mut rng, total, &weights, |at| places[at].1, &mut parts);
            prop_assert_eq!(parts.iter().sum::<u64>(), total);
            prop_assert!(parts.iter().zip(&places).all(|(part, (_, cap))| part <= cap));
        }

        #[test]
        fn remainders_add_up_and_round_to_a_neighbour(
            weights in proptest::collection::vec(0u64..1 << 48, 1..40), count in 0u64..1 << 48,
        ) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
            let parts = by_remainder(count, &weights);
            prop_assert_eq!(parts.iter().sum::<u64>(), count);
            for (part, weight) in parts.iter().zip(&weights) {
                let exact = u128::from(count) * u128::from(*weight);
                let floor = exact / sum;
                let ceiling = exact.div_ceil(sum);
                prop_assert!((floor..=ceiling).contains(&u128::from(*part)));
            }
        }
    }
}
