//! What only opening every record can find: builds whose signatures and digests are in order,
//! because whoever altered them had all the keys.

use std::path::PathBuf;

use ticket::file::{TicketFile, TicketFileHeader, write_file};
use ticket::id::{BuildId, EventTag, KeyId, SlotNo};
use ticket::keys::{BuildSecret, KeyList};
use ticket::limits::RECORD_LEN;
use ticket::manifest::{Manifest, publish_signed};
use ticket::mint::MintKeyring;
use ticket::money::Fen;
use ticket::open::{OpenKeyring, Packet};
use ticket::record::{Flags, Kind, Record};
use ticket::sign::SigningKey;
use world::disk::RealDisk;

use super::super::instant::{InstantFile, InstantWriter};
use super::super::load_manifest;
use super::{Desk, build, verify};

/// A build and everything needed to forge it.
struct Forger {
    _desk: Desk,
    dir: PathBuf,
    manifest: Manifest,
    secret: BuildSecret,
}

impl Forger {
    fn new() -> Forger {
        let desk = Desk::new();
        let mut options = desk.options("out");
        options.layout.file_records_max = 1000;
        build(&options).expect("builds");
        let manifest = load_manifest(&RealDisk, &options.out).expect("a manifest");
        let secret = BuildSecret::load(&RealDisk, &options.out.join("keys/build.key")).expect("a key");
        Forger { _desk: desk, dir: options.out, manifest, secret }
    }

    fn build_id(&self) -> BuildId {
        self.manifest.build
    }

    fn records(&self, file: usize) -> Vec<Record> {
        let entry = &self.manifest.files[file].entry;
        let loaded = TicketFile::load(&RealDisk, &entry.path_in(&self.dir), entry).expect("sound");
        loaded.records(0..loaded.count()).expect("all").collect()
    }

    fn slot(&self, file: usize) -> SlotNo {
        self.manifest.files[file].entry.slot
    }

    fn open(&self, file: usize, record: &Record) -> Packet {
        let keys = self.manifest.key_count;
        let keyring = OpenKeyring::new(&self.secret, self.build_id(), keys, KeyList::all(keys));
        keyring.open(self.slot(file), record).expect("genuine")
    }

    fn seal(&self, file: usize, key: KeyId, packet: &Packet, amount: Fen, flags: Flags) -> Record {
        let keyring = MintKeyring::new(&self.secret, self.build_id(), self.manifest.key_count);
        let Packet { id, .. } = packet;
        keyring.sealer(key).seal(self.slot(file), id.batch, id.serial, amount, flags)
    }

    /// The first record of a file whose packet is as wanted.
    fn find(&self, file: usize, wanted: impl Fn(&Packet) -> bool) -> (usize, Packet) {
        let mut found =
            self.records(file).into_iter().enumerate().map(|(at, record)| (at, self.open(file, &record)));
        found.find(|(_, packet)| wanted(packet)).expect("the small event has such a packet")
    }

    /// Writes a file again and signs everything again.
    fn put(&mut self, file: usize, records: &[Record]) {
        let (build, event) = (self.build_id(), EventTag::of(&self.manifest.event));
        let entry = &mut self.manifest.files[file].entry;
        let header = TicketFileHeader {
            event,
            build,
            slot: entry.slot,
            home: entry.home,
            no: entry.no,
            count: entry.count,
        };
        let written =
            write_file(&entry.path_in(&self.dir), &header, records.iter().copied()).expect("written");
        entry.digest = written.digest;
        self.sign();
    }

    fn sign(&self) {
        let key = SigningKey::load(&RealDisk, &self.dir.join("keys/sign.key")).expect("a key");
        publish_signed(&RealDisk, &self.dir.join("manifest.json"), &self.manifest, &key).expect("signed");
        publish_signed(&RealDisk, &self.dir.join("roster.json"), &self.manifest.roster(), &key)
            .expect("signed");
    }

    /// Signatures and digests are in order, yet the records tell.
    fn check(&self, wanted: &str) {
        verify(&self.dir, false).unwrap_or_else(|error| panic!("the forgery is clumsy: {error}"));
        let error = verify(&self.dir, true).expect_err(wanted).to_string();
        assert!(error.contains(wanted), "wanted {wanted:?}, got:\n{error}");
    }

    /// Replaces one record of file 0 and checks.
    fn check_replaced(mut self, at: usize, record: Record, wanted: &str) {
        let mut records = self.records(0);
        records[at] = record;
        self.put(0, &records);
        self.check(wanted);
    }
}

fn is(kind: Kind) -> impl Fn(&Packet) -> bool {
    move |packet| packet.flags.kind() == kind
}

#[test]
fn an_honest_copy_passes() {
    let mut forger = Forger::new();
    let records = forger.records(0);
    forger.put(0, &records);
    verify(&forger.dir, true).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_packet_that_stands_twice() {
    let forger = Forger::new();
    let twin = forger.records(0)[1];
    forger.check_replaced(0, twin, "stands there twice");
}

#[test]
fn a_packet_of_another_file() {
    let forger = Forger::new();
    assert_eq!(forger.slot(0), forger.slot(1));
    let stranger = forger.records(1)[0];
    forger.check_replaced(0, stranger, "does not belong into this file");
}

#[test]
fn a_packet_that_is_noise() {
    let forger = Forger::new();
    let mut bytes = forger.records(0)[0].0;
    bytes[RECORD_LEN - 1] ^= 1;
    forger.check_replaced(0, Record(bytes), "is not genuine under key");
}

#[test]
fn one_fen_too_much_or_too_little() {
    for more in [true, false] {
        let forger = Forger::new();
        let file = 2;
        let wanted = |packet: &Packet| packet.id.batch.0 == 2 && (3..400).contains(&packet.amount.get());
        let last = forger.manifest.files.len() - 1;
        let file = (file..=last)
            .find(|file| forger.manifest.files[*file].batches.iter().any(|part| part.batch.0 == 2));
        let file = file.expect("a file with packets of batch 2");
        let (at, packet) = forger.find(file, wanted);
        let fen = packet.amount.get();
        let amount = Fen::new(if more { fen + 1 } else { fen - 1 });
        let mut forger = forger;
        let mut records = forger.records(file);
        records[at] = forger.seal(file, packet.key, &packet, amount, packet.flags);
        forger.put(file, &records);
        forger.check("of batch 2, the manifest says");
        forger.check("batch 2 holds 900 packets of 1080.0");
    }
}

#[test]
fn an_amount_that_its_batch_does_not_allow() {
    // File 0 holds packets of batch 5: two yuan each.
    let forger = Forger::new();
    let (at, packet) = forger.find(0, is(Kind::Logo));
    let record = forger.seal(0, packet.key, &packet, Fen::new(201), packet.flags);
    forger.check_replaced(at, record, "holds 2.01 yuan, allowed are 2.00 to 2.00");
}

#[test]
fn a_kind_or_mark_that_is_not_the_plans() {
    let forger = Forger::new();
    let (at, packet) = forger.find(0, is(Kind::Logo));
    let record = forger.seal(0, packet.key, &packet, packet.amount, Flags::new(Kind::Video, false));
    forger.check_replaced(at, record, "is a video packet, its batch is logo");

    let forger = Forger::new();
    let record = forger.seal(0, packet.key, &packet, packet.amount, Flags::new(Kind::Logo, true));
    forger.check_replaced(at, record, "is marked wrongly for instant credit");
}

#[test]
fn a_key_that_is_not_the_plans() {
    let forger = Forger::new();
    let (at, packet) = forger.find(0, is(Kind::Logo));
    let other = KeyId(if packet.key.0 == 1 { 2 } else { 1 });
    let record = forger.seal(0, other, &packet, packet.amount, packet.flags);
    forger.check_replaced(at, record, "the manifest says");
}

#[test]
fn a_tier_exchanged_for_another() {
    let mut forger = Forger::new();
    let last = forger.manifest.files.len() - 1;
    let (at, packet) = forger.find(last, |packet| packet.id.batch.0 == 3 && packet.amount.get() == 50);
    let mut records = forger.records(last);
    records[at] = forger.seal(last, packet.key, &packet, Fen::new(188), packet.flags);
    forger.put(last, &records);
    forger.check("the tiers of batch 3 are not those of the budget");

    records[at] = forger.seal(last, packet.key, &packet, Fen::new(100), packet.flags);
    forger.put(last, &records);
    forger.check("holds 1.00 yuan, which is no tier of its batch");
}

#[test]
fn an_instant_list_with_another_packet() {
    let mut forger = Forger::new();
    let path = forger.dir.join("instant.bin");
    let list =
        InstantFile::load(&RealDisk, &path, forger.build_id(), &forger.manifest.instant).expect("sound");
    let packets: Vec<_> = list.blocks().flat_map(|block| block.expect("readable")).collect();
    let mut entries: Vec<u128> = packets.iter().map(|packet| u128::from_be_bytes(packet.encode())).collect();
    // One serial more, the same amount: sums agree, the set does not.
    entries[0] += 1 << 32;
    let mut bytes = Vec::new();
    let mut writer = InstantWriter::new(&mut bytes, forger.build_id(), entries.len() as u64).expect("memory");
    writer.add(&entries).expect("memory");
    let (size_bytes, digest) = writer.finish().expect("memory");
    std::fs::write(&path, bytes).expect("write");
    (forger.manifest.instant.size_bytes, forger.manifest.instant.digest) = (size_bytes, digest);
    forger.sign();
    forger.check("the instant list is not the set of packets that are marked so");
}

#[test]
fn a_manifest_that_is_not_the_budgets() {
    let mut forger = Forger::new();
    forger.manifest.batches[0].account = "ESC-MINE".to_owned();
    forger.sign();
    let error = verify(&forger.dir, false).expect_err("another account").to_string();
    assert!(error.contains("batches are not those of budget.csv"), "{error}");
}
