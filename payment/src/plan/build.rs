//! `plan build`: inputs in, a signed build directory out.
//!
//! ```text
//!   check inputs -> deal -> mint and write files (all threads) -> instant list -> manifest,
//!   roster, keys, copies of the inputs -> rename D.partial to D
//! ```
//! Memory holds the deal (files times batches) and one file per thread, never all packets.
//!
//! Invariant: D appears whole or not at all. Errors and a stop leave nothing; what a killed run
//! leaves is `D.partial`, and the next run to the same place removes it.
//!
//! Not here: verifying what was built (see [`verify`](super::verify())).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use ticket::digest::Digest;
use ticket::file::{FileError, TicketFileHeader, write_file};
use ticket::id::{BuildId, EventTag, KeyId, SlotNo};
use ticket::manifest::{
    BatchEntry, ConsolationEntry, FileBatch, FileEntry, InstantEntry, KeyEntry, MANIFEST_FORMAT, Manifest,
    ManifestError, ManifestFile, SlotEntry, publish_signed,
};
use ticket::mint::MintKeyring;
use ticket::money::Fen;
use world::clock::Clock;
use world::disk::{Disk, PartialDir, RealDisk, sync_dir};
use world::rng::Seed;

use super::budget::{Batch, Split};
use super::collect::Collector;
use super::deal::{self, Deal, FilePlan};
use super::error::BuildError;
use super::inputs::{self, Plan};
use super::layout::Layout;
use super::limits::INSTANT_CHUNK_MAX;
use super::press::{KeyUse, Press, Sheet};
use super::script::Scheme;
use super::seeds::Seeds;
use super::serial::SerialMap;

/// What to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The budget.
    pub budget: PathBuf,
    /// The script.
    pub script: PathBuf,
    /// Which scheme of the script.
    pub scheme: String,
    /// Where the build directory will stand.
    pub out: PathBuf,
    /// The nodes the files are made for.
    pub layout: Layout,
    /// Threads; 0: one per core.
    pub jobs: usize,
    /// Makes the build repeatable, secrets included: for tests and audits. `None`: from the
    /// operating system.
    pub seed: Option<Seed>,
}

/// How a long run is followed and stopped.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Measures the run.
    pub clock: &'a dyn Clock,
    /// Told how many more records are done; called from many threads.
    pub progress: &'a (dyn Fn(u64) + Sync),
    /// Asked between files; `true` ends the run with nothing left behind.
    pub stop: &'a (dyn Fn() -> bool + Sync),
}

/// What was built.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BuildSummary {
    /// The build's id.
    pub build: BuildId,
    /// The event's id.
    pub event: String,
    /// The scheme.
    pub scheme: String,
    /// Packets.
    pub records: u64,
    /// Money.
    pub total_fen: Fen,
    /// Ticket files.
    pub files: u64,
    /// Data keys.
    pub keys: u64,
    /// Packets credited at once.
    pub instant: u64,
    /// Bytes of all ticket files.
    pub bytes: u64,
    /// How long it took by the caller's clock.
    pub seconds: f64,
}

/// Builds.
///
/// # Errors
/// [`BuildError`]; nothing was then left behind.
pub fn build(options: &BuildOptions, watch: Watch<'_>) -> Result<BuildSummary, BuildError> {
    let started = watch.clock.uptime();
    let layout = options.layout.validate().map_err(BuildError::Layout)?;
    let plan = inputs::load(&RealDisk, &options.budget, &options.script)?;
    let scheme = plan.scheme(&options.scheme).ok_or_else(|| BuildError::UnknownScheme {
        wanted: options.scheme.clone(),
        known: plan.script.schemes.iter().map(|scheme| scheme.id.clone()).collect(),
    })?;
    let seed = match options.seed {
        Some(seed) => seed,
        None => Seed::from_os().map_err(|error| BuildError::System(error.to_string()))?,
    };
    let seeds = Seeds::new(&seed, &plan, &scheme.id, layout);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.jobs).build();
    let pool = pool.map_err(|error| BuildError::System(error.to_string()))?;

    let dir = PartialDir::create(&options.out).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => BuildError::Exists { path: options.out.clone() },
        _ => BuildError::write(&options.out, source),
    })?;
    let deal = deal::deal(&plan, scheme, layout, &seeds)?;
    let run = Run { plan: &plan, scheme, seeds: &seeds, deal: &deal, dir: dir.path(), watch };
    let made = pool.install(|| run.make())?;
    let manifest = run.manifest(made);
    run.finish(&manifest)?;
    if (watch.stop)() {
        return Err(BuildError::Stopped);
    }
    dir.publish().map_err(|source| BuildError::write(&options.out, source))?;
    Ok(BuildSummary {
        build: manifest.build,
        records: manifest.count,
        total_fen: manifest.amount_fen,
        files: manifest.files.len() as u64,
        keys: u64::from(manifest.key_count),
        instant: manifest.instant.count,
        bytes: manifest.files.iter().map(|file| file.entry.size_bytes).sum(),
        event: manifest.event,
        scheme: manifest.scheme,
        seconds: watch.clock.uptime().saturating_sub(started).as_secs_f64(),
    })
}

/// One build under way.
struct Run<'a> {
    plan: &'a Plan,
    scheme: &'a Scheme,
    seeds: &'a Seeds,
    deal: &'a Deal,
    dir: &'a Path,
    watch: Watch<'a>,
}

/// What the minting brought.
struct Made {
    files: Vec<(FileEntry, Vec<KeyUse>)>,
    instant: InstantEntry,
}

impl Run<'_> {
    /// Mints and writes all files and the instant list.
    fn make(&self) -> Result<Made, BuildError> {
        let write_error = |source| BuildError::write(self.dir, source);
        let build = self.seeds.build_id();
        let batches = &self.plan.budget.batches;
        let min = self.plan.script.instant_min;
        let wants = |batch: &Batch| min.is_some_and(|min| batch.max >= min);
        let bounds: Vec<u64> = batches.iter().map(|b| if wants(b) { b.count } else { 0 }).collect();
        let instants =
            Collector::new(self.dir, build, min, &bounds, INSTANT_CHUNK_MAX).map_err(write_error)?;
        let secret = self.seeds.build_secret();
        let press = Press {
            batches,
            build,
            seeds: self.seeds,
            keyring: MintKeyring::new(&secret, build, self.deal.key_count),
            serials: SerialMap::new(secret.to_text().as_bytes(), build),
            key_budget: self.plan.script.key_budget,
            instants: &instants,
            exposure: self.plan.script.event.exposure,
        };
        let folder = self.dir.join("files");
        fs::create_dir(&folder).map_err(|source| BuildError::write(&folder, source))?;
        let files: Result<Vec<_>, BuildError> = self
            .deal
            .files
            .par_iter()
            .map_init(Sheet::default, |sheet, file| self.one_file(&press, sheet, file))
            .collect();
        let files = files?;
        sync_dir(&folder).map_err(|source| BuildError::write(&folder, source))?;
        let instant = instants.finish().map_err(write_error)?;
        Ok(Made { files, instant })
    }

    /// Mints and writes one file.
    fn one_file(
        &self,
        press: &Press<'_>,
        sheet: &mut Sheet,
        file: &FilePlan,
    ) -> Result<(FileEntry, Vec<KeyUse>), BuildError> {
        if (self.watch.stop)() {
            return Err(BuildError::Stopped);
        }
        press.mint(file, sheet).map_err(|source| BuildError::write(self.dir, source))?;
        let home = file.holders[0];
        let mut entry = FileEntry {
            no: file.no,
            slot: file.slot,
            home,
            holders: file.holders.clone(),
            count: file.count,
            size_bytes: 0,
            digest: Digest::of(b""),
        };
        let header = TicketFileHeader {
            event: EventTag::of(&self.plan.script.event.id),
            build: press.build,
            slot: file.slot,
            home,
            no: file.no,
            count: file.count,
        };
        let path = entry.path_in(self.dir);
        let written = write_file(&path, &header, sheet.records.iter().copied());
        let written = written.map_err(|error| BuildError::write(&path, io_of(error)))?;
        (entry.size_bytes, entry.digest) = (written.size_bytes, written.digest);
        (self.watch.progress)(u64::from(file.count));
        Ok((entry, sheet.keys.clone()))
    }

    /// The manifest of what was made.
    fn manifest(&self, made: Made) -> Manifest {
        let script = &self.plan.script;
        let batches = &self.plan.budget.batches;
        let keys = keys_of(self.deal.key_count, made.files.iter().flat_map(|(_, keys)| keys));
        let files = made.files.into_iter().zip(&self.deal.files).map(|((entry, _), plan)| {
            assert!(entry.no == plan.no, "files are collected in the order of their numbers");
            let part = |cell: &deal::Cell| FileBatch {
                batch: batches[cell.batch as usize].id,
                count: cell.count,
                amount_fen: Fen::new(cell.total_fen),
            };
            ManifestFile { entry, batches: plan.cells.iter().map(part).collect() }
        });
        Manifest {
            format: MANIFEST_FORMAT,
            event: script.event.id.clone(),
            scheme: self.scheme.id.clone(),
            build: self.seeds.build_id(),
            budget_digest: Digest::of(&self.plan.budget_bytes),
            script_digest: Digest::of(&self.plan.script_bytes),
            claims_per_user_max: script.event.claims_per_user,
            claims_per_merchant_max: script.event.claims_per_user_per_merchant.unwrap_or(0),
            open_grace_ms: script.event.open_grace_ms,
            key_count: self.deal.key_count,
            key_budget_fen: script.key_budget,
            count: self.plan.budget.count(),
            amount_fen: self.plan.budget.total(),
            instant: made.instant,
            slots: slots_of(self.plan, self.deal),
            batches: batches.iter().map(batch_entry).collect(),
            consolations: script.pages.iter().map(consolation).collect(),
            keys,
            files: files.collect(),
        }
    }

    /// Writes everything beside the ticket files.
    fn finish(&self, manifest: &Manifest) -> Result<(), BuildError> {
        let sign_key = self.seeds.sign_key();
        let at = |name: &str| self.dir.join(name);
        publish_signed(&RealDisk, &at("manifest.json"), manifest, &sign_key).map_err(signed_error)?;
        publish_signed(&RealDisk, &at("roster.json"), &manifest.roster(), &sign_key).map_err(signed_error)?;
        let put = |name: &str, outcome: io::Result<()>| {
            outcome.map_err(|source| BuildError::write(&at(name), source))
        };
        put("budget.csv", RealDisk.publish(&at("budget.csv"), &self.plan.budget_bytes))?;
        put("script.toml", RealDisk.publish(&at("script.toml"), &self.plan.script_bytes))?;
        put("keys", self.publish_keys(&at("keys")))
    }

    fn publish_keys(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        let (sign_key, session_key) = (self.seeds.sign_key(), self.seeds.session_key());
        self.seeds.build_secret().publish(&dir.join("build.key"))?;
        self.seeds.seal_master().publish(&dir.join("seal.key"))?;
        sign_key.publish(&dir.join("sign.key"))?;
        sign_key.verifying_key().publish(&RealDisk, &dir.join("sign.pub"))?;
        session_key.publish(&dir.join("session.key"))?;
        session_key.verifying_key().publish(&RealDisk, &dir.join("session.pub"))?;
        sync_dir(dir)
    }
}

fn io_of(error: FileError) -> io::Error {
    match error {
        FileError::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

fn signed_error(error: ManifestError) -> BuildError {
    match error {
        ManifestError::Io { path, source } => BuildError::Write { path, source },
        other => BuildError::System(other.to_string()),
    }
}

/// Sums per key; every key of the build has an entry.
fn keys_of<'a>(key_count: u16, uses: impl Iterator<Item = &'a KeyUse>) -> Vec<KeyEntry> {
    let mut sums: BTreeMap<u16, (u64, u64)> = (1..=key_count).map(|key| (key, (0, 0))).collect();
    for part in uses {
        let sum = sums.get_mut(&part.key).expect("packets are sealed with keys of the build");
        sum.0 += part.count;
        sum.1 += part.amount_fen;
    }
    let entry = |(key, (count, fen))| KeyEntry { key: KeyId(key), count, amount_fen: Fen::new(fen) };
    sums.into_iter().map(entry).collect()
}

fn slots_of(plan: &Plan, deal: &Deal) -> Vec<SlotEntry> {
    let slots = plan.script.slots.iter().enumerate().map(|(at, slot)| {
        let no = SlotNo(u16::try_from(at).expect("slots are counted in 12 bits"));
        let files = deal.files.iter().filter(|file| file.slot == no);
        SlotEntry {
            slot: no,
            id: slot.id.clone(),
            start_ms: slot.start_ms,
            end_ms: slot.end_ms,
            count: files.map(|file| u64::from(file.count)).sum(),
            curve: Vec::new(),
        }
    });
    slots.collect()
}

/// A batch as finance knows it.
pub(crate) fn batch_entry(batch: &Batch) -> BatchEntry {
    let split = match batch.split {
        Split::DoubleMean => "double-mean",
        Split::Lucky => "lucky",
        Split::Fixed => "fixed",
        Split::Tiers(_) => "tiers",
    };
    BatchEntry {
        batch: batch.id,
        merchant_id: batch.merchant_id,
        sponsor: batch.merchant_name.clone(),
        account: batch.account.clone(),
        funded_on: batch.funded_on.clone(),
        kind: batch.kind,
        page: String::new(),
        split: split.to_owned(),
        min_fen: batch.min,
        max_fen: batch.max,
        count: batch.count,
        amount_fen: batch.total,
    }
}

fn consolation(page: &super::script::Page) -> ConsolationEntry {
    ConsolationEntry { page: page.id.clone(), weight: page.weight, exposures_max: page.exposures }
}
