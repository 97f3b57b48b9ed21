//! Ingesting a sorted file: every pair of it is there afterwards, or nothing was written.
//!
//! ```text
//!   key absent ........ written
//!   same value ........ as it is
//!   another value ..... conflict: nothing of the file is written
//! ```
//! So a file may be ingested again whatever became of the first time: nothing that was changed meanwhile is
//! set back.
//!
//! Invariant: no value that was there is replaced.
//!
//! Not here: the file's form (`sorted`), how it comes to every member (`replica::attach`).

use bytes::Bytes;
use replica::engine::{EngineError, View};
use replica::machine::Txn;
use world::mutant::{Mutant, armed};

use super::data::stored;
use crate::sorted;
use crate::wire::native::ingest_reply::{Conflict, Ingested, Outcome};

pub(super) fn apply(txn: &mut Txn<'_>) -> Result<Outcome, EngineError> {
    let Some(file) = txn.attached().cloned() else {
        return Ok(Outcome::Refused("no file is attached".to_owned()));
    };
    let pairs = match sorted::parse(&file) {
        Ok(pairs) => pairs,
        Err(reason) => return Ok(Outcome::Refused(reason)),
    };
    let count = pairs.len() as u64;
    let mut absent = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let stored_key = stored(&key);
        match txn.get(&stored_key)? {
            None => absent.push((stored_key, value)),
            Some(found) if found == value => {}
            Some(_) if armed(Mutant::IngestInPart) => {}
            Some(_) if armed(Mutant::IngestOverwrites) => absent.push((stored_key, value)),
            Some(found) => return Ok(Outcome::Conflict(Conflict { key, found })),
        }
    }
    let written = absent.len() as u64;
    for (key, value) in absent {
        // A copy: a slice would keep the whole file in memory for as long as anybody keeps the value.
        txn.put(key, Bytes::copy_from_slice(&value));
    }
    assert!(written <= count, "what is written stands in the file");
    Ok(Outcome::Ingested(Ingested { written, present: count - written }))
}
