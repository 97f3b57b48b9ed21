//! `hongbao-sim`: runs seeds of the simulator.
//!
//! ```text
//!   run   --seed N [--seeds K]   each seed in a process of its own, two at a time; exit 11 on a broken invariant
//!   meta  --seed N [--seeds K]   each seed in two processes: their traces must be equal, byte for byte
//!   child --seed N               one seed in this process (what the others start)
//!   zone  --mutant M             no simulation: a real zone with a known mistake, for tests of real processes
//! ```
//! Invariant: a process runs one seed. Counters of tokio and hyper are the process's, and a second
//! seed would not begin as the first did.
//!
//! Not here: the simulation (crate `sim`).

mod children;
mod drills;
mod hooks;
mod many;
mod meta;
mod mutants;
mod zone;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use deploy::failure::{Context, Exit, Failure};
use sim::fabric::platter::EngineKind;
use sim::fabric::time;
use sim::run::{self, Options};
use sim::schedule::Schedule;
use sim::trace;
use world::mutant::Mutant;

/// How often the watchdog looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);
/// Computing for so long within one step is no progress.
const STALLED_AFTER_CPU_MS: u64 = 40_000;

#[derive(Parser)]
#[command(name = "hongbao-sim", version, about = "The whole system in a deterministic simulation")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run seeds and judge them
    Run(RunArgs),
    /// Run each seed twice and compare the traces byte for byte
    Meta(MetaArgs),
    /// Switch each known mistake on, one after the other, and count the seeds until it is noticed
    Mutants(MutantsArgs),
    /// Rehearse failures: what fails when, what operators do, what must hold
    Drill(drills::DrillArgs),
    /// Run one seed in this process
    #[command(hide = true)]
    Child(ChildArgs),
    /// Run a real node with a known mistake switched on
    #[command(hide = true)]
    Zone(zone::ZoneArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Args)]
struct RunArgs {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Write the trace of a single seed to this file
    #[arg(long)]
    trace: Option<PathBuf>,
    /// How results are printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
struct MetaArgs {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds, one after the other
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    #[command(flatten)]
    what: What,
}

#[derive(Args)]
struct MutantsArgs {
    /// The first seed for each
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seeds tried for each, at most
    #[arg(long, default_value_t = 20)]
    seeds: u64,
    /// Only these
    #[arg(long)]
    only: Vec<Mutant>,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How results are printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Args)]
struct ChildArgs {
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Where RocksDB may write
    #[arg(long)]
    scratch: Option<PathBuf>,
    #[command(flatten)]
    what: What,
}

#[derive(Args, Clone)]
struct What {
    /// Play no faults
    #[arg(long)]
    calm: bool,
    /// Play this schedule (JSON) instead of what the seed derives
    #[arg(long, conflicts_with = "calm")]
    schedule: Option<PathBuf>,
    /// Play this drill instead of what the seed derives
    #[arg(long, conflicts_with_all = ["calm", "schedule"])]
    drill: Option<PathBuf>,
    /// Switch a mistake on, to see whether it is noticed
    #[arg(long)]
    mutant: Option<Mutant>,
    /// The kind of run this mistake lives in, without the mistake
    #[arg(long, conflicts_with = "mutant")]
    habitat: Option<Mutant>,
    /// Keep logs and states in this (memory, rocks) instead of what the seed draws
    #[arg(long)]
    engine: Option<EngineKind>,
    /// What is traced: targets and levels
    #[arg(long, default_value = trace::FILTER)]
    filter: String,
}

impl What {
    /// What a seed derives.
    fn ordinary() -> What {
        let filter = trace::FILTER.to_owned();
        What { calm: false, schedule: None, drill: None, mutant: None, habitat: None, engine: None, filter }
    }

    /// Reads the files it names.
    fn options(&self) -> Result<Options, Failure> {
        Ok(Options {
            schedule: self.schedule.as_deref().map(read_schedule).transpose()?,
            calm: self.calm,
            drill: self.drill.as_deref().map(drills::read).transpose()?,
            drill_file: self.drill.clone(),
            mutant: self.mutant,
            habitat: self.habitat,
            engine: self.engine,
            scratch: None,
        })
    }

    /// A drill, as it is written.
    fn of_drill(path: &std::path::Path) -> What {
        What { drill: Some(path.to_owned()), ..What::ordinary() }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(args) => many::run(&args),
        Command::Meta(args) => meta::run(&args),
        Command::Mutants(args) => mutants::run(&args),
        Command::Drill(args) => drills::run(args),
        Command::Child(args) => child(&args),
        Command::Zone(args) => zone::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hongbao-sim: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

/// Runs one seed here, prints its summary as one line of JSON.
fn child(args: &ChildArgs) -> Result<(), Failure> {
    let options = Options { scratch: args.scratch.clone(), ..args.what.options()? };
    // Whatever uses a library of ours or others does so in simulated time from here on.
    time::enter(args.seed);
    trace::begin(args.trace.as_deref(), &args.what.filter).context(Exit::Usage, "beginning the trace")?;
    // The pool of reconcile, without threads: parts are done in order.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build_global();
    pool.context(Exit::Error, "making a pool")?;
    watch_over(args.seed, options.clone());
    let summary = run::run(args.seed, &options)?;
    println!("{}", serde_json::to_string(&summary).context(Exit::Error, "writing the summary")?);
    // What the hosts hold was left as it is: the process ends without cleaning up after them.
    std::process::exit(0)
}

/// Ends the process when simulated time does not move although a lot is computed.
fn watch_over(seed: u64, options: Options) {
    // A thread that is not simulated: it sees the real clock.
    std::thread::spawn(move || {
        let (mut reached_ms, mut since_cpu_ms) = (0, run::cpu_ms());
        loop {
            std::thread::sleep(WATCH_EVERY);
            let now_ms = run::REACHED_MS.load(Ordering::Relaxed);
            if now_ms != reached_ms {
                (reached_ms, since_cpu_ms) = (now_ms, run::cpu_ms());
            } else if run::cpu_ms() - since_cpu_ms > STALLED_AFTER_CPU_MS {
                let summary = run::stalled(seed, &options);
                println!("{}", serde_json::to_string(&summary).unwrap_or_default());
                std::process::exit(0);
            }
        }
    });
}

fn read_schedule(path: &std::path::Path) -> Result<Schedule, Failure> {
    let doing = || format!("reading {}", path.display());
    let text = std::fs::read_to_string(path).context(Exit::NotFound, doing())?;
    serde_json::from_str(&text).context(Exit::Usage, doing())
}
