//! Makes a claim: one transaction, and the truth about it when the answer is lost.
//!
//! ```text
//!   txn ── made ───────────────────────────────> Mine
//!    ├─── not made: the key holds us ──────────> Mine     (an earlier attempt arrived after all)
//!    ├─── not made: the key holds another ─────> Theirs
//!    ├─── not made: the key is absent ─────────> Fenced   (a zone or the event changed meanwhile)
//!    └─── no answer ── read the key back ── us > Mine
//!                       └── absent or no answer > Doubt   (try again later; issue nothing)
//! ```
//! Invariant: `Mine` is answered only after the store showed a claim naming this node and this
//! incarnation of its disk. An attempt that may still arrive does no harm: it names the same owner.
//!
//! Not here: when to claim (see `claim`) and what follows from owning (see `node`).

use std::time::Duration;

use bytes::Bytes;
use kvsvr::api::{ControlOp, Kv, KvError, TxnOutcome};
use ticket::control::{ClaimRecord, claim_key, decode, encode};

use crate::claim::ClaimIntent;

/// How long the store may take to answer one call.
pub const KV_TIMEOUT: Duration = Duration::from_millis(1_500);

/// What became of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// This incarnation owns the file.
    Mine,
    /// Somebody else does: another node, or another disk of this one.
    Theirs(ClaimRecord),
    /// The world changed before the claim: look again.
    Fenced,
    /// Nobody knows yet. Nothing may be issued.
    Doubt(String),
}

/// Tries to make one claim.
pub async fn claim(kv: &dyn Kv, intent: &ClaimIntent) -> Claimed {
    let key = claim_key(intent.slot, intent.file);
    let write = ControlOp::Put(Bytes::from(key.clone()), Bytes::from(encode(&intent.record)));
    match bounded(kv.txn(intent.compares.clone(), vec![write])).await {
        Ok(outcome) if outcome.succeeded => Claimed::Mine,
        Ok(outcome) => refused(&key, &intent.record, &outcome),
        Err(KvError::Refused(reason) | KvError::Unavailable(reason)) => Claimed::Doubt(reason),
        Err(KvError::Unknown(reason)) => match bounded(kv.get(key.as_bytes())).await {
            Ok(Some(pair)) => judge(&key, &intent.record, &pair.value),
            Ok(None) => Claimed::Doubt(reason),
            Err(error) => Claimed::Doubt(error.to_string()),
        },
    }
}

/// Whether two claims name the same owner; when and under which epoch does not matter.
#[must_use]
pub fn same_owner(one: &ClaimRecord, other: &ClaimRecord) -> bool {
    one.node == other.node && one.incarnation == other.incarnation
}

/// A call to the store with a deadline; running out of time leaves the outcome unknown.
pub async fn bounded<T>(call: impl Future<Output = Result<T, KvError>>) -> Result<T, KvError> {
    match tokio::time::timeout(KV_TIMEOUT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(KvError::Unknown(format!("no answer within {} ms", KV_TIMEOUT.as_millis()))),
    }
}

fn refused(key: &str, ours: &ClaimRecord, outcome: &TxnOutcome) -> Claimed {
    assert!(!outcome.succeeded, "a claim that was made is not refused");
    // The claim's own key is the first condition of every intent.
    match outcome.found.first() {
        Some(Some(pair)) => judge(key, ours, &pair.value),
        Some(None) => Claimed::Fenced,
        None => Claimed::Doubt("the store refused without saying what it found".to_owned()),
    }
}

fn judge(key: &str, ours: &ClaimRecord, value: &[u8]) -> Claimed {
    match decode::<ClaimRecord>(key, value) {
        Ok(found) if same_owner(&found, ours) => Claimed::Mine,
        Ok(found) => Claimed::Theirs(found),
        Err(error) => Claimed::Doubt(error.to_string()),
    }
}
