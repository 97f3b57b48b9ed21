//! Seeds in processes of their own.
//!
//! Invariant: a child that ends without a summary is a broken seed, with what it said last, and has a
//! summary like every other; one that could not begin is a failure.
//!
//! Not here: what a seed does.

use std::path::Path;
use std::process::{Command, Stdio};

use deploy::failure::{Context, Exit, Failure};
use sim::fabric::rocks::Scratch;
use sim::run::{FIRST_PANIC, Summary, unjudged};

use super::What;

/// A run allocates and frees small pieces all the time: glibc keeps what it has instead of giving it back
/// to the kernel and asking again. Measured: a tenth of a run's time.
const ALLOCATOR: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=67108864",
);

/// The status of a process whose main thread panicked.
const PANICKED: i32 = 101;

/// Runs a seed in a child and waits for its summary.
pub fn run(seed: u64, what: &What, trace: Option<&Path>) -> Result<Summary, Failure> {
    let program = std::env::current_exe().context(Exit::Error, "finding this program")?;
    let mut command = Command::new(program);
    let scratch = Scratch::place();
    command.env(ALLOCATOR.0, ALLOCATOR.1).arg("child").arg("--scratch").arg(&scratch);
    command.args(["--seed", &seed.to_string(), "--filter", &what.filter]);
    if what.calm {
        command.arg("--calm");
    }
    if let Some(schedule) = &what.schedule {
        command.arg("--schedule").arg(schedule);
    }
    if let Some(drill) = &what.drill {
        command.arg("--drill").arg(drill);
    }
    if let Some(mutant) = what.mutant {
        command.args(["--mutant", mutant.name()]);
    }
    if let Some(habitat) = what.habitat {
        command.args(["--habitat", habitat.name()]);
    }
    if let Some(engine) = what.engine {
        command.args(["--engine", &engine.to_string()]);
    }
    if let Some(trace) = trace {
        command.arg("--trace").arg(trace);
    }
    let output = command.stdin(Stdio::null()).output().context(Exit::Error, "starting a child")?;
    // Left behind only by a child that could not end as it should; mostly there was none.
    let _ = std::fs::remove_dir_all(&scratch);
    let printed = String::from_utf8_lossy(&output.stdout);
    let last = printed.lines().last().unwrap_or_default();
    if let Ok(summary) = serde_json::from_str(last) {
        return Ok(summary);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        // Its own words about what it was given.
        Some(code) if code != PANICKED => {
            Err(Failure::new(Exit::Error, format!("seed {seed} gave no summary:\n{}", tail(&said))))
        }
        _ => {
            let first = said.lines().find(|line| line.starts_with(FIRST_PANIC));
            let why = first.map_or_else(|| tail(&said), ToOwned::to_owned);
            Ok(unjudged(seed, &what.options()?, format!("the run ended ({}): {why}", output.status)))
        }
    }
}

fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
