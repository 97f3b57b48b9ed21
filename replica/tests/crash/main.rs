//! Crashes over real RocksDB: a child process writes through log and state as a node does and says
//! on a pipe what was acknowledged; it is killed at random moments; what is on disk must be what was
//! said, plus at most a run of what was under way, in order.
//!
//! ```text
//!   parent  --spawn-->  child: 3 groups, one writer  --pipe: "begun", "acknowledged", "synced"-->  parent
//!           --SIGKILL->                                                                              |
//!           power cut: cut and tear the write-ahead log beyond what was synced                       |
//!           open, compare with the model  <----------------------------------------------------------+
//! ```
//! A kill leaves what the process has handed to the kernel. A power cut leaves of that what was
//! synced, and of the rest anything: the child's engine reports, after every durable point, how long
//! each write-ahead file was then, and the parent shortens, zeroes and overwrites only beyond that. Tables
//! and manifests are left as they are: RocksDB syncs them before it refers to them, which its own crash
//! tests cover; an interposed file system would cover it here (see docs/adr/0013).
//!
//! More: `CRASH_RESTARTS=2000 CRASH_SEED=7 cargo nextest run --profile long -p replica --test crash`.

mod child;
mod cut;
mod model;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::RngExt;
use replica::engine::rocks::wal;
use tokio::time::Instant;
use world::rng::{Seed, Stream};

use child::{DIR_VARIABLE, LOG, Out, SEED_VARIABLE};
use cut::Tail;
use model::{Cluster, Counts};

/// The name of the test that is the child when its variables are set.
const CHILD: &str = "what_was_written_without_a_crash_is_there";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Doubles as the child of the other tests.
#[test]
fn what_was_written_without_a_crash_is_there() {
    if let Ok(dir) = std::env::var(DIR_VARIABLE) {
        let seed = number(SEED_VARIABLE).expect("the parent names a seed");
        child::run(Path::new(&dir), seed, &Out::stdout(), None);
        return;
    }
    let home = tempfile::tempdir().expect("a directory");
    let lines = home.path().join("lines");
    for seed in 0..3 {
        let out = Out::file(&lines);
        child::run(&home.path().join("data"), seed, &out, Some(Duration::from_millis(300)));
    }
    let mut cluster = Cluster::default();
    for line in std::fs::read_to_string(&lines).expect("lines").lines() {
        cluster.hear(line);
    }
    cluster.check(&home.path().join("data"), "an orderly end");
    assert!(cluster.counts.appends > 20, "{:?}", cluster.counts);
    assert_eq!(cluster.counts.begun_and_there, 0, "an orderly end leaves nothing under way");
}

/// What happens at the end of a life besides the kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Kill,
    PowerCut,
}

/// Starts the child, lets it live for a while, kills it, and takes down everything it has said.
fn live(dir: &Path, seed: u64, chance: &mut Stream, cluster: &mut Cluster) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", CHILD, "--nocapture", "--test-threads=1"])
        .env(DIR_VARIABLE, dir)
        .env(SEED_VARIABLE, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the child starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    // One in eight is killed while it starts: the recovery of RocksDB is itself cut off.
    let starting = chance.random_range(0..8) == 0;
    if !starting {
        while !line.starts_with("@ready") {
            line.clear();
            let read = lines.read_line(&mut line).expect("readable");
            assert!(read > 0, "the child ended by itself");
            cluster.hear(&line);
        }
    }
    let life = Duration::from_micros(chance.random_range(0..if starting { 40_000 } else { 250_000 }));
    let killed = std::thread::spawn(move || {
        std::thread::sleep(life);
        child.kill().expect("a running child");
        child.wait().expect("the child is gone")
    });
    loop {
        line.clear();
        if lines.read_line(&mut line).expect("readable") == 0 {
            break;
        }
        cluster.hear(&line);
    }
    let status = killed.join().expect("killed");
    assert_eq!(status.code(), None, "the child ended by itself: {status}");
}

/// Lives of one data directory. Checking recomputes its whole history, so it must not grow for ever.
const LIVES: u64 = 40;

fn crash(restarts: u64, seed: u64, ends: &[End]) -> Counts {
    let mut chance = Seed::from_number(seed).stream(1);
    let mut counts = Counts::default();
    let mut life = 0;
    while life < restarts {
        let ends_at = restarts.min(life + LIVES);
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("data");
        let mut cluster = Cluster::default();
        cluster.counts = counts;
        while life < ends_at {
            life += 1;
            let end = ends[chance.random_range(0..ends.len())];
            live(&dir, seed.wrapping_mul(1_000_003).wrapping_add(life), &mut chance, &mut cluster);
            if end == End::PowerCut {
                let tail = cut::power(&dir, &mut cluster, &mut chance);
                trim_what_is_refused(&dir, tail, &mut cluster.counts);
            }
            cluster.check(&dir, &format!("seed {seed}, life {life}, {end:?}"));
        }
        counts = cluster.counts;
    }
    counts
}

/// A tail that was cut or zeroed opens. One full of garbage may be refused, is safe then, and is trimmed on
/// the word of an operator.
fn trim_what_is_refused(dir: &Path, tail: Tail, counts: &mut Counts) {
    let Err(refused) = child::open_engines(dir) else { return };
    let text = refused.to_string();
    assert_eq!(tail, Tail::Garbage, "refused after a power cut: {text}");
    assert!(text.contains("kv log trim") && text.contains("kv member replace"), "no cure: {text}");
    let cuts = wal::trim(&dir.join(LOG)).expect("nothing follows the last record");
    assert!(!cuts.is_empty(), "refused, and nothing to trim");
    counts.refused_and_trimmed += 1;
}

fn report(name: &str, started: Instant, restarts: u64, counts: &Counts) {
    println!("{name}: {restarts} restarts in {:.0} s, {counts:?}", started.elapsed().as_secs_f64());
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let started = Instant::now();
    let restarts = number("CRASH_RESTARTS").unwrap_or(25);
    let counts = crash(restarts, number("CRASH_SEED").unwrap_or(1), &[End::Kill]);
    report("kills", started, restarts, &counts);
    assert!(counts.appends > restarts * 4, "the load was too light: {counts:?}");
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let started = Instant::now();
    let restarts = number("CRASH_RESTARTS").unwrap_or(25);
    let counts =
        crash(restarts, number("CRASH_SEED").unwrap_or(2), &[End::PowerCut, End::PowerCut, End::Kill]);
    report("power cuts", started, restarts, &counts);
    assert!(counts.appends > restarts * 4, "the load was too light: {counts:?}");
    assert!(counts.cut_bytes > 0, "the cuts took nothing");
    assert!(counts.zeroed > 0, "nothing was zeroed: {counts:?}");
}

/// The check itself is checked: when the cut goes into what was synced, the model notices.
#[test]
fn a_disk_that_loses_what_it_had_synced_is_found_out() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("data");
    let mut chance = Seed::from_number(3).stream(1);
    for life in 0..20 {
        let mut cluster = Cluster::default();
        let _ = std::fs::remove_dir_all(&dir);
        live(&dir, life, &mut chance, &mut cluster);
        if !cut::beyond_the_synced(&dir, &cluster) {
            continue;
        }
        let quiet = std::panic::AssertUnwindSafe(|| cluster.check(&dir, "cut too deep"));
        assert!(std::panic::catch_unwind(quiet).is_err(), "life {life}: a lost sync was not noticed");
        return;
    }
    panic!("no life wrote enough to cut");
}
