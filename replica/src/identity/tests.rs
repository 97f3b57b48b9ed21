//! A data directory is taken when it is this node's and whole, and refused with the cure otherwise;
//! a crash at any step of a start leaves one that is taken.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use world::disk::{Opened, RealDisk};

use super::*;
use crate::engine::sim::{Faults, SimDisk, SimEngine};
use crate::engine::{Batch, View};

fn node(name: &str) -> NodeId {
    name.parse().expect("a node name")
}

/// A data directory: a real folder and two simulated engines.
struct Place {
    dir: tempfile::TempDir,
    log: SimDisk,
    state: SimDisk,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().expect("a directory");
        Place { dir, log: SimDisk::new(), state: SimDisk::new() }
    }

    fn settle_as(&self, cluster: &str, name: &str) -> Result<Identity, IdentityError> {
        self.settle_on(&RealDisk, cluster, name)
    }

    fn settle_on(&self, disk: &dyn Disk, cluster: &str, name: &str) -> Result<Identity, IdentityError> {
        let (log, state) = (SimEngine::open(&self.log), SimEngine::open(&self.state));
        settle(disk, self.dir.path(), cluster, node(name), &*log, &*state)
    }

    fn settle(&self) -> Identity {
        self.settle_as("spring", "c1").expect("its own directory")
    }

    fn refusal(&self) -> String {
        let error = self.settle_as("spring", "c1").expect_err("this must not start");
        let text = error.to_string();
        assert!(text.contains(&self.dir.path().display().to_string()), "the place is missing: {text}");
        text
    }

    fn crash(&self) {
        for disk in [&self.log, &self.state] {
            disk.crash(&mut |_| 0);
        }
    }
}

#[test]
fn a_disk_is_numbered_once_and_every_start_is_counted() {
    let place = Place::new();
    let first = place.settle();
    let second = place.settle();
    assert_eq!((first.member, first.starts), (second.member, 1));
    assert_eq!(second.starts, 2);
    assert_ne!(Place::new().settle().member, first.member, "another disk has another number");
}

#[test]
fn the_disk_of_another_node_or_cluster_is_refused_with_the_cure() {
    let place = Place::new();
    place.settle();
    let swapped = place.settle_as("spring", "b1").expect_err("c1's disk").to_string();
    assert!(swapped.contains("the disk of node c1, and this node is b1"), "{swapped}");
    let foreign = place.settle_as("autumn", "c1").expect_err("another cluster's disk").to_string();
    assert!(foreign.contains("\"spring\"") && foreign.contains("\"autumn\""), "{foreign}");
    assert!(foreign.contains("data_dir"), "{foreign}");
}

#[test]
fn an_engine_that_was_emptied_is_refused() {
    for emptied in [LOG_DIR, STATE_DIR] {
        let mut place = Place::new();
        place.settle();
        *(if emptied == LOG_DIR { &mut place.log } else { &mut place.state }) = SimDisk::new();
        let text = place.refusal();
        assert!(text.contains(emptied) && text.contains("member replace"), "{text}");
    }
}

#[test]
fn data_without_an_identity_is_refused() {
    let place = Place::new();
    place.settle();
    std::fs::remove_file(place.dir.path().join(FILE_NAME)).expect("removed");
    assert!(place.refusal().contains("no member.json"));
    let nameless = Place::new();
    let mut batch = Batch::new();
    batch.put("key", "value");
    SimEngine::open(&nameless.state).write_durable(batch).expect("healthy");
    assert!(nameless.refusal().contains("no member.json"));
}

#[test]
fn engines_of_two_disks_are_not_mixed() {
    let (mut one, other) = (Place::new(), Place::new());
    one.settle();
    let stranger = other.settle().member;
    one.log = other.log.clone();
    let text = one.refusal();
    assert!(text.contains(&format!("belongs to disk {stranger}")), "{text}");
}

#[test]
fn a_part_put_back_from_an_earlier_start_is_refused() {
    for part in [FILE_NAME, LOG_DIR, STATE_DIR] {
        let mut place = Place::new();
        place.settle();
        let path = place.dir.path().join(FILE_NAME);
        let (file, log, state) =
            (std::fs::read(&path).expect("there"), place.log.image(), place.state.image());
        place.settle();
        match part {
            FILE_NAME => std::fs::write(&path, &file).expect("put back"),
            LOG_DIR => place.log = log,
            _ => place.state = state,
        }
        let text = place.refusal();
        assert!(text.contains(&format!("{part} is an older copy")), "{text}");
    }
}

/// Fails every publish after a number of them.
struct Failing {
    left: AtomicUsize,
}

impl Disk for Failing {
    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        spent.map_err(|_| io::Error::other("the power failed"))?;
        RealDisk.publish(path, bytes)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }
    fn load(&self, path: &Path, writable: bool) -> io::Result<Box<dyn Opened>> {
        RealDisk.load(path, writable)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(path)
    }
    fn exists(&self, path: &Path) -> bool {
        RealDisk.exists(path)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }
}

/// Starts that are cut off at one of their five steps, again and again, and then one that is not.
fn check_cut_off(earlier_starts: usize, cuts: &[usize]) {
    let place = Place::new();
    let mut known = None;
    for _ in 0..earlier_starts {
        known = Some(place.settle().member);
    }
    for cut in cuts {
        let failing_sync = Faults { fail_next_sync: true, ..Faults::default() };
        let published = match cut {
            0 => 0,
            1 | 2 => 1,
            _ => usize::from(*cut == 4) + 1,
        };
        if *cut == 1 {
            place.log.set_faults(failing_sync);
        }
        if *cut == 2 {
            place.state.set_faults(failing_sync);
        }
        let disk = Failing { left: AtomicUsize::new(published) };
        let settled = place.settle_on(&disk, "spring", "c1");
        assert!(settled.is_err() || *cut == 4, "step {cut} was not cut off");
        place.crash();
        place.log.set_faults(Faults::default());
        place.state.set_faults(Faults::default());
    }
    let member = place.settle().member;
    if let Some(known) = known {
        assert_eq!(member, known, "the disk became another one, cut off at {cuts:?}");
    }
    assert_eq!(place.settle().member, member);
    let mark = SimEngine::open(&place.log).get(b"\xff\xff\xff\xffmark").expect("readable");
    assert!(mark.is_some(), "the engine bears no mark");
}

#[test]
fn a_start_cut_off_at_any_step_any_number_of_times_does_not_lock_the_disk_out() {
    for earlier_starts in [0, 2] {
        for first in 0..5 {
            for second in 0..5 {
                for third in 0..5 {
                    check_cut_off(earlier_starts, &[first, second, third]);
                }
            }
        }
    }
}

#[test]
fn a_damaged_identity_is_named_and_never_replaced_by_itself() {
    let place = Place::new();
    place.settle();
    let path = place.dir.path().join(FILE_NAME);
    let text = String::from_utf8(std::fs::read(&path).expect("there")).expect("JSON");
    for damaged in [
        String::new(),
        "{}".to_owned(),
        text.replace("\"format\":2", "\"format\":9"),
        text.replace("\"disk\":\"", "\"disk\":\"x"),
        text.replace("\"starts\":1", "\"starts\":7"),
    ] {
        assert_ne!(damaged, text, "nothing was damaged");
        std::fs::write(&path, &damaged).expect("written");
        assert!(place.refusal().contains("is not a disk's identity"));
    }
}

#[test]
fn a_bit_that_flips_in_the_identity_is_never_believed() {
    let place = Place::new();
    place.settle();
    let path = place.dir.path().join(FILE_NAME);
    let written = std::fs::read(&path).expect("there");
    for bit in 0..written.len() * 8 {
        let mut flipped = written.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).expect("written");
        let text = place.refusal();
        assert!(
            text.contains("is not a disk's identity") && text.contains("member replace"),
            "bit {bit}: {text}"
        );
    }
}

#[test]
fn an_identity_of_an_older_version_is_taken_and_gets_a_check() {
    let place = Place::new();
    let member = place.settle().member;
    let path = place.dir.path().join(FILE_NAME);
    let document = |format: u32| {
        let disk = member.disk;
        format!(
            r#"{{"format":{format},"cluster":"spring","node":"c1","disk":"{disk}","starts":1,"marked":1}}"#
        )
    };
    std::fs::write(&path, document(2)).expect("written");
    assert!(place.refusal().contains("its format is 2"), "a check that was lost is not done without");
    std::fs::write(&path, document(1)).expect("written");
    assert_eq!(place.settle().member, member);
    let text = String::from_utf8(std::fs::read(&path).expect("there")).expect("text");
    assert!(text.starts_with("{\"format\":2,") && text.lines().count() == 2, "{text}");
}
