//! `plan verify`: a build directory against its signatures, and against its own inputs.
//!
//! ```text
//!   always  keys, signatures, manifest = roster, copies of the inputs, every file's digests,
//!           instant list, nothing missing, nothing foreign
//!   full    every record as well (see `audit`)
//! ```
//! The plan is judged by the copies of budget and script, parsed again, not by what the builder
//! believed. Files are read by all threads, one at a time each.
//!
//! Invariant: any single flipped bit in any file of the directory is found.
//!
//! Not here: whether the directory's own public key is the right one (compare it by hand).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::Serialize;
use ticket::digest::Digest;
use ticket::file::TicketFile;
use ticket::id::{BuildId, EventTag};
use ticket::keys::{BuildSecret, SealMaster};
use ticket::manifest::{FileEntry, Manifest, Roster, Signed, encode, load_signed, signature_path};
use ticket::money::Fen;
use ticket::sign::{Signature, SigningKey, VerifyingKey};
use world::disk::{Disk, RealDisk};

use super::audit::{Audit, Bench};
use super::build::{Watch, batch_entry};
use super::error::VerifyError;
use super::faults::Faults;
use super::inputs::{self, Plan};
use super::instant::InstantFile;
use super::show::load_manifest;
use super::spread::by_shares;

/// How to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyOptions {
    /// Whether to open every record; needs `keys/build.key`.
    pub full: bool,
    /// Threads; 0: one per core.
    pub jobs: usize,
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VerifySummary {
    /// The build.
    pub build: BuildId,
    /// The event's id.
    pub event: String,
    /// The scheme.
    pub scheme: String,
    /// Whether every record was opened.
    pub full: bool,
    /// Packets.
    pub records: u64,
    /// Money.
    pub total_fen: Fen,
    /// Ticket files.
    pub files: u64,
    /// Data keys.
    pub keys: u64,
    /// Bytes of all ticket files.
    pub bytes: u64,
    /// How long it took by the caller's clock.
    pub seconds: f64,
}

/// Verifies a build directory.
///
/// # Errors
/// [`VerifyError::Failed`] with everything found.
pub fn verify(dir: &Path, options: VerifyOptions, watch: Watch<'_>) -> Result<VerifySummary, VerifyError> {
    let started = watch.clock.uptime();
    let manifest = load_manifest(&RealDisk, dir)?;
    let faults = Faults::default();
    let check = Check { dir, manifest: &manifest, faults: &faults, watch };
    let secret = check.keys(options.full);
    check.documents();
    check.names();
    let plan = check.inputs();
    let instants = check.instants();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.jobs).build();
    let pool = pool.map_err(|error| VerifyError::System(error.to_string()))?;
    let audit = match (&plan, &secret) {
        (Some(plan), Some(secret)) if options.full => Some(Audit::new(&manifest, plan, secret, &faults)),
        _ => None,
    };
    pool.install(|| check.files(audit.as_ref()));
    if (watch.stop)() {
        return Err(VerifyError::Stopped);
    }
    if let Some(audit) = audit {
        audit.finish(instants.as_ref());
    }
    faults.into_result()?;
    Ok(VerifySummary {
        build: manifest.build,
        full: options.full,
        records: manifest.count,
        total_fen: manifest.amount_fen,
        files: manifest.files.len() as u64,
        keys: u64::from(manifest.key_count),
        bytes: manifest.files.iter().map(|file| file.entry.size_bytes).sum(),
        event: manifest.event,
        scheme: manifest.scheme,
        seconds: watch.clock.uptime().saturating_sub(started).as_secs_f64(),
    })
}

/// One verification.
struct Check<'a> {
    dir: &'a Path,
    manifest: &'a Manifest,
    faults: &'a Faults,
    watch: Watch<'a>,
}

impl Check<'_> {
    fn key_path(&self, name: &str) -> PathBuf {
        self.dir.join("keys").join(name)
    }

    /// The content of a file of ours; what cannot be read is a fault.
    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        self.faults.take(RealDisk.read(path).map_err(|error| format!("{}: {error}", path.display())))
    }

    /// All keys that lie there. The secret ones may be missing (they need not leave the planning
    /// machine), but what is there must be sound. The build's secret is returned.
    fn keys(&self, full: bool) -> Option<BuildSecret> {
        let there = |name: &str| RealDisk.exists(&self.key_path(name));
        let faults = self.faults;
        let secret = (full || there("build.key"))
            .then(|| faults.take(BuildSecret::load(&RealDisk, &self.key_path("build.key"))))
            .flatten();
        if there("seal.key") {
            faults.take(SealMaster::load(&RealDisk, &self.key_path("seal.key")));
        }
        for name in ["sign", "session"] {
            let (private, public) = (format!("{name}.key"), format!("{name}.pub"));
            let public = faults.take(VerifyingKey::load(&RealDisk, &self.key_path(&public)));
            if there(&private)
                && let Some(key) = faults.take(SigningKey::load(&RealDisk, &self.key_path(&private)))
            {
                let pair = public == Some(key.verifying_key());
                faults.ensure(pair, || format!("keys/{name}.key and keys/{name}.pub are not a pair"));
            }
        }
        secret
    }

    /// Manifest and roster: signatures, canonical bytes, and that they agree.
    fn documents(&self) {
        let Some(key) = self.faults.take(VerifyingKey::load(&RealDisk, &self.key_path("sign.pub"))) else {
            return;
        };
        self.document("manifest.json", &key, self.manifest);
        let roster = load_signed::<Roster>(&RealDisk, &self.dir.join("roster.json"), &key);
        if let Some(roster) = self.faults.take(roster) {
            let agree = roster == self.manifest.roster();
            self.faults.ensure(agree, || "roster.json is signed but is not the manifest's roster".to_owned());
            self.document("roster.json", &key, &roster);
        }
    }

    fn document<T: Signed>(&self, name: &str, key: &VerifyingKey, document: &T) {
        let path = self.dir.join(name);
        let (Some(bytes), Some(signature)) = (self.read(&path), self.read(&signature_path(&path))) else {
            return;
        };
        self.faults
            .ensure(bytes == encode(document), || format!("{name} is not in the form it was written in"));
        let text = String::from_utf8_lossy(&signature).into_owned();
        let parsed = text.strip_suffix('\n').and_then(|text| text.parse::<Signature>().ok());
        let sound = parsed.is_some_and(|signature| key.verify(T::DOMAIN, &bytes, &signature).is_ok());
        self.faults.ensure(sound, || format!("{name}.sig is not the signature that was written"));
    }

    /// Nothing stands in the directory that was not built.
    fn names(&self) {
        let top = [
            "budget.csv",
            "files",
            "instant.bin",
            "keys",
            "manifest.json",
            "manifest.json.sig",
            "roster.json",
        ];
        let top = top.into_iter().chain(["roster.json.sig", "script.toml"]);
        self.only("", top.map(str::to_owned).collect());
        let files = self.manifest.files.iter().map(|file| file.entry.path_in(Path::new("")));
        let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.only("files", files.map(name).collect());
        let keys = ["build.key", "seal.key", "session.key", "session.pub", "sign.key", "sign.pub"];
        self.only("keys", keys.map(str::to_owned).into());
    }

    fn only(&self, folder: &str, known: BTreeSet<String>) {
        let path = self.dir.join(folder);
        let listed = RealDisk.list(&path).map_err(|error| format!("{}: {error}", path.display()));
        for name in self.faults.take(listed).unwrap_or_default() {
            let shown = Path::new(folder).join(&name);
            self.faults.ensure(known.contains(&name), || {
                format!("{} is not part of the build: remove it", shown.display())
            });
        }
    }

    /// The copies of budget and script, parsed again, and whether the manifest says the same.
    fn inputs(&self) -> Option<Plan> {
        let read = |name: &str| self.read(&self.dir.join(name));
        let (budget, script) = (read("budget.csv")?, read("script.toml")?);
        let faults = self.faults;
        let copy = |digest: Digest, bytes: &[u8], name: &str| {
            faults.ensure(digest == Digest::of(bytes), || {
                format!("{name} is not the file the build was made from")
            });
        };
        copy(self.manifest.budget_digest, &budget, "budget.csv");
        copy(self.manifest.script_digest, &script, "script.toml");
        let plan = faults.take(inputs::parse(("budget.csv", budget), ("script.toml", script)))?;
        let manifest = self.manifest;
        let batches: Vec<_> = plan.budget.batches.iter().map(batch_entry).collect();
        faults.ensure(batches == manifest.batches, || {
            "the manifest's batches are not those of budget.csv".to_owned()
        });
        let total = (plan.budget.count(), plan.budget.total());
        faults.ensure(total == (manifest.count, manifest.amount_fen), || {
            format!(
                "the manifest has {} packets of {} yuan, the budget {} of {}",
                manifest.count, manifest.amount_fen, total.0, total.1
            )
        });
        let slots = plan.script.slots.iter().map(|slot| (&slot.id, slot.start_ms, slot.end_ms));
        let same = slots.eq(manifest.slots.iter().map(|slot| (&slot.id, slot.start_ms, slot.end_ms)));
        faults.ensure(same, || "the manifest's slots are not those of script.toml".to_owned());
        let rules = (
            plan.script.event.id.as_str(),
            plan.script.key_budget,
            plan.script.instant_min.unwrap_or(Fen::MAX),
        );
        faults.ensure(rules == (&manifest.event, manifest.key_budget_fen, manifest.instant.min_fen), || {
            "the manifest's event, key budget or instant amount is not that of script.toml".to_owned()
        });
        self.shares(&plan);
        Some(plan)
    }

    /// Each batch's packets per slot are those of the scheme.
    fn shares(&self, plan: &Plan) {
        let Some(scheme) = plan.scheme(&self.manifest.scheme) else {
            self.faults.note(format!("script.toml has no scheme {:?}", self.manifest.scheme));
            return;
        };
        let mut found: BTreeMap<_, u64> = BTreeMap::new();
        for file in &self.manifest.files {
            for part in &file.batches {
                *found.entry((part.batch, file.entry.slot.0)).or_default() += u64::from(part.count);
            }
        }
        for batch in &plan.budget.batches {
            let shares = scheme.share.get(&batch.kind).map(|shares| by_shares(batch.count, shares));
            for (slot, expected) in (0u16..).zip(shares.unwrap_or_default()) {
                let count = found.get(&(batch.id, slot)).copied().unwrap_or(0);
                self.faults.ensure(count == expected, || {
                    format!(
                        "batch {} has {count} packets in slot {slot}, the scheme gives it {expected}",
                        batch.id
                    )
                });
            }
        }
    }

    fn instants(&self) -> Option<InstantFile> {
        let path = self.dir.join("instant.bin");
        let loaded = InstantFile::load(&RealDisk, &path, self.manifest.build, &self.manifest.instant);
        self.faults.take(loaded)
    }

    /// Every ticket file: its digests, and with an audit its records.
    fn files(&self, audit: Option<&Audit<'_>>) {
        self.manifest.files.par_iter().for_each_init(Bench::default, |bench, file| {
            if (self.watch.stop)() {
                return;
            }
            if let Some(loaded) = self.file(&file.entry)
                && let Some(audit) = audit
            {
                audit.file(file, &loaded, bench);
            }
            (self.watch.progress)(u64::from(file.entry.count));
        });
    }

    fn file(&self, entry: &FileEntry) -> Option<TicketFile> {
        let loaded = self.faults.take(TicketFile::load(&RealDisk, &entry.path_in(self.dir), entry))?;
        let header = loaded.header();
        let ours = header.build == self.manifest.build && header.event == EventTag::of(&self.manifest.event);
        self.faults.ensure(ours, || format!("file {} is of another build or event", entry.no));
        ours.then_some(loaded)
    }
}
