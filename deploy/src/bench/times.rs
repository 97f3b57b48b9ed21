//! A few times, each of which matters: what a rehearsal that is made over and over took.
//!
//! Invariant: nothing is rounded or left out; a percentile is a time that was measured.
//!
//! Not here: the latencies of a load, which are too many to keep ([`super::load`]).

use serde::Serialize;

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// Half of them were no longer.
    pub p50_ms: u64,
    /// All but a hundredth were no longer.
    pub p99_ms: u64,
    /// The longest.
    pub max_ms: u64,
    /// Each, in order.
    pub all_ms: Vec<u64>,
}

impl Times {
    /// # Panics
    /// When there are none.
    #[must_use]
    pub fn of(all_ms: Vec<u64>) -> Times {
        let mut sorted = all_ms.clone();
        sorted.sort_unstable();
        // The least figure that so many percent do not exceed.
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        Times { p50_ms: at(50), p99_ms: at(99), max_ms: at(100), all_ms }
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        let Times { p50_ms, p99_ms, max_ms, .. } = self;
        format!("p50 {p50_ms} ms, p99 {p99_ms} ms, max {max_ms} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let of = |all_ms: Vec<u64>| {
            let Times { p50_ms, p99_ms, max_ms, .. } = Times::of(all_ms);
            (p50_ms, p99_ms, max_ms)
        };
        assert_eq!(of(vec![7]), (7, 7, 7));
        assert_eq!(of(vec![30, 10, 20]), (20, 30, 30));
        assert_eq!(of((1..=200).collect()), (100, 198, 200));
    }
}
