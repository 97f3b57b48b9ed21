//! `hongbao-sim drill list|run`: rehearsals that operators wrote as files.
//!
//! Invariant: a drill that cannot be read is refused with the line and the cure before anything runs.
//!
//! Not here: what drills mean (`sim::drill`).

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use deploy::failure::{Context, Exit, Failure};
use serde_json::json;
use sim::drill::{Drill, html, parse, terminal};
use sim::host::orders;
use sim::nemesis::can_play;
use sim::run::Summary;
use sim::schedule::{Action, Expect};
use world::disk::{Disk, RealDisk};

use super::{Format, What, children};

/// Where drills are when nobody says.
const DRILLS: &str = "deploy/drills";

#[derive(Args)]
pub struct DrillArgs {
    /// How results are printed
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table, global = true)]
    output: Format,
    #[command(subcommand)]
    command: DrillCommand,
}

#[derive(Subcommand)]
enum DrillCommand {
    /// Show the drills there are
    List {
        /// Where they are
        #[arg(long, default_value = DRILLS)]
        dir: PathBuf,
    },
    /// Run a drill and judge it
    Run {
        /// A drill's name, or its file
        drill: String,
        /// Decides everything that the drill leaves open
        #[arg(long)]
        seed: Option<u64>,
        /// How many seeds, one after the other
        #[arg(long, default_value_t = 1)]
        seeds: u64,
        /// Write an HTML report to this file
        #[arg(long)]
        report: Option<PathBuf>,
    },
}

/// Does what the command says.
pub fn run(args: DrillArgs) -> Result<(), Failure> {
    match args.command {
        DrillCommand::List { dir } => list(&dir, args.output),
        DrillCommand::Run { drill, seed, seeds, report } => {
            let path = find(&drill);
            let read = read(&path)?;
            let missing = not_played(&read);
            if !missing.is_empty() {
                let message = format!("{drill} cannot be played yet: no player for {}", missing.join(", "));
                return Err(Failure::new(Exit::Refused, message));
            }
            let first = seed.unwrap_or(read.seed);
            let mut broken = Vec::new();
            for seed in first..first.saturating_add(seeds) {
                let summary = children::run(seed, &What::of_drill(&path), None)?;
                show(&summary, args.output)?;
                if let (Some(report), Some(story)) = (&report, &summary.story) {
                    let written = RealDisk.publish(report, html::page(story).as_bytes());
                    written.context(Exit::Error, format!("writing {}", report.display()))?;
                }
                if !summary.ok {
                    broken.push(seed.to_string());
                }
            }
            if broken.is_empty() {
                return Ok(());
            }
            Err(Failure::new(Exit::InvariantBroken, format!("broken in seeds {}", broken.join(" "))))
        }
    }
}

/// A name means a file in the folder of drills.
fn find(drill: &str) -> PathBuf {
    let named = Path::new(DRILLS).join(format!("{drill}.toml"));
    if named.exists() { named } else { PathBuf::from(drill) }
}

/// Reads a drill.
pub fn read(path: &Path) -> Result<Drill, Failure> {
    let text =
        std::fs::read_to_string(path).context(Exit::NotFound, format!("reading {}", path.display()))?;
    parse(&text).map_err(|errors| {
        let lines: Vec<String> = errors.iter().map(|error| format!("{}: {error}", path.display())).collect();
        Failure::new(Exit::Usage, lines.join("\n"))
    })
}

/// What the drill asks for that the simulator cannot do.
fn not_played(drill: &Drill) -> Vec<String> {
    let mut missing = Vec::new();
    for written in &drill.steps {
        let lacks = match &written.action {
            Action::Operator { types, expect, .. } => {
                *expect == Expect::Done && orders::parse(types).is_err()
            }
            action => !can_play(action),
        };
        if lacks {
            missing.push(format!("{} (line {})", written.action.name(), written.line));
        }
    }
    missing
}

fn list(dir: &Path, output: Format) -> Result<(), Failure> {
    for name in RealDisk.list(dir).context(Exit::NotFound, format!("looking into {}", dir.display()))? {
        let Some(short) = name.strip_suffix(".toml") else { continue };
        let drill = read(&dir.join(&name))?;
        match output {
            Format::Table => {
                let missing = not_played(&drill);
                let note = if missing.is_empty() {
                    String::new()
                } else {
                    format!(" (cannot be played yet: {})", missing.join(", "))
                };
                println!("{short:24} {}{note}", drill.title);
            }
            Format::Json => {
                let row = json!({ "name": short, "title": drill.title, "seed": drill.seed, "not_played": not_played(&drill) });
                println!("{row}");
            }
        }
    }
    Ok(())
}

fn show(summary: &Summary, output: Format) -> Result<(), Failure> {
    match (output, &summary.story) {
        (Format::Table, Some(story)) => println!("{}", terminal::text(story, terminal::WIDTH)),
        (Format::Table, None) => println!("seed {}: no story: {:?}", summary.seed, summary.invariants),
        (Format::Json, story) => {
            let mut object = serde_json::to_value(summary).context(Exit::Error, "writing the summary")?;
            if let (Some(object), Some(story)) = (object.as_object_mut(), story) {
                object.remove("story");
                object.insert("timeline".to_owned(), json!(story.timeline));
            }
            println!("{object}");
        }
    }
    Ok(())
}
