//! What can be wrong with a plan, as values.
//!
//! A [`PlanError`] is one finding about one line of one input file, in a sentence, with a sentence
//! that says how to mend it. Findings are collected, never thrown: one run shows all of them.
//!
//! Invariant: a [`PlanErrors`] is never empty and is sorted by file, line and message.
//!
//! Not here: exit codes and colours (the command line maps and prints).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlanError {
    /// The file's name as the caller gave it, without its folders.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub cure: String,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.file, self.line, self.message, self.cure)
    }
}

impl std::error::Error for PlanError {}

/// Every finding of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanErrors(Vec<PlanError>);

impl PlanErrors {
    /// The findings in reading order; `None` when there are none.
    #[must_use]
    pub fn of(mut findings: Vec<PlanError>) -> Option<PlanErrors> {
        findings.sort();
        findings.dedup();
        (!findings.is_empty()).then_some(PlanErrors(findings))
    }

    /// All findings, sorted by file and line.
    pub fn iter(&self) -> std::slice::Iter<'_, PlanError> {
        self.0.iter()
    }

    /// How many there are; at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // It is never empty.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<'a> IntoIterator for &'a PlanErrors {
    type Item = &'a PlanError;
    type IntoIter = std::slice::Iter<'a, PlanError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanErrors {}

/// Why a plan could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The budget or the script is wrong. Holds every finding.
    #[error("{0}")]
    Invalid(PlanErrors),
    /// An input file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The input file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

/// Why no build was made. Whatever it is, nothing stands at the output path that was not there.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The inputs are wrong or unreadable.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The script has no such scheme.
    #[error("the script has no scheme {wanted:?}; it has {}", known.join(", "))]
    UnknownScheme {
        /// What the caller asked for.
        wanted: String,
        /// The ids in the script.
        known: Vec<String>,
    },
    /// Something stands at the output path.
    #[error("{} exists; name another output, or move it away", path.display())]
    Exists {
        /// The output path.
        path: PathBuf,
    },
    /// The layout cannot hold the event.
    #[error("{0}")]
    Layout(String),
    /// The caller asked to stop.
    #[error("stopped before the build was complete; nothing was left behind")]
    Stopped,
    /// The operating system gave no randomness or no threads.
    #[error("{0}")]
    System(String),
    /// The disk failed.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

impl BuildError {
    /// An error of the disk at `path`.
    pub(crate) fn write(path: &Path, source: io::Error) -> BuildError {
        BuildError::Write { path: path.to_owned(), source }
    }
}

/// Why a build directory could not be verified, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory is not what was built. Holds everything found, one sentence each.
    #[error("{}", .0.join("\n"))]
    Failed(Vec<String>),
    /// There is no build directory.
    #[error("{} is not a build directory", path.display())]
    NotFound {
        /// The path asked for.
        path: PathBuf,
    },
    /// The caller asked to stop.
    #[error("stopped before everything was verified")]
    Stopped,
    /// The operating system gave no threads.
    #[error("{0}")]
    System(String),
}
