//! What the tests of this crate share: rosters, deployed builds, a control group set up for an
//! event, and a disk that can lose, tear and fail writes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvsvr::api::Kv;
use kvsvr::testing::LocalKv;
use parking_lot::Mutex;
use ticket::control::{EVENT_KEY, EventRecord, EventState, FORMAT, SlotWindow, encode};
use ticket::file::{TicketFileHeader, publish_file};
use ticket::id::{BuildId, EventTag, FileNo, SlotNo};
use ticket::keys::SealMaster;
use ticket::manifest::{FileEntry, MANIFEST_FORMAT, Roster, SlotEntry, publish_signed};
use ticket::record::Record;
use ticket::seal::Unsealer;
use ticket::sign::SigningKey;
use world::clock::ManualClock;
use world::disk::{Disk, Opened, RealDisk};
use world::{Clock, NodeId, UnixMs};

use crate::claim::ClaimTiming;
use crate::node::{AccessNode, NodeConfig, build_dir, seal_key_path, trusted_key_path};
use crate::rules::Rules;

pub const BUILD: BuildId = BuildId([0x5a; 16]);
pub const EVENT: &str = "spring";

pub fn node(name: &str) -> NodeId {
    name.parse().expect("a node name")
}

/// A roster with one file of `count` records per (slot, holders).
pub fn roster(files: &[(u16, &[&str], u32)]) -> Roster {
    let entry = |(no, (slot, holders, count)): (usize, &(u16, &[&str], u32))| FileEntry {
        no: FileNo(no as u32),
        slot: SlotNo(*slot),
        home: node(holders[0]),
        holders: holders.iter().map(|name| node(name)).collect(),
        count: *count,
        size_bytes: ticket::file::file_size(*count),
        digest: blake3::hash(b"").into(),
    };
    Roster {
        format: MANIFEST_FORMAT,
        event: EVENT.into(),
        scheme: "A".into(),
        build: BUILD,
        claims_per_user_max: 0,
        claims_per_merchant_max: 0,
        open_grace_ms: 60_000,
        slots: Vec::new(),
        pages: Vec::new(),
        consolations: Vec::new(),
        files: files.iter().enumerate().map(entry).collect(),
    }
}

/// A record that says where it stands.
pub fn record(file: FileNo, index: u32) -> Record {
    let mut bytes = [0u8; 26];
    bytes[4..8].copy_from_slice(&file.0.to_be_bytes());
    bytes[8..12].copy_from_slice(&index.to_be_bytes());
    Record(bytes)
}

/// A build whose files really lie on disks, and the keys that go with it.
pub struct Deployment {
    sign: SigningKey,
    pub roster: Roster,
    master: [u8; 32],
    dirs: BTreeMap<NodeId, tempfile::TempDir>,
}

impl Deployment {
    /// Deploys files to the nodes that hold them; slots are `slot_ms` long, from `start` on.
    pub fn new(files: &[(u16, &[&str], u32)], start: UnixMs, slot_ms: u64) -> Deployment {
        let mut roster = roster(files);
        let last = files.iter().map(|(slot, ..)| *slot).max().unwrap_or(0);
        for slot in 0..=last {
            let start_ms = UnixMs(start.0 + u64::from(slot) * slot_ms);
            let of_slot = roster.files.iter().filter(|entry| entry.slot.0 == slot);
            roster.slots.push(SlotEntry {
                slot: SlotNo(slot),
                id: format!("s{slot}"),
                start_ms,
                end_ms: UnixMs(start_ms.0 + slot_ms),
                count: of_slot.map(|entry| u64::from(entry.count)).sum(),
                curve: Vec::new(),
            });
        }
        let sign = SigningKey::from_bytes([1; 32]);
        let mut deployment = Deployment { sign, roster, master: [3; 32], dirs: BTreeMap::new() };
        deployment.write_files();
        deployment
    }

    fn write_files(&mut self) {
        let holders: Vec<NodeId> =
            self.roster.files.iter().flat_map(|entry| entry.holders.iter().copied()).collect();
        for holder in holders {
            self.dirs.entry(holder).or_insert_with(|| tempfile::tempdir().expect("tempdir"));
        }
        for at in 0..self.roster.files.len() {
            let entry = self.roster.files[at].clone();
            let header = TicketFileHeader {
                event: EventTag::of(EVENT),
                build: BUILD,
                slot: entry.slot,
                home: entry.home,
                no: entry.no,
                count: entry.count,
            };
            for holder in &entry.holders {
                let path = entry.path_in(&build_dir(self.dirs[holder].path(), BUILD));
                RealDisk.create_dir_all(path.parent().expect("a folder")).expect("create");
                let records = (0..entry.count).map(|index| record(entry.no, index));
                let written = publish_file(&RealDisk, &path, &header, records).expect("publish");
                self.roster.files[at].digest = written.digest;
            }
        }
        for (holder, dir) in &self.dirs {
            let roster = build_dir(dir.path(), BUILD).join("roster.json");
            publish_signed(&RealDisk, &roster, &self.roster, &self.sign).expect("publish");
            let key = self.master().node_key(*holder);
            key.publish(&seal_key_path(dir.path(), BUILD, *holder)).expect("publish");
            let trusted = trusted_key_path(dir.path(), BUILD);
            RealDisk.create_dir_all(trusted.parent().expect("a folder")).expect("create");
            self.sign.verifying_key().publish(&RealDisk, &trusted).expect("publish");
        }
    }

    fn master(&self) -> SealMaster {
        SealMaster::from_bytes(self.master)
    }

    pub fn dir(&self, name: &str) -> PathBuf {
        self.dirs[&node(name)].path().to_owned()
    }

    /// The event as operators would have activated it.
    fn event(&self) -> EventRecord {
        let window = |slot: &SlotEntry| SlotWindow {
            slot: slot.slot,
            id: slot.id.clone(),
            start_ms: slot.start_ms,
            end_ms: slot.end_ms,
        };
        EventRecord {
            format: FORMAT,
            event: EVENT.into(),
            build: BUILD,
            scheme: "A".into(),
            state: EventState::Open,
            slots: self.roster.slots.iter().map(window).collect(),
            open_grace_ms: 60_000,
        }
    }

    pub async fn activate(&self, kv: &LocalKv) {
        kv.put(EVENT_KEY.as_bytes(), &encode(&self.event())).await.expect("put");
    }

    /// A quick node: small blocks, everything released at once, no limits on users.
    pub fn config(&self, name: &str) -> NodeConfig {
        let mut config = NodeConfig::new(node(name), self.dir(name), [9; 32]);
        config.block = 8;
        config.timing = ClaimTiming { early_ms: 1_000, grace_ms: 200 };
        config.poll = Duration::from_millis(10);
        config.rules = Rules { user_interval_ms: 0, factor_permille: 1_000_000_000, ..Rules::default() };
        config
    }

    /// Starts a node as [`Deployment::config`] has it.
    pub fn start(&self, name: &str, kv: Arc<dyn Kv>, clock: &Arc<ManualClock>) -> Arc<AccessNode> {
        AccessNode::start(self.config(name), kv, Arc::new(RealDisk), Arc::clone(clock) as Arc<dyn Clock>)
            .expect("a node starts")
    }

    /// Opens what this deployment's nodes seal.
    pub fn unsealer(&self) -> Unsealer {
        Unsealer::new(self.master(), EVENT, BUILD)
    }
}

/// A bounded wait for something that other tasks bring about.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never happened that {what}");
}

/// What one write would have done to a file.
#[derive(Clone, Debug)]
pub struct Written {
    pub before: Vec<u8>,
    pub offset: usize,
    pub bytes: Vec<u8>,
}

#[derive(Default)]
struct Memory {
    files: BTreeMap<PathBuf, Vec<u8>>,
    writes: Vec<Written>,
    failing: bool,
}

/// A disk in memory that keeps every write apart, so that a test can tear it.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Memory>>);

impl MemoryDisk {
    pub fn writes(&self) -> Vec<Written> {
        self.0.lock().writes.clone()
    }

    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        self.0.lock().files.insert(path.to_owned(), bytes);
    }

    pub fn bytes(&self, path: &Path) -> Vec<u8> {
        self.0.lock().files[path].clone()
    }

    pub fn fail(&self, failing: bool) {
        self.0.lock().failing = failing;
    }
}

struct MemoryFile {
    path: PathBuf,
    disk: MemoryDisk,
}

impl Opened for MemoryFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let memory = self.disk.0.lock();
        let bytes = &memory.files[&self.path];
        let end = offset as usize + buffer.len();
        buffer.copy_from_slice(bytes.get(offset as usize..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut memory = self.disk.0.lock();
        if memory.failing {
            return Err(io::Error::other("the disk is full"));
        }
        let before = memory.files[&self.path].clone();
        let offset = offset as usize;
        memory.writes.push(Written { before, offset, bytes: bytes.to_vec() });
        let file = memory.files.get_mut(&self.path).expect("a loaded file");
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[&self.path].len() as u64)
    }
}

impl Disk for MemoryDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.0.lock().files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.put(path, bytes.to_vec());
        Ok(())
    }

    fn load(&self, path: &Path, _writable: bool) -> io::Result<Box<dyn Opened>> {
        if !self.exists(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Box::new(MemoryFile { path: path.to_owned(), disk: self.clone() }))
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let memory = self.0.lock();
        let below = memory.files.keys().filter_map(|file| file.strip_prefix(path).ok());
        Ok(below.map(|name| name.display().to_string()).collect())
    }

    fn exists(&self, path: &Path) -> bool {
        self.0.lock().files.contains_key(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().files.remove(path).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
