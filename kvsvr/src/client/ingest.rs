//! Ingesting through the network: one file at a time to the leader of its group.
//!
//! Invariant: the end of a file is told only by the group; a file of unknown outcome ends the call.
//!
//! Not here: the files (`sorted`), what they do (`machine::ingest`).

use bytes::Bytes;
use futures_util::stream;

use super::Client;
use super::attempt::{self, Effect};
use crate::api::{DataKey, IngestOutcome, KvError};
use crate::limits::{INGEST_FILE_BYTES, INGEST_PIECE_BYTES};
use crate::translate;
use crate::wire::native::IngestPart;
use crate::wire::native::ingest_part::{Header, Part};

impl Client {
    pub(super) async fn ingest_all(&self, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError> {
        let (mut all_written, mut all_present) = (0, 0);
        for (group, file) in translate::ingest_files(pairs, self.data_groups, INGEST_FILE_BYTES)? {
            let response = self.router.call(group + 1, Effect::Write, |mut client, patience| {
                let parts = attempt::with_deadline(stream::iter(parts(group, file.clone())), patience);
                async move { client.ingest(parts).await }
            });
            let outcome = translate::ingest_outcome(response.await?)?;
            let IngestOutcome::Done { written, present } = outcome else { return Ok(outcome) };
            all_written += written;
            all_present += present;
        }
        Ok(IngestOutcome::Done { written: all_written, present: all_present })
    }
}

fn parts(group: u32, mut file: Bytes) -> Vec<IngestPart> {
    let hash = Bytes::copy_from_slice(blake3::hash(&file).as_bytes());
    let header = Header { group, hash, bytes: file.len() as u64 };
    let mut parts = vec![IngestPart { part: Some(Part::Header(header)) }];
    while !file.is_empty() {
        let piece = file.split_to(file.len().min(INGEST_PIECE_BYTES));
        parts.push(IngestPart { part: Some(Part::Piece(piece)) });
    }
    parts
}
