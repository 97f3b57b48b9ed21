//! `hongbao kv log inspect|trim`: the write-ahead files of a node that does not run.
//!
//! Invariant: looking changes nothing; what is cut off is the last record only, on the word of an operator,
//! and a copy of it stays beside the file.
//!
//! Not here: how damage is judged (`replica::engine::rocks::wal`).

use std::path::{Path, PathBuf};

use clap::Subcommand;
use replica::engine::rocks::wal::{self, Damage, Kind, TrimError, WalFile};
use replica::identity::LOG_DIR;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::output::{Format, print, right, table};

/// See the module.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Read the write-ahead files of a node's Raft log, and show what does not read back and where
    Inspect {
        /// The node's data directory
        dir: PathBuf,
    },
    /// Cut off the last record when it does not read back: for a machine that has just lost power
    Trim {
        /// The node's data directory; the node must not run
        dir: PathBuf,
        /// This machine lost power, so that the last record is torn and not rotten
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Serialize)]
struct Inspected {
    dir: PathBuf,
    sound: bool,
    files: Vec<Inspection>,
}

#[derive(Serialize)]
struct Inspection {
    file: String,
    bytes: u64,
    records: u64,
    damage: Option<Found>,
}

#[derive(Serialize)]
struct Found {
    /// Where the damaged record begins.
    from: u64,
    /// The first byte that does not check out.
    at: u64,
    looks: &'static str,
    cure: &'static str,
}

#[derive(Serialize)]
struct Trimmed {
    dir: PathBuf,
    cuts: Vec<CutOff>,
}

#[derive(Serialize)]
struct CutOff {
    file: String,
    length: u64,
    cut_bytes: u64,
    copy: PathBuf,
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when there is no log, 4 when the node runs, 7 when a guard refuses, 8 when the log is damaged.
pub fn run(command: &LogCommand, format: Format) -> Result<(), Failure> {
    match command {
        LogCommand::Inspect { dir } => inspect(dir, format),
        LogCommand::Trim { dir, yes } => trim(dir, *yes, format),
    }
}

fn log_dir(dir: &Path) -> Result<PathBuf, Failure> {
    let log = dir.join(LOG_DIR);
    if !log.is_dir() {
        let cure = "name the data_dir of a node, as cluster.toml does";
        return Err(Failure::new(Exit::NotFound, format!("there is no {}: {cure}", log.display())));
    }
    Ok(log)
}

fn failure(error: &TrimError) -> Failure {
    let exit = match error {
        TrimError::Held(_) => Exit::Conflict,
        TrimError::Refused(_) => Exit::Refused,
        TrimError::Disk { .. } => Exit::Error,
    };
    Failure::new(exit, error.to_string())
}

fn found(damage: Damage) -> Found {
    let (looks, cure) = match damage.kind {
        Kind::Torn => ("torn by a power cut", "none is needed: it is cut off when the node starts"),
        Kind::Unclear => (
            "the last record, torn or rotten",
            "`hongbao kv log trim` if this machine has just lost power, else `hongbao kv member replace`",
        ),
        Kind::Followed { .. } => {
            ("rotten: sound records follow, so it was durable", "`hongbao kv member replace`")
        }
    };
    Found { from: damage.from, at: damage.at, looks, cure }
}

fn inspect(dir: &Path, format: Format) -> Result<(), Failure> {
    let log = log_dir(dir)?;
    let files = wal::inspect(&log).map_err(|error| failure(&error))?;
    let refused = files.iter().filter_map(|file| file.damage).any(|damage| damage.kind != Kind::Torn);
    let inspected = Inspected {
        sound: files.iter().all(|file| file.damage.is_none()),
        dir: log,
        files: files
            .into_iter()
            .map(|file| Inspection {
                file: file.name,
                bytes: file.length,
                records: file.records,
                damage: file.damage.map(found),
            })
            .collect(),
    };
    print(format, &inspected, show)?;
    if refused {
        return Err(Failure::new(Exit::Unverified, "the node refuses to start on this log; see its cure"));
    }
    Ok(())
}

fn show(inspected: &Inspected) -> String {
    let mut files = table(&["file", "bytes", "sound records", "damage"]);
    for file in &inspected.files {
        let damage = match &file.damage {
            None => "none".to_owned(),
            Some(found) => {
                let Found { from, at, looks, cure } = found;
                format!("record at {from}, wrong from {at} on: {looks}\ncure: {cure}")
            }
        };
        files.add_row(vec![file.file.as_str().into(), right(file.bytes), right(file.records), damage.into()]);
    }
    format!("{}\n{files}", inspected.dir.display())
}

fn trim(dir: &Path, yes: bool, format: Format) -> Result<(), Failure> {
    let log = log_dir(dir)?;
    let files = wal::inspect(&log).map_err(|error| failure(&error))?;
    let damaged: Vec<WalFile> = files.into_iter().filter(|file| file.damage.is_some()).collect();
    if !yes && !damaged.is_empty() {
        let would = damaged.iter().filter_map(|file| {
            let from = file.damage?.from;
            Some(format!("{} would be cut off at {from} of {} bytes", file.name, file.length))
        });
        let would: Vec<String> = would.collect();
        return Err(Failure::new(
            Exit::Refused,
            format!(
                "{}; nothing was changed. If this record was acknowledged, cutting it off breaks the promise. Add --yes when you \
                 know that this machine lost power while it was written",
                would.join("\n")
            ),
        ));
    }
    let cuts = wal::trim(&log).map_err(|error| failure(&error))?;
    let cuts = cuts.into_iter().map(|cut| CutOff {
        file: cut.file,
        length: cut.length,
        cut_bytes: cut.cut_bytes,
        copy: cut.copy,
    });
    print(format, &Trimmed { dir: log, cuts: cuts.collect() }, |trimmed| {
        if trimmed.cuts.is_empty() {
            return format!("{}: every record reads back; nothing was changed", trimmed.dir.display());
        }
        let line = |cut: &CutOff| {
            let CutOff { file, length, cut_bytes, copy } = cut;
            format!("{file}: {cut_bytes} bytes cut off at {length}; a copy is in {}", copy.display())
        };
        trimmed.cuts.iter().map(line).collect::<Vec<_>>().join("\n")
    })
}
