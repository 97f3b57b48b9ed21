//! `hongbao-sim meta`: the test that everything else rests on. Each seed runs in two processes, and
//! their traces must be equal, byte for byte.
//!
//! Invariant: traces are compared as they were written, not by their hashes only; the first
//! difference is shown.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use deploy::failure::{Context, Exit, Failure};

use super::{MetaArgs, children};

/// Runs them.
pub fn run(args: &MetaArgs) -> Result<(), Failure> {
    let mut different = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        match compare(seed, args)? {
            None => {}
            Some(difference) => {
                eprintln!("seed {seed}: {difference}");
                different.push(seed.to_string());
            }
        }
    }
    if different.is_empty() {
        return Ok(());
    }
    let message = format!("the same seed gave two traces: seeds {}", different.join(" "));
    Err(Failure::new(Exit::InvariantBroken, message))
}

fn compare(seed: u64, args: &MetaArgs) -> Result<Option<String>, Failure> {
    let path = |which: char| -> PathBuf {
        std::env::temp_dir().join(format!("hongbao-sim-{}-{seed}-{which}.trace", std::process::id()))
    };
    let (one, other) = (path('1'), path('2'));
    let ran = std::thread::scope(|scope| {
        let second = scope.spawn(|| children::run(seed, &args.what, Some(&other)));
        let first = children::run(seed, &args.what, Some(&one));
        (first, second.join().expect("starting a child does not panic"))
    });
    let (first, second) = (ran.0?, ran.1?);
    let difference = first_difference(&one, &other)?;
    if difference.is_none() {
        assert_eq!(first.trace, second.trace, "equal traces have equal hashes");
        println!("seed {seed}: {} lines, {}", first.trace_lines, first.trace);
        for path in [&one, &other] {
            std::fs::remove_file(path).context(Exit::Error, "removing a trace")?;
        }
        return Ok(None);
    }
    // The traces are left for whoever has to find out.
    Ok(difference.map(|what| format!("{what}\n  traces: {} {}", one.display(), other.display())))
}

fn first_difference(one: &Path, other: &Path) -> Result<Option<String>, Failure> {
    let lines = |path: &Path| -> Result<_, Failure> {
        let file = File::open(path).context(Exit::Error, format!("reading {}", path.display()))?;
        Ok(BufReader::new(file).split(b'\n'))
    };
    let (mut one, mut other) = (lines(one)?, lines(other)?);
    let mut number = 0;
    loop {
        number += 1;
        let next = (one.next().transpose(), other.next().transpose());
        let (Ok(left), Ok(right)) = next else {
            return Err(Failure::new(Exit::Error, "a trace cannot be read"));
        };
        if left != right {
            let shown = |line: Option<Vec<u8>>| {
                line.map_or_else(
                    || "(the end)".to_owned(),
                    |line| String::from_utf8_lossy(&line).into_owned(),
                )
            };
            return Ok(Some(format!("line {number} differs\n  1: {}\n  2: {}", shown(left), shown(right))));
        }
        if left.is_none() {
            return Ok(None);
        }
    }
}
