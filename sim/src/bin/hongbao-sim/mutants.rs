//! `hongbao-sim mutants`: does anybody notice? Each known mistake is switched on, and seeds are run
//! until an oracle says that something is broken.
//!
//! Runs are of the mistake's habitat (`sim::mutants`), and end with the first broken invariant.
//!
//! Invariant: a mistake counts as found only when a verdict failed, or a host panicked, in a run that
//! holds without it.
//!
//! Not here: the mistakes (`world::mutant`).

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use deploy::failure::{Context, Exit, Failure};
use serde::Serialize;
use world::mutant::Mutant;

use super::{Format, MutantsArgs, What, children};

#[derive(Serialize)]
struct Row {
    name: &'static str,
    found: bool,
    seeds_needed: Option<u64>,
    oracle: Option<String>,
    detail: Option<String>,
}

/// Tries them all.
pub fn run(args: &MutantsArgs) -> Result<(), Failure> {
    let chosen: Vec<Mutant> = if args.only.is_empty() { Mutant::ALL.to_vec() } else { args.only.clone() };
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Result<Row, Failure>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::SeqCst);
                    let Some(mutant) = chosen.get(at) else { return };
                    let row = try_one(*mutant, args);
                    if let (Ok(row), Format::Table) = (&row, args.output) {
                        println!("{}", line(row));
                    }
                    rows.lock().expect("no holder panics").push((at, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no holder panics");
    rows.sort_by_key(|(at, _)| *at);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect::<Result<_, _>>()?;
    if args.output == Format::Json {
        for row in &rows {
            println!("{}", serde_json::to_string(row).context(Exit::Error, "writing a row")?);
        }
    }
    let missed: Vec<&str> = rows.iter().filter(|row| !row.found).map(|row| row.name).collect();
    if missed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(Exit::InvariantBroken, format!("not noticed: {}", missed.join(", "))))
}

fn line(row: &Row) -> String {
    match (&row.seeds_needed, &row.oracle, &row.detail) {
        (Some(seeds), Some(oracle), Some(detail)) => {
            let short: String = detail.chars().take(140).collect();
            format!("{:22} found after {seeds:>3} seeds by {oracle}: {short}", row.name)
        }
        _ => format!("{:22} NOT FOUND", row.name),
    }
}

fn try_one(mutant: Mutant, args: &MutantsArgs) -> Result<Row, Failure> {
    let with = What { mutant: Some(mutant), ..What::ordinary() };
    let without = What { habitat: Some(mutant), ..What::ordinary() };
    for number in 0..args.seeds {
        let seed = args.seed + number;
        let summary = children::run(seed, &with, None)?;
        let Some(broken) = summary.invariants.into_iter().find(|verdict| !verdict.held) else { continue };
        // A seed that breaks anyway shows nothing about the mistake.
        if !children::run(seed, &without, None)?.ok {
            continue;
        }
        return Ok(Row {
            name: mutant.name(),
            found: true,
            seeds_needed: Some(number + 1),
            oracle: Some(broken.id),
            detail: Some(broken.detail),
        });
    }
    Ok(Row { name: mutant.name(), found: false, seeds_needed: None, oracle: None, detail: None })
}
