//! The closed loop: workers, a stop time, one histogram.
//!
//! Invariant: what is answered after the stop is not counted; how long the slowest of it took is told apart.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;
use world::Clock;
use world::clock::SystemClock;

use crate::failure::{Exit, Failure};
use crate::output::grouped;

/// The longest latency that is told apart, microseconds.
const LATENCY_US_MAX: u64 = 120_000_000;

/// How much load, and for how long.
#[derive(Clone, Debug, Args)]
pub struct LoadArgs {
    /// Requests in flight at any time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub clients: u32,
    /// Measured time
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub size: u32,
}

/// What a load measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// `kv put`, `queue enqueue`.
    pub what: String,
    /// Requests in flight.
    pub clients: u32,
    /// Measured time.
    pub seconds: f64,
    /// Operations answered with success.
    pub ops: u64,
    /// The same, each second.
    pub ops_per_second: f64,
    /// Half of the operations took less.
    pub p50_us: u64,
    /// All but a hundredth took less.
    pub p99_us: u64,
    /// The slowest took this.
    pub max_us: u64,
    /// Of those that were under way at the end and succeeded, which count nowhere else, the slowest took this.
    pub late_max_us: u64,
    /// Operations that failed, or whose outcome is not known.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
}

impl Measured {
    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!(
            "{}, {} clients: {} a second (p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms), {} errors",
            self.what,
            self.clients,
            grouped(self.ops_per_second as u64),
            self.p50_us as f64 / 1e3,
            self.p99_us as f64 / 1e3,
            self.max_us as f64 / 1e3,
            self.errors
        );
        if let Some(error) = &self.first_error {
            line.push_str(&format!(" (first: {error})"));
        }
        line
    }

    /// A failure when nothing succeeded.
    ///
    /// # Errors
    /// Exit code 6.
    pub fn into_result(self) -> Result<(), Failure> {
        if self.ops > 0 {
            return Ok(());
        }
        let error = self.first_error.unwrap_or_else(|| "no answer in time".to_owned());
        Err(Failure::new(Exit::Unavailable, format!("no operation succeeded: {error}")))
    }
}

struct Tally {
    latency_us: Histogram<u64>,
    late_max_us: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Tally {
    fn new() -> Tally {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("valid bounds");
        Tally { latency_us, late_max_us: 0, errors: 0, first_error: None }
    }
}

/// Runs `clients` workers until the time is over. `worker(n)` makes the n-th; it is called with the
/// number of each of its operations.
pub async fn closed_loop<W, F>(what: &str, args: &LoadArgs, worker: impl Fn(u32) -> W) -> Measured
where
    W: FnMut(u64) -> F + Send + 'static,
    F: Future<Output = Result<(), String>> + Send,
{
    let clock = Arc::new(SystemClock::new());
    let end = clock.uptime() + Duration::from_secs(args.seconds);
    let mut tasks = Vec::new();
    for number in 0..args.clients {
        let (mut ask, clock) = (worker(number), Arc::clone(&clock));
        tasks.push(tokio::spawn(async move {
            let mut tally = Tally::new();
            let mut operation = 0;
            loop {
                let asked = clock.uptime();
                if end <= asked {
                    return tally;
                }
                let answer = ask(operation).await;
                let answered = clock.uptime();
                let took = u64::try_from((answered - asked).as_micros()).unwrap_or(u64::MAX);
                operation += 1;
                match answer {
                    Ok(()) if answered <= end => tally.latency_us.saturating_record(took),
                    Ok(()) => tally.late_max_us = took,
                    Err(error) => {
                        tally.errors += 1;
                        tally.first_error.get_or_insert(error);
                    }
                }
            }
        }));
    }
    let mut sum = Tally::new();
    for task in tasks {
        match task.await {
            Ok(tally) => {
                sum.latency_us.add(&tally.latency_us).expect("the same bounds");
                sum.late_max_us = sum.late_max_us.max(tally.late_max_us);
                sum.errors += tally.errors;
                sum.first_error = sum.first_error.or(tally.first_error);
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    let seconds = args.seconds as f64;
    Measured {
        what: what.to_owned(),
        clients: args.clients,
        seconds,
        ops: sum.latency_us.len(),
        ops_per_second: sum.latency_us.len() as f64 / seconds,
        p50_us: sum.latency_us.value_at_quantile(0.5),
        p99_us: sum.latency_us.value_at_quantile(0.99),
        max_us: sum.latency_us.max(),
        late_max_us: sum.late_max_us,
        errors: sum.errors,
        first_error: sum.first_error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_after_the_stop_is_told_apart() {
        let args = LoadArgs { clients: 2, seconds: 1, size: 1 };
        let late = Duration::from_millis(1_100);
        let measured = closed_loop("sleep", &args, |client| {
            move |_| async move {
                tokio::time::sleep(if client == 0 { late } else { Duration::from_millis(10) }).await;
                Ok(())
            }
        });
        let Measured { ops, max_us, late_max_us, errors, .. } = measured.await;
        assert!(ops > 0 && errors == 0, "{ops} {errors}");
        assert!(u128::from(max_us) < late.as_micros(), "{max_us}");
        assert!(u128::from(late_max_us) >= late.as_micros(), "{late_max_us}");
    }
}
