//! What only RocksDB can show: torn and flipped bytes in a real write-ahead log.

use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::*;
use crate::engine::conformance::{SMALL, copy_image};

fn put(key: String, value: &[u8]) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, Bytes::copy_from_slice(value));
    batch
}

/// A log of `count` durable records, as a kill would leave it; and its newest WAL file.
fn killed_log(count: usize) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let live = directory.path().join("live");
    let image = directory.path().join("image");
    let engine = RocksEngine::open(&live, Mode::Log, SMALL).expect("new");
    for number in 0..count {
        engine.write_durable(put(format!("key{number:04}"), &[7; 100])).expect("healthy");
    }
    copy_image(&live, &image);
    let mut wals: Vec<PathBuf> = std::fs::read_dir(&image)
        .expect("readable")
        .map(|file| file.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    wals.sort();
    let wal = wals.pop().expect("a WAL");
    (directory, image, wal)
}

fn count(engine: &RocksEngine) -> usize {
    let mut count = 0;
    engine
        .scan(&[], &[], false, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })
        .expect("readable");
    count
}

#[test]
fn a_log_with_a_torn_tail_opens_with_everything_before_it() {
    let (_directory, image, wal) = killed_log(50);
    let len = std::fs::metadata(&wal).expect("there").len();
    let file = std::fs::OpenOptions::new().write(true).open(&wal).expect("writable");
    file.set_len(len - 30).expect("cut");
    let engine = RocksEngine::open(&image, Mode::Log, SMALL).expect("a torn tail is no damage");
    assert_eq!(count(&engine), 49);
}

#[test]
fn a_log_with_a_flipped_bit_in_the_middle_is_refused_with_advice() {
    let (_directory, image, wal) = killed_log(50);
    let len = std::fs::metadata(&wal).expect("there").len();
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(&wal).expect("open");
    let mut byte = [0u8];
    file.seek(SeekFrom::Start(len / 2)).expect("inside");
    file.read_exact(&mut byte).expect("inside");
    file.seek(SeekFrom::Start(len / 2)).expect("inside");
    file.write_all(&[byte[0] ^ 0x10]).expect("written");
    drop(file);
    let Err(error) = RocksEngine::open(&image, Mode::Log, SMALL) else {
        panic!("a log that lost acknowledged records was opened")
    };
    let text = error.to_string();
    assert!(matches!(error, EngineError::Corrupt(_)), "{text}");
    assert!(text.contains("kv member replace"), "{text}");
}

#[test]
fn a_log_whose_wal_is_gone_is_refused() {
    let (_directory, image, wal) = killed_log(5);
    std::fs::remove_file(wal).expect("removed");
    let result = RocksEngine::open(&image, Mode::Log, SMALL).map(|engine| count(&engine));
    assert!(!matches!(result, Ok(found) if found < 5), "acknowledged records vanished: {result:?}");
}

#[test]
fn a_log_whose_very_first_start_was_killed_starts_anew() {
    let directory = tempfile::tempdir().expect("a directory");
    let current = directory.path().join("CURRENT");
    std::fs::write(&current, "MANIFEST-000001\n").expect("written");
    assert!(!lost_its_wal(directory.path()), "RocksDB makes its log after this");
    std::fs::write(&current, "MANIFEST-000005\n").expect("written");
    assert!(lost_its_wal(directory.path()));
    drop(RocksEngine::open(&directory.path().join("new"), Mode::Log, SMALL).expect("new"));
    let opened = std::fs::read_to_string(directory.path().join("new/CURRENT")).expect("there");
    assert_ne!(opened.trim_end(), MANIFEST_OF_NONE, "RocksDB keeps its first manifest now: look again");
}

#[test]
fn state_is_lost_until_it_is_flushed_and_then_it_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let live = directory.path().join("live");
    let engine = RocksEngine::open(&live, Mode::State, SMALL).expect("new");
    engine.write(put("flushed".to_owned(), b"1")).expect("healthy");
    engine.flush().expect("healthy");
    engine.write(put("later".to_owned(), b"2")).expect("healthy");
    let image = directory.path().join("image");
    copy_image(&live, &image);
    let left = RocksEngine::open(&image, Mode::State, SMALL).expect("opens");
    assert_eq!(left.get(b"flushed"), Ok(Some(Bytes::from_static(b"1"))));
    assert_eq!(left.get(b"later"), Ok(None));
}

#[test]
fn a_pinned_view_outlives_the_engine_it_came_from() {
    let directory = tempfile::tempdir().expect("a directory");
    let engine = RocksEngine::open(directory.path(), Mode::State, SMALL).expect("new");
    engine.write(put("key".to_owned(), b"old")).expect("healthy");
    let view = engine.snapshot();
    engine.write(put("key".to_owned(), b"new")).expect("healthy");
    drop(engine);
    assert_eq!(view.get(b"key"), Ok(Some(Bytes::from_static(b"old"))));
}
