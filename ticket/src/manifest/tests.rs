//! What is signed loads; what is altered, unsigned or contradicts itself does not.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use world::disk::RealDisk;

use super::*;
use crate::file::file_size;

fn file(no: u32, slot: u16, home: &str, parts: &[(u16, u32, u64)]) -> ManifestFile {
    let home: NodeId = home.parse().expect("a node");
    let others = ["a1", "b1", "c1"].map(|name| name.parse::<NodeId>().expect("a node"));
    let takers = others.into_iter().filter(|node| node.zone() != home.zone());
    let count = parts.iter().map(|(_, count, _)| count).sum();
    let part = |(batch, count, fen): &(u16, u32, u64)| FileBatch {
        batch: BatchId(*batch),
        count: *count,
        amount_fen: Fen::new(*fen),
    };
    ManifestFile {
        entry: FileEntry {
            no: FileNo(no),
            slot: SlotNo(slot),
            home,
            holders: [home].into_iter().chain(takers).collect(),
            count,
            size_bytes: file_size(count),
            digest: Digest::of(&no.to_be_bytes()),
        },
        batches: parts.iter().map(part).collect(),
    }
}

fn batch(id: u16, count: u64, fen: u64) -> BatchEntry {
    BatchEntry {
        batch: BatchId(id),
        merchant_id: 1_000 + u32::from(id),
        sponsor: format!("Sponsor {id}"),
        account: format!("ESC-{id}"),
        funded_on: "2016-01-25".to_owned(),
        kind: Kind::Logo,
        page: format!("page-{id}"),
        split: "lucky".to_owned(),
        min_fen: Fen::new(1),
        max_fen: Fen::new(500),
        count,
        amount_fen: Fen::new(fen),
    }
}

fn slot(no: u16, count: u64) -> SlotEntry {
    let start = 1_000 * u64::from(no);
    SlotEntry {
        slot: SlotNo(no),
        id: format!("slot-{no}"),
        start_ms: UnixMs(start),
        end_ms: UnixMs(start + 1_000),
        count,
        curve: vec![3, 2, 1],
    }
}

fn manifest() -> Manifest {
    let key = |key, count, fen| KeyEntry { key: KeyId(key), count, amount_fen: Fen::new(fen) };
    Manifest {
        format: MANIFEST_FORMAT,
        event: "spring".to_owned(),
        scheme: "A".to_owned(),
        build: BuildId([9; 16]),
        budget_digest: Digest::of(b"budget"),
        script_digest: Digest::of(b"script"),
        claims_per_user_max: 3,
        claims_per_merchant_max: 1,
        open_grace_ms: 60_000,
        key_count: 2,
        key_budget_fen: Fen::new(700),
        count: 15,
        amount_fen: Fen::new(1_000),
        instant: InstantEntry {
            min_fen: Fen::new(400),
            count: 1,
            amount_fen: Fen::new(450),
            size_bytes: 20,
            digest: Digest::of(b"instant"),
        },
        slots: vec![slot(0, 10), slot(1, 5)],
        consolations: vec![ConsolationEntry { page: "greeting".to_owned(), weight: 90, exposures_max: None }],
        batches: vec![batch(1, 9, 700), batch(2, 6, 300)],
        keys: vec![key(1, 8, 650), key(2, 7, 350)],
        files: vec![
            file(0, 0, "a1", &[(1, 4, 300), (2, 1, 50)]),
            file(1, 0, "b1", &[(1, 5, 400)]),
            file(2, 1, "c2", &[(2, 5, 250)]),
        ],
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes([8; 32])
}

fn published<T: Signed>(document: &T) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("document.json");
    publish_signed(&RealDisk, &path, document, &key()).expect("published");
    (dir, path)
}

fn load<T: Signed>(path: &Path) -> Result<T, ManifestError> {
    load_signed(&RealDisk, path, &key().verifying_key())
}

#[test]
fn what_is_published_loads() {
    let (_dir, path) = published(&manifest());
    assert_eq!(load::<Manifest>(&path).expect("loads"), manifest());
    assert!(path.with_file_name("document.json.sig").exists());
    let roster = manifest().roster();
    let (_dir, path) = published(&roster);
    assert_eq!(load::<Roster>(&path).expect("loads"), roster);
}

#[test]
fn the_same_document_gives_the_same_bytes() {
    assert_eq!(encode(&manifest()), encode(&manifest()));
}

#[test]
fn a_roster_holds_no_money() {
    let text = String::from_utf8(encode(&manifest().roster())).expect("JSON");
    for word in ["fen", "amount", "account", "keys", "instant", "split", "min_", "budget"] {
        assert!(!text.contains(word), "{word} stands in the roster:\n{text}");
    }
}

#[test]
fn altered_or_unsigned_documents_do_not_load() {
    let (_dir, path) = published(&manifest());
    let genuine = fs::read(&path).expect("read");
    let bytes_to_flip = (0..genuine.len()).step_by(97).chain([0, genuine.len() - 1]);
    for at in bytes_to_flip {
        let mut bytes = genuine.clone();
        bytes[at] ^= 1;
        fs::write(&path, bytes).expect("write");
        let error = load::<Manifest>(&path).expect_err("altered");
        assert!(matches!(error, ManifestError::Signature { .. }), "byte {at}: {error}");
    }
    fs::write(&path, &genuine).expect("write");
    let other = SigningKey::from_bytes([1; 32]).verifying_key();
    let refused = load_signed::<Manifest>(&RealDisk, &path, &other);
    assert!(matches!(refused, Err(ManifestError::Signature { .. })));
    for signature in ["", "00", "not a signature"] {
        fs::write(signature_path(&path), signature).expect("write");
        assert!(matches!(load::<Manifest>(&path), Err(ManifestError::Signature { .. })));
    }
    fs::remove_file(signature_path(&path)).expect("removed");
    assert!(
        matches!(load::<Manifest>(&path), Err(ManifestError::Io { path, .. }) if path.ends_with("document.json.sig"))
    );
}

#[test]
fn a_roster_is_not_taken_for_a_manifest() {
    let (_dir, path) = published(&manifest().roster());
    assert!(matches!(load::<Manifest>(&path), Err(ManifestError::Signature { .. })));
}

/// Signs bytes that `encode` would refuse, as a faulty planner would.
fn load_signed_text(text: &str) -> ManifestError {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("manifest.json");
    fs::write(&path, text).expect("write");
    let signature = key().sign(Manifest::DOMAIN, text.as_bytes());
    fs::write(signature_path(&path), signature.to_string()).expect("write");
    load::<Manifest>(&path).expect_err("a signed document that is wrong")
}

#[test]
fn signed_nonsense_is_refused_by_what_is_wrong_with_it() {
    assert!(matches!(load_signed_text("{"), ManifestError::Json { .. }));
    assert!(matches!(load_signed_text(r#"{"format":2,"new":1}"#), ManifestError::Format { found: 2, .. }));
    assert!(matches!(load_signed_text(r#"{"format":1}"#), ManifestError::Json { .. }));
    let good = String::from_utf8(encode(&manifest())).expect("JSON");
    let unknown = good.replacen("{", "{\"surprise\":1,", 1);
    assert!(matches!(load_signed_text(&unknown), ManifestError::Json { .. }));
    let wrong = good.replacen("\"amount_fen\": 1000", "\"amount_fen\": 1001", 1);
    assert_ne!(wrong, good);
    assert!(matches!(load_signed_text(&wrong), ManifestError::Contradiction { .. }));
}

#[test]
fn every_contradiction_is_found_and_named() {
    assert_eq!(manifest().validate(), Ok(()));
    let check = |change: &dyn Fn(&mut Manifest), expected: &str| {
        let mut manifest = manifest();
        change(&mut manifest);
        let reason = manifest.validate().expect_err(expected).to_string();
        assert!(reason.contains(expected), "expected {expected:?}, found {reason:?}");
    };
    // Totals, to the fen and to the packet.
    check(
        &|m| m.amount_fen = Fen::new(999),
        "its batches make 15 packets of 10.00 yuan, the total is 15 of 9.99",
    );
    check(&|m| m.count = 16, "the total is 16");
    check(
        &|m| m.batches[0].amount_fen = Fen::new(701),
        "batch 1 has 9 packets of 7.01 yuan, its files hold 9 of 7.00",
    );
    check(&|m| m.batches[1].count = 7, "batch 2 has 7 packets");
    check(&|m| m.files[0].batches[0].amount_fen = Fen::new(301), "its files hold 9 of 7.01");
    check(&|m| m.files[0].batches[0].amount_fen = Fen::MAX, "larger than any budget");
    check(&|m| m.files[0].batches[0].count = 3, "the batches of file 0 make 4 packets, it holds 5");
    check(&|m| m.slots[1].count = 6, "slot 1 has 6 packets, its files hold 5");
    check(&|m| m.keys[0].count = 9, "its keys make 16 packets");
    check(&|m| m.keys[1].amount_fen = Fen::new(349), "its keys make 15 packets of 9.99");
    check(&|m| m.instant.count = 16, "more is credited at once than there is");
    check(&|m| m.instant.amount_fen = Fen::new(1_001), "more is credited at once than there is");
    // Keys.
    check(&|m| m.key_budget_fen = Fen::new(649), "key 1 protects 6.50 yuan, more than 6.49");
    check(&|m| m.key_count = 3, "numbered from 1 to 3");
    check(&|m| m.keys[0].key = KeyId(0), "numbered from 1 to 2");
    // Places and order.
    check(&|m| m.batches.swap(0, 1), "its batches are not in order");
    check(&|m| m.batches[1].batch = BatchId(1), "its batches are not in order");
    check(&|m| m.batches[1].batch = BatchId(3), "batch 3 has 6 packets of 3.00 yuan, its files hold 0");
    check(&|m| m.files[0].batches.swap(0, 1), "the batches of file 0 are not in order");
    check(&|m| m.files.swap(0, 1), "file 1 stands in place 0");
    check(&|m| m.files[2].entry.slot = SlotNo(2), "slot 2, which does not exist");
    check(&|m| m.files[1].entry.size_bytes += 1, "the size of file 1");
    check(&|m| m.files[1].entry.holders[0] = "a1".parse().expect("a node"), "not its home");
    check(&|m| m.files[1].entry.holders.clear(), "not its home");
    check(&|m| m.files[1].entry.holders.push("b2".parse().expect("a node")), "stand in one zone");
    check(&|m| m.slots.swap(0, 1), "slot 1 stands in place 0");
    check(&|m| m.slots[0].end_ms = UnixMs(1_001), "overlap");
    check(&|m| m.slots[0].end_ms = UnixMs(0), "ends before it starts");
}

#[test]
fn a_batch_in_the_files_alone_is_found() {
    let mut manifest = manifest();
    manifest.files[1].batches.push(FileBatch { batch: BatchId(7), count: 0, amount_fen: Fen::ZERO });
    let reason = manifest.validate().expect_err("unlisted").to_string();
    assert!(reason.contains("a batch that it does not list"), "{reason}");
}

#[test]
#[should_panic(expected = "would be signed")]
fn a_contradiction_is_never_signed() {
    let mut manifest = manifest();
    manifest.count += 1;
    let _ = encode(&manifest);
}

#[test]
fn files_lie_where_the_build_directory_says() {
    let path = manifest().files[2].entry.path_in(Path::new("out"));
    assert_eq!(path, Path::new("out/files/000002.hbt"));
}
