//! The sponsors' money comes in: at activation, once per batch, what its budget says.
//!
//! ```text
//!   per batch, one unit:  fund/<tag><batch> = fen (if absent)  +  Sponsor --> Escrow
//! ```
//! Invariant: a batch is funded with exactly its budget in the signed manifest, once, however often
//! this is called and whatever became of the earlier calls.
//!
//! Not here: the bank; the budget's `funded_on` says when it really came.

use kvsvr::api::{DataKey, DataOp, Kv};
use serde::Serialize;
use ticket::id::BatchId;
use ticket::manifest::Manifest;
use ticket::money::{self, Fen};

use crate::bulk::{self, BulkError, Landed};
use crate::keyspace;
use crate::ledger::{self, LedgerError, Transfer};

/// What stands funded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Funded {
    /// All batches together.
    pub fen: Fen,
    /// Batches.
    pub batches: u64,
    /// Of these: funded by this call.
    pub new: u64,
}

/// Why the batches are not all funded. Call again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FundError {
    /// The KV failed.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The budget is more than an account can hold.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The batch was funded with another amount.
    #[error(
        "batch {batch} was funded before with another amount than its budget of {budget} yuan: is this the manifest that was activated?"
    )]
    Differs {
        /// The batch.
        batch: BatchId,
        /// What the manifest says.
        budget: Fen,
    },
}

/// Funds all batches of `manifest` that are not yet.
///
/// # Errors
/// [`FundError`]; what is funded stays funded.
pub async fn fund(kv: &dyn Kv, manifest: &Manifest) -> Result<Funded, FundError> {
    let tag = manifest.build.tag();
    let batches: Vec<_> = manifest.batches.iter().filter(|batch| !batch.amount_fen.is_zero()).collect();
    let mut units = Vec::with_capacity(batches.len());
    for batch in &batches {
        let transfer = Transfer::fund(tag, batch.batch, batch.amount_fen)?;
        let DataKey { partition, key } = keyspace::fund(tag, batch.batch);
        let value = keyspace::fen_value(batch.amount_fen.get());
        units.push(ledger::unit(partition, vec![DataOp::InsertIfAbsent { key, value }], &transfer));
    }
    let landed = bulk::write(kv, units).await?;
    let mut new = 0;
    for (batch, landed) in batches.iter().zip(landed) {
        match landed {
            Landed::Now => new += 1,
            Landed::Before => {}
            Landed::Never(_) => {
                return Err(FundError::Differs { batch: batch.batch, budget: batch.amount_fen });
            }
        }
    }
    let fen =
        money::sum(batches.iter().map(|batch| batch.amount_fen)).expect("a manifest was checked to add up");
    assert!(fen == manifest.amount_fen, "the batches are the budget");
    Ok(Funded { fen, batches: batches.len() as u64, new })
}
