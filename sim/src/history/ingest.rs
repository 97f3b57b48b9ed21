//! Sorted files that clients ingested, and what became of them.
//!
//! Invariant: the pairs of a file follow from its name, so that what is found can be compared.

use std::collections::BTreeMap;

use bytes::Bytes;

/// What is in the data groups under the prefix of the files, by key.
pub type IngestContents = BTreeMap<Bytes, Bytes>;

/// What a client was told of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// All of it is there.
    Done,
    /// It may be there or not.
    Unknown,
    /// None of it is there.
    Not,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestFile {
    /// All of its keys begin with this, and no others do.
    pub prefix: String,
    /// How many pairs it has.
    pub pairs: u32,
    /// How long each value is.
    pub value_len: usize,
    /// What its client was told, of all attempts together.
    pub told: Told,
}

impl IngestFile {
    /// The pair of this number.
    #[must_use]
    pub fn pair(&self, number: u32) -> (Bytes, Bytes) {
        let key = format!("{}{number:05}", self.prefix);
        let mut value = key.repeat(self.value_len / key.len() + 1);
        value.truncate(self.value_len);
        (key.into(), value.into())
    }
}
