//! Takes against reservations: what leaves is durable first, once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ticket::file::{TicketFileHeader, publish_file};
use ticket::id::{BuildId, EventTag};
use ticket::manifest::FileEntry;

use super::*;
use crate::cursor::CursorId;
use crate::incarnation::Incarnation;
use crate::testkit::{MemoryDisk, node, record};

const COUNT: u32 = 1_000;
const STEP: u32 = 8;

fn id() -> CursorId {
    CursorId {
        build: BuildId([7; 16]),
        slot: SlotNo(0),
        file: FileNo(1),
        count: COUNT,
        incarnation: Incarnation([1; 16]),
    }
}

fn records(disk: &MemoryDisk) -> TicketFile {
    let header = TicketFileHeader {
        event: EventTag::of("e"),
        build: BuildId([7; 16]),
        slot: SlotNo(0),
        home: node("a1"),
        no: FileNo(1),
        count: COUNT,
    };
    let path = Path::new("file");
    let rows = (0..COUNT).map(|index| record(FileNo(1), index));
    let written = publish_file(disk, path, &header, rows).expect("publish");
    let entry = FileEntry {
        no: FileNo(1),
        slot: SlotNo(0),
        home: node("a1"),
        holders: vec![node("a1")],
        count: COUNT,
        size_bytes: written.size_bytes,
        digest: written.digest,
    };
    TicketFile::load(disk, path, &entry).expect("load")
}

fn cursor_path() -> PathBuf {
    PathBuf::from("cursor")
}

fn placed(disk: &MemoryDisk) -> ShelfFile {
    Cursor::create(disk, &cursor_path(), &id(), STEP).expect("create");
    let cursor = Cursor::load(disk, &cursor_path(), &id(), STEP).expect("load");
    let name = (SlotNo(0), FileNo(1), node("a1"));
    ShelfFile::place(name, records(disk), cursor, Arc::new(Notify::new())).expect("place")
}

#[test]
fn a_placed_file_has_its_first_block_durable() {
    let file = placed(&MemoryDisk::default());
    assert_eq!(file.reserved(), 2 * STEP);
    assert_eq!(file.stock(COUNT), Stock::Ready);
    assert!(!file.wants_reserve());
}

#[test]
fn takes_stop_at_the_durable_mark_until_the_keeper_moves_it() {
    let file = placed(&MemoryDisk::default());
    for index in 0..2 * STEP {
        assert_eq!(file.take(COUNT).expect("reserved").index, index);
    }
    assert_eq!(file.take(COUNT).expect_err("beyond the mark"), Stock::Reserving);
    assert!(file.wants_reserve());
    file.reserve().expect("reserve");
    assert_eq!(file.take(COUNT).expect("reserved").index, 2 * STEP);
}

#[test]
fn the_keeper_is_called_before_the_block_runs_out() {
    let file = placed(&MemoryDisk::default());
    for _ in 0..STEP {
        file.take(COUNT).expect("reserved");
        assert!(!file.wants_reserve());
    }
    file.take(COUNT).expect("reserved");
    assert!(file.wants_reserve(), "half a block is left and nobody reserves");
}

#[test]
fn what_is_reserved_ahead_never_exceeds_a_block() {
    let file = placed(&MemoryDisk::default());
    for _ in 0..500 {
        file.take(COUNT).expect("reserved");
        file.reserve().expect("reserve");
        assert!(file.reserved() - file.position() <= 2 * STEP);
    }
}

#[test]
fn nothing_leaves_beyond_what_the_curve_released() {
    let file = placed(&MemoryDisk::default());
    assert_eq!(file.take(0).expect_err("nothing released"), Stock::Paced);
    assert_eq!(file.take(1).expect("released").index, 0);
    assert_eq!(file.take(1).expect_err("no more released"), Stock::Paced);
}

#[test]
fn a_closed_file_lets_nothing_leave_and_resumes_exactly() {
    let disk = MemoryDisk::default();
    let file = placed(&disk);
    for _ in 0..5 {
        file.take(COUNT).expect("reserved");
    }
    assert_eq!(file.close().expect("close"), 5);
    assert_eq!(file.close().expect("close again"), 5);
    assert_eq!(file.take(COUNT).expect_err("closed"), Stock::Exhausted);
    file.reserve().expect("a keeper that comes late finds nothing to do");
    assert_eq!(placed(&disk).take(COUNT).expect("reserved").index, 5);
}

#[test]
fn a_crash_skips_at_most_a_block() {
    let disk = MemoryDisk::default();
    let mut seen = BTreeSet::new();
    let mut wasted = 0;
    for round in 0u32..20 {
        let file = placed(&disk);
        let resumed_at = file.resumed_at();
        wasted += resumed_at - seen.len() as u32 - wasted;
        for _ in 0..round {
            let taken = file.take(COUNT).expect("reserved");
            assert!(seen.insert(taken.index), "index {} left twice", taken.index);
            file.reserve().expect("reserve");
        }
        assert!(wasted <= (round + 1) * 2 * STEP, "{wasted} skipped after {round} crashes");
    }
}

#[test]
fn a_disk_that_fails_ends_the_file_at_its_mark() {
    let disk = MemoryDisk::default();
    let file = placed(&disk);
    disk.fail(true);
    for _ in 0..2 * STEP {
        file.take(COUNT).expect("durable before the failure");
        let _ = file.reserve();
    }
    assert_eq!(file.take(COUNT).expect_err("nothing more is durable"), Stock::Exhausted);
    assert!(file.fault().expect("a fault").contains("full"));
}

#[test]
fn records_are_those_of_the_file() {
    let file = placed(&MemoryDisk::default());
    let taken = file.take(COUNT).expect("reserved");
    assert_eq!(file.record(&taken).expect("a record"), record(FileNo(1), 0));
}

#[test]
fn many_takers_never_get_one_index_twice() {
    let file = placed(&MemoryDisk::default());
    let take_all = || {
        let mut mine = Vec::new();
        loop {
            match file.take(COUNT) {
                Ok(taken) => mine.push(taken.index),
                Err(Stock::Reserving) => file.reserve().expect("reserve"),
                Err(_) => return mine,
            }
        }
    };
    let all: Vec<u32> = std::thread::scope(|scope| {
        let takers: Vec<_> = (0..4).map(|_| scope.spawn(take_all)).collect();
        takers.into_iter().flat_map(|taker| taker.join().expect("a taker")).collect()
    });
    assert_eq!(all.len(), COUNT as usize);
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), COUNT as usize);
}
