//! A small build: two sponsors, two slots, four files, three keys, everything signed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use ticket::control::{self, EventRecord, EventState, SlotWindow};
use ticket::digest::Digest;
use ticket::file::{TicketFileHeader, write_file};
use ticket::id::{BatchId, BuildId, EventTag, FileNo, KeyId, PacketId, SlotNo, UserId};
use ticket::keys::{BuildSecret, KeyList, SealMaster};
use ticket::manifest::{
    BatchEntry, FileBatch, FileEntry, InstantEntry, KeyEntry, MANIFEST_FORMAT, Manifest, ManifestFile,
    SlotEntry, publish_signed,
};
use ticket::mint::MintKeyring;
use ticket::money::{self, Fen};
use ticket::open::OpenKeyring;
use ticket::opening::Opening;
use ticket::record::{Flags, Kind, Record};
use ticket::seal::{Issue, NodeSealer, Unsealer};
use ticket::sign::SigningKey;
use world::disk::{Disk, RealDisk};
use world::{NodeId, UnixMs};

use crate::plan::instant::{InstantPacket, InstantWriter};

pub const EVENT: &str = "gala";
pub const KEY_COUNT: u16 = 3;
/// Packets worth this and more are in the instant set.
pub const INSTANT_MIN: u64 = 1000;
pub const NOW: UnixMs = UnixMs(1_500);

/// One planned packet.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    pub packet: PacketId,
    pub amount: Fen,
    pub slot: SlotNo,
    pub file: FileNo,
    pub index: u32,
    pub record: Record,
}

/// A build and all its secrets.
pub struct TestBuild {
    pub build: BuildId,
    pub secret: BuildSecret,
    pub manifest: Manifest,
    pub packets: Vec<Planned>,
    pub dir: TempDir,
    sealer: NodeSealer,
}

fn node() -> NodeId {
    "a1".parse().expect("a node")
}

fn master() -> SealMaster {
    SealMaster::from_bytes([8; 32])
}

impl TestBuild {
    /// `per_file` packets in each of four files.
    pub fn new(per_file: u32) -> TestBuild {
        let build = BuildId([0xab; 16]);
        let secret = BuildSecret::from_bytes([7; 32]);
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("files")).expect("a directory");
        let sign = SigningKey::from_bytes([9; 32]);
        let packets = mint(&secret, build, per_file);
        let files = publish_files(dir.path(), build, &packets, per_file);
        let instant = publish_instant(dir.path(), build, &packets);
        let manifest = manifest(build, files, &packets, instant);
        let keys = dir.path().join("keys");
        std::fs::create_dir_all(&keys).expect("a directory");
        secret.publish(&keys.join("build.key")).expect("published");
        sign.verifying_key().publish(&RealDisk, &keys.join("sign.pub")).expect("published");
        publish_signed(&RealDisk, &dir.path().join("manifest.json"), &manifest, &sign).expect("published");
        let sealer = NodeSealer::new(master().node_key(node()), node(), 1, EVENT, build);
        TestBuild { build, secret, manifest, packets, dir, sealer }
    }

    pub fn keyring(&self, list: KeyList) -> Arc<OpenKeyring> {
        Arc::new(OpenKeyring::new(&self.secret, self.build, KEY_COUNT, list))
    }

    pub fn all_keys(&self) -> Arc<OpenKeyring> {
        self.keyring(KeyList::all(KEY_COUNT))
    }

    pub fn unsealer(&self) -> Unsealer {
        Unsealer::new(master(), EVENT, self.build)
    }

    pub fn event(&self, state: EventState) -> EventRecord {
        let window = |slot: &SlotEntry| SlotWindow {
            slot: slot.slot,
            id: slot.id.clone(),
            start_ms: slot.start_ms,
            end_ms: slot.end_ms,
        };
        EventRecord {
            format: control::FORMAT,
            event: EVENT.to_owned(),
            build: self.build,
            scheme: "A".to_owned(),
            state,
            slots: self.manifest.slots.iter().map(window).collect(),
            open_grace_ms: 500,
        }
    }

    /// The packet sealed to `user`, as an access node gives it out.
    pub fn ticket(&self, user: u64, packet: usize) -> Vec<u8> {
        let Planned { record, slot, file, index, .. } = self.packets[packet];
        let issue = Issue { record, slot, file, index, issued_ms: UnixMs(1_000) };
        self.sealer.seal(UserId(user), &issue).expect("sealed").to_vec()
    }

    /// The opening an opener makes of that.
    pub fn opening(&self, user: u64, packet: usize) -> Opening {
        let Planned { packet, amount, slot, file, index, record } = self.packets[packet];
        Opening {
            packet,
            user: UserId(user),
            amount,
            slot,
            file,
            index,
            key: record.key_id(),
            record,
            issued_ms: UnixMs(1_000),
            opened_ms: NOW,
            node: node(),
        }
    }

    /// A record made with the build's own key `key`, as whoever stole it would.
    pub fn counterfeit(&self, key: u16, slot: SlotNo, packet: PacketId, amount: u64) -> Record {
        let sealer = MintKeyring::new(&self.secret, self.build, KEY_COUNT).sealer(KeyId(key));
        sealer.seal(slot, packet.batch, packet.serial, Fen::new(amount), Flags::new(Kind::Logo, false))
    }

    /// The instant set: (packet, amount).
    pub fn instant(&self) -> Vec<(PacketId, Fen)> {
        let mut set: Vec<_> = self.packets.iter().map(|planned| (planned.packet, planned.amount)).collect();
        set.retain(|(_, amount)| INSTANT_MIN <= amount.get());
        set.sort_unstable();
        set
    }
}

/// Amounts of 1 to 9 fen, every fifth packet large; batches and keys take turns.
fn mint(secret: &BuildSecret, build: BuildId, per_file: u32) -> Vec<Planned> {
    let keyring = MintKeyring::new(secret, build, KEY_COUNT);
    let sealers: Vec<_> = (1..=KEY_COUNT).map(|key| keyring.sealer(KeyId(key))).collect();
    let place = |serial: u64| {
        let (file, index) = ((serial / u64::from(per_file)) as u32, (serial % u64::from(per_file)) as u32);
        let (slot, batch) = (SlotNo((file / 2) as u16), BatchId(1 + (serial % 2) as u16));
        let large = serial.is_multiple_of(5);
        let amount = Fen::new(if large { INSTANT_MIN + serial } else { 1 + serial % 9 });
        let sealer = &sealers[(serial / 3 % u64::from(KEY_COUNT)) as usize];
        let record = sealer.seal(slot, batch, serial, amount, Flags::new(Kind::Logo, large));
        Planned { packet: record.packet_id(build), amount, slot, file: FileNo(file), index, record }
    };
    (0..4 * u64::from(per_file)).map(place).collect()
}

fn publish_files(dir: &Path, build: BuildId, packets: &[Planned], per_file: u32) -> Vec<ManifestFile> {
    let mut files = Vec::new();
    for part in packets.chunks(per_file as usize) {
        let Planned { file: no, slot, .. } = part[0];
        let mut entry = FileEntry {
            no,
            slot,
            home: node(),
            holders: vec![node()],
            count: per_file,
            size_bytes: 0,
            digest: Digest::of(b""),
        };
        let header =
            TicketFileHeader { event: EventTag::of(EVENT), build, slot, home: node(), no, count: per_file };
        let records = part.iter().map(|planned| planned.record);
        let written = write_file(&entry.path_in(dir), &header, records).expect("written");
        (entry.size_bytes, entry.digest) = (written.size_bytes, written.digest);
        let batches = totals(part, |planned| planned.packet.batch).into_iter();
        let batches =
            batches.map(|(batch, (count, amount_fen))| FileBatch { batch, count: count as u32, amount_fen });
        files.push(ManifestFile { entry, batches: batches.collect() });
    }
    files
}

fn totals<K: Ord>(packets: &[Planned], key: impl Fn(&Planned) -> K) -> BTreeMap<K, (u64, Fen)> {
    let mut totals: BTreeMap<K, (u64, Fen)> = BTreeMap::new();
    for planned in packets {
        let (count, amount) = totals.entry(key(planned)).or_default();
        *count += 1;
        *amount = amount.checked_add(planned.amount).expect("small");
    }
    totals
}

fn publish_instant(dir: &Path, build: BuildId, packets: &[Planned]) -> InstantEntry {
    let mut large: Vec<InstantPacket> = packets
        .iter()
        .filter(|planned| INSTANT_MIN <= planned.amount.get())
        .map(|planned| InstantPacket { id: planned.packet, amount: planned.amount })
        .collect();
    large.sort_unstable_by_key(InstantPacket::encode);
    let count = large.len() as u64;
    let mut bytes = Vec::new();
    let mut writer = InstantWriter::new(&mut bytes, build, count).expect("memory");
    let entries: Vec<u128> = large.iter().map(|packet| u128::from_be_bytes(packet.encode())).collect();
    writer.add(&entries).expect("memory");
    let (size_bytes, digest) = writer.finish().expect("memory");
    RealDisk.publish(&dir.join("instant.bin"), &bytes).expect("published");
    let amount_fen = money::sum(large.iter().map(|packet| packet.amount)).expect("small");
    InstantEntry { min_fen: Fen::new(INSTANT_MIN), count, amount_fen, size_bytes, digest }
}

fn manifest(
    build: BuildId,
    files: Vec<ManifestFile>,
    packets: &[Planned],
    instant: InstantEntry,
) -> Manifest {
    let batch = |(batch, (count, amount_fen)): (BatchId, (u64, Fen))| BatchEntry {
        batch,
        sponsor: format!("sponsor {batch}"),
        merchant_id: u32::from(batch.0),
        funded_on: "2016-01-14".to_owned(),
        account: "escrow".to_owned(),
        kind: Kind::Logo,
        page: String::new(),
        split: "fixed".to_owned(),
        min_fen: Fen::new(1),
        max_fen: Fen::new(1 << 20),
        count,
        amount_fen,
    };
    let slot = |(slot, (count, _)): (SlotNo, (u64, Fen))| SlotEntry {
        slot,
        id: format!("s{slot}"),
        start_ms: UnixMs(1_000 * (1 + u64::from(slot.0))),
        end_ms: UnixMs(1_000 * (2 + u64::from(slot.0))),
        count,
        curve: Vec::new(),
    };
    Manifest {
        format: MANIFEST_FORMAT,
        event: EVENT.to_owned(),
        scheme: "A".to_owned(),
        build,
        budget_digest: Digest::of(b"budget"),
        script_digest: Digest::of(b"script"),
        claims_per_user_max: 2,
        claims_per_merchant_max: 0,
        open_grace_ms: 500,
        key_count: KEY_COUNT,
        key_budget_fen: Fen::new(1 << 40),
        count: packets.len() as u64,
        amount_fen: money::sum(packets.iter().map(|planned| planned.amount)).expect("small"),
        instant,
        slots: totals(packets, |planned| planned.slot).into_iter().map(slot).collect(),
        consolations: Vec::new(),
        batches: totals(packets, |planned| planned.packet.batch).into_iter().map(batch).collect(),
        keys: totals(packets, |planned| planned.record.key_id())
            .into_iter()
            .map(|(key, (count, amount_fen))| KeyEntry { key, count, amount_fen })
            .collect(),
        files,
    }
}
