//! `hongbao drill list|run|replay`: rehearsals in the simulator, which is a program of its own beside
//! this one.
//!
//! Invariant: the simulator takes this process's place, so its output and exit code are its own.
//!
//! Not here: the simulator. Linking it would put tokio's test clock into production nodes.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Subcommand;

use crate::failure::{Context, Exit, Failure};
use crate::output::Format;

/// The simulator's name; it is installed beside this program.
const SIMULATOR: &str = "hongbao-sim";

/// See the module.
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Show the drills there are
    List {
        /// Where they are
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Run a drill and judge it
    Run(Drill),
    /// Run a drill again with the seed it had
    Replay(Drill),
}

/// Which drill, and how.
#[derive(Debug, clap::Args)]
pub struct Drill {
    /// A drill's name, or its file
    drill: String,
    /// Decides everything that the drill leaves open
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds, one after the other
    #[arg(long)]
    seeds: Option<u64>,
    /// Write an HTML report to this file
    #[arg(long)]
    report: Option<PathBuf>,
}

/// Hands over to the simulator.
///
/// # Errors
/// Exit code 3 when it is not there. Otherwise this does not return.
pub fn run(command: DrillCommand, format: Format) -> Result<(), Failure> {
    let here = std::env::current_exe().context(Exit::Error, "finding this program")?;
    let simulator = here.with_file_name(SIMULATOR);
    if !simulator.exists() {
        let cure = "build it with `cargo build -p sim`";
        return Err(Failure::new(Exit::NotFound, format!("{} is not there: {cure}", simulator.display())));
    }
    let mut handed = Command::new(&simulator);
    handed.args(["drill", "--output", if format == Format::Json { "json" } else { "table" }]);
    match command {
        DrillCommand::List { dir } => {
            handed.arg("list");
            if let Some(dir) = dir {
                handed.arg("--dir").arg(dir);
            }
        }
        DrillCommand::Run(drill) | DrillCommand::Replay(drill) => {
            handed.args(["run", &drill.drill]);
            if let Some(seed) = drill.seed {
                handed.args(["--seed", &seed.to_string()]);
            }
            if let Some(seeds) = drill.seeds {
                handed.args(["--seeds", &seeds.to_string()]);
            }
            if let Some(report) = drill.report {
                handed.arg("--report").arg(report);
            }
        }
    }
    // Returns only when it could not begin.
    Err(Failure::new(Exit::Error, format!("starting {}: {}", simulator.display(), handed.exec())))
}
