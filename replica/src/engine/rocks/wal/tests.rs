//! Every place a log file can be cut, zeroed or flipped; and real logs, damaged on a real disk.

use proptest::prelude::*;

use super::record::HEADER;
use super::*;
use crate::engine::conformance::copy_image;
use crate::engine::rocks::{Memory, Mode, RocksEngine};
use crate::engine::{Batch, Engine, EngineError, View};

/// Large enough that everything stands in one write-ahead file.
const MEMORY: Memory = Memory { write_buffer_bytes: 8 << 20, block_cache_bytes: 1 << 20 };

/// A log file as RocksDB writes it: records with ascending sequence numbers, each `sizes` long.
struct Written {
    bytes: Vec<u8>,
    /// Where each record begins, and the end.
    begins: Vec<u64>,
}

fn written(sizes: &[usize], fill: impl Fn(usize) -> u8) -> Written {
    let mut written = Written { bytes: Vec::new(), begins: Vec::new() };
    for (number, size) in sizes.iter().enumerate() {
        let mut data = (100 + number as u64).to_le_bytes().to_vec();
        data.extend(1u32.to_le_bytes());
        data.extend((0..*size).map(&fill));
        append(&mut written, &data);
    }
    written.begins.push(written.bytes.len() as u64);
    written
}

fn append(written: &mut Written, mut data: &[u8]) {
    let mut first = true;
    loop {
        let left = BLOCK - written.bytes.len() % BLOCK;
        if left < HEADER {
            written.bytes.extend(std::iter::repeat_n(0, left));
            continue;
        }
        if first {
            written.begins.push(written.bytes.len() as u64);
        }
        let (piece, rest) = data.split_at(data.len().min(left - HEADER));
        let kind = match (first, rest.is_empty()) {
            (true, true) => 1u8,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let summed = [&[kind], piece].concat();
        written.bytes.extend(crc::mask(crc::crc32c(&summed)).to_le_bytes());
        written.bytes.extend((piece.len() as u16).to_le_bytes());
        written.bytes.extend(summed);
        (data, first) = (rest, false);
        if data.is_empty() {
            return;
        }
    }
}

fn scan(bytes: &[u8]) -> scan::Scan {
    let read = |number: u64| {
        let from = number as usize * BLOCK;
        Ok(bytes[from..bytes.len().min(from + BLOCK)].to_vec())
    };
    Blocks { length: bytes.len() as u64, read }.scan(0).expect("memory is readable")
}

fn kind(bytes: &[u8]) -> Option<Kind> {
    scan(bytes).damage.map(|damage| damage.kind)
}

fn mixed(at: usize) -> u8 {
    (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[1] | 1
}

#[test]
fn a_log_cut_off_anywhere_is_sound_or_torn_and_keeps_every_record_before() {
    let log = written(&[40, 300, 5, 70_000, 1], mixed);
    assert_eq!(scan(&log.bytes).records, 5);
    for length in (0..2000).chain(30_000..35_000).chain(log.bytes.len() - 2000..log.bytes.len()) {
        let found = scan(&log.bytes[..length]);
        let whole = log.begins[1..].iter().filter(|end| **end <= length as u64).count() as u64;
        assert_eq!(found.records, whole, "cut at {length}");
        match found.damage {
            // A record may end inside the padding of a block.
            None => assert!(scan(&log.bytes[..log.begins[whole as usize] as usize]).records == whole),
            Some(damage) => {
                assert_eq!(damage.kind, Kind::Torn, "cut at {length}");
                assert_eq!(damage.from, log.begins[whole as usize], "cut at {length}");
            }
        }
    }
}

#[test]
fn a_last_record_full_of_zeros_from_any_sector_on_is_torn() {
    let log = written(&[40, 300, 5, 70_000], mixed);
    let last = log.begins[3] as usize;
    let sectors = (last..log.bytes.len()).filter(|at| at % 512 == 0);
    for from in std::iter::once(last).chain(sectors) {
        let mut bytes = log.bytes.clone();
        bytes[from..].fill(0);
        let damage = scan(&bytes).damage.unwrap_or_else(|| panic!("zeros from {from}: sound"));
        assert_eq!((damage.from, damage.kind), (last as u64, Kind::Torn), "zeros from {from}");
        // And with the length written long before the data.
        bytes.extend([0; 4096]);
        assert_eq!(kind(&bytes), Some(Kind::Torn), "zeros from {from}, and longer");
    }
}

/// A file of several records that end with zeros, so that a flipped bit before looks like a tear at first.
#[test]
fn no_flipped_bit_anywhere_is_taken_for_a_torn_record_or_overlooked() {
    let zeros_behind = |at: usize| if at < 90 { mixed(at) } else { 0 };
    let log = written(&[40, 700, 5, 1200], zeros_behind);
    assert_eq!(kind(&log.bytes), None);
    let last = log.begins[3] as usize;
    for at in 0..log.bytes.len() {
        for bit in 0..8 {
            let mut bytes = log.bytes.clone();
            bytes[at] ^= 1 << bit;
            let found = kind(&bytes);
            let is_right = match found {
                Some(Kind::Followed { .. }) => at < last,
                Some(Kind::Unclear) => at >= last,
                // One bit in the zeros at the very end, and nothing else there: torn or rotten, nobody can
                // say.
                Some(Kind::Torn) | None => false,
            };
            assert!(is_right, "bit {bit} of byte {at} (the last record begins at {last}): {found:?}");
        }
    }
}

#[test]
fn a_hole_of_zeros_between_records_is_damage_although_rocksdb_skips_it() {
    let log = written(&[500, 500, 500, 500], mixed);
    let mut bytes = log.bytes.clone();
    bytes[log.begins[1] as usize..log.begins[2] as usize].fill(0);
    let next = log.begins[2];
    assert_eq!(kind(&bytes), Some(Kind::Followed { at: Some(next) }));
    // A whole block of it, with a record that begins in the next one.
    let log = written(&[500, 32_000, 32_000, 32_000, 500], mixed);
    let mut bytes = log.bytes;
    bytes[BLOCK..2 * BLOCK].fill(0);
    assert!(matches!(kind(&bytes), Some(Kind::Followed { at: Some(_) })));
}

#[test]
fn a_record_inside_a_torn_record_is_not_taken_for_a_later_one() {
    let inner = written(&[200], mixed).bytes;
    let log = written(&[40, 2000], |at| *inner.get(at).unwrap_or(&7));
    let cut = &log.bytes[..log.bytes.len() - 10];
    assert_eq!(kind(cut), Some(Kind::Torn));
}

proptest! {
    #[test]
    fn garbage_at_the_end_is_never_taken_for_sound(
        sizes in prop::collection::vec(0usize..40_000, 1..6),
        garbage in prop::collection::vec(any::<u8>(), 1..600),
        back in 0usize..600,
    ) {
        let log = written(&sizes, mixed);
        let last = log.begins[sizes.len() - 1] as usize;
        let from = log.bytes.len().saturating_sub(back).max(last);
        let mut bytes = log.bytes[..from].to_vec();
        bytes.extend(&garbage);
        let found = scan(&bytes);
        prop_assert!(found.records >= sizes.len() as u64 - 1);
        let unchanged = bytes.starts_with(&log.bytes);
        prop_assert!(found.damage.is_some() || garbage.len() < HEADER || bytes == log.bytes);
        prop_assert!(found.records == sizes.len() as u64 - u64::from(!unchanged));
        if let Some(damage) = found.damage {
            prop_assert!(damage.from >= last as u64);
            let followed = matches!(damage.kind, Kind::Followed { .. });
            prop_assert!(!followed);
        }
    }
}

/// A real log of durable records, as a kill leaves it.
fn killed_log() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let (live, image) = (directory.path().join("live"), directory.path().join("image"));
    let engine = RocksEngine::open(&live, Mode::Log, MEMORY).expect("new");
    for number in 0..50u32 {
        let mut batch = Batch::new();
        let size = if number % 10 == 9 { 40_000 } else { 300 };
        batch.put(format!("key{number:04}"), bytes::Bytes::from(vec![7; size]));
        engine.write_durable(batch).expect("healthy");
    }
    copy_image(&live, &image);
    let (_, wal) = names(&image).expect("readable").pop().expect("a WAL");
    (directory, image, wal)
}

fn count(engine: &RocksEngine) -> usize {
    let mut count = 0;
    let visit: crate::engine::Visit<'_> = &mut |_, _| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    };
    engine.scan(&[], &[], false, visit).expect("readable");
    count
}

fn refused(dir: &Path, mode: Mode) -> String {
    match RocksEngine::open(dir, mode, MEMORY) {
        Err(EngineError::Corrupt(text)) => text,
        Err(other) => panic!("not refused as damaged: {other}"),
        Ok(engine) => panic!("opened with {} pairs", count(&engine)),
    }
}

fn change(wal: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let before = std::fs::read(wal).expect("readable");
    let mut after = before.clone();
    change(&mut after);
    std::fs::write(wal, after).expect("writable");
    before
}

#[test]
fn what_rocksdb_wrote_reads_back_whole() {
    let (_directory, image, _) = killed_log();
    let files = survey(&image).expect("readable");
    assert_eq!(files.iter().map(|file| file.records).sum::<u64>(), 50);
    assert!(files.iter().all(|file| file.damage.is_none()), "{files:?}");
}

#[test]
fn a_log_torn_by_zeros_opens_without_its_last_record_and_keeps_a_copy_of_it() {
    let (_directory, image, wal) = killed_log();
    let before = change(&wal, |bytes| {
        let from = (bytes.len() - 30_000).next_multiple_of(512);
        bytes[from..].fill(0);
    });
    let engine = RocksEngine::open(&image, Mode::Log, MEMORY).expect("torn by a power cut");
    assert_eq!(count(&engine), 49);
    let copy = std::fs::read_dir(&image)
        .expect("readable")
        .flatten()
        .find(|file| file.file_name().to_string_lossy().contains(".cut-off-at-"))
        .expect("a copy");
    let rest = copy.metadata().expect("there").len();
    assert!((40_000..41_000).contains(&rest), "the last record, and not {rest} of {}", before.len());
}

#[test]
fn garbage_in_the_last_record_is_refused_and_trimmed_on_the_operators_word() {
    let (_directory, image, wal) = killed_log();
    change(&wal, |bytes| {
        let from = bytes.len() - 100;
        bytes[from..].fill(0xa7);
    });
    let text = refused(&image, Mode::Log);
    assert!(text.contains("kv log trim") && text.contains("kv member replace"), "{text}");
    assert_eq!(refused(&image, Mode::Log), text, "looking changes nothing");
    let cuts = trim(&image).expect("the last record");
    assert_eq!(cuts.len(), 1);
    assert!(cuts[0].copy.exists());
    let engine = RocksEngine::open(&image, Mode::Log, MEMORY).expect("trimmed");
    assert_eq!(count(&engine), 49);
    assert!(matches!(trim(&image), Err(TrimError::Held(_))), "trimmed under a running node");
    assert!(matches!(inspect(&image), Err(TrimError::Held(_))), "what is being written looks torn");
    assert!(matches!(RocksEngine::open(&image, Mode::Log, MEMORY), Err(EngineError::Failed(_))));
}

#[test]
fn what_a_sound_record_follows_is_refused_and_not_trimmed() {
    let (_directory, image, wal) = killed_log();
    let zeroed = |bytes: &mut Vec<u8>| {
        let middle = bytes.len() / 2 / 512 * 512;
        bytes[middle..middle + 512].fill(0);
    };
    change(&wal, zeroed);
    let damaged = std::fs::read(&wal).expect("readable");
    let text = refused(&image, Mode::Log);
    assert!(text.contains("a sound record follows") && !text.contains("trim"), "{text}");
    assert!(matches!(trim(&image), Err(TrimError::Refused(_))));
    assert_eq!(std::fs::read(&wal).expect("readable"), damaged, "a refusal changes nothing");
}

#[test]
fn damage_that_a_later_file_follows_is_refused() {
    let (_directory, image, wal) = killed_log();
    change(&wal, |bytes| bytes.truncate(bytes.len() - 20));
    let (name, _) = names(&image).expect("readable").pop().expect("a WAL");
    let later = image.join(format!("{:06}.log", name[..6].parse::<u64>().expect("a number") + 1));
    std::fs::write(&later, written(&[10], mixed).bytes).expect("written");
    assert!(refused(&image, Mode::Log).contains("in a later file"));
    std::fs::write(&later, b"").expect("written");
    let engine = RocksEngine::open(&image, Mode::Log, MEMORY).expect("an empty file follows nothing");
    assert_eq!(count(&engine), 49);
}

#[test]
fn a_state_with_anything_in_its_write_ahead_log_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let engine = RocksEngine::open(directory.path(), Mode::State, MEMORY).expect("new");
    let mut batch = Batch::new();
    batch.put("key", "value");
    engine.write_durable(batch).expect("healthy");
    drop(engine);
    drop(RocksEngine::open(directory.path(), Mode::State, MEMORY).expect("its own"));
    let (_, wal) = names(directory.path()).expect("readable").pop().expect("a WAL");
    std::fs::write(wal, written(&[10], mixed).bytes).expect("written");
    assert!(refused(directory.path(), Mode::State).contains("never writes there"));
}
