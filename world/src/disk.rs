//! Files: published whole or not at all, read at positions, made durable on demand.
//!
//! [`Disk::publish`] is the one way a file of ours comes into being:
//! ```text
//!   NAME.partial  <- write everything -> fsync -> rename to NAME -> fsync the directory
//! ```
//! so a reader sees the old content or the new, never a part, whatever moment the power fails.
//!
//! Invariant: when `publish` or `sync` returns, the bytes survive a power cut.
//!
//! Not here: what files mean, and RocksDB's own files (its engine does those).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The suffix of a file that is being written. Whoever finds one after a crash may delete it.
pub const PARTIAL_SUFFIX: &str = ".partial";

/// A file that is loaded: read and written at positions.
pub trait Opened: Send + Sync {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before the buffer is full; whatever the disk says.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; durable only after [`Opened::sync`].
    ///
    /// # Errors
    /// Whatever the disk says.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written survives a power cut.
    ///
    /// # Errors
    /// Whatever the disk says. After a failed sync the file's content is unknown: stop using it.
    fn sync(&self) -> io::Result<()>;

    /// Current length in bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn len(&self) -> io::Result<u64>;

    /// Whether the file holds no bytes.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// The door to the file system.
pub trait Disk: Send + Sync + 'static {
    /// Reads a whole file.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Writes a file atomically and durably (see the module). Replaces an existing one.
    ///
    /// # Errors
    /// Whatever the disk says; the old content, if any, is then still there.
    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Loads an existing file for reading, or for reading and writing.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn load(&self, path: &Path, writable: bool) -> io::Result<Box<dyn Opened>>;

    /// Makes a directory and its parents; fine when it exists.
    ///
    /// # Errors
    /// Whatever the disk says.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Whether something stands at `path`.
    fn exists(&self, path: &Path) -> bool;

    /// Deletes a file, durably.
    ///
    /// # Errors
    /// `NotFound`, or whatever the disk says.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Opened for File {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Disk for RealDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn publish(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        publish_with(path, |file| file.write_all(bytes))
    }

    fn load(&self, path: &Path, writable: bool) -> io::Result<Box<dyn Opened>> {
        let file = OpenOptions::new().read(true).write(writable).open(path)?;
        Ok(Box::new(file))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)?;
        sync_dir(parent_of(path))
    }
}

/// Publishes a file whose bytes are streamed by `write`; for files too large to hold in memory.
///
/// # Errors
/// Whatever `write` or the disk says; nothing then stands at `path` that was not there before.
pub fn publish_with(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let partial = partial_of(path);
    let outcome = (|| {
        let mut file = File::create(&partial)?;
        write(&mut file)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    })();
    if let Err(error) = outcome {
        // Best effort: the suffix already says that the file is not to be trusted.
        let _ = fs::remove_file(&partial);
        return Err(error);
    }
    sync_dir(parent_of(path))
}

/// Publishes a file that only its owner can read: mode 0600, set before the first byte is written.
///
/// # Errors
/// Whatever the disk says.
pub fn publish_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    publish_with(path, |file| {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(bytes)
    })
}

/// A directory that is being filled beside the place where it will stand: whole or not at all,
/// like a published file. Dropped before [`PartialDir::publish`], it leaves nothing behind.
#[derive(Debug)]
pub struct PartialDir {
    partial: PathBuf,
    target: PathBuf,
}

impl PartialDir {
    /// Begins a directory that will stand at `path`. What an earlier run left half-filled there
    /// is removed first.
    ///
    /// # Errors
    /// `AlreadyExists` when something stands at `path`; whatever the disk says.
    pub fn create(path: &Path) -> io::Result<PartialDir> {
        if path.symlink_metadata().is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let partial = partial_of(path);
        if partial.symlink_metadata().is_ok() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir_all(parent_of(path))?;
        fs::create_dir(&partial)?;
        Ok(PartialDir { partial, target: path.to_owned() })
    }

    /// Where to put the files until then. Every directory made below must be synced by its maker.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Makes it stand at its place, durably.
    ///
    /// # Errors
    /// Whatever the disk says; nothing then stands at the path.
    pub fn publish(self) -> io::Result<()> {
        sync_dir(&self.partial)?;
        fs::rename(&self.partial, &self.target)?;
        sync_dir(parent_of(&self.target))
    }
}

impl Drop for PartialDir {
    fn drop(&mut self) {
        // Best effort, as for files; after `publish` nothing stands there any more.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Whatever the disk says.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL_SUFFIX);
    PathBuf::from(name)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_file_reads_back_and_leaves_no_partial() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        RealDisk.publish(&path, b"one").expect("publish");
        RealDisk.publish(&path, b"two").expect("publish again");
        assert_eq!(RealDisk.read(&path).expect("read"), b"two");
        assert_eq!(RealDisk.list(dir.path()).expect("list"), vec!["file"]);
    }

    #[test]
    fn a_failed_publish_keeps_the_old_content() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        RealDisk.publish(&path, b"old").expect("publish");
        let error = publish_with(&path, |file| {
            file.write_all(b"new")?;
            Err(io::Error::other("the disk is full"))
        });
        assert!(error.is_err());
        assert_eq!(RealDisk.read(&path).expect("read"), b"old");
        assert_eq!(RealDisk.list(dir.path()).expect("list"), vec!["file"]);
    }

    #[test]
    fn a_secret_is_the_owners_only_even_over_an_old_file() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("key");
        RealDisk.publish(&path, b"seen by all").expect("publish");
        // A partial of a killed run may have been readable by everybody.
        fs::write(partial_of(&path), b"old").expect("write");
        publish_secret(&path, b"secret").expect("publish");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(RealDisk.read(&path).expect("read"), b"secret");
    }

    #[test]
    fn a_directory_is_published_whole_or_not_at_all() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("made");
        let abandoned = PartialDir::create(&path).expect("begin");
        fs::write(abandoned.path().join("file"), b"half").expect("write");
        drop(abandoned);
        assert_eq!(RealDisk.list(dir.path()).expect("list"), Vec::<String>::new());

        fs::create_dir(dir.path().join("made.partial")).expect("a crash left this");
        let filled = PartialDir::create(&path).expect("begin again");
        fs::write(filled.path().join("file"), b"whole").expect("write");
        filled.publish().expect("publish");
        assert_eq!(RealDisk.list(dir.path()).expect("list"), vec!["made"]);
        let error = PartialDir::create(&path).expect_err("it stands");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(RealDisk.read(&path.join("file")).expect("read"), b"whole");
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        RealDisk.publish(&path, b"12345").expect("publish");
        let file = RealDisk.load(&path, false).expect("load");
        let mut buffer = [0u8; 4];
        file.read_exact_at(&mut buffer, 1).expect("inside");
        assert_eq!(&buffer, b"2345");
        let error = file.read_exact_at(&mut buffer, 2).expect_err("past the end");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
