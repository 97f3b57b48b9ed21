//! One key in one line of text, as all key files of ours hold it.
//!
//! ```text
//!   hongbao-key-1 build 000102…1f 9a8b7c6d
//!   `-- format --' kind  key, hex  first four bytes of BLAKE3(kind | key)
//! ```
//! The kind keeps one key from being used as another; the check finds a lost or mistyped digit.
//!
//! Invariant: no error shows a digit of a key. Secrets are published by `world::disk::publish_secret`.
//!
//! Not here: encryption of keys at rest; that is the operator's secret store.

use std::io;
use std::path::{Path, PathBuf};

use world::disk::Disk;
use zeroize::Zeroizing;

use crate::hex;

const FORMAT: &str = "hongbao-key-1";
const CHECK_CONTEXT: &str = "hongbao 2026 key file check";
const CHECK_LEN: usize = 4;

/// A text that is not the key it was taken for. Never shows the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not four words, or the first is not the format this program writes.
    #[error("it is not a key file of this program: expected one line that starts with {FORMAT:?}")]
    Format,
    /// A key, but for something else.
    #[error("it holds a {found} key where a {expected} key is needed: name the right file")]
    Kind {
        /// The kind in the text.
        found: String,
        /// The kind that was asked for.
        expected: &'static str,
    },
    /// Hex digits missing or wrong.
    #[error("the key in it is damaged: copy the file again from where it was made")]
    Damaged,
}

/// A key file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The disk said no.
    #[error("cannot read the key file {path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Its content is not the key that is needed.
    #[error("the key file {path} cannot be used: {source}", path = path.display())]
    Text {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyTextError,
    },
}

fn check_of(kind: &str, key: &[u8]) -> [u8; CHECK_LEN] {
    let mut hasher = blake3::Hasher::new_derive_key(CHECK_CONTEXT);
    hasher.update(kind.as_bytes()).update(b"|").update(key);
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    [a, b, c, d]
}

/// The line for a key, with its newline.
pub(crate) fn to_text(kind: &'static str, key: &[u8]) -> Zeroizing<String> {
    assert!(!kind.contains(' '), "words are separated by spaces");
    let digits = Zeroizing::new(hex::encode(key));
    let check = hex::encode(&check_of(kind, key));
    Zeroizing::new(format!("{FORMAT} {kind} {} {check}\n", digits.as_str()))
}

/// Reads a line back.
pub(crate) fn parse<const LEN: usize>(
    kind: &'static str,
    text: &str,
) -> Result<Zeroizing<[u8; LEN]>, KeyTextError> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let mut words = line.split(' ');
    let mut next = || words.next().ok_or(KeyTextError::Format);
    let (format, found, digits, check) = (next()?, next()?, next()?, next()?);
    if words.next().is_some() || format != FORMAT {
        return Err(KeyTextError::Format);
    }
    if found != kind {
        return Err(KeyTextError::Kind { found: found.to_owned(), expected: kind });
    }
    let key: Zeroizing<[u8; LEN]> = Zeroizing::new(hex::decode(digits).ok_or(KeyTextError::Damaged)?);
    let check: [u8; CHECK_LEN] = hex::decode(check).ok_or(KeyTextError::Damaged)?;
    if check != check_of(kind, &*key) {
        return Err(KeyTextError::Damaged);
    }
    Ok(key)
}

/// Reads a key file and gives its text to `parse`.
pub(crate) fn load<T>(
    disk: &dyn Disk,
    path: &Path,
    parse: impl FnOnce(&str) -> Result<T, KeyTextError>,
) -> Result<T, KeyFileError> {
    let bytes = disk.read(path).map_err(|source| KeyFileError::Io { path: path.to_owned(), source })?;
    let bytes = Zeroizing::new(bytes);
    let damaged = |source| KeyFileError::Text { path: path.to_owned(), source };
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged(KeyTextError::Format))?;
    parse(text).map_err(damaged)
}
