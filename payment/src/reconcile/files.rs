//! The plan from the disk: ticket files, verified, decrypted, a slice at a time.
//!
//! Invariant: a slice holds exactly the packets the signed manifest's files hold; a file that is
//! not what the manifest says is named, never guessed at. All keys of the build open here, also
//! revoked ones: what was planned does not change when a key is lost.
//!
//! Not here: comparing (plan.rs).

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rayon::prelude::*;
use ticket::file::TicketFile;
use ticket::id::FileNo;
use ticket::keys::{BuildSecret, KeyFileError, KeyList};
use ticket::manifest::{Manifest, ManifestFile};
use ticket::open::{OpenKeyring, Packet};
use world::disk::Disk;

use super::plan::PlanSlice;
use crate::plan::{VerifyError, load_manifest};

/// Packets of one slice, about: 16 bytes each when loaded. Tests have small builds and many slices.
const SLICE_PACKETS: u64 = if cfg!(test) { 20 } else { 4_000_000 };

/// Why there is no plan to compare with.
#[derive(Debug, thiserror::Error)]
pub enum BuildDirError {
    /// The manifest is not there or not believed.
    #[error(transparent)]
    Manifest(#[from] VerifyError),
    /// The build's secret is not there or not readable.
    #[error(transparent)]
    Secret(#[from] KeyFileError),
}

/// A build directory, opened with its keys.
pub(crate) struct PlanFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    manifest: Manifest,
    keys: OpenKeyring,
}

/// Some files of the plan, and what is wrong with others.
pub(crate) struct Loaded {
    /// What could be believed.
    pub slice: PlanSlice,
    /// What could not, and why.
    pub faults: Vec<(FileNo, String)>,
}

impl PlanFiles {
    /// Opens a build directory.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<PlanFiles, BuildDirError> {
        let manifest = load_manifest(&*disk, dir)?;
        let secret = BuildSecret::load(&*disk, &dir.join("keys").join("build.key"))?;
        let all = KeyList::all(manifest.key_count);
        let keys = OpenKeyring::new(&secret, manifest.build, manifest.key_count, all);
        Ok(PlanFiles { disk, dir: dir.to_owned(), manifest, keys })
    }

    /// What was planned.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The plan in parts: ranges of file numbers that follow each other and cover all files. The
    /// first begins at 0 and is there even when there are no files.
    pub fn parts(&self) -> Vec<Range<u32>> {
        let (mut parts, mut start, mut packets) = (Vec::new(), 0u32, 0u64);
        for file in &self.manifest.files {
            let (no, count) = (file.entry.no.0, u64::from(file.entry.count));
            if 0 < packets && SLICE_PACKETS < packets + count {
                parts.push(start..no);
                (start, packets) = (no, 0);
            }
            packets += count;
        }
        let end = u32::try_from(self.manifest.files.len()).expect("files have numbers of 32 bits");
        parts.push(start..end);
        assert!(parts[0].start == 0, "the parts begin with the first file");
        assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start), "the parts leave no gap");
        parts
    }

    /// Loads a part.
    pub async fn load(&self, part: &Range<u32>) -> Loaded {
        let mut loaded = Loaded { slice: PlanSlice::new(self.manifest.build.tag()), faults: Vec::new() };
        let files = &self.manifest.files[part.start as usize..part.end as usize];
        for some in files.chunks(2 * rayon::current_num_threads()) {
            let opened: Vec<Result<Vec<Packet>, String>> =
                some.par_iter().map(|file| self.file(file)).collect();
            for (file, opened) in some.iter().zip(opened) {
                let agrees = opened.map(|packets| loaded.slice.add_file(file, packets.into_iter()));
                let fault = match agrees {
                    Ok(true) => continue,
                    Ok(false) => "its packets are not what the manifest says of it".to_owned(),
                    Err(reason) => reason,
                };
                loaded.faults.push((file.entry.no, fault));
            }
            tokio::task::yield_now().await;
        }
        loaded
    }

    fn file(&self, file: &ManifestFile) -> Result<Vec<Packet>, String> {
        let entry = &file.entry;
        let loaded = TicketFile::load(&*self.disk, &entry.path_in(&self.dir), entry)
            .map_err(|error| error.to_string())?;
        let records = loaded.records(0..loaded.count()).map_err(|error| error.to_string())?;
        records
            .enumerate()
            .map(|(index, record)| {
                self.keys.open(entry.slot, &record).map_err(|error| format!("record {index}: {error}"))
            })
            .collect()
    }
}
