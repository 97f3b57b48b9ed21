//! A host's files, in memory: whole files appear at once, written positions are lost in a crash
//! until they are synced.
//!
//! ```text
//!   publish, remove --> at once and for good (the real one syncs file and directory)
//!   write_all_at ----> live --sync--> durable
//!                        \--crash--> a random prefix of the writes, the next one perhaps torn
//! ```
//! The disk outlives the process that uses it: [`SimDisk::crash`] cuts off everything opened
//! before.
//!
//! Invariant: it keeps the promises of `world::disk` as long as no fault is asked for.
//!
//! Not here: engines (storage.rs), and time: what is published takes none.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use world::disk::{Disk, Opened};

#[derive(Default)]
struct Content {
    durable: Vec<u8>,
    live: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

type File = Arc<Mutex<Content>>;

#[derive(Default)]
struct Platter {
    /// Counts crashes; whoever opened something in an older one is a dead process.
    epoch: u64,
    files: BTreeMap<PathBuf, File>,
    dirs: BTreeSet<PathBuf>,
    full: bool,
    fail_next_sync: bool,
}

/// A disk that survives crashes of the process that uses it.
#[derive(Clone, Default)]
pub struct SimDisk {
    platter: Arc<Mutex<Platter>>,
}

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// The disk as a process that starts now uses it.
    #[must_use]
    pub fn mount(&self) -> Mounted {
        Mounted { epoch: self.platter.lock().epoch, platter: Arc::clone(&self.platter) }
    }

    /// Whether writes fail for want of space from now on.
    pub fn set_full(&self, full: bool) {
        self.platter.lock().full = full;
    }

    /// Lets the next sync fail.
    pub fn fail_next_sync(&self) {
        self.platter.lock().fail_next_sync = true;
    }

    /// Cuts the power. Of each file's unsynced writes a random prefix stays, the one after it is
    /// torn at a random byte, the rest is gone. `draw(n)` answers a random number below `n`.
    /// Answers how many writes were lost.
    pub fn crash(&self, draw: &mut dyn FnMut(usize) -> usize) -> usize {
        let mut platter = self.platter.lock();
        platter.epoch += 1;
        platter.fail_next_sync = false;
        let mut lost = 0;
        for file in platter.files.values() {
            let mut content = file.lock();
            let unsynced = std::mem::take(&mut content.unsynced);
            let kept = draw(unsynced.len() + 1);
            for (offset, bytes) in &unsynced[..kept] {
                put(&mut content.durable, *offset, bytes);
            }
            if let Some((offset, bytes)) = unsynced.get(kept) {
                let torn = draw(bytes.len() + 1);
                put(&mut content.durable, *offset, &bytes[..torn]);
            }
            lost += unsynced.len() - kept;
            content.live = content.durable.clone();
        }
        lost
    }

    /// Everything below a folder is gone: the disk that was mounted there was exchanged for an empty one.
    pub fn empty(&self, below: &Path) {
        let mut platter = self.platter.lock();
        platter.epoch += 1;
        (platter.full, platter.fail_next_sync) = (false, false);
        platter.files.retain(|path, _| !path.starts_with(below));
        platter.dirs.retain(|path| !path.starts_with(below));
    }

    /// The files that hold something and whose path holds `part`, in order.
    #[must_use]
    pub fn find(&self, part: &str) -> Vec<PathBuf> {
        let platter = self.platter.lock();
        let meant = |(path, file): &(&PathBuf, &File)| {
            path.to_string_lossy().contains(part) && !file.lock().durable.is_empty()
        };
        platter.files.iter().filter(meant).map(|(path, _)| path.clone()).collect()
    }

    /// What a power cut could not take from a file.
    #[must_use]
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.platter.lock().files.get(path).map(Arc::clone)?;
        let content = file.lock().durable.clone();
        Some(content)
    }

    /// Behind the back of whoever uses the disk: the file has this content, or is not there.
    pub fn forge(&self, path: &Path, bytes: Option<Vec<u8>>) {
        let mut platter = self.platter.lock();
        match bytes {
            Some(bytes) => {
                let content = Content { durable: bytes.clone(), live: bytes, unsynced: Vec::new() };
                platter.files.insert(path.to_owned(), Arc::new(Mutex::new(content)));
            }
            None => drop(platter.files.remove(path)),
        }
    }

    /// Flips one bit of a file whose path holds `part`. Answers which file.
    pub fn rot(&self, part: &str, draw: &mut dyn FnMut(usize) -> usize) -> Option<PathBuf> {
        let platter = self.platter.lock();
        let meant = |(path, file): &(&PathBuf, &File)| {
            path.to_string_lossy().contains(part) && !file.lock().durable.is_empty()
        };
        let candidates: Vec<_> = platter.files.iter().filter(meant).collect();
        if candidates.is_empty() {
            return None;
        }
        let (path, file) = candidates[draw(candidates.len())];
        let mut content = file.lock();
        let bit = draw(content.durable.len() * 8);
        content.durable[bit / 8] ^= 1 << (bit % 8);
        if let Some(byte) = content.live.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
        Some(path.clone())
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    let end = offset + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(written);
}

fn crashed() -> io::Error {
    io::Error::other("this process crashed")
}

/// One process's use of a [`SimDisk`].
#[derive(Clone)]
pub struct Mounted {
    platter: Arc<Mutex<Platter>>,
    epoch: u64,
}

impl Mounted {
    fn with<T>(&self, act: impl FnOnce(&mut Platter) -> io::Result<T>) -> io::Result<T> {
        let mut platter = self.platter.lock();
        if platter.epoch != self.epoch {
            return Err(crashed());
        }
        act(&mut platter)
    }
}

fn room(platter: &Platter) -> io::Result<()> {
    if platter.full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

fn absent() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Disk for Mounted {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.with(|platter| {
            let file = platter.files.get(path).ok_or_else(absent)?;
            let bytes = file.lock().live.clone();
            Ok(bytes)
        })
    }

    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.with(|platter| {
            room(platter)?;
            let parent = path.parent().unwrap_or(Path::new("/"));
            if !platter.dirs.contains(parent) {
                return Err(absent());
            }
            let content = Content { durable: bytes.to_vec(), live: bytes.to_vec(), unsynced: Vec::new() };
            // A new file under the old name: who has the old one open keeps it.
            platter.files.insert(path.to_owned(), Arc::new(Mutex::new(content)));
            Ok(())
        })
    }

    fn load(&self, path: &Path, writable: bool) -> io::Result<Box<dyn Opened>> {
        self.with(|platter| {
            let file = Arc::clone(platter.files.get(path).ok_or_else(absent)?);
            Ok(Box::new(Handle { disk: self.clone(), file, writable }) as Box<dyn Opened>)
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.with(|platter| {
            platter.dirs.extend(path.ancestors().map(Path::to_owned));
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.with(|platter| {
            if !platter.dirs.contains(path) {
                return Err(absent());
            }
            let entries = platter.files.keys().chain(&platter.dirs);
            let here = entries.filter(|entry| entry.parent() == Some(path));
            let names: BTreeSet<String> = here
                .filter_map(|entry| entry.file_name())
                .map(|name| name.to_string_lossy().into_owned())
                .collect();
            Ok(names.into_iter().collect())
        })
    }

    fn exists(&self, path: &Path) -> bool {
        self.with(|platter| Ok(platter.files.contains_key(path) || platter.dirs.contains(path)))
            .unwrap_or(false)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.with(|platter| platter.files.remove(path).map(|_| ()).ok_or_else(absent))
    }
}

struct Handle {
    disk: Mounted,
    file: File,
    writable: bool,
}

impl Opened for Handle {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.disk.with(|_| {
            let content = self.file.lock();
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let end = start.saturating_add(buffer.len());
            let bytes = content.live.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes);
            Ok(())
        })
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.with(|platter| {
            if !self.writable {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            room(platter)?;
            let offset = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
            let mut content = self.file.lock();
            put(&mut content.live, offset, bytes);
            content.unsynced.push((offset, bytes.to_vec()));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.with(|platter| {
            let mut content = self.file.lock();
            let unsynced = std::mem::take(&mut content.unsynced);
            if std::mem::take(&mut platter.fail_next_sync) {
                // What the kernel does: the dirty pages are marked clean and their content is lost.
                return Err(io::Error::other("sync: input/output error"));
            }
            for (offset, bytes) in unsynced {
                put(&mut content.durable, offset, &bytes);
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.with(|_| Ok(self.file.lock().live.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(name: &str, bytes: &[u8]) -> SimDisk {
        let disk = SimDisk::new();
        let mounted = disk.mount();
        mounted.create_dir_all(Path::new("/d")).expect("a directory");
        mounted.publish(&Path::new("/d").join(name), bytes).expect("published");
        disk
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_cuts_the_old_process_off() {
        let disk = disk_with("f", b"....");
        let old = disk.mount();
        let file = old.load(Path::new("/d/f"), true).expect("loaded");
        file.write_all_at(b"AB", 0).expect("written");
        file.sync().expect("synced");
        file.write_all_at(b"CD", 2).expect("written");
        assert_eq!(disk.crash(&mut |_| 0), 1);
        assert!(file.sync().is_err() && old.read(Path::new("/d/f")).is_err());
        assert_eq!(disk.mount().read(Path::new("/d/f")).expect("read"), b"AB..");
    }

    #[test]
    fn a_torn_write_is_there_in_part() {
        let disk = disk_with("f", b"....");
        let file = disk.mount().load(Path::new("/d/f"), true).expect("loaded");
        file.write_all_at(b"ABCD", 0).expect("written");
        let mut draws = [0, 3].into_iter();
        disk.crash(&mut |_| draws.next().unwrap_or(0));
        assert_eq!(disk.mount().read(Path::new("/d/f")).expect("read"), b"ABC.");
    }

    #[test]
    fn a_full_disk_refuses_and_a_failed_sync_forgets() {
        let disk = disk_with("f", b"old");
        let mounted = disk.mount();
        disk.set_full(true);
        let error = mounted.publish(Path::new("/d/f"), b"new").expect_err("no room");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        disk.set_full(false);
        let file = mounted.load(Path::new("/d/f"), true).expect("loaded");
        file.write_all_at(b"new", 0).expect("written");
        disk.fail_next_sync();
        assert!(file.sync().is_err());
        file.sync().expect("the next one claims success");
        disk.crash(&mut |_| 0);
        assert_eq!(disk.mount().read(Path::new("/d/f")).expect("read"), b"old");
    }

    #[test]
    fn an_emptied_disk_holds_nothing_and_cuts_the_old_process_off() {
        let disk = disk_with("f", b"x");
        disk.forge(Path::new("/etc/f"), Some(b"stays".to_vec()));
        let old = disk.mount();
        disk.set_full(true);
        disk.empty(Path::new("/d"));
        let fresh = disk.mount();
        fresh.create_dir_all(Path::new("/d")).expect("a directory");
        fresh.publish(Path::new("/d/g"), b"there is room").expect("room");
        disk.empty(Path::new("/d"));
        assert!(old.read(Path::new("/etc/f")).is_err(), "a dead process read the disk");
        assert!(!disk.mount().exists(Path::new("/d")));
        assert_eq!(disk.find(""), [Path::new("/etc/f")]);
    }

    #[test]
    fn a_forged_file_is_what_the_next_reader_finds() {
        let disk = disk_with("f", b"x");
        disk.forge(Path::new("/d/f"), Some(b"forged".to_vec()));
        assert_eq!(disk.mount().read(Path::new("/d/f")).expect("read"), b"forged");
        disk.forge(Path::new("/d/f"), None);
        assert!(!disk.mount().exists(Path::new("/d/f")) && disk.content(Path::new("/d/f")).is_none());
    }

    #[test]
    fn names_are_listed_in_order_and_a_flipped_bit_is_seen() {
        let disk = disk_with("b", b"x");
        let mounted = disk.mount();
        mounted.publish(Path::new("/d/a"), b"").expect("published");
        mounted.create_dir_all(Path::new("/d/c")).expect("a directory");
        assert_eq!(mounted.list(Path::new("/d")).expect("listed"), ["a", "b", "c"]);
        let rotten = disk.rot("/d/", &mut |_| 0).expect("there is something to flip");
        assert_eq!(rotten, Path::new("/d/b"));
        assert_ne!(mounted.read(&rotten).expect("read"), b"x");
    }
}
