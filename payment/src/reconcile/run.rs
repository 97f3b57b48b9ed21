//! Reconcile, done: reads plan, rows, books and queue, and feeds them to the [`Auditor`].
//!
//! ```text
//!   queue stats | slice 1: files, rows | slice 2: files, rows | ... | rejections, accounts,
//!   fund, refund, wallets, claims, unread | queue stats | (buckets that differ, again) | report
//! ```
//! Rows are read once per slice; a slice is a few million packets, so most events have one or few.
//!
//! Invariant: everything stored under the build's tag is fed in exactly once; what cannot be read
//! is a finding, never skipped in silence. Nothing is written.
//!
//! Not here: judging (audit.rs), crediting (credit.rs).

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use kvsvr::api::{Kv, KvError};
use queue::api::{Queue, QueueError};
use ticket::id::{BatchId, FileNo, UserId};
use ticket::money::Fen;
use world::clock::Clock;
use world::disk::Disk;

use super::audit::{Auditor, complete};
use super::files::{BuildDirError, Loaded, PlanFiles};
use super::holdings;
use super::report::{Finding, Report};
use crate::bulk::Walk;
use crate::claims::ClaimDoc;
use crate::keyspace::{self, BuildTag};
use crate::rejection::Rejection;
use crate::row::Row;

/// Where everything is read from.
#[derive(Clone)]
pub struct Sources {
    /// Where the build lies.
    pub disk: Arc<dyn Disk>,
    /// The build directory: signed manifest, ticket files, `keys/build.key`, `keys/sign.pub`.
    pub build_dir: PathBuf,
    /// Rows and books.
    pub kv: Arc<dyn Kv>,
    /// The openings that are still on their way.
    pub queue: Arc<dyn Queue>,
    /// Dates the report.
    pub clock: Arc<dyn Clock>,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The build directory.
    #[error(transparent)]
    Build(#[from] BuildDirError),
    /// The KV could not be read.
    #[error("the KV: {0}")]
    Kv(#[from] KvError),
    /// The queue did not tell its counts.
    #[error("the queue: {0}")]
    Queue(#[from] QueueError),
}

/// Compares the plan with everything that happened. `issued` is what the nodes' cursors say they
/// gave out of each file, where that is known.
///
/// # Errors
/// [`ReconcileError`]; differences are no errors but findings of the report.
pub async fn reconcile(
    sources: &Sources,
    issued: Option<BTreeMap<FileNo, u64>>,
) -> Result<Report, ReconcileError> {
    let at_ms = sources.clock.now();
    let before = sources.queue.stats().await?;
    let plan = PlanFiles::open(sources.disk.clone(), &sources.build_dir)?;
    let mut auditor = Auditor::new(plan.manifest(), issued);
    let (kv, tag) = (&*sources.kv, plan.manifest().build.tag());
    for part in plan.parts() {
        let loaded = plan.load(&part).await;
        rows(kv, &plan, &mut auditor, &part, loaded).await?;
    }
    rejections(kv, &mut auditor, tag).await?;
    books(kv, &mut auditor, tag).await?;
    users_side(kv, &mut auditor, tag).await?;
    let mut after = sources.queue.stats().await?;
    if complete(&before, &after) {
        holdings::compare(kv, &mut auditor, tag).await?;
        after = sources.queue.stats().await?;
    }
    Ok(auditor.finish(at_ms, before, after))
}

/// The rows that a part must judge: those of its files, and in the first part also those of files
/// that the plan does not have.
pub(super) fn belongs(row: &Row, part: &Range<u32>, files: usize) -> bool {
    part.contains(&row.file.0) || (part.start == 0 && files <= row.file.0 as usize)
}

/// Reads a row; the finding when it cannot be.
pub(super) fn read_row(key: &[u8], value: &[u8]) -> Result<Row, Finding> {
    let packet = keyspace::parse_packet(keyspace::ROW, key).ok_or_else(|| unreadable("row", key))?;
    Row::decode(packet, value).map_err(|error| Finding::Unreadable { what: error.to_string() })
}

pub(super) fn unreadable(what: &str, key: &[u8]) -> Finding {
    Finding::Unreadable { what: format!("{what} under key {}", key.escape_ascii()) }
}

async fn rows(
    kv: &dyn Kv,
    plan: &PlanFiles,
    auditor: &mut Auditor<'_>,
    part: &Range<u32>,
    loaded: Loaded,
) -> Result<(), KvError> {
    let Loaded { slice, faults } = loaded;
    for (file, reason) in faults {
        auditor.finding(Finding::File { file: file.0, reason });
    }
    auditor.slice(&slice);
    let files = plan.manifest().files.len();
    let mut walk = Walk::new(kv, keyspace::of_build(keyspace::ROW, plan.manifest().build.tag()));
    while let Some(pairs) = walk.next().await? {
        for (key, value) in pairs {
            match read_row(&key, &value) {
                Ok(row) if belongs(&row, part, files) => auditor.row(&row, &slice),
                Ok(_) => {}
                // Once, not once per part.
                Err(finding) if part.start == 0 => auditor.finding(finding),
                Err(_) => {}
            }
        }
    }
    Ok(())
}

async fn rejections(kv: &dyn Kv, auditor: &mut Auditor<'_>, tag: BuildTag) -> Result<(), KvError> {
    each(kv, keyspace::of_build(keyspace::REJECTED, tag), |key, value| {
        let Some((packet, user)) = keyspace::parse_rejected(key) else {
            return auditor.finding(unreadable("rejection", key));
        };
        match Rejection::decode(packet, user, value) {
            Ok(rejection) => auditor.rejection(packet, user, rejection.opening.amount, rejection.reason),
            Err(error) => auditor.finding(Finding::Unreadable { what: error.to_string() }),
        }
    })
    .await?;
    each(kv, keyspace::UNREAD.to_vec(), |_, _| auditor.unread()).await
}

async fn books(kv: &dyn Kv, auditor: &mut Auditor<'_>, tag: BuildTag) -> Result<(), KvError> {
    each(kv, keyspace::of_build(keyspace::ACCOUNT, tag), |key, value| {
        match (keyspace::parse_account(key), keyspace::parse_balance(value)) {
            (Some(account), Some(balance)) => auditor.account(account, balance),
            _ => auditor.finding(unreadable("account", key)),
        }
    })
    .await?;
    each(kv, keyspace::of_build(keyspace::FUND, tag), |key, value| {
        match batch_record(keyspace::FUND, key, value) {
            Some((batch, amount)) => auditor.funded(batch, amount),
            None => auditor.finding(unreadable("funding", key)),
        }
    })
    .await?;
    each(kv, keyspace::of_build(keyspace::REFUND, tag), |key, value| {
        match batch_record(keyspace::REFUND, key, value) {
            Some((batch, amount)) => auditor.refunded(batch, amount),
            None => auditor.finding(unreadable("refund", key)),
        }
    })
    .await
}

fn batch_record(prefix: &[u8], key: &[u8], value: &[u8]) -> Option<(BatchId, Fen)> {
    let batch: [u8; 2] = key.strip_prefix(prefix)?.get(4..)?.try_into().ok()?;
    Some((BatchId(u16::from_be_bytes(batch)), Fen::new(keyspace::parse_fen(value)?)))
}

async fn users_side(kv: &dyn Kv, auditor: &mut Auditor<'_>, tag: BuildTag) -> Result<(), KvError> {
    each(kv, keyspace::WALLET.to_vec(), |key, value| {
        match (keyspace::parse_wallet(key), keyspace::parse_fen(value)) {
            (Some((user, packet)), Some(fen)) if packet.build_tag == tag => auditor.wallet(user, packet, fen),
            // Another event's.
            (Some(_), Some(_)) => {}
            _ => auditor.finding(unreadable("packet index", key)),
        }
    })
    .await?;
    each(kv, keyspace::of_build(keyspace::CLAIMS, tag), |key, value| match read_claims(key, value) {
        Ok((user, doc)) => auditor.claims(user, &doc),
        Err(finding) => auditor.finding(finding),
    })
    .await
}

/// Reads a claim document; the finding when it cannot be.
pub(super) fn read_claims(key: &[u8], value: &[u8]) -> Result<(UserId, ClaimDoc), Finding> {
    let user = keyspace::parse_claims(key).ok_or_else(|| unreadable("claim document", key))?;
    let doc =
        ClaimDoc::decode(user, value).map_err(|error| Finding::Unreadable { what: error.to_string() })?;
    Ok((user, doc))
}

/// Every pair of a table.
pub(super) async fn each(
    kv: &dyn Kv,
    prefix: Vec<u8>,
    mut see: impl FnMut(&[u8], &Bytes),
) -> Result<(), KvError> {
    let mut walk = Walk::new(kv, prefix);
    while let Some(pairs) = walk.next().await? {
        pairs.iter().for_each(|(key, value)| see(key, value));
    }
    Ok(())
}
