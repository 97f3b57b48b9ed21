//! One process at a time works on an instance.
//!
//! RocksDB has a lock of its own, which begins when it opens the instance: too late for who looks at
//! the files before. A second process would take the record that the first is writing for a torn one.
//!
//! Invariant: held from before the first look at the files until the instance is closed; the kernel lets go
//! of it when the process ends, however that happens.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::time::Duration;

/// The file the lock is on. It holds nothing.
const FILE_NAME: &str = "HELD";

/// A process that is ending, or one that was just forked and has not yet become another program, holds it a
/// moment longer.
const LOOKS_MAX: u32 = 50;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(in crate::engine::rocks) struct Hold {
    _file: File,
}

impl Hold {
    /// Holds the instance in `dir`; `None` when somebody else does.
    pub(in crate::engine::rocks) fn take(dir: &Path) -> io::Result<Option<Hold>> {
        let file = File::options().create(true).truncate(false).write(true).open(dir.join(FILE_NAME))?;
        for _ in 0..LOOKS_MAX {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Hold { _file: file })),
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Whether somebody holds the instance in `dir`. Changes nothing.
    pub(super) fn is_taken(dir: &Path) -> io::Result<bool> {
        let file = match File::open(dir.join(FILE_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
