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

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use world::disk::Disk;
use world::{NodeId, UnixMs};

use crate::digest::Digest;
use crate::file::file_size;
use crate::id::{BatchId, BuildId, FileNo, KeyId, SlotNo};
use crate::limits::{FILE_HOLDERS_MAX, FILE_RECORDS_MAX};
use crate::money::{self, Fen};
use crate::record::Kind;
use crate::sign::{Signature, SigningKey, VerifyingKey};

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
    /// Who pays.
    pub sponsor: String,
    /// What is shown.
    pub kind: Kind,
    /// The resource that is shown; empty when none.
    pub page: String,
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
    /// A sealed ticket may be opened until this long after its slot ended.
    pub open_grace_ms: u64,
    /// In order, not overlapping.
    pub slots: Vec<SlotEntry>,
    /// In the order of their batch.
    pub pages: Vec<PageEntry>,
    /// In the order of their number, from 0.
    pub files: Vec<FileEntry>,
}

/// What finance knows of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchEntry {
    /// The sponsor's order.
    pub batch: BatchId,
    /// Who pays.
    pub sponsor: String,
    /// The order's number in the payment system; empty when there is none.
    pub payment_order: String,
    /// The account the money is taken from.
    pub account: String,
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

/// The packets that are credited as they settle, listed in `instant.bin`.
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
        /// The key it was checked with.
        key: VerifyingKey,
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

/// A sentence: what in a manifest does not agree with what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(String);

fn ensure(holds: bool, reason: impl FnOnce() -> String) -> Result<(), Contradiction> {
    if holds { Ok(()) } else { Err(Contradiction(reason())) }
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
    let read = |path: &Path| disk.read(path).map_err(|source| ManifestError::Io { path: path.to_owned(), source });
    let bytes = read(path)?;
    let signature = read(&signature_path(path))?;
    let path = path.to_owned();
    let signature = std::str::from_utf8(&signature).ok().and_then(|text| text.trim_end().parse::<Signature>().ok());
    let genuine = signature.is_some_and(|signature| key.verify(T::DOMAIN, &bytes, &signature).is_ok());
    if !genuine {
        return Err(ManifestError::Signature { path, key: *key });
    }

    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    match serde_json::from_slice::<Head>(&bytes) {
        Ok(head) if head.format != MANIFEST_FORMAT => return Err(ManifestError::Format { path, found: head.format }),
        Ok(_) => {}
        Err(source) => return Err(ManifestError::Json { path, source }),
    }
    let document: T = serde_json::from_slice(&bytes).map_err(|source| ManifestError::Json { path: path.clone(), source })?;
    document.validate().map_err(|reason| ManifestError::Contradiction { path, reason })?;
    Ok(document)
}

impl Signed for Roster {
    const DOMAIN: &str = "hongbao/roster";

    fn validate(&self) -> Result<(), Contradiction> {
        validate_slots(&self.slots)?;
        ensure(self.pages.is_sorted_by(|a, b| a.batch < b.batch), || "its pages are not in order".to_owned())?;
        validate_files(&self.slots, self.files.iter())
    }
}

impl Signed for Manifest {
    const DOMAIN: &str = "hongbao/manifest";

    fn validate(&self) -> Result<(), Contradiction> {
        validate_slots(&self.slots)?;
        validate_files(&self.slots, self.files.iter().map(|file| &file.entry))?;
        self.validate_batches()?;
        self.validate_keys()?;
        let instant = self.instant;
        ensure(instant.count <= self.count && instant.amount_fen <= self.amount_fen, || {
            "more is credited at once than there is".to_owned()
        })
    }
}

impl Manifest {
    /// What access nodes may know of it.
    #[must_use]
    pub fn roster(&self) -> Roster {
        let page = |batch: &BatchEntry| PageEntry {
            batch: batch.batch,
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
            open_grace_ms: self.open_grace_ms,
            slots: self.slots.clone(),
            pages: self.batches.iter().map(page).collect(),
            files: self.files.iter().map(|file| file.entry.clone()).collect(),
        }
    }

    /// Each batch's total is the sum of its parts, and the grand total the sum of the batches.
    fn validate_batches(&self) -> Result<(), Contradiction> {
        let mut parts: BTreeMap<BatchId, (u64, Fen)> = BTreeMap::new();
        for file in &self.files {
            let no = file.entry.no;
            let count: u64 = file.batches.iter().map(|part| u64::from(part.count)).sum();
            ensure(count == u64::from(file.entry.count), || {
                format!("the batches of file {no} make {count} packets, it holds {}", file.entry.count)
            })?;
            ensure(file.batches.is_sorted_by(|a, b| a.batch < b.batch), || {
                format!("the batches of file {no} are not in order")
            })?;
            for part in &file.batches {
                let (count, amount) = parts.entry(part.batch).or_default();
                *count += u64::from(part.count);
                *amount = amount.checked_add(part.amount_fen).ok_or_else(overflow)?;
            }
        }
        ensure(self.batches.is_sorted_by(|a, b| a.batch < b.batch), || "its batches are not in order".to_owned())?;
        for batch in &self.batches {
            let (count, amount) = parts.remove(&batch.batch).unwrap_or_default();
            ensure((count, amount) == (batch.count, batch.amount_fen), || {
                let (id, planned, budget) = (batch.batch, batch.count, batch.amount_fen);
                format!("batch {id} has {planned} packets of {budget} yuan, its files hold {count} of {amount}")
            })?;
        }
        ensure(parts.is_empty(), || "its files hold a batch that it does not list".to_owned())?;
        let totals = self.batches.iter().map(|batch| (batch.count, batch.amount_fen));
        self.validate_total("batches", totals)
    }

    /// Keys are numbered from 1, none protects more than it may, and together they protect all.
    fn validate_keys(&self) -> Result<(), Contradiction> {
        let numbered = self.keys.iter().map(|key| key.key.0).eq(1..=self.key_count);
        ensure(numbered, || format!("its keys are not numbered from 1 to {}", self.key_count))?;
        for key in &self.keys {
            ensure(key.amount_fen <= self.key_budget_fen, || {
                format!("key {} protects {} yuan, more than {}", key.key, key.amount_fen, self.key_budget_fen)
            })?;
        }
        self.validate_total("keys", self.keys.iter().map(|key| (key.count, key.amount_fen)))
    }

    fn validate_total(&self, what: &str, parts: impl Iterator<Item = (u64, Fen)> + Clone) -> Result<(), Contradiction> {
        let count: u64 = parts.clone().map(|(count, _)| count).try_fold(0, u64::checked_add).ok_or_else(overflow)?;
        let amount = money::sum(parts.map(|(_, amount)| amount)).ok_or_else(overflow)?;
        ensure((count, amount) == (self.count, self.amount_fen), || {
            let (all, budget) = (self.count, self.amount_fen);
            format!("its {what} make {count} packets of {amount} yuan, the total is {all} of {budget}")
        })
    }
}

fn overflow() -> Contradiction {
    Contradiction("a sum is larger than any budget".to_owned())
}

fn validate_slots(slots: &[SlotEntry]) -> Result<(), Contradiction> {
    for (place, slot) in slots.iter().enumerate() {
        ensure(usize::from(slot.slot.0) == place, || format!("slot {} stands in place {place}", slot.slot))?;
        ensure(slot.start_ms < slot.end_ms, || format!("slot {} ends before it starts", slot.slot))?;
    }
    let apart = slots.is_sorted_by(|a, b| a.end_ms <= b.start_ms);
    ensure(apart, || "its slots overlap or are not in order".to_owned())
}

fn validate_files<'a>(
    slots: &[SlotEntry],
    files: impl Iterator<Item = &'a FileEntry>,
) -> Result<(), Contradiction> {
    let mut counts = vec![0u64; slots.len()];
    for (place, file) in files.enumerate() {
        let no = file.no;
        ensure(u32::try_from(place).is_ok_and(|place| place == no.0), || format!("file {no} stands in place {place}"))?;
        ensure(file.holders.first() == Some(&file.home), || format!("the first holder of file {no} is not its home"))?;
        ensure(file.holders.len() <= FILE_HOLDERS_MAX, || format!("file {no} has too many holders"))?;
        let mut zones: Vec<_> = file.holders.iter().map(|holder| holder.zone()).collect();
        zones.sort_unstable();
        ensure(zones.is_sorted_by(|a, b| a < b), || format!("two holders of file {no} stand in one zone"))?;
        ensure(file.count <= FILE_RECORDS_MAX, || format!("file {no} holds too many records"))?;
        ensure(file.size_bytes == file_size(file.count), || format!("the size of file {no} is not that of its count"))?;
        let slot = counts.get_mut(usize::from(file.slot.0));
        let slot = slot.ok_or_else(|| Contradiction(format!("file {no} is of slot {}, which does not exist", file.slot)))?;
        *slot += u64::from(file.count);
    }
    for (slot, count) in slots.iter().zip(counts) {
        ensure(slot.count == count, || {
            format!("slot {} has {} packets, its files hold {count}", slot.slot, slot.count)
        })?;
    }
    Ok(())
}
