//! Bringing a build to the nodes: every file to its home and to one node in each other zone,
//! verified where it arrives; then making it the active event.
//!
//! Invariant: a build is activated only when every holder of every file has verified its copy.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Serialize;
use ticket::control::{EventRecord, EventState, FORMAT, SlotWindow};
use ticket::keys::KeyList;
use ticket::manifest::{Manifest, Roster, load_signed, signature_path};
use ticket::sign::VerifyingKey;
use world::disk::{Disk, RealDisk};
use world::{NodeId, UnixMs};

use crate::cli::target::Connected;
use crate::failure::{Context, Exit, Failure};
use crate::serve::api::{BuildReport, EventReport};
use crate::serve::keys::KeysReport;
use crate::store::install_secrets;

/// Files on their way at the same time.
const PUSHES_IN_FLIGHT: usize = 4;

/// A build directory whose signature was checked.
pub struct BuildDir {
    /// The disk it is on.
    pub disk: Arc<dyn Disk>,
    /// Where it is.
    pub path: std::path::PathBuf,
    /// What finance knows.
    pub manifest: Manifest,
    /// What access nodes may know.
    pub roster: Roster,
}

/// When slots run.
#[derive(Clone, Copy, Debug)]
pub enum Schedule {
    /// As the script says.
    AsPlanned,
    /// The same slots in quick succession, for trying things out.
    Compressed {
        /// When the first slot starts.
        first: UnixMs,
        /// How long each slot is.
        slot: Duration,
        /// How long between two slots.
        gap: Duration,
    },
}

/// What was pushed to one node.
#[derive(Clone, Debug, Serialize)]
pub struct Pushed {
    /// The node.
    pub node: NodeId,
    /// Files it has to hold.
    pub expected: usize,
    /// Files it holds and has verified.
    pub verified: usize,
}

impl BuildDir {
    /// Reads a build directory.
    ///
    /// # Errors
    /// Exit code 3 when there is none, 8 when its signature is wrong.
    pub fn load(disk: Arc<dyn Disk>, path: &Path) -> Result<BuildDir, Failure> {
        if !disk.exists(&path.join("manifest.json")) {
            let cure = "make one with `hongbao plan build`";
            return Err(Failure::new(Exit::NotFound, format!("{} holds no build; {cure}", path.display())));
        }
        let key = VerifyingKey::load(&*disk, &path.join("keys/sign.pub"))
            .context(Exit::Unverified, "reading sign.pub")?;
        let manifest = load_signed(&*disk, &path.join("manifest.json"), &key);
        let manifest: Manifest = manifest.context(Exit::Unverified, "reading the manifest")?;
        let roster = load_signed(&*disk, &path.join("roster.json"), &key);
        let roster = roster.context(Exit::Unverified, "reading the roster")?;
        Ok(BuildDir { disk, path: path.to_owned(), manifest, roster })
    }

    /// Copies each node's secrets to its disk. Only for nodes whose disks are this machine's.
    ///
    /// # Errors
    /// When something cannot be read or written.
    pub fn install_secrets(&self, connected: &Connected) -> Result<(), Failure> {
        for node in &connected.cluster.nodes {
            install_secrets(&RealDisk, &self.path, self.manifest.build, node.id, &node.data_dir)?;
        }
        Ok(())
    }

    /// Brings roster and files to every node. Files that are there are not sent again.
    ///
    /// # Errors
    /// The first node that cannot be reached or refuses.
    pub async fn push(&self, connected: &Connected, progress: impl Fn(u64)) -> Result<Vec<Pushed>, Failure> {
        let build = self.manifest.build;
        let roster = self.read(&self.path.join("roster.json"))?;
        let signature = self.read(&signature_path(&self.path.join("roster.json")))?;
        let mut pushed = Vec::new();
        for node in &connected.cluster.nodes {
            let body = serde_json::json!({
                "roster": String::from_utf8_lossy(&roster),
                "signature": String::from_utf8_lossy(&signature),
            });
            let path = format!("/v1/builds/{build}/roster");
            let report: BuildReport =
                connected.call(node, Method::PUT, &path, Bytes::from(body.to_string())).await?;
            let missing: Vec<_> =
                report.expected.iter().filter(|no| !report.verified.contains(no)).copied().collect();
            for group in missing.chunks(PUSHES_IN_FLIGHT) {
                let sends = group.iter().map(|no| {
                    let entry = self.roster.files.iter().find(|file| file.no == *no);
                    let file = entry.map(|entry| entry.path_in(&self.path));
                    async move {
                        let file = file.ok_or_else(|| {
                            Failure::new(Exit::Unverified, format!("no file {no} in the roster"))
                        })?;
                        let path = format!("/v1/builds/{build}/files/{no}");
                        connected
                            .call::<BuildReport>(node, Method::PUT, &path, Bytes::from(self.read(&file)?))
                            .await
                    }
                });
                futures_util::future::try_join_all(sends).await?;
                progress(group.len() as u64);
            }
            let path = format!("/v1/builds/{build}");
            let report: BuildReport = connected.call(node, Method::GET, &path, Bytes::new()).await?;
            pushed.push(Pushed {
                node: node.id,
                expected: report.expected.len(),
                verified: report.verified.len(),
            });
        }
        Ok(pushed)
    }

    /// Makes this build the active event.
    ///
    /// # Errors
    /// Exit code 7 when a copy is not verified; 4 when another event is open.
    pub async fn activate(&self, connected: &Connected, schedule: Schedule) -> Result<EventReport, Failure> {
        let build = self.manifest.build;
        for node in &connected.cluster.nodes {
            let report: BuildReport =
                connected.call(node, Method::GET, &format!("/v1/builds/{build}"), Bytes::new()).await?;
            let missing = report.expected.len().saturating_sub(report.verified.len());
            if missing > 0 {
                let message =
                    format!("{missing} files are not verified on {}: repeat `hongbao deploy push`", node.id);
                return Err(Failure::new(Exit::Refused, message));
            }
        }
        // The first key list comes from the build; from then on it is changed in KvSvr only.
        let list = Bytes::from(KeyList::all(self.manifest.key_count).encode());
        let path = format!("/v1/builds/{build}/keys");
        let _: KeysReport = connected.call_any(|_| false, Method::PUT, &path, list).await?;
        let event = self.event(schedule);
        let body = Bytes::from(serde_json::to_vec(&event).context(Exit::Error, "making the event")?);
        connected.call_any(|_| false, Method::PUT, "/v1/event", body).await
    }

    /// The event as it will stand in KvSvr.
    #[must_use]
    pub fn event(&self, schedule: Schedule) -> EventRecord {
        let slots = self.manifest.slots.iter().enumerate().map(|(at, entry)| {
            let (start_ms, end_ms) = match schedule {
                Schedule::AsPlanned => (entry.start_ms, entry.end_ms),
                Schedule::Compressed { first, slot, gap } => {
                    let at = u32::try_from(at).expect("slots are few");
                    let start = first.plus((slot + gap) * at);
                    (start, start.plus(slot))
                }
            };
            SlotWindow { slot: entry.slot, id: entry.id.clone(), start_ms, end_ms }
        });
        EventRecord {
            format: FORMAT,
            event: self.manifest.event.clone(),
            build: self.manifest.build,
            scheme: self.manifest.scheme.clone(),
            state: EventState::Open,
            slots: slots.collect(),
            open_grace_ms: self.manifest.open_grace_ms,
        }
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Failure> {
        self.disk.read(path).context(Exit::NotFound, format!("reading {}", path.display()))
    }
}
