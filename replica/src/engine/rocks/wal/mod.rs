//! The write-ahead files of a RocksDB instance, read by ourselves before RocksDB reads them.
//!
//! RocksDB's tolerant recovery knows a tail that was cut off. It refuses one that a power cut left full of
//! zeros, and it skips a hole of zeros between two records in silence. Here the end that nobody was told of
//! is cut off, and everything else that does not read back is refused.
//!
//! ```text
//!   open:   survey -> all sound          go on
//!                  -> torn at the end    keep a copy, cut, sync, warn, go on
//!                  -> anything else      refuse: the place, and the cure
//!   trim:   survey -> unclear at the end the same cut, on the word of an operator
//! ```
//! Invariant: nothing is cut off behind which a sound record stands, and nothing without a copy of it
//! beside. Files change only while this process holds the instance ([`Hold`]).
//!
//! Not here: tables and manifests, whose blocks RocksDB checks itself.

mod crc;
mod hold;
mod mend;
mod record;
mod scan;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(super) use hold::Hold;
pub use mend::{Cut, TrimError, inspect, trim};
pub(super) use mend::{mend, refuse_any_record};
pub use scan::{Damage, Kind};

use record::BLOCK;
use scan::Blocks;

/// What one write-ahead file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalFile {
    /// Its name in the instance's directory.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// Records that read back.
    pub records: u64,
    /// The first that does not.
    pub damage: Option<Damage>,
}

/// Reads all write-ahead files of the instance in `dir`, oldest first, and changes nothing.
///
/// # Errors
/// When a file cannot be read.
fn survey(dir: &Path) -> io::Result<Vec<WalFile>> {
    let mut files = Vec::new();
    let mut blank = Vec::new();
    let mut next_sequence = 0;
    for (name, path) in names(dir)? {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let read = |number: u64| {
            let from = number * BLOCK as u64;
            let mut block = vec![0; (length - from).min(BLOCK as u64) as usize];
            file.read_exact_at(&mut block, from)?;
            Ok(block)
        };
        let scan = Blocks { length, read }.scan(next_sequence)?;
        next_sequence = scan.next_sequence;
        blank.push(scan.blank);
        files.push(WalFile { name, length, records: scan.records, damage: scan.damage });
    }
    // What is written into a file is written when all files before are synced.
    let mut later_began = false;
    for (file, blank) in files.iter_mut().zip(blank).rev() {
        if let Some(damage) = file.damage.as_mut()
            && later_began
            && !matches!(damage.kind, Kind::Followed { .. })
        {
            damage.kind = Kind::Followed { at: None };
        }
        later_began |= !blank;
    }
    Ok(files)
}

/// Write-ahead files by number; none when there is no directory.
fn names(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| Some((name.strip_suffix(".log")?.parse::<u64>().ok()?, name.to_owned())));
        if let Some((number, name)) = number {
            names.push((number, name, path));
        }
    }
    names.sort();
    Ok(names.into_iter().map(|(_, name, path)| (name, path)).collect())
}

#[cfg(test)]
mod tests;
