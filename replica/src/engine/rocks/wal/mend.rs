//! What is done about the end of a log that does not read back.
//!
//! Invariant: before a byte is cut off, a copy of it is durable beside the file.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Damage, Hold, Kind, WalFile, survey};
use crate::engine::EngineError;
use crate::identity::REPLACE;

/// What was cut off a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub file: String,
    /// Its length now.
    pub length: u64,
    /// How much was cut off.
    pub cut_bytes: u64,
    /// Where a copy of it is.
    pub copy: PathBuf,
}

/// Why a log was not looked at, or nothing was cut off.
#[derive(Debug, thiserror::Error)]
pub enum TrimError {
    /// Somebody works on the files.
    #[error("a process holds {0}: stop the node first")]
    Held(PathBuf),
    /// What is damaged was durable once, and may have been acknowledged.
    #[error("{0}")]
    Refused(String),
    /// The disk said no.
    #[error("{path}: {source}")]
    Disk {
        /// The instance.
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
}

/// Cuts off the ends that a power cut took apart, and refuses everything else that does not read back.
pub(in crate::engine::rocks) fn mend(dir: &Path, _held: &Hold) -> Result<(), EngineError> {
    let failed = |error: std::io::Error| EngineError::Failed(format!("{}: {error}", dir.display()));
    let files = survey(dir).map_err(failed)?;
    let damaged = || files.iter().filter_map(|file| Some((file, file.damage?)));
    // Refuse before anything is changed.
    if let Some((file, damage)) = damaged().find(|(_, damage)| damage.kind != Kind::Torn) {
        return Err(EngineError::Corrupt(refusal(dir, file, damage)));
    }
    for (file, damage) in damaged() {
        let cut = cut(dir, file, damage).map_err(failed)?;
        tracing::warn!(
            file = %dir.join(&cut.file).display(),
            from = cut.length,
            bytes = cut.cut_bytes,
            copy = %cut.copy.display(),
            "the last record of the log was torn by a power cut, before anything was acknowledged on it; it \
             is cut off"
        );
    }
    Ok(())
}

/// Reads all write-ahead files of an instance that nobody works on, and changes nothing.
///
/// # Errors
/// [`TrimError`].
pub fn inspect(dir: &Path) -> Result<Vec<WalFile>, TrimError> {
    let failed = |source| TrimError::Disk { path: dir.to_owned(), source };
    // What is being written looks torn.
    if Hold::is_taken(dir).map_err(failed)? {
        return Err(TrimError::Held(dir.to_owned()));
    }
    survey(dir).map_err(failed)
}

/// Cuts off what does not read back at the end of the log in `dir`, torn or not, on the word of an
/// operator who knows that this machine lost power. Answers what was cut off; nothing when all is sound.
///
/// # Errors
/// [`TrimError`]; nothing is changed then.
pub fn trim(dir: &Path) -> Result<Vec<Cut>, TrimError> {
    let failed = |source| TrimError::Disk { path: dir.to_owned(), source };
    let held = Hold::take(dir).map_err(failed)?;
    let _held = held.ok_or_else(|| TrimError::Held(dir.to_owned()))?;
    let files = survey(dir).map_err(failed)?;
    let damaged = || files.iter().filter_map(|file| Some((file, file.damage?)));
    if let Some((file, damage)) = damaged().find(|(_, damage)| matches!(damage.kind, Kind::Followed { .. })) {
        return Err(TrimError::Refused(refusal(dir, file, damage)));
    }
    damaged().map(|(file, damage)| cut(dir, file, damage).map_err(failed)).collect()
}

/// Refuses an instance whose write-ahead files hold anything, where none is ever written.
pub(in crate::engine::rocks) fn refuse_any_record(dir: &Path) -> Result<(), EngineError> {
    let files = survey(dir).map_err(|error| EngineError::Failed(format!("{}: {error}", dir.display())))?;
    match files.iter().find(|file| file.length > 0) {
        None => Ok(()),
        Some(file) => Err(EngineError::Corrupt(format!(
            "{} holds {} bytes, and this node never writes there: they are not its own. {REPLACE}",
            dir.join(&file.name).display(),
            file.length
        ))),
    }
}

fn refusal(dir: &Path, file: &WalFile, damage: Damage) -> String {
    let path = dir.join(&file.name);
    let Damage { from, at, kind } = damage;
    let place = format!(
        "the Raft log in {} is damaged: the record at {from} of {} bytes in {} does not read back from {at} on",
        dir.display(),
        file.length,
        path.display()
    );
    match kind {
        Kind::Followed { at: next } => {
            let next = next.map_or("in a later file".to_owned(), |next| format!("at {next}"));
            format!(
                "{place}, and a sound record follows {next}. So it was durable, what this node has \
                 acknowledged is missing, and it must not go on without it. {REPLACE}"
            )
        }
        Kind::Torn | Kind::Unclear => format!(
            "{place}. It is the last one: torn by a power cut before it was acknowledged, or rotten since. \
             When you know that this machine has just lost power, look with `hongbao kv log inspect` and cut it off with \
             `hongbao kv log trim`. Otherwise: {REPLACE}"
        ),
    }
}

/// Shortens the file to where the damaged record begins.
fn cut(dir: &Path, file: &WalFile, damage: Damage) -> std::io::Result<Cut> {
    let path = dir.join(&file.name);
    let open = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut rest = vec![0; (file.length - damage.from) as usize];
    open.read_exact_at(&mut rest, damage.from)?;
    let copy = dir.join(format!("{}.cut-off-at-{}", file.name, damage.from));
    world::disk::publish_with(&copy, |copy| copy.write_all(&rest))?;
    open.set_len(damage.from)?;
    open.sync_all()?;
    Ok(Cut { file: file.name.clone(), length: damage.from, cut_bytes: rest.len() as u64, copy })
}
