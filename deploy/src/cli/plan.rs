//! `hongbao plan check|build|verify|show`: offline work of finance, no cluster needed.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use payment::plan::{
    self, BuildError, BuildOptions, BuildSummary, CheckError, CheckSummary, Layout, Shown, VerifyError,
    VerifyOptions, VerifySummary, Watch,
};
use world::clock::SystemClock;
use world::disk::RealDisk;
use world::rng::Seed;

use crate::failure::{Exit, Failure};
use crate::output::{Format, grouped, person_watches, print, rfc3339, right, table, yuan};

/// See the module.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// Report everything that is wrong with a budget and a script
    Check(Inputs),
    /// Split the money into packets and write encrypted ticket files
    Build(BuildArgs),
    /// Read a build again: digests and signatures; with --full every record, against the budget
    Verify(VerifyArgs),
    /// Show what a build holds, by slot and by batch
    Show {
        /// The directory `plan build` made
        dir: PathBuf,
        /// Also show every batch
        #[arg(long)]
        batches: bool,
    },
}

/// The two inputs of a plan.
#[derive(Clone, Debug, Args)]
pub struct Inputs {
    /// Sponsors' orders, CSV
    #[arg(long)]
    pub budget: PathBuf,
    /// Slots and schemes, TOML
    #[arg(long)]
    pub script: PathBuf,
}

/// What to build.
#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    inputs: Inputs,
    /// Which scheme of the script
    #[arg(long)]
    scheme: String,
    /// The directory to make; it appears only when it is complete
    #[arg(long)]
    out: PathBuf,
    /// Make the build repeatable, secrets included: for tests and audits only
    #[arg(long)]
    seed: Option<u64>,
    /// Access nodes in each zone
    #[arg(long, default_value_t = 1)]
    nodes_per_zone: u8,
    /// Records in one file at most
    #[arg(long, default_value_t = Layout::default().file_records_max)]
    file_records: u32,
    /// Threads; 0 for one per core
    #[arg(short, long, default_value_t = 0)]
    jobs: usize,
}

/// What to verify.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// The directory `plan build` made
    dir: PathBuf,
    /// Decrypt every record; check counts, sums, bounds and duplicates against the budget
    #[arg(long)]
    full: bool,
    /// Threads; 0 for one per core
    #[arg(short, long, default_value_t = 0)]
    jobs: usize,
}

/// Set by the first interrupt: a build then leaves nothing behind.
static STOP: AtomicBool = AtomicBool::new(false);

/// Does what the command says.
///
/// # Errors
/// Exit code 2 for wrong input, 4 when the output exists, 8 when verification fails.
pub fn run(command: PlanCommand, format: Format) -> Result<(), Failure> {
    match command {
        PlanCommand::Check(inputs) => {
            let summary = plan::check(&RealDisk, &inputs.budget, &inputs.script).map_err(checked)?;
            print(format, &summary, show_check)
        }
        PlanCommand::Build(args) => {
            let options = BuildOptions {
                budget: args.inputs.budget,
                script: args.inputs.script,
                scheme: args.scheme,
                out: args.out,
                layout: Layout { nodes_per_zone: args.nodes_per_zone, file_records_max: args.file_records },
                jobs: args.jobs,
                seed: args.seed.map(Seed::from_number),
            };
            print(format, &build(&options)?, show_build)
        }
        PlanCommand::Verify(args) => {
            let options = VerifyOptions { full: args.full, jobs: args.jobs };
            print(format, &verify(&args.dir, options)?, show_verify)
        }
        PlanCommand::Show { dir, batches } => {
            let shown = plan::show(&RealDisk, &dir).map_err(verified)?;
            print(format, &shown, |shown| show(shown, batches))
        }
    }
}

/// Builds with a progress bar; an interrupt stops it cleanly.
///
/// # Errors
/// As [`run`].
pub fn build(options: &BuildOptions) -> Result<BuildSummary, Failure> {
    watched("records", |watch| plan::build(options, watch).map_err(built))
}

/// Verifies with a progress bar.
///
/// # Errors
/// As [`run`].
pub fn verify(dir: &std::path::Path, options: VerifyOptions) -> Result<VerifySummary, Failure> {
    watched("records", |watch| plan::verify(dir, options, watch).map_err(verified))
}

fn watched<T>(what: &str, work: impl FnOnce(Watch<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
    let bar = if person_watches() { ProgressBar::no_length() } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("  {spinner} {human_pos} {msg}, {per_sec}");
    bar.set_style(style.expect("a valid template"));
    bar.set_message(what.to_owned());
    let listener = tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            STOP.store(true, Ordering::SeqCst);
        }
    });
    let clock = SystemClock::new();
    let progress = |done: u64| bar.inc(done);
    let stop = || STOP.load(Ordering::SeqCst);
    let done =
        tokio::task::block_in_place(|| work(Watch { clock: &clock, progress: &progress, stop: &stop }));
    listener.abort();
    bar.finish_and_clear();
    done
}

fn checked(error: CheckError) -> Failure {
    Failure::new(Exit::Usage, error.to_string())
}

fn built(error: BuildError) -> Failure {
    let exit = match &error {
        BuildError::Check(_) | BuildError::UnknownScheme { .. } | BuildError::Layout(_) => Exit::Usage,
        BuildError::Exists { .. } => Exit::Conflict,
        BuildError::Stopped | BuildError::System(_) | BuildError::Write { .. } => Exit::Error,
    };
    Failure::new(exit, error.to_string())
}

fn verified(error: VerifyError) -> Failure {
    let exit = match &error {
        VerifyError::Failed(_) => Exit::Unverified,
        VerifyError::NotFound { .. } => Exit::NotFound,
        VerifyError::Stopped | VerifyError::System(_) => Exit::Error,
    };
    Failure::new(exit, error.to_string())
}

fn show_check(summary: &CheckSummary) -> String {
    format!(
        "{}: {} batches, {} packets, {} yuan; schemes {}",
        summary.event,
        grouped(summary.batches),
        grouped(summary.packets),
        yuan(summary.total_fen.get()),
        summary.schemes.join(", ")
    )
}

fn show_build(summary: &BuildSummary) -> String {
    let rate = summary.records as f64 / summary.seconds.max(1e-9) / 1e6;
    format!(
        "{} scheme {}: {} packets, {} yuan, in {} files ({} MB) under {} keys\nbuild {}, {:.2} s, {rate:.2} million records a second",
        summary.event,
        summary.scheme,
        grouped(summary.records),
        yuan(summary.total_fen.get()),
        grouped(summary.files),
        summary.bytes / 1_000_000,
        grouped(summary.keys),
        summary.build,
        summary.seconds,
    )
}

fn show_verify(summary: &VerifySummary) -> String {
    let depth = if summary.full { "every record" } else { "digests and signatures" };
    format!(
        "{} scheme {}: {depth} verified; {} packets, {} yuan, {} files, {:.2} s",
        summary.event,
        summary.scheme,
        grouped(summary.records),
        yuan(summary.total_fen.get()),
        grouped(summary.files),
        summary.seconds
    )
}

fn show(shown: &Shown, batches: bool) -> String {
    let mut slots = table(&["slot", "start", "end", "files", "logo", "picture", "video", "packets", "yuan"]);
    for slot in &shown.slots {
        let kind = |name: &str| {
            let found = slot.kinds.iter().find(|(kind, _)| kind.as_str() == name);
            right(grouped(found.map_or(0, |(_, sum)| sum.packets)))
        };
        slots.add_row(vec![
            slot.id.as_str().into(),
            rfc3339(slot.start_ms).into(),
            rfc3339(slot.end_ms).into(),
            right(grouped(slot.files)),
            kind("logo"),
            kind("picture"),
            kind("video"),
            right(grouped(slot.total.packets)),
            right(yuan(slot.total.amount_fen.get())),
        ]);
    }
    let mut text = format!("{} scheme {} build {}\n{slots}", shown.event, shown.scheme, shown.build);
    if batches {
        let mut rows = table(&["batch", "sponsor", "kind", "split", "min", "max", "packets", "yuan"]);
        for batch in &shown.batches {
            rows.add_row(vec![
                right(batch.batch),
                batch.sponsor.as_str().into(),
                batch.kind.as_str().into(),
                batch.split.as_str().into(),
                right(batch.min_fen),
                right(batch.max_fen),
                right(grouped(batch.total.packets)),
                right(yuan(batch.total.amount_fen.get())),
            ]);
        }
        text.push_str(&format!("\n{rows}"));
    }
    text
}
