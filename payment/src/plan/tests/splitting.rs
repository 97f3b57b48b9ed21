//! Money splits exactly whatever the order is, and as its method promises.

use proptest::prelude::*;
use ticket::id::BatchId;
use ticket::money::Fen;
use ticket::record::Kind;
use world::rng::Seed;

use super::super::amount::{Scratch, amounts, sub_budgets};
use super::super::budget::{Batch, Split};

fn batch(split: Split, count: u64, total: u64, (min, max): (u64, u64)) -> Batch {
    Batch {
        id: BatchId(1),
        merchant_id: 1,
        merchant_name: "S".to_owned(),
        account: "A".to_owned(),
        kind: Kind::Logo,
        count,
        total: Fen::new(total),
        min: Fen::new(min),
        max: Fen::new(max),
        split,
        funded_on: "2016-01-01".to_owned(),
        line: 2,
    }
}

fn split(method: Split, count: u32, total: u64, bounds: (u64, u64), seed: u64) -> Vec<u32> {
    let batch = batch(method, u64::from(count), total, bounds);
    let mut made = Vec::new();
    let mut rng = Seed::from_number(seed).stream(0);
    amounts(&mut rng, &batch, (count, total, &[]), &mut Scratch::default(), &mut made);
    made
}

fn mean_and_deviation(amounts: &[u32]) -> (f64, f64) {
    let count = amounts.len() as f64;
    let mean = amounts.iter().map(|amount| f64::from(*amount)).sum::<f64>() / count;
    let variance = amounts.iter().map(|amount| (f64::from(*amount) - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

#[test]
fn double_mean_is_uniform_up_to_twice_the_mean() {
    let made = split(Split::DoubleMean, 20_000, 20_000 * 101, (1, 10_000), 1);
    let (mean, deviation) = mean_and_deviation(&made[..15_000]);
    assert!((mean - 101.0).abs() < 5.0, "{mean}");
    assert!((deviation - 57.7).abs() < 6.0, "uniform from 1 to 201 deviates by 57.7: {deviation}");
}

#[test]
fn double_mean_keeps_the_mean_when_twice_the_mean_passes_the_maximum() {
    let made = split(Split::DoubleMean, 20_000, 20_000 * 80, (1, 100), 2);
    let (early, _) = mean_and_deviation(&made[..5000]);
    let (late, deviation) = mean_and_deviation(&made[10_000..15_000]);
    assert!((early - late).abs() < 4.0, "the mean drifts from {early} to {late}");
    assert!(deviation > 8.0, "the amounts differ: {deviation}");
}

#[test]
fn double_mean_of_small_change_is_fair_from_the_first_to_the_last() {
    // 1.4 fen each: rounding must not leave everything to the last packets.
    let made = split(Split::DoubleMean, 30_000, 42_000, (1, 100), 3);
    let (early, _) = mean_and_deviation(&made[..10_000]);
    let (late, _) = mean_and_deviation(&made[15_000..25_000]);
    assert!((early - 1.4).abs() < 0.05 && (late - 1.4).abs() < 0.1, "{early} then {late}");
}

#[test]
fn lucky_gives_many_small_and_few_large() {
    let made = split(Split::Lucky, 50_000, 50_000 * 200, (1, 100_000), 4);
    let (mean, deviation) = mean_and_deviation(&made);
    assert!((mean - 200.0).abs() < 1e-9, "{mean}");
    assert!((deviation - 199.0).abs() < 6.0, "exponential amounts deviate by their mean: {deviation}");
    let below = made.iter().filter(|amount| **amount < 139).count() as f64 / 50_000.0;
    assert!((below - 0.5).abs() < 0.02, "half lie below mean times ln 2: {below}");
}

#[test]
fn the_money_of_a_single_packet_varies_between_files() {
    let counts = vec![1u32; 2000];
    for method in [Split::Lucky, Split::DoubleMean] {
        let batch = batch(method, 2000, 200_000, (1, 10_000));
        let mut rng = Seed::from_number(5).stream(0);
        let parts: Vec<u32> =
            sub_budgets(&mut rng, &batch, 200_000, &counts).iter().map(|part| *part as u32).collect();
        let (_, deviation) = mean_and_deviation(&parts);
        assert!(deviation > 50.0, "{:?} gives every file the mean: {deviation}", batch.split);
    }
}

proptest! {
    #[test]
    fn every_order_splits_exactly(
        counts in proptest::collection::vec(1u32..3000, 1..12),
        min in 1u64..2000, width in 0u64..3_000_000, part in 0.0f64..=1.0, seed: u64, lucky: bool,
    ) {
        let max = (min + width).min((1 << 24) - 1);
        let count: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let room = count * (max - min);
        let total = count * min + ((room as f64 * part) as u64).min(room);
        let method = if lucky { Split::Lucky } else { Split::DoubleMean };
        let batch = batch(method, count, total, (min, max));
        let mut rng = Seed::from_number(seed).stream(1);
        // `sub_budgets` and `amounts` assert sums and bounds themselves; what they must not do is fail.
        let parts = sub_budgets(&mut rng, &batch, total, &counts);
        prop_assert_eq!(parts.iter().sum::<u64>(), total);
        for (count, part) in counts.iter().zip(parts) {
            let mut made = Vec::new();
            amounts(&mut rng, &batch, (*count, part, &[]), &mut Scratch::default(), &mut made);
            prop_assert_eq!(made.iter().map(|amount| u64::from(*amount)).sum::<u64>(), part);
            prop_assert!(made.iter().all(|amount| (min..=max).contains(&u64::from(*amount))));
        }
    }
}
