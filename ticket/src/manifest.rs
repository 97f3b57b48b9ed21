//! What a build consists of: the manifest for finance, the roster for access nodes.
//!
//! ```text
//!   manifest.json      everything: files, batches, sums, keys     planning, payment, reconcile
//!   roster.json        files, slots, pages; no amount, no sum     access nodes
//!   NAME.json.sig      Ed25519 over domain | 0 | the file's bytes, as hex
//! ```
//! Both are JSON with a `format` field and without unknown fields.
//!
//! Invariant: a loaded one is signed by the planner and agrees with itself: every total equals the
//! sum of its parts to the fen and to the packet, and each file has one holder per zone at most.
//!
//! Not here: budgets and scripts (planning), and the files themselves.

mod validate;

use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use world::disk::Disk;
use world::{NodeId, UnixMs};

use crate::digest::Digest;
use crate::id::{BatchId, BuildId, FileNo, KeyId, SlotNo};
use crate::money::Fen;
use crate::record::Kind;
use crate::sign::{Signature, SigningKey, VerifyingKey};

pub use validate::Contradiction;

/// The format number of both.
pub const MANIFEST_FORMAT: u32 = 1;

/// One ticket file, as access nodes may know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its number: its place in the list.
    pub no: FileNo,
    /// The slot its records are issued in.
    pub slot: SlotNo,
    /// The node it is made for.
    pub home: NodeId,
    /// Who holds it: the home first, then who takes over, in this order; one per zone.
    pub holders: Vec<NodeId>,
    /// How many records.
    pub count: u32,
    /// Length of the file.
    pub size_bytes: u64,
    /// BLAKE3 of the file.
    pub digest: Digest,
}

impl FileEntry {
    /// Where the file lies in a build directory: `files/000012.hbt`.
    #[must_use]
    pub fn path_in(&self, dir: &Path) -> PathBuf {
        dir.join("files").join(format!("{:06}.hbt", self.no.0))
    }
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotEntry {
    /// Its place in the script.
    pub slot: SlotNo,
    /// Its name in the script.
    pub id: String,
    /// Issuing starts.
    pub start_ms: UnixMs,
    /// Issuing ends.
    pub end_ms: UnixMs,
    /// Packets in all its files.
    pub count: u64,
    /// How the packets are released: weights of equal parts of the slot. Empty means evenly.
    #[serde(default)]
    pub curve: Vec<u32>,
}

/// What access nodes know of a batch: enough to show its page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageEntry {
    /// The sponsor's order.
    pub batch: BatchId,
    /// Who pays, by number: limits per merchant count by it.
    pub merchant_id: u32,
    /// Who pays, by name.
    pub sponsor: String,
    /// What is shown.
    pub kind: Kind,
    /// The resource that is shown; empty when none.
    pub page: String,
}

/// A page shown with a shake that wins nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsolationEntry {
    /// The resource that is shown.
    pub page: String,
    /// How often, in relation to the other consolations.
    pub weight: u32,
    /// How often at most in the event, if that was promised.
    pub exposures_max: Option<u64>,
}

/// What access nodes hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The event's id.
    pub event: String,
    /// The scheme it was built from.
    pub scheme: String,
    /// The build.
    pub build: BuildId,
    /// Packets one user may be given in the event; 0 means any number.
    pub claims_per_user_max: u32,
    /// Packets one user may be given of one merchant; 0 means any number.
    pub claims_per_merchant_max: u32,
    /// A sealed ticket may be opened until this long after its slot ended.
    pub open_grace_ms: u64,
    /// In order, not overlapping.
    pub slots: Vec<SlotEntry>,
    /// In the order of their batch.
    pub pages: Vec<PageEntry>,
    /// For shakes that win nothing; may be empty.
    pub consolations: Vec<ConsolationEntry>,
    /// In the order of their number, from 0.
    pub files: Vec<FileEntry>,
}

/// What finance knows of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchEntry {
    /// The sponsor's order.
    pub batch: BatchId,
    /// Who pays, by number: limits per merchant count by it.
    pub merchant_id: u32,
    /// Who pays, by name.
    pub sponsor: String,
    /// The account the money is taken from.
    pub account: String,
    /// The day it was paid in, as the budget says.
    pub funded_on: String,
    /// What is shown.
    pub kind: Kind,
    /// The resource that is shown; empty when none.
    pub page: String,
    /// How it was split, as the budget says.
    pub split: String,
    /// The smallest packet allowed.
    pub min_fen: Fen,
    /// The largest packet allowed.
    pub max_fen: Fen,
    /// Packets in all files.
    pub count: u64,
    /// Money in all files: the batch's budget.
    pub amount_fen: Fen,
}

/// One batch's part of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileBatch {
    /// The batch.
    pub batch: BatchId,
    /// Packets.
    pub count: u32,
    /// Money.
    pub amount_fen: Fen,
}

/// One ticket file, as finance knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// What access nodes know as well.
    pub entry: FileEntry,
    /// Its parts in the order of their batch.
    pub batches: Vec<FileBatch>,
}

/// One data key's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The key.
    pub key: KeyId,
    /// Packets sealed with it.
    pub count: u64,
    /// Money sealed with it: what is lost at most when the key is.
    pub amount_fen: Fen,
}

/// The packets that are credited as they settle, listed in `instant.bin`. Without any, the count
/// is 0 and the least amount [`Fen::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstantEntry {
    /// From this amount on.
    pub min_fen: Fen,
    /// Packets in the list.
    pub count: u64,
    /// Money in the list.
    pub amount_fen: Fen,
    /// Length of the list's file.
    pub size_bytes: u64,
    /// BLAKE3 of the list's file.
    pub digest: Digest,
}

/// What finance holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`MANIFEST_FORMAT`].
    pub format: u32,
    /// The event's id.
    pub event: String,
    /// The scheme it was built from.
    pub scheme: String,
    /// The build.
    pub build: BuildId,
    /// BLAKE3 of the budget it was built from.
    pub budget_digest: Digest,
    /// BLAKE3 of the script it was built from.
    pub script_digest: Digest,
    /// Packets one user may be given in the event; 0 means any number.
    pub claims_per_user_max: u32,
    /// Packets one user may be given of one merchant; 0 means any number.
    pub claims_per_merchant_max: u32,
    /// A sealed ticket may be opened until this long after its slot ended.
    pub open_grace_ms: u64,
    /// How many data keys; they are numbered from 1.
    pub key_count: u16,
    /// What one key may protect at most.
    pub key_budget_fen: Fen,
    /// Packets in all files.
    pub count: u64,
    /// Money in all files: the budget.
    pub amount_fen: Fen,
    /// The list of packets credited at once.
    pub instant: InstantEntry,
    /// In order, not overlapping.
    pub slots: Vec<SlotEntry>,
    /// For shakes that win nothing; may be empty.
    pub consolations: Vec<ConsolationEntry>,
    /// In the order of their id.
    pub batches: Vec<BatchEntry>,
    /// In the order of their id, from 1.
    pub keys: Vec<KeyEntry>,
    /// In the order of their number, from 0.
    pub files: Vec<ManifestFile>,
}

/// Why a manifest or roster is not believed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The disk said no.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Not signed by the owner of the key.
    #[error("{path} is not signed by the key {key}: take it from the planning machine again, or name the right key", path = path.display())]
    Signature {
        /// Which file.
        path: PathBuf,
        /// The key it was checked with. Boxed: it is large, and errors should be small.
        key: Box<VerifyingKey>,
    },
    /// Not the JSON it should be.
    #[error("{path} cannot be read: {source}", path = path.display())]
    Json {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Written by another version.
    #[error("{path} has format {found}, this program reads {MANIFEST_FORMAT}: use the version that built it", path = path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It contradicts itself.
    #[error("{path} contradicts itself: {reason}; build the plan again", path = path.display())]
    Contradiction {
        /// Which file.
        path: PathBuf,
        /// The first contradiction.
        reason: Contradiction,
    },
}

/// What is published with a signature: [`Manifest`] and [`Roster`].
pub trait Signed: Serialize + DeserializeOwned {
    /// Kept apart from every other kind of signed thing.
    const DOMAIN: &str;

    /// Whether it agrees with itself.
    ///
    /// # Errors
    /// The first [`Contradiction`].
    fn validate(&self) -> Result<(), Contradiction>;
}

/// Where the signature of `path` lies: the same name with `.sig` appended.
#[must_use]
pub fn signature_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    PathBuf::from(name)
}

/// The bytes of a signed document.
///
/// # Panics
/// When it contradicts itself: the planner made it so.
#[must_use]
pub fn encode<T: Signed>(document: &T) -> Vec<u8> {
    if let Err(reason) = document.validate() {
        panic!("a document that contradicts itself would be signed: {reason}");
    }
    let mut bytes = serde_json::to_vec_pretty(document).expect("it holds nothing JSON cannot express");
    bytes.push(b'\n');
    bytes
}

/// Publishes a document, its signature first, so that a document without one was never finished.
///
/// # Errors
/// [`ManifestError::Io`].
///
/// # Panics
/// When it contradicts itself.
pub fn publish_signed<T: Signed>(
    disk: &dyn Disk,
    path: &Path,
    document: &T,
    key: &SigningKey,
) -> Result<(), ManifestError> {
    let bytes = encode(document);
    let signature = format!("{}\n", key.sign(T::DOMAIN, &bytes));
    for (path, bytes) in [(signature_path(path), signature.as_bytes()), (path.to_owned(), &bytes)] {
        disk.publish(&path, bytes).map_err(|source| ManifestError::Io { path, source })?;
    }
    Ok(())
}

/// Loads a document whose signature lies beside it.
///
/// # Errors
/// [`ManifestError`]; the signature is checked before anything is read from the bytes.
pub fn load_signed<T: Signed>(disk: &dyn Disk, path: &Path, key: &VerifyingKey) -> Result<T, ManifestError> {
    let read =
        |path: &Path| disk.read(path).map_err(|source| ManifestError::Io { path: path.to_owned(), source });
    let bytes = read(path)?;
    let signature = read(&signature_path(path))?;
    let path = path.to_owned();
    let signature =
        std::str::from_utf8(&signature).ok().and_then(|text| text.trim_end().parse::<Signature>().ok());
    let genuine = signature.is_some_and(|signature| key.verify(T::DOMAIN, &bytes, &signature).is_ok());
    if !genuine {
        return Err(ManifestError::Signature { path, key: Box::new(*key) });
    }

    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    match serde_json::from_slice::<Head>(&bytes) {
        Ok(head) if head.format != MANIFEST_FORMAT => {
            return Err(ManifestError::Format { path, found: head.format });
        }
        Ok(_) => {}
        Err(source) => return Err(ManifestError::Json { path, source }),
    }
    let document: T = serde_json::from_slice(&bytes)
        .map_err(|source| ManifestError::Json { path: path.clone(), source })?;
    document.validate().map_err(|reason| ManifestError::Contradiction { path, reason })?;
    Ok(document)
}

impl Manifest {
    /// What access nodes may know of it.
    #[must_use]
    pub fn roster(&self) -> Roster {
        let page = |batch: &BatchEntry| PageEntry {
            batch: batch.batch,
            merchant_id: batch.merchant_id,
            sponsor: batch.sponsor.clone(),
            kind: batch.kind,
            page: batch.page.clone(),
        };
        Roster {
            format: self.format,
            event: self.event.clone(),
            scheme: self.scheme.clone(),
            build: self.build,
            claims_per_user_max: self.claims_per_user_max,
            claims_per_merchant_max: self.claims_per_merchant_max,
            open_grace_ms: self.open_grace_ms,
            slots: self.slots.clone(),
            pages: self.batches.iter().map(page).collect(),
            consolations: self.consolations.clone(),
            files: self.files.iter().map(|file| file.entry.clone()).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
