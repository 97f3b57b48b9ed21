//! `hongbao-sim run`: many seeds, some at a time, in order of their numbers.
//!
//! Invariant: what is printed does not depend on how many run at a time.
//!
//! Not here: one seed (children.rs).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use deploy::failure::{Context, Exit, Failure};
use deploy::output::person_watches;
use indicatif::{ProgressBar, ProgressStyle};
use sim::judge::add_up;
use sim::run::Summary;

use super::{Format, RunArgs, children};

/// Runs them.
pub fn run(args: &RunArgs) -> Result<(), Failure> {
    if args.trace.is_some() && args.seeds != 1 {
        return Err(Failure::new(Exit::Usage, "--trace wants a single seed"));
    }
    let bar = if person_watches() { ProgressBar::new(args.seeds) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("  {bar:30.red/dim} {pos}/{len} seeds, {msg}{eta} left");
    bar.set_style(style.expect("a valid template"));
    let next = AtomicU64::new(args.seed);
    let end = args.seed.saturating_add(args.seeds);
    let (done, results) = mpsc::channel();
    let (mut broken, mut waiting, mut printed_to) = (Vec::new(), BTreeMap::new(), args.seed);
    let mut summaries = Vec::new();
    std::thread::scope(|scope| -> Result<(), Failure> {
        for _ in 0..args.jobs.max(1) {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= end {
                        return;
                    }
                    // Nobody listening means that an earlier seed ended everything.
                    if done.send((seed, children::run(seed, &args.what, args.trace.as_deref()))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for (seed, result) in results {
            bar.inc(1);
            waiting.insert(seed, result);
            while let Some(result) = waiting.remove(&printed_to) {
                match result {
                    Ok(summary) => {
                        if !summary.ok {
                            broken.push(summary.seed);
                        }
                        show(&summary, args.output, &bar)?;
                        summaries.push(summary);
                    }
                    Err(failure) => {
                        broken.push(printed_to);
                        bar.suspend(|| eprintln!("{failure}"));
                    }
                }
                printed_to += 1;
            }
            bar.set_message(format!("{} broken, ", broken.len()));
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    if args.output == Format::Table && args.seeds > 1 {
        conclude(&summaries);
    }
    if broken.is_empty() {
        return Ok(());
    }
    let seeds: Vec<String> = broken.iter().map(ToString::to_string).collect();
    Err(Failure::new(Exit::InvariantBroken, format!("broken in seeds {}", seeds.join(" "))))
}

fn show(summary: &Summary, output: Format, bar: &ProgressBar) -> Result<(), Failure> {
    let text = match output {
        Format::Json => serde_json::to_string(summary).context(Exit::Error, "writing the summary")?,
        Format::Table => page(summary),
    };
    bar.suspend(|| println!("{text}"));
    Ok(())
}

fn page(summary: &Summary) -> String {
    let faults: Vec<String> = summary.faults.iter().map(|(name, n)| format!("{name} {n}")).collect();
    let mut text = format!(
        "seed {:>6}  {:5}  {:6}  {:>6.1} s simulated, {:>5.1} s real, speed {:>5.1}  {:>5} operations  {}",
        summary.seed,
        if summary.ok { "ok" } else { "BROKE" },
        summary.engine,
        summary.simulated_ms as f64 / 1e3,
        summary.wall_ms as f64 / 1e3,
        summary.speed,
        summary.operations,
        faults.join(", "),
    );
    for verdict in summary.invariants.iter().filter(|verdict| !verdict.held) {
        text.push_str(&format!("\n    {}: {}", verdict.id, verdict.detail));
    }
    if !summary.ok {
        text.push_str(&format!("\n    replay: {}", summary.replay));
    }
    text
}

fn conclude(summaries: &[Summary]) {
    let simulated_ms: u64 = summaries.iter().map(|summary| summary.simulated_ms).sum();
    let cpu_ms: u64 = summaries.iter().map(|summary| summary.cpu_ms).sum();
    let operations: u64 = summaries.iter().map(|summary| summary.operations).sum();
    println!(
        "{} seeds, {} ok, {} over RocksDB: {:.0} s simulated, {:.1} simulated seconds a processor second, {operations} \
         operations",
        summaries.len(),
        summaries.iter().filter(|summary| summary.ok).count(),
        summaries.iter().filter(|summary| summary.engine == "rocks").count(),
        simulated_ms as f64 / 1e3,
        simulated_ms as f64 / cpu_ms.max(1) as f64,
    );
    for (name, count) in add_up(summaries.iter().map(|summary| &summary.faults)) {
        println!("  {count:>8}  {name}");
    }
}
