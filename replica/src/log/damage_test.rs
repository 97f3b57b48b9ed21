//! Any one file of a real log deleted, cut, flipped or put back from an older copy: the log is refused
//! with the place, or everything is there. Never something less in silence.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use world::GroupId;

use crate::engine::EngineError;
use crate::engine::rocks::{Memory, Mode, RocksEngine};
use crate::log::tests::{entry, vote};
use crate::log::{LogStore, LogWriter};

const GROUP: GroupId = GroupId(3);
const ENTRIES: u64 = 300;
/// Small enough that most entries stand in tables, the last ones in the write-ahead log.
const MEMORY: Memory = Memory { write_buffer_bytes: 64 << 10, block_cache_bytes: 1 << 20 };

#[derive(Clone, Copy, Debug)]
enum Damage {
    Deleted,
    CutInHalf,
    Emptied,
    Flipped,
    PutBack,
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for file in std::fs::read_dir(from).expect("readable").flatten() {
        if file.file_name() != "LOCK" {
            std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
        }
    }
}

/// Writes the entries `from..to` and a vote for term `to`.
async fn fill(dir: &Path, from: u64, to: u64) {
    let engine = RocksEngine::open(dir, Mode::Log, MEMORY).expect("opens");
    let writer = LogWriter::start_thread(engine.clone()).expect("a thread");
    let mut store = LogStore::open(GROUP, engine.clone(), writer.clone()).expect("sound");
    let text = "x".repeat(900);
    for index in (from..to).step_by(10) {
        let entries = (index..index + 10).map(|index| entry(index, &text));
        store.blocking_append(entries).await.expect("durable");
    }
    store.save_vote(&vote(to)).await.expect("durable");
    writer.stop();
}

/// Opens what is left and reads all of it, as a node does at start.
async fn read(dir: &Path) -> Result<(u64, u64), EngineError> {
    let engine = RocksEngine::open(dir, Mode::Log, MEMORY)?;
    let writer = LogWriter::start_thread(engine.clone())?;
    let opened = LogStore::open(GROUP, engine, writer.clone());
    if opened.is_err() {
        // Until its thread has ended the engine is open, and removes files by their names when it closes.
        writer.stop();
    }
    let mut store = opened?;
    let mut reader = store.get_log_reader().await;
    let entries = reader.try_get_log_entries(..).await.expect("what was verified reads again");
    let voted = reader.read_vote().await.expect("known").map_or(0, |vote| vote.leader_id.term);
    writer.stop();
    Ok((entries.len() as u64, voted))
}

fn kind_of(name: &str) -> &'static str {
    match name {
        _ if name.ends_with(".log") => "write-ahead log",
        _ if name.ends_with(".sst") => "table",
        _ if name.starts_with("MANIFEST") => "manifest",
        "CURRENT" => "current",
        _ => "other",
    }
}

fn damage(file: &Path, older: &Path, kind: Damage) -> bool {
    let length = std::fs::metadata(file).expect("there").len();
    let open = || std::fs::OpenOptions::new().read(true).write(true).open(file).expect("writable");
    match kind {
        Damage::Deleted => std::fs::remove_file(file).expect("removed"),
        Damage::CutInHalf => open().set_len(length / 2).expect("cut"),
        Damage::Emptied => open().set_len(0).expect("cut"),
        Damage::Flipped => {
            if length == 0 {
                return false;
            }
            let mut byte = [0];
            open().read_exact_at(&mut byte, length / 2).expect("inside");
            open().write_all_at(&[byte[0] ^ 4], length / 2).expect("written");
        }
        Damage::PutBack => {
            let changed = older.exists() && std::fs::read(older).ok() != std::fs::read(file).ok();
            if !changed {
                return false;
            }
            std::fs::copy(older, file).expect("put back");
        }
    }
    true
}

/// What a lost end of the newest write-ahead file looks like cannot be told from a torn tail: that is
/// found by comparing with the state (`host::check_ends`), not here.
fn looks_like_a_torn_tail(name: &str, newest_wal: &str, kind: Damage) -> bool {
    name == newest_wal && matches!(kind, Damage::CutInHalf | Damage::Emptied | Damage::PutBack)
}

#[tokio::test]
async fn no_damage_to_any_one_file_of_the_log_makes_acknowledged_entries_vanish_in_silence() {
    let home = tempfile::tempdir().expect("a directory");
    let (live, older, whole) =
        (home.path().join("live"), home.path().join("older"), home.path().join("whole"));
    fill(&live, 0, ENTRIES / 2).await;
    copy(&live, &older);
    fill(&live, ENTRIES / 2, ENTRIES).await;
    copy(&live, &whole);
    let mut names: Vec<String> = std::fs::read_dir(&whole)
        .expect("readable")
        .flatten()
        .filter_map(|file| file.file_name().into_string().ok())
        .collect();
    names.sort();
    let newest_wal = names.iter().filter(|name| name.ends_with(".log")).max().expect("a WAL").clone();
    assert!(names.iter().filter(|name| name.ends_with(".sst")).count() > 1, "no tables: {names:?}");
    let mut outcomes: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for name in &names {
        for kind in [Damage::Deleted, Damage::CutInHalf, Damage::Emptied, Damage::Flipped, Damage::PutBack] {
            if looks_like_a_torn_tail(name, &newest_wal, kind) {
                continue;
            }
            let image: PathBuf = home.path().join("image");
            let _ = std::fs::remove_dir_all(&image);
            copy(&whole, &image);
            if !damage(&image.join(name), &older.join(name), kind) {
                continue;
            }
            let left = read(&image).await;
            let outcome = outcomes.entry(kind_of(name)).or_default();
            match left {
                Ok(found) => {
                    assert_eq!(
                        found,
                        (ENTRIES, ENTRIES),
                        "{name} {kind:?}: opened with less than was written"
                    );
                    outcome.1 += 1;
                }
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.contains("image"), "{name} {kind:?}: the place is missing: {text}");
                    outcome.0 += 1;
                }
            }
        }
    }
    println!("refused, whole: {outcomes:?}");
    let refused: u32 = outcomes.values().map(|(refused, _)| refused).sum();
    assert!(refused >= 8, "hardly anything was refused: {outcomes:?}");
    assert_eq!(read(&whole).await, Ok((ENTRIES, ENTRIES)));
}
