//! What nobody opened goes back to the sponsors, when the event is over.
//!
//! ```text
//!   guards: event closed, queue drained, nothing pending        nothing is changed
//!     |
//!     v
//!   closing/<tag> mark                                          no accepted row from here on
//!     |
//!     v
//!   queue drained again, rows and escrow read again             now they cannot change
//!     |
//!     v
//!   per batch, one unit: refund/<tag><batch> = budget - credited (if absent) + Escrow -> Refunded
//! ```
//! Why the second look is final: a settler reads the mark after it has leased. A message leased
//! before the mark was in flight then; once the queue is drained it was acked, so its row stands
//! and a slower settler's insertion of the same row fails. A message leased later finds the mark.
//!
//! Invariant: a batch is refunded once, with exactly its budget less the credited rows, and only if
//! its escrow holds just that; repeating a refund pays nothing more.
//!
//! Not here: closing the event (deploy), crediting (reconcile::credit), the bank.

use std::collections::BTreeMap;

use kvsvr::api::{DataKey, DataOp, Kv, KvError, Unit};
use queue::api::{Queue, QueueError};
use serde::Serialize;
use ticket::control::{EventRecord, EventState};
use ticket::id::BatchId;
use ticket::manifest::Manifest;
use ticket::money::{self, Fen};
use world::mutant::{Mutant, armed};

use crate::bulk::{self, BulkError, Landed, Walk};
use crate::keyspace;
use crate::ledger::{self, Account, AccountKind, Ledger, LedgerError, Transfer};
use crate::reconcile::audit::outstanding;
use crate::row::{Row, RowState};

/// What went back, in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Refunded {
    /// All batches together, earlier calls included.
    pub fen: Fen,
    /// Batches refunded, earlier calls included; also those of which nothing was left.
    pub batches: u64,
    /// Of these: by this call.
    pub new: u64,
}

/// Why there was no refund, or not of all batches. Call again when what it says is mended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefundError {
    /// It would not be safe now.
    #[error("{0}")]
    Guard(String),
    /// The KV failed.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The queue failed.
    #[error("the queue: {0}")]
    Queue(#[from] QueueError),
    /// An amount no account can hold.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl From<KvError> for RefundError {
    fn from(error: KvError) -> RefundError {
        RefundError::Bulk(error.into())
    }
}

fn guard<T>(sentence: String) -> Result<T, RefundError> {
    Err(RefundError::Guard(sentence))
}

/// Refunds every batch of `manifest` that is not yet.
///
/// # Errors
/// [`RefundError`]; what was refunded stays refunded.
pub async fn refund(
    kv: &dyn Kv,
    queue: &dyn Queue,
    manifest: &Manifest,
    event: &EventRecord,
) -> Result<Refunded, RefundError> {
    check_event(manifest, event)?;
    check_drained(queue).await?;
    dues(kv, manifest).await?;
    close(kv, manifest, event).await?;
    check_drained(queue).await?;
    let dues = dues(kv, manifest).await?;
    pay(kv, manifest, &dues).await
}

fn check_event(manifest: &Manifest, event: &EventRecord) -> Result<(), RefundError> {
    if event.build != manifest.build {
        return guard(format!(
            "the active event runs build {}, the manifest is of build {}: name the build that was activated",
            event.build, manifest.build
        ));
    }
    match event.state {
        EventState::Closed => Ok(()),
        EventState::Open => guard(format!("event {} is still open: close it first", event.event)),
    }
}

async fn check_drained(queue: &dyn Queue) -> Result<(), RefundError> {
    let left = outstanding(&queue.stats().await?);
    if left.drained() {
        return Ok(());
    }
    guard(format!(
        "the queue still holds {} ready, {} in flight, {} delayed and {} dead openings: wait until they are settled, and redrive the dead ones",
        left.ready, left.in_flight, left.delayed, left.dead
    ))
}

/// No accepted row is inserted from here on.
async fn close(kv: &dyn Kv, manifest: &Manifest, event: &EventRecord) -> Result<(), RefundError> {
    let DataKey { partition, key } = keyspace::closing(manifest.build.tag());
    // Since when, as the plan of the event says: the end of the last chance to open.
    let end_ms =
        event.slots.iter().map(|slot| slot.end_ms.0).max().unwrap_or(0).saturating_add(event.open_grace_ms);
    let op = DataOp::InsertIfAbsent { key, value: keyspace::fen_value(end_ms) };
    let landed = bulk::write(kv, vec![Unit { partition, ops: vec![op] }]).await?;
    assert!(landed.len() == 1, "one unit, one answer");
    // An earlier mark, whatever its moment, is as good.
    Ok(())
}

/// What each batch is to get back, checked against the accounts.
async fn dues(kv: &dyn Kv, manifest: &Manifest) -> Result<BTreeMap<BatchId, Fen>, RefundError> {
    let credited = credited(kv, manifest).await?;
    let found = accounts(kv, manifest).await?;
    let tag = manifest.build.tag();
    let mut dues = BTreeMap::new();
    for batch in manifest.batches.iter().filter(|batch| !batch.amount_fen.is_zero()) {
        let spent = credited.get(&batch.batch).copied().unwrap_or_default();
        let Some(due) = batch.amount_fen.checked_sub(spent) else {
            let (id, budget) = (batch.batch, batch.amount_fen);
            return guard(format!(
                "batch {id} has credits of {spent} yuan and a budget of {budget} yuan: reconcile"
            ));
        };
        let balance = |kind| found.balance(Account { tag, batch: batch.batch, kind });
        let left = i128::from(balance(AccountKind::Escrow)) + i128::from(balance(AccountKind::Refunded));
        if left != i128::from(due.get()) || balance(AccountKind::Held) != 0 {
            let (id, held) = (batch.batch, balance(AccountKind::Held));
            return guard(format!(
                "batch {id}: its rows leave {} fen, its accounts {left} fen and {held} fen held; was it funded? reconcile first",
                due.get()
            ));
        }
        dues.insert(batch.batch, due);
    }
    Ok(dues)
}

/// The credited rows by batch; none may be pending.
async fn credited(kv: &dyn Kv, manifest: &Manifest) -> Result<BTreeMap<BatchId, Fen>, RefundError> {
    let mut credited: BTreeMap<BatchId, Fen> = BTreeMap::new();
    let mut pending = 0u64;
    let mut walk = Walk::new(kv, keyspace::of_build(keyspace::ROW, manifest.build.tag()));
    while let Some(pairs) = walk.next().await? {
        for (key, value) in pairs {
            let row = keyspace::parse_packet(keyspace::ROW, &key)
                .and_then(|packet| Row::decode(packet, &value).ok());
            let Some(row) = row else {
                return guard(format!("a row cannot be read (key {key:?}): reconcile, and mend it"));
            };
            match row.state {
                RowState::Pending => pending += 1,
                RowState::Rejected(_) => {}
                RowState::Credited => {
                    let sum = credited.entry(row.packet.batch).or_default();
                    let Some(more) = sum.checked_add(row.amount) else {
                        return guard(format!(
                            "the credits of batch {} overflow: reconcile",
                            row.packet.batch
                        ));
                    };
                    *sum = more;
                }
            }
        }
    }
    if 0 < pending {
        return guard(format!("{pending} packets are pending: reconcile and credit them first"));
    }
    Ok(credited)
}

async fn accounts(kv: &dyn Kv, manifest: &Manifest) -> Result<Ledger, RefundError> {
    let mut found = Ledger::default();
    let mut walk = Walk::new(kv, keyspace::of_build(keyspace::ACCOUNT, manifest.build.tag()));
    while let Some(pairs) = walk.next().await? {
        for (key, value) in pairs {
            let (Some(account), Some(balance)) =
                (keyspace::parse_account(&key), keyspace::parse_balance(&value))
            else {
                return guard(format!("an account cannot be read (key {key:?}): reconcile, and mend it"));
            };
            found.add_found(account, balance)?;
        }
    }
    Ok(found)
}

async fn pay(
    kv: &dyn Kv,
    manifest: &Manifest,
    dues: &BTreeMap<BatchId, Fen>,
) -> Result<Refunded, RefundError> {
    let tag = manifest.build.tag();
    let mut units = Vec::with_capacity(dues.len());
    for (batch, due) in dues {
        let DataKey { partition, mut key } = keyspace::refund(tag, *batch);
        if armed(Mutant::RefundTwice) {
            key = [&key[..], b"again"].concat().into();
        }
        let ops = vec![DataOp::InsertIfAbsent { key, value: keyspace::fen_value(due.get()) }];
        units.push(match due.is_zero() {
            true => Unit { partition, ops },
            false => ledger::unit(partition, ops, &Transfer::refund(tag, *batch, *due)?),
        });
    }
    let landed = bulk::write(kv, units).await?;
    let mut new = 0;
    for ((batch, due), landed) in dues.iter().zip(landed) {
        match landed {
            Landed::Now => new += 1,
            Landed::Before => {}
            Landed::Never(found) => {
                let found = found.as_deref().and_then(keyspace::parse_fen);
                return guard(format!(
                    "batch {batch} was refunded before with {found:?} fen, now {} fen: reconcile",
                    due.get()
                ));
            }
        }
    }
    let fen =
        money::sum(dues.values().copied()).expect("dues are at most the budgets, whose sum was checked");
    assert!(fen <= manifest.amount_fen, "no more goes back than came in");
    Ok(Refunded { fen, batches: dues.len() as u64, new })
}

#[cfg(test)]
mod tests;
