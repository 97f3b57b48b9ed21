//! The packets that are credited as they settle, brought into the KV before the event.
//!
//! ```text
//!   instant.bin --blocks--> ingest instant/<packet> = fen --> read back: count and sum
//! ```
//! Invariant: when [`preload`] answers `Ok`, the KV holds exactly the entries that the signed
//! manifest names; preloading again changes nothing.
//!
//! Not here: the file (plan::instant), and what an entry does (settle::decide).

use std::path::Path;

use bytes::Bytes;
use kvsvr::api::{DataKey, IngestOutcome, Kv, KvError};
use ticket::id::PacketId;
use ticket::manifest::Manifest;
use ticket::money::Fen;
use world::disk::Disk;

use crate::bulk::{self, BulkError, Walk};
use crate::keyspace;
use crate::plan::instant::{InstantError, InstantFile, InstantPacket};

/// Why the instant set is not all there. Call again, unless it says what to mend first.
#[derive(Debug, thiserror::Error)]
pub enum PreloadError {
    /// The list cannot be read or believed.
    #[error(transparent)]
    File(#[from] InstantError),
    /// The KV failed.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// An entry stands there with another amount.
    #[error("packet {packet} is in the instant set with another amount than the plan's {planned} yuan")]
    Differs {
        /// Which packet.
        packet: PacketId,
        /// What the plan says.
        planned: Fen,
    },
    /// What was read back is not what the manifest says.
    #[error(
        "the KV holds {found} instant packets of {found_fen} fen, the manifest says {count} of {fen} fen"
    )]
    Count {
        /// Entries read back.
        found: u64,
        /// Their money.
        found_fen: u64,
        /// Entries of the manifest.
        count: u64,
        /// Their money.
        fen: u64,
    },
}

impl From<KvError> for PreloadError {
    fn from(error: KvError) -> PreloadError {
        PreloadError::Bulk(error.into())
    }
}

/// Preloads the instant set of the build in `build_dir`; answers how many packets it has.
///
/// # Errors
/// [`PreloadError`]; what was preloaded stays.
pub async fn preload(
    kv: &dyn Kv,
    disk: &dyn Disk,
    build_dir: &Path,
    manifest: &Manifest,
) -> Result<u64, PreloadError> {
    let path = build_dir.join("instant.bin");
    let file = InstantFile::load(disk, &path, manifest.build, &manifest.instant)?;
    assert!(file.count() == manifest.instant.count, "the list was checked against the manifest");
    for block in file.blocks() {
        let block = block?;
        let outcome = bulk::ingest(kv, block.iter().map(entry).collect()).await?;
        if let IngestOutcome::Conflict { key, .. } = outcome {
            let differs = block.iter().find(|packet| keyspace::instant(packet.id).key == key);
            let InstantPacket { id, amount } = *differs.expect("a conflict names a key that was ingested");
            return Err(PreloadError::Differs { packet: id, planned: amount });
        }
    }
    verify(kv, manifest).await?;
    Ok(manifest.instant.count)
}

fn entry(packet: &InstantPacket) -> (DataKey, Bytes) {
    (keyspace::instant(packet.id), keyspace::fen_value(packet.amount.get()))
}

/// Counts what is there: an entry that the plan does not have would be money for nothing.
async fn verify(kv: &dyn Kv, manifest: &Manifest) -> Result<(), PreloadError> {
    let (mut found, mut found_fen) = (0u64, 0u64);
    let mut walk = Walk::new(kv, keyspace::of_build(keyspace::INSTANT, manifest.build.tag()));
    while let Some(pairs) = walk.next().await? {
        for (_, value) in pairs {
            found += 1;
            // An unreadable amount counts as none, so the sums differ.
            found_fen = found_fen.saturating_add(keyspace::parse_fen(&value).unwrap_or(0));
        }
    }
    let (count, fen) = (manifest.instant.count, manifest.instant.amount_fen.get());
    if (found, found_fen) != (count, fen) {
        return Err(PreloadError::Count { found, found_fen, count, fen });
    }
    Ok(())
}
