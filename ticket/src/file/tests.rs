//! Files that were cut, grown, swapped or altered anywhere must not load.

use std::fs;

use tempfile::TempDir;
use world::disk::RealDisk;

use super::*;

const COUNT: u32 = 2 * CHUNK_RECORDS + 1;

fn record(index: u32) -> Record {
    let mut bytes = [0u8; RECORD_LEN];
    bytes[..4].copy_from_slice(&index.to_be_bytes());
    Record(bytes)
}

fn header(count: u32) -> TicketFileHeader {
    TicketFileHeader {
        event: EventTag::of("spring-2016"),
        build: BuildId([7; 16]),
        slot: SlotNo(3),
        home: "b2".parse().expect("a node"),
        no: FileNo(12),
        count,
    }
}

/// A written file and the roster's entry of it.
struct Fixture {
    _dir: TempDir,
    path: PathBuf,
    entry: FileEntry,
}

impl Fixture {
    fn new(count: u32) -> Fixture {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("000012.hbt");
        let header = header(count);
        let written = write_file(&path, &header, (0..count).map(record)).expect("written");
        let TicketFileHeader { slot, home, no, .. } = header;
        let Written { size_bytes, digest } = written;
        let entry = FileEntry { no, slot, home, holders: vec![home], count, size_bytes, digest };
        Fixture { _dir: dir, path, entry }
    }

    fn load(&self) -> Result<TicketFile, FileError> {
        TicketFile::load(&RealDisk, &self.path, &self.entry)
    }

    /// What loading says after the file's bytes were changed.
    fn refusal(&self, change: impl FnOnce(&mut Vec<u8>)) -> FileError {
        let genuine = fs::read(&self.path).expect("read");
        let mut bytes = genuine.clone();
        change(&mut bytes);
        fs::write(&self.path, &bytes).expect("write");
        let error = self.load().err().expect("a changed file must not load");
        fs::write(&self.path, &genuine).expect("write");
        assert!(error.to_string().contains("000012.hbt"), "{error}");
        error
    }
}

#[test]
fn a_written_file_loads_and_gives_its_records() {
    for count in [0, 1, CHUNK_RECORDS - 1, CHUNK_RECORDS, CHUNK_RECORDS + 1, COUNT] {
        let fixture = Fixture::new(count);
        let file = fixture.load().expect("loads");
        assert_eq!((file.count(), *file.header()), (count, header(count)));
        assert_eq!(file.path(), fixture.path);
        assert_eq!(fixture.entry.size_bytes, fs::metadata(&fixture.path).expect("metadata").len());
        assert!(file.records(0..count).expect("all").eq((0..count).map(record)));
        for index in [0, count / 2, count.saturating_sub(1)] {
            assert_eq!(file.record(index).ok(), (index < count).then(|| record(index)));
        }
    }
}

#[test]
fn the_rosters_digest_is_that_of_the_whole_file() {
    let fixture = Fixture::new(3);
    assert_eq!(Digest::of(&fs::read(&fixture.path).expect("read")), fixture.entry.digest);
}

#[test]
fn both_ways_of_writing_give_the_same_file() {
    let fixture = Fixture::new(COUNT);
    let other = fixture.path.with_file_name("other.hbt");
    let written = publish_file(&RealDisk, &other, &header(COUNT), (0..COUNT).map(record)).expect("written");
    assert_eq!(written.digest, fixture.entry.digest);
    assert_eq!(fs::read(other).expect("read"), fs::read(&fixture.path).expect("read"));
}

#[test]
fn a_record_past_the_end_is_an_error() {
    let file = Fixture::new(5).load().expect("loads");
    assert!(matches!(file.record(5), Err(FileError::Index { index: 5, count: 5, .. })));
    assert!(matches!(file.record(u32::MAX), Err(FileError::Index { .. })));
    assert!(matches!(file.records(3..6).err(), Some(FileError::Index { index: 5, .. })));
    #[allow(clippy::reversed_empty_ranges)] // What a caller's slip would give.
    let reversed = file.records(4..2).err();
    assert!(matches!(reversed, Some(FileError::Index { .. })));
    assert_eq!(file.records(5..5).expect("empty").len(), 0);
}

#[test]
fn a_file_cut_anywhere_is_refused_by_its_length() {
    let fixture = Fixture::new(COUNT);
    let len = fs::metadata(&fixture.path).expect("metadata").len() as usize;
    let body_end = FILE_HEADER_LEN + COUNT as usize * RECORD_LEN;
    let edges = [
        1,
        FILE_HEADER_LEN,
        FILE_HEADER_LEN + RECORD_LEN,
        FILE_HEADER_LEN + CHUNK_LEN,
        FILE_HEADER_LEN + 2 * CHUNK_LEN,
        body_end,
        body_end + DIGEST_LEN,
        len - DIGEST_LEN,
        len,
    ];
    for cut in edges.into_iter().flat_map(|edge| [edge - 1, edge, edge + 1]).filter(|cut| *cut < len) {
        let error = fixture.refusal(|bytes| bytes.truncate(cut));
        assert!(matches!(error, FileError::Length { found, .. } if found == cut as u64), "{cut}: {error}");
    }
    assert!(fixture.load().is_ok());
}

#[test]
fn a_file_that_grew_is_refused_by_its_length() {
    let fixture = Fixture::new(5);
    for extra in [1, RECORD_LEN, 4_096] {
        let error = fixture.refusal(|bytes| bytes.extend(vec![0; extra]));
        assert!(matches!(error, FileError::Length { .. }), "{error}");
    }
}

#[test]
fn a_bit_flipped_anywhere_is_found_and_named() {
    let fixture = Fixture::new(5);
    let body_end = FILE_HEADER_LEN + 5 * RECORD_LEN;
    let len = fixture.entry.size_bytes as usize;
    for bit in 0..len * 8 {
        let error = fixture.refusal(|bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        let byte = bit / 8;
        let named = match error {
            FileError::Magic { .. } => byte < 8,
            FileError::Version { .. } => (8..10).contains(&byte),
            FileError::Header { .. } => (10..16).contains(&byte) || (40..48).contains(&byte),
            FileError::Count { .. } => (48..52).contains(&byte),
            FileError::Chunk { first: 0, last: 4, .. } => (FILE_HEADER_LEN..len - DIGEST_LEN).contains(&byte),
            FileError::Trailer { .. } => byte < FILE_HEADER_LEN || len - DIGEST_LEN <= byte,
            _ => false,
        };
        assert!(named, "byte {byte} of {len} (records end at {body_end}): {error}");
    }
}

#[test]
fn a_damaged_chunk_is_named_by_its_records() {
    let fixture = Fixture::new(COUNT);
    for (index, expected) in
        [(0, (0, 4_095)), (4_095, (0, 4_095)), (4_096, (4_096, 8_191)), (8_192, (8_192, 8_192))]
    {
        let at = FILE_HEADER_LEN + index * RECORD_LEN + 25;
        let error = fixture.refusal(|bytes| bytes[at] ^= 1);
        let FileError::Chunk { first, last, .. } = error else { panic!("{error}") };
        assert_eq!((first, last), expected, "record {index}");
    }
}

#[test]
fn a_file_in_anothers_place_is_refused_by_what_differs() {
    let fixture = Fixture::new(5);
    let check = |change: &dyn Fn(&mut TicketFileHeader), expected: &str| {
        let mut header = header(5);
        change(&mut header);
        let mut bytes = Vec::new();
        write_to(&mut bytes, &header, (0..5).map(record)).expect("memory");
        let error = fixture.refusal(|old| *old = bytes).to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&|header| header.slot = SlotNo(4), "its slot is 4, the roster says 3");
    check(&|header| header.home = "a1".parse().expect("a node"), "its home node is a1, the roster says b2");
    check(&|header| header.no = FileNo(13), "its file number is 13, the roster says 12");
    let other_build =
        "sound but not the one in the signed roster (it is of build 08080808080808080808080808080808)";
    check(&|header| header.build = BuildId([8; 16]), other_build);
    check(&|header| header.event = EventTag::of("spring-2017"), "sound but not the one");
}

#[test]
fn a_sound_file_with_other_records_is_refused() {
    let fixture = Fixture::new(5);
    let mut bytes = Vec::new();
    write_to(&mut bytes, &header(5), (1..6).map(record)).expect("memory");
    let error = fixture.refusal(|old| *old = bytes);
    assert!(matches!(error, FileError::NotInRoster { .. }), "{error}");
}

#[test]
fn an_entry_that_cannot_be_is_refused_before_anything_is_read() {
    let mut fixture = Fixture::new(5);
    fixture.entry.size_bytes += 1;
    assert!(matches!(fixture.load(), Err(FileError::Entry { .. })));
    fixture.entry.count = FILE_RECORDS_MAX + 1;
    fixture.entry.size_bytes = file_size(FILE_RECORDS_MAX + 1);
    assert!(matches!(fixture.load(), Err(FileError::Entry { .. })));
    fixture.entry.count = u32::MAX;
    fixture.entry.size_bytes = file_size(u32::MAX);
    assert!(matches!(fixture.load(), Err(FileError::Entry { .. })));
}

#[test]
fn a_missing_file_says_so() {
    let fixture = Fixture::new(5);
    fs::remove_file(&fixture.path).expect("removed");
    assert!(
        matches!(fixture.load(), Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound)
    );
}

#[test]
#[should_panic(expected = "more records than the header's 2")]
fn more_records_than_promised_stop_the_build() {
    let _ = write_to(&mut Vec::new(), &header(2), (0..3).map(record));
}

#[test]
#[should_panic(expected = "1 records, the header says 2")]
fn fewer_records_than_promised_stop_the_build() {
    let _ = write_to(&mut Vec::new(), &header(2), (0..1).map(record));
}
