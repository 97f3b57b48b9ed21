//! Who this disk is. A claim belongs to one incarnation of one node's disk, because only that disk
//! holds the cursors which say what has left.
//!
//! ```text
//!   incarnation.json   { "format": 2, "incarnation": "<32 hex>", "boot_epoch": <highest tried> }
//!                      and a check (`world::checked`); files of format 1 have none, are taken, and get one
//! ```
//! The boot epoch about to be taken is written here *before* the store raises it. So at every start
//! the store's epoch is at most the one on disk; if it is higher, this disk is older than the last
//! start (a backup or snapshot was put back), its cursors cannot be trusted, and it becomes a new
//! incarnation that resumes nothing.
//!
//! Invariant: an incarnation names one unbroken history of one disk.
//!
//! Not here: a disk set back to a moment *within* its last run, and two processes on one disk at
//! once; the latter is kept out by the lock of the node's data directory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use world::checked::{self, Line};
use world::disk::Disk;
use world::rng::{EntropyError, secret_bytes};

const FORMAT: u32 = 2;
/// Without a check.
const FORMAT_BARE: u32 = 1;
const FILE_NAME: &str = "incarnation.json";
const CHECK_CONTEXT: &str = "hongbao 2026 disk incarnation";

/// 16 unpredictable bytes, shown as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// A new one.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn draw() -> Result<Incarnation, EntropyError> {
        let [bytes @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = secret_bytes()?;
        Ok(Incarnation(bytes))
    }

    /// The first half: what stands in cursors.
    #[must_use]
    pub fn short(&self) -> [u8; 8] {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        [a, b, c, d, e, f, g, h]
    }

    fn parse(text: &str) -> Option<Incarnation> {
        let number = u128::from_str_radix(text, 16).ok()?;
        let incarnation = Incarnation(number.to_be_bytes());
        (incarnation.to_string() == text).then_some(incarnation)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Why a disk does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IncarnationError {
    /// The disk said no.
    #[error("the disk's identity cannot be kept in {path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The file is there and makes no sense. Starting afresh is the operator's decision: delete it.
    #[error("{path} is not a disk identity: {reason}; delete it to give up every claim of this disk")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    incarnation: String,
    boot_epoch: u32,
}

/// This disk's identity, as kept on it.
#[derive(Clone, Debug)]
pub struct DiskIdentity {
    path: PathBuf,
    incarnation: Incarnation,
    boot_epoch: u32,
}

impl DiskIdentity {
    /// Reads the identity kept in `dir`, or makes one that becomes durable with the first
    /// [`DiskIdentity::prepare`].
    ///
    /// # Errors
    /// [`IncarnationError`].
    pub fn load(disk: &dyn Disk, dir: &Path) -> Result<DiskIdentity, IncarnationError> {
        let path = dir.join(FILE_NAME);
        match disk.read(&path) {
            Ok(bytes) => parse(path, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(DiskIdentity { path, incarnation: Incarnation::draw()?, boot_epoch: 0 })
            }
            Err(source) => Err(IncarnationError::Disk { path, source }),
        }
    }

    /// Who this disk is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Makes ready to raise the store's boot epoch from `stored`: durably notes the next one, and
    /// becomes a new incarnation if the store has seen a later start than this disk. Answers the
    /// epoch to ask for.
    ///
    /// # Errors
    /// [`IncarnationError`]; the epoch must then not be asked for.
    pub fn prepare(&mut self, disk: &dyn Disk, stored: u32) -> Result<u32, IncarnationError> {
        if self.boot_epoch < stored && self.boot_epoch != 0 {
            tracing::error!(
                on_disk = self.boot_epoch,
                stored,
                "this disk is older than the node's last start"
            );
            self.incarnation = Incarnation::draw()?;
        }
        // Beyond both: a store that forgot (it was set up anew) must not lead to an epoch, and so to
        // seal nonces, that this disk has already used.
        let next = stored.max(self.boot_epoch).checked_add(1).ok_or_else(|| IncarnationError::Damaged {
            path: self.path.clone(),
            reason: "the store's boot epoch is at its end".to_owned(),
        })?;
        let document =
            Document { format: FORMAT, incarnation: self.incarnation.to_string(), boot_epoch: next };
        let bytes = serde_json::to_vec(&document).expect("three plain fields are always valid JSON");
        let failed = |source| IncarnationError::Disk { path: self.path.clone(), source };
        if let Some(parent) = self.path.parent() {
            disk.create_dir_all(parent).map_err(failed)?;
        }
        disk.publish(&self.path, &checked::seal(CHECK_CONTEXT, &bytes)).map_err(failed)?;
        self.boot_epoch = next;
        assert!(stored < self.boot_epoch, "a boot epoch that does not rise");
        Ok(next)
    }
}

fn parse(path: PathBuf, bytes: &[u8]) -> Result<DiskIdentity, IncarnationError> {
    let damaged = |reason: String| IncarnationError::Damaged { path: path.clone(), reason };
    let (line, format) =
        match checked::open(CHECK_CONTEXT, bytes).map_err(|error| damaged(error.to_string()))? {
            Line::Checked(line) => (line, FORMAT),
            Line::Bare(line) => (line, FORMAT_BARE),
        };
    let document: Document = serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
    if document.format != format {
        let found = document.format;
        return Err(damaged(format!("its format is {found}, and what stands in it is of format {format}")));
    }
    let incarnation = Incarnation::parse(&document.incarnation)
        .ok_or_else(|| damaged("the incarnation is not 32 hex digits".to_owned()))?;
    Ok(DiskIdentity { path, incarnation, boot_epoch: document.boot_epoch })
}

#[cfg(test)]
mod tests {
    use world::disk::RealDisk;

    use super::*;

    fn dir() -> tempfile::TempDir {
        tempfile::tempdir().expect("tempdir")
    }

    #[test]
    fn a_disk_keeps_its_incarnation_over_restarts() {
        let dir = dir();
        let mut first = DiskIdentity::load(&RealDisk, dir.path()).expect("a new identity");
        assert_eq!(first.prepare(&RealDisk, 0).expect("prepare"), 1);
        let mut second = DiskIdentity::load(&RealDisk, dir.path()).expect("the same identity");
        assert_eq!(second.prepare(&RealDisk, 1).expect("prepare"), 2);
        assert_eq!(first.incarnation(), second.incarnation());
    }

    #[test]
    fn a_disk_older_than_the_last_start_becomes_another_incarnation() {
        let dir = dir();
        let mut old = DiskIdentity::load(&RealDisk, dir.path()).expect("a new identity");
        old.prepare(&RealDisk, 0).expect("prepare");
        let before = old.incarnation();
        let mut restored = DiskIdentity::load(&RealDisk, dir.path()).expect("the backup");
        restored.prepare(&RealDisk, 5).expect("prepare");
        assert_ne!(restored.incarnation(), before);
    }

    #[test]
    fn an_attempt_that_never_reached_the_store_costs_nothing() {
        let dir = dir();
        let mut disk = DiskIdentity::load(&RealDisk, dir.path()).expect("a new identity");
        disk.prepare(&RealDisk, 0).expect("prepare");
        disk.prepare(&RealDisk, 0).expect("prepare again");
        let before = disk.incarnation();
        assert_eq!(disk.prepare(&RealDisk, 1).expect("prepare"), 3);
        assert_eq!(disk.incarnation(), before);
    }

    #[test]
    fn a_store_that_forgot_does_not_bring_an_epoch_back() {
        let dir = dir();
        let mut disk = DiskIdentity::load(&RealDisk, dir.path()).expect("a new identity");
        assert_eq!(disk.prepare(&RealDisk, 8).expect("prepare"), 9);
        let mut later = DiskIdentity::load(&RealDisk, dir.path()).expect("the same identity");
        assert_eq!(later.prepare(&RealDisk, 0).expect("prepare"), 10);
    }

    #[test]
    fn a_damaged_identity_is_not_replaced_by_itself() {
        let dir = dir();
        RealDisk.publish(&dir.path().join(FILE_NAME), b"{}").expect("publish");
        let error = DiskIdentity::load(&RealDisk, dir.path()).expect_err("a damaged identity");
        assert!(error.to_string().contains("delete it"), "{error}");
    }

    #[test]
    fn a_bit_that_flips_is_never_believed_and_a_file_without_a_check_is_taken_once() {
        let dir = dir();
        let path = dir.path().join(FILE_NAME);
        let old = br#"{"format":1,"incarnation":"000102030405060708090a0b0c0d0e0f","boot_epoch":6}"#;
        RealDisk.publish(&path, old).expect("publish");
        let mut disk = DiskIdentity::load(&RealDisk, dir.path()).expect("an older version's file");
        assert_eq!(disk.prepare(&RealDisk, 6).expect("prepare"), 7);
        let written = RealDisk.read(&path).expect("there");
        assert!(
            written.starts_with(
                br#"{"format":2,"incarnation":"000102030405060708090a0b0c0d0e0f","boot_epoch":7}"#
            )
        );
        for bit in 0..written.len() * 8 {
            let mut flipped = written.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            RealDisk.publish(&path, &flipped).expect("publish");
            let refused = DiskIdentity::load(&RealDisk, dir.path());
            let message = refused.err().unwrap_or_else(|| panic!("bit {bit} is believed")).to_string();
            assert!(message.contains("incarnation.json") && message.contains("delete it"), "{message}");
        }
    }

    #[test]
    fn the_identity_is_32_hex_digits() {
        assert_eq!(Incarnation([0xab; 16]).to_string(), "ab".repeat(16));
        assert_eq!(Incarnation::parse(&"ab".repeat(16)), Some(Incarnation([0xab; 16])));
        assert_eq!(Incarnation::parse("AB"), None);
    }
}
