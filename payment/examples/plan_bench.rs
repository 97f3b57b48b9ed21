//! How fast plans are built and verified: `plan_bench FOLDER SCHEME JOBS TIMES`.
//!
//! Builds the event in FOLDER (budget.csv, script.toml) TIMES times into a temporary directory and
//! verifies it in full; prints records per second of each. Dividing by JOBS gives the figure per
//! core. Not here: a comparison over releases (`hongbao bench plan` is for that).

use std::path::PathBuf;

use payment::plan::{BuildOptions, Layout, VerifyOptions, Watch, build, verify};
use world::clock::SystemClock;
use world::rng::Seed;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |default: &str| args.next().unwrap_or_else(|| default.to_owned());
    let (folder, scheme) = (PathBuf::from(next("events/spring")), next("A"));
    let (jobs, times): (usize, u32) = (next("1").parse()?, next("3").parse()?);
    let clock = SystemClock::new();
    let watch = Watch { clock: &clock, progress: &|_| (), stop: &|| false };
    for _ in 0..times {
        let dir = tempfile::tempdir()?;
        let options = BuildOptions {
            budget: folder.join("budget.csv"),
            script: folder.join("script.toml"),
            scheme: scheme.clone(),
            out: dir.path().join("build"),
            layout: Layout::default(),
            jobs,
            seed: Some(Seed::from_number(1)),
        };
        let built = build(&options, watch)?;
        let verified = verify(&options.out, VerifyOptions { full: true, jobs }, watch)?;
        let rate = |seconds: f64| built.records as f64 / seconds / 1e6;
        println!(
            "{} records, {} files, {} keys, {jobs} jobs: build {:.3} s = {:.2} M/s, verify in full {:.3} s = {:.2} M/s",
            built.records,
            built.files,
            built.keys,
            built.seconds,
            rate(built.seconds),
            verified.seconds,
            rate(verified.seconds),
        );
    }
    Ok(())
}
