//! The faults the simulated disk can be asked for, each seen once.

use super::*;

fn put(key: &'static str, value: &'static str) -> Batch {
    let mut batch = Batch::new();
    batch.put(key, value);
    batch
}

fn keep_none(_: usize) -> usize {
    0
}

#[test]
fn a_crash_takes_what_was_not_synced_and_nothing_else() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    engine.write(put("a", "1")).expect("healthy");
    engine.flush().expect("healthy");
    engine.write(put("b", "2")).expect("healthy");
    engine.write(put("c", "3")).expect("healthy");
    assert_eq!(disk.crash(&mut keep_none), 2);

    assert!(engine.get(b"a").is_err(), "a dead process read the disk");
    let engine = SimEngine::open(&disk);
    assert_eq!(engine.get(b"a"), Ok(Some(Bytes::from_static(b"1"))));
    assert_eq!(engine.get(b"b"), Ok(None));
}

#[test]
fn what_a_crash_keeps_is_a_prefix() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    engine.write(put("a", "1")).expect("healthy");
    engine.write(put("b", "2")).expect("healthy");
    assert_eq!(disk.crash(&mut |_| 1), 1);
    let engine = SimEngine::open(&disk);
    assert_eq!(engine.get(b"a"), Ok(Some(Bytes::from_static(b"1"))));
    assert_eq!(engine.get(b"b"), Ok(None));
}

#[test]
fn a_failed_sync_is_never_followed_by_a_success() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    disk.set_faults(Faults { fail_next_sync: true, ..Faults::default() });
    let error = engine.write_durable(put("a", "1")).expect_err("the sync fails");
    assert_eq!(engine.flush(), Err(error.clone()));
    assert_eq!(engine.write(put("b", "2")), Err(error.clone()));
    assert_eq!(engine.get(b"a"), Err(error));
    assert_eq!(disk.durable_value(b"a"), None);
}

#[test]
fn what_the_next_process_writes_behind_a_failed_sync_leaves_no_hole() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    disk.set_faults(Faults { fail_next_sync: true, ..Faults::default() });
    engine.write_durable(put("a", "1")).expect_err("the sync fails");
    let next = SimEngine::recover(&disk);
    assert_eq!(next.get(b"a"), Ok(Some(Bytes::from_static(b"1"))));
    next.write_durable(put("b", "2")).expect("healthy");
    disk.crash(&mut keep_none);
    let last = SimEngine::recover(&disk);
    assert_eq!(last.get(b"a"), Ok(Some(Bytes::from_static(b"1"))));
    assert_eq!(last.get(b"b"), Ok(Some(Bytes::from_static(b"2"))));
}

#[test]
fn a_full_disk_refuses_and_stays_refusing() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    disk.set_faults(Faults { full_after_bytes: Some(3), ..Faults::default() });
    engine.write(put("a", "1")).expect("two bytes fit");
    assert!(engine.write(put("b", "2")).is_err());
    disk.set_faults(Faults::default());
    assert!(engine.write(put("b", "2")).is_err(), "a failed engine wrote again");
}

#[test]
fn rot_is_noticed_when_the_value_is_read() {
    let disk = SimDisk::new();
    let engine = SimEngine::open(&disk);
    engine.write_durable(put("a", "1")).expect("healthy");
    engine.write_durable(put("b", "2")).expect("healthy");
    let key = disk.rot(&mut |n| n - 1).expect("something is stored");
    assert_eq!(key.as_ref(), b"b");
    assert_eq!(engine.get(b"a"), Ok(Some(Bytes::from_static(b"1"))));
    assert!(matches!(engine.get(b"b"), Err(EngineError::Corrupt(_))));
}
