//! Splitting money into packets: four methods, each in one pass, each exact to the fen.
//!
//! ```text
//!   double-mean  each packet between the bounds around the mean of what is left: uniform from
//!                min to twice the mean; from twice the mean less max to max when the mean lies
//!                in the upper half
//!   lucky        uniform over all ways to split (exponential spacings; Bentley and Saxe 1980),
//!                cut at max, the rest spread again
//!   fixed        all the same
//!   tiers        given face values, given times
//! ```
//! A batch is split over its files first ([`sub_budgets`]: sums of as many packets by the same
//! law), then each file splits its part alone. So files are independent, and a batch with few
//! packets in each file still looks as if it had been split at once.
//!
//! Invariant: amounts add up to the budget, and each lies within the batch's bounds.
//!
//! Not here: which packet lies where in the file (they are shuffled).

use world::rng::Stream;

use super::budget::{Batch, Split};
use super::chance::{exponential, unit};
use super::spread::spread;

/// Sums of at most this many packets are drawn packet by packet, larger ones as a normal number.
const DRAWN_ONE_BY_ONE: u32 = 16;
/// Steps of a weight of one: floats become integers before anything is added up.
const WEIGHT_STEPS: f64 = (1u64 << 24) as f64;

/// Room to work in, kept between files.
#[derive(Default)]
pub(crate) struct Scratch {
    weights: Vec<u64>,
    parts: Vec<u64>,
}

/// The money of one batch in each of its files: `counts[i]` packets get the i-th result.
/// For tiers see the dealer, which deals the faces themselves.
pub(crate) fn sub_budgets(rng: &mut Stream, batch: &Batch, total_fen: u64, counts: &[u32]) -> Vec<u64> {
    let (min, max) = (batch.min.get(), batch.max.get());
    let count: u64 = counts.iter().map(|count| u64::from(*count)).sum();
    assert!(min * count <= total_fen, "{count} packets of batch {} need more than {total_fen}", batch.id);
    assert!(total_fen <= max * count, "{count} packets of batch {} hold less than {total_fen}", batch.id);
    let (cap, excess) = (max - min, total_fen - min * count);
    let cap_of = |at: usize| cap * u64::from(counts[at]);
    let mut parts = Vec::new();
    match batch.split {
        Split::Fixed => {
            let face = total_fen / count.max(1);
            return counts.iter().map(|count| face * u64::from(*count)).collect();
        }
        Split::Lucky => {
            let weights: Vec<u64> = counts.iter().map(|n| weight_of(rng, *n, 1.0, exponential)).collect();
            spread(rng, excess, &weights, cap_of, &mut parts);
        }
        Split::DoubleMean => {
            let even = |rng: &mut Stream| 2.0 * unit(rng);
            let weights: Vec<u64> = counts.iter().map(|n| weight_of(rng, *n, 1.0 / 3.0, even)).collect();
            let mirrored = in_upper_half(excess, count, cap);
            let spent = if mirrored { cap * count - excess } else { excess };
            spread(rng, spent, &weights, cap_of, &mut parts);
            if mirrored {
                parts.iter_mut().enumerate().for_each(|(at, part)| *part = cap_of(at) - *part);
            }
        }
        Split::Tiers(_) => panic!("the dealer deals the faces of batch {}", batch.id),
    }
    parts.iter().zip(counts).map(|(part, count)| part + min * u64::from(*count)).collect()
}

/// Whether the mean of what is left lies above the middle of the range.
fn in_upper_half(excess: u64, count: u64, cap: u64) -> bool {
    u128::from(excess) * 2 > u128::from(cap) * u128::from(count)
}

/// The sum of `count` draws with mean 1 and this variance, in steps.
fn weight_of(rng: &mut Stream, count: u32, variance: f64, one: impl Fn(&mut Stream) -> f64) -> u64 {
    let sum = if count <= DRAWN_ONE_BY_ONE {
        (0..count).map(|_| one(rng)).sum()
    } else {
        // Twelve uniform numbers less six: nearly normal, and without a logarithm.
        let normal = (0..12).map(|_| unit(rng)).sum::<f64>() - 6.0;
        f64::from(count) + normal * (f64::from(count) * variance).sqrt()
    };
    assert!(sum.is_finite(), "a sum of {count} draws");
    (sum.max(0.0) * WEIGHT_STEPS / 256.0) as u64
}

/// One batch's packets of one file: appends `count` amounts that add up to `total_fen`.
/// `tiers[i]` is how many packets of the batch's i-th tier the file has; empty for other splits.
pub(crate) fn amounts(
    rng: &mut Stream,
    batch: &Batch,
    (count, total_fen, tiers): (u32, u64, &[u32]),
    scratch: &mut Scratch,
    amounts: &mut Vec<u32>,
) {
    let before = amounts.len();
    let (min, max) = (batch.min.get(), batch.max.get());
    match &batch.split {
        Split::DoubleMean => double_mean(rng, (min, max), count, total_fen, amounts),
        Split::Lucky => lucky(rng, (min, max), (count, total_fen), scratch, amounts),
        Split::Fixed => amounts.extend((0..count).map(|_| narrow(total_fen / u64::from(count)))),
        Split::Tiers(faces) => {
            for (face, times) in faces.iter().zip(tiers) {
                amounts.extend((0..*times).map(|_| narrow(face.face.get())));
            }
        }
    }
    let made = &amounts[before..];
    let sum: u64 = made.iter().map(|amount| u64::from(*amount)).sum();
    assert!(made.len() == count as usize, "{} amounts of batch {}, not {count}", made.len(), batch.id);
    assert!(sum == total_fen, "batch {} splits into {sum} fen, not {total_fen}", batch.id);
    let bounds = narrow(min)..=narrow(max);
    assert!(made.iter().all(|amount| bounds.contains(amount)), "batch {} leaves its bounds", batch.id);
}

fn narrow(fen: u64) -> u32 {
    u32::try_from(fen).expect("amounts were checked to fit 24 bits")
}

/// Each packet around the mean of what is left, so that what is left stays splittable.
fn double_mean(rng: &mut Stream, (min, max): (u64, u64), count: u32, total_fen: u64, amounts: &mut Vec<u32>) {
    let cap = max - min;
    let mut excess = total_fen - min * u64::from(count);
    for left in (1..=u64::from(count)).rev() {
        // In the upper half of the range the shortfall from max is split instead: the same law,
        // mirrored, so that the mean is kept where twice the mean would pass max.
        let mirrored = in_upper_half(excess, left, cap);
        let pot = if mirrored { cap * left - excess } else { excess };
        // A uniform number and a second one to round it: on average nothing is lost.
        let proposed = unit(rng) * (2.0 * pot as f64 / left as f64) + unit_of_half(rng);
        let most = cap.min(pot);
        let least = pot.saturating_sub(cap * (left - 1));
        let drawn = (proposed as u64).clamp(least, most);
        let packet = if mirrored { cap - drawn } else { drawn };
        excess -= packet;
        amounts.push(narrow(min + packet));
    }
    assert!(excess == 0, "{excess} fen are left");
}

/// A number from 0 up to 1 in steps of 2^-32.
fn unit_of_half(rng: &mut Stream) -> f64 {
    use rand::Rng;
    f64::from(rng.next_u32()) / 4_294_967_296.0
}

fn lucky(
    rng: &mut Stream,
    (min, max): (u64, u64),
    (count, total_fen): (u32, u64),
    scratch: &mut Scratch,
    amounts: &mut Vec<u32>,
) {
    let Scratch { weights, parts } = scratch;
    weights.clear();
    weights.extend((0..count).map(|_| (exponential(rng) * WEIGHT_STEPS) as u64));
    let (cap, excess) = (max - min, total_fen - min * u64::from(count));
    spread(rng, excess, weights, |_| cap, parts);
    amounts.extend(parts.iter().map(|part| narrow(min + part)));
}
