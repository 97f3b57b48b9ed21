//! Crashes of a cursor at every write, torn at every byte.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::testkit::MemoryDisk;

const STEP: u32 = 4;

fn id(count: u32) -> CursorId {
    CursorId {
        build: BuildId([7; 16]),
        slot: SlotNo(3),
        file: FileNo(12),
        count,
        incarnation: Incarnation([0xab; 16]),
    }
}

fn path() -> PathBuf {
    PathBuf::from("cursor")
}

fn created(disk: &MemoryDisk, count: u32) -> Cursor {
    Cursor::create(disk, &path(), &id(count), STEP).expect("create");
    Cursor::load(disk, &path(), &id(count), STEP).expect("load")
}

fn reloaded(image: Vec<u8>, count: u32) -> Result<Cursor, CursorError> {
    let disk = MemoryDisk::default();
    disk.put(&path(), image);
    Cursor::load(&disk, &path(), &id(count), STEP)
}

#[test]
fn a_new_cursor_starts_at_the_beginning_and_moves_by_steps_to_the_end() {
    let disk = MemoryDisk::default();
    let mut cursor = created(&disk, 10);
    let marks: Vec<u32> = (0..5).map(|_| cursor.reserve().expect("reserve")).collect();
    assert_eq!(marks, [4, 8, 10, 10, 10]);
}

#[test]
fn the_exact_count_is_kept_over_a_clean_stop() {
    let disk = MemoryDisk::default();
    let mut cursor = created(&disk, 100);
    for _ in 0..3 {
        cursor.reserve().expect("reserve");
    }
    cursor.finish(9).expect("finish");
    assert_eq!(reloaded(disk.bytes(&path()), 100).expect("load").reserved(), 9);
}

#[test]
fn creating_again_does_not_set_a_cursor_back() {
    let disk = MemoryDisk::default();
    created(&disk, 100).reserve().expect("reserve");
    assert_eq!(created(&disk, 100).reserved(), STEP);
}

/// Issues as much as is allowed after each write, and returns for every write what had certainly
/// left before it was durable.
fn history(disk: &MemoryDisk, writes: usize) -> Vec<u32> {
    let mut cursor = created(disk, 1_000);
    let mut issued = vec![0; disk.writes().len()];
    for _ in 0..writes {
        issued.push(cursor.reserved());
        cursor.reserve().expect("reserve");
    }
    issued
}

#[test]
fn a_write_torn_at_any_byte_never_loses_the_mark_and_skips_at_most_two_steps() {
    let disk = MemoryDisk::default();
    let issued = history(&disk, 12);
    let writes = disk.writes();
    assert_eq!(writes.len(), issued.len());
    for (write, issued) in writes.iter().zip(issued) {
        for torn in 0..=write.bytes.len() {
            let mut image = write.before.clone();
            image[write.offset..write.offset + torn].copy_from_slice(&write.bytes[..torn]);
            let resumed = reloaded(image, 1_000).expect("one slot is whole").reserved();
            assert!(issued <= resumed, "torn at {torn}: {issued} left, resumed at {resumed}");
            assert!(resumed <= issued + 2 * STEP, "torn at {torn}: {issued} left, resumed at {resumed}");
        }
    }
}

#[test]
fn a_damaged_byte_in_the_newest_slot_skips_instead_of_repeating() {
    let disk = MemoryDisk::default();
    let mut cursor = created(&disk, 1_000);
    for _ in 0..7 {
        cursor.reserve().expect("reserve");
    }
    // Everything reserved may have left.
    let left = cursor.reserved();
    let image = disk.bytes(&path());
    for at in (0..SLOT_LEN).chain(SLOT_STRIDE as usize..SLOT_STRIDE as usize + SLOT_LEN) {
        let mut damaged = image.clone();
        damaged[at] ^= 0x40;
        let resumed = reloaded(damaged, 1_000).expect("one slot is whole").reserved();
        assert!(left <= resumed && resumed <= left + STEP, "byte {at}: {left} left, resumed at {resumed}");
    }
}

#[test]
fn two_damaged_slots_are_not_resumed_from() {
    let disk = MemoryDisk::default();
    created(&disk, 1_000);
    let mut image = disk.bytes(&path());
    image[9] ^= 1;
    image[SLOT_STRIDE as usize + 9] ^= 1;
    assert!(matches!(reloaded(image, 1_000), Err(CursorError::Damaged)));
}

#[test]
fn a_cursor_of_another_file_build_or_disk_is_refused() {
    let disk = MemoryDisk::default();
    created(&disk, 1_000);
    let check = |other: CursorId, what: &str| {
        let error = Cursor::load(&disk, &path(), &other, STEP).err().expect("a foreign cursor");
        assert!(matches!(error, CursorError::Foreign(found) if found == what), "{error}");
    };
    check(CursorId { incarnation: Incarnation([1; 16]), ..id(1_000) }, "disk");
    check(CursorId { build: BuildId([1; 16]), ..id(1_000) }, "build");
    check(CursorId { file: FileNo(1), ..id(1_000) }, "file");
    check(CursorId { slot: SlotNo(1), ..id(1_000) }, "file");
    check(id(999), "file");
}

#[test]
fn after_a_failed_write_nothing_more_is_reserved() {
    let disk = MemoryDisk::default();
    let mut cursor = created(&disk, 1_000);
    cursor.reserve().expect("reserve");
    disk.fail(true);
    assert!(matches!(cursor.reserve(), Err(CursorError::Disk(_))));
    disk.fail(false);
    assert!(matches!(cursor.reserve(), Err(CursorError::Poisoned)));
    assert_eq!(cursor.reserved(), STEP);
}

#[test]
fn the_format_is_frozen() {
    let slot = encode(&id(0x0102), &Mark { sequence: 5, reserved: 260, step: 128 });
    let hex: String = slot.iter().map(|byte| format!("{byte:02x}")).collect();
    let want = [
        "6862637572000001",                 // format id
        "0000000000000005",                 // sequence
        "00000104",                         // reserved
        "00000080",                         // step
        "00000102",                         // count
        "0000000c",                         // file
        "0003000000000000",                 // slot
        "07070707070707070707070707070707", // build
        "abababababababab",                 // incarnation
        "8a624e30e49ddc2c5ca8bd6b3713317e", // BLAKE3
    ];
    assert_eq!(hex, want.concat());
}

proptest! {
    #[test]
    fn no_crash_at_any_moment_of_any_run_repeats_an_index(
        runs in proptest::collection::vec(
            (1u32..9, proptest::collection::vec(0u32..6, 0..6), 0usize..=SLOT_LEN, any::<bool>()), 1..8),
    ) {
        let disk = MemoryDisk::default();
        Cursor::create(&disk, &path(), &id(400), 1).expect("create");
        let mut left = 0u32;
        for (step, takes, torn, clean) in runs {
            let mut cursor = Cursor::load(&disk, &path(), &id(400), step).expect("load");
            prop_assert!(left <= cursor.reserved(), "{} left, resumed at {}", left, cursor.reserved());
            let mut next = cursor.reserved();
            for take in takes {
                for _ in 0..take {
                    if next == cursor.reserved() && cursor.reserve().expect("reserve") == next {
                        break;
                    }
                    next += 1;
                }
            }
            left = left.max(next);
            if clean {
                cursor.finish(next).expect("finish");
                prop_assert_eq!(Cursor::load(&disk, &path(), &id(400), step).expect("load").reserved(), next);
                continue;
            }
            // The power goes while the next mark is being written.
            let before = disk.writes().len();
            if cursor.reserve().expect("reserve") != cursor.reserved() || disk.writes().len() == before {
                continue;
            }
            let write = disk.writes().pop().expect("the write just made");
            let mut image = write.before.clone();
            image[write.offset..write.offset + torn].copy_from_slice(&write.bytes[..torn]);
            disk.put(&path(), image);
        }
    }
}
