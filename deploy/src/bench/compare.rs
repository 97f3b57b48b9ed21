//! Two sides measured in turn: medians, and how far apart they are.
//!
//! Invariant: a ratio is of two rounds that ran one after the other; the ratio shown is the median
//! of those, not the ratio of the medians.

use serde::Serialize;

use super::load::Measured;

/// What two sides measured.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Rounds of each side.
    pub rounds: usize,
    /// Our round of median rate.
    pub ours: Measured,
    /// The other side's round of median rate.
    pub peer: Measured,
    /// Our rate by theirs: the median of all rounds.
    pub ratio: f64,
    /// The least of all rounds.
    pub ratio_min: f64,
    /// The greatest of all rounds.
    pub ratio_max: f64,
    /// Our 99th percentile by theirs: the median of all rounds. Below 1 is quicker.
    pub p99_ratio: f64,
}

impl Compared {
    /// Sums rounds up; each is (ours, peer).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn of(rounds: Vec<(Measured, Measured)>) -> Compared {
        assert!(!rounds.is_empty(), "nothing was measured");
        let ratios = sorted(rounds.iter().map(|(ours, peer)| ours.ops_per_second / peer.ops_per_second));
        let slow = sorted(rounds.iter().map(|(ours, peer)| ours.p99_us as f64 / peer.p99_us.max(1) as f64));
        let count = rounds.len();
        let (ours, peer): (Vec<_>, Vec<_>) = rounds.into_iter().unzip();
        Compared {
            rounds: count,
            ours: median_round(ours),
            peer: median_round(peer),
            ratio: ratios[count / 2],
            ratio_min: ratios[0],
            ratio_max: ratios[count - 1],
            p99_ratio: slow[count / 2],
        }
    }

    /// For people.
    #[must_use]
    pub fn lines(&self) -> String {
        format!(
            "ours  {}\npeer  {}\nratio {:.2} ({:.2} to {:.2} over {} rounds), p99 {:.2}",
            self.ours.line(),
            self.peer.line(),
            self.ratio,
            self.ratio_min,
            self.ratio_max,
            self.rounds,
            self.p99_ratio
        )
    }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median_round(mut rounds: Vec<Measured>) -> Measured {
    rounds.sort_by(|one, other| one.ops_per_second.total_cmp(&other.ops_per_second));
    let middle = rounds.len() / 2;
    rounds.swap_remove(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(ops_per_second: f64, p99_us: u64) -> Measured {
        Measured {
            what: "kv put".to_owned(),
            clients: 1,
            seconds: 1.0,
            ops: ops_per_second as u64,
            ops_per_second,
            p50_us: 1,
            p99_us,
            max_us: p99_us,
            late_max_us: 0,
            errors: 0,
            first_error: None,
        }
    }

    #[test]
    fn ratios_are_of_rounds_that_ran_together() {
        let rounds = vec![
            (measured(300.0, 10), measured(100.0, 20)),
            (measured(20.0, 100), measured(10.0, 100)),
            (measured(400.0, 10), measured(100.0, 40)),
        ];
        let compared = Compared::of(rounds);
        assert_eq!((compared.ratio_min, compared.ratio, compared.ratio_max), (2.0, 3.0, 4.0));
        assert_eq!(compared.p99_ratio, 0.5);
        assert_eq!((compared.ours.ops, compared.peer.ops), (300, 100));
    }
}
