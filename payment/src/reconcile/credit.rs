//! Credits the pending rows that match the plan.
//!
//! ```text
//!   pending row --plan--> matches --pay--> Paid ...... row Credited,  Held -> Payable   one unit
//!                 |                   |--> Refused ... row Rejected,  Held -> Escrow    one unit
//!                 |                   '--> Unknown ... stays pending; asked again next time
//!                 |-----> differs .................... row Rejected,  Held -> Escrow    one unit
//!                 '-----> its key was revoked
//!                          --cancel--> Refused ....... row Rejected,  Held -> Escrow    one unit
//!                                 |--> Paid .......... it was paid before: as above
//!                                 '--> Unknown ....... stays pending; asked again next time
//!   row rejected here --> its place in the user's claims and index is given back        one unit
//! ```
//! Each unit begins with a compare-and-set on the whole row, so it happens once however often it
//! is tried. A place that was not given back because we died in between is given back by the next
//! run, which looks at all rows rejected here.
//!
//! Invariant: nothing is credited that the ticket files do not hold exactly like this; nothing whose data
//! key may not be used now is paid, and what was paid is credited; a row is turned down only while every
//! file of its part of the plan is sound.
//!
//! Not here: comparing (plan.rs), openings that never got a row.

use std::ops::Range;

use bytes::Bytes;
use kvsvr::api::{DataKey, DataOp, Kv, KvError, Unit};
use serde::Serialize;
use ticket::keys::{KeyList, KeyRefusal};
use ticket::money::Fen;
use world::mutant::{Mutant, armed};

use super::files::{BuildDirError, PlanFiles};
use super::plan::PlanSlice;
use super::run::{Sources, belongs, read_row};
use crate::bulk::{self, BulkError, Landed, Walk};
use crate::claims::ClaimDoc;
use crate::keyspace::{self, BuildTag};
use crate::ledger::backend::{EmbeddedLedger, Payment, PaymentBackend, Payout};
use crate::ledger::{self, Transfer};
use crate::row::{Reason, Row, RowState};

/// How often a claim document is read and written before others are left to it.
const RELEASE_ATTEMPTS_MAX: u32 = 16;

/// What a run of crediting did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Credited {
    /// Packets credited.
    pub count: u64,
    /// Their money.
    pub fen: Fen,
    /// Pending packets turned down: not in the plan like this, under a key that was revoked after
    /// they were settled, or refused by the back end.
    pub rejected: u64,
    /// Packets still pending, because the back end's answer is not known.
    pub left: u64,
}

/// Why crediting stopped. What is credited stays; call again.
#[derive(Debug, thiserror::Error)]
pub enum CreditError {
    /// The build directory.
    #[error(transparent)]
    Build(#[from] BuildDirError),
    /// A ticket file is not what the manifest says, so its rows cannot be judged.
    #[error(
        "file {file}: {reason}; nothing of its part of the plan was credited: copy it again from where it was built"
    )]
    File {
        /// Its number.
        file: u32,
        /// What is wrong.
        reason: String,
    },
    /// The KV failed.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// Something stored is not what it should be: reconcile tells more.
    #[error("{0}; reconcile tells more")]
    Stored(String),
}

impl From<KvError> for CreditError {
    fn from(error: KvError) -> CreditError {
        CreditError::Bulk(error.into())
    }
}

/// A pending row and what is to become of it.
struct Verdict {
    row: Row,
    stored: Bytes,
    state: RowState,
}

/// Credits what is pending, matches the plan and lies under a key that `keys` lets pass, by booking
/// it in the KV. `keys` is the list as it stands in the cluster now.
///
/// # Errors
/// [`CreditError`]; call again.
pub async fn credit_pending(sources: &Sources, keys: &KeyList) -> Result<Credited, CreditError> {
    credit_through(sources, keys, &EmbeddedLedger).await
}

/// The same, through another payment back end.
///
/// # Errors
/// [`CreditError`]; call again.
pub async fn credit_through(
    sources: &Sources,
    keys: &KeyList,
    backend: &dyn PaymentBackend,
) -> Result<Credited, CreditError> {
    let plan = PlanFiles::open(sources.disk.clone(), &sources.build_dir)?;
    let (kv, tag) = (&*sources.kv, plan.manifest().build.tag());
    let mut credited = Credited::default();
    for part in plan.parts() {
        let loaded = plan.load(&part).await;
        if let Some((file, reason)) = loaded.faults.into_iter().next() {
            return Err(CreditError::File { file: file.0, reason });
        }
        let mut walk = Walk::new(kv, keyspace::of_build(keyspace::ROW, tag));
        while let Some(pairs) = walk.next().await? {
            let scope = Scope { part: &part, files: plan.manifest().files.len(), slice: &loaded.slice, keys };
            let (judged, turned_down) = judge(&pairs, &scope)?;
            let verdicts = pay(judged, backend, &mut credited).await;
            book(kv, &verdicts, &mut credited).await?;
            let rejected =
                verdicts.into_iter().filter(|verdict| !verdict.state.accepted()).map(|verdict| verdict.row);
            for row in turned_down.into_iter().chain(rejected) {
                release(kv, tag, &row).await?;
            }
        }
    }
    Ok(credited)
}

/// What rows are judged by.
struct Scope<'a> {
    part: &'a Range<u32>,
    files: usize,
    slice: &'a PlanSlice,
    keys: &'a KeyList,
}

impl Scope<'_> {
    fn verdict(&self, row: &Row) -> RowState {
        if self.slice.judge(row).is_err() && !armed(Mutant::PlanNotCompared) {
            return RowState::Rejected(Reason::NotInPlan);
        }
        // The plan has the row under this very key.
        match self.keys.check(row.key) {
            Ok(()) => RowState::Credited,
            Err(KeyRefusal::Revoked) => RowState::Rejected(Reason::KeyRevoked),
            Err(KeyRefusal::NotWhitelisted) => RowState::Rejected(Reason::KeyUnlisted),
        }
    }
}

/// The pending rows of a page with their verdict, and the rows turned down by an earlier run.
fn judge(pairs: &[(Bytes, Bytes)], scope: &Scope<'_>) -> Result<(Vec<Verdict>, Vec<Row>), CreditError> {
    let (mut verdicts, mut turned_down) = (Vec::new(), Vec::new());
    for (key, stored) in pairs {
        // A row that is unreadable or worth nothing is a finding of reconcile and no money to move.
        let Ok(row) = read_row(key, stored) else { continue };
        let movable = Transfer::release(row.packet, row.amount).is_ok();
        if !movable || !belongs(&row, scope.part, scope.files) {
            continue;
        }
        match row.state {
            RowState::Pending => {
                let state = scope.verdict(&row);
                assert!(row.encode() == *stored, "a row reads back as it was written");
                verdicts.push(Verdict { row, stored: stored.clone(), state });
            }
            // Giving back what is not there changes nothing.
            RowState::Rejected(reason) if reason.by_crediting() => turned_down.push(row),
            RowState::Credited | RowState::Rejected(_) => {}
        }
    }
    Ok((verdicts, turned_down))
}

/// Asks the back end about every row that it has paid or may have been asked to pay; drops those it
/// does not know about.
async fn pay(verdicts: Vec<Verdict>, backend: &dyn PaymentBackend, credited: &mut Credited) -> Vec<Verdict> {
    let (mut due, mut revoked, mut decided) = (Vec::new(), Vec::new(), Vec::new());
    for verdict in verdicts {
        match verdict.state {
            RowState::Credited => due.push(verdict),
            // The key was good when an earlier run asked for the payment, and no answer came.
            RowState::Rejected(Reason::KeyRevoked | Reason::KeyUnlisted) => revoked.push(verdict),
            // The plan does not change: no run has ever asked for it.
            RowState::Rejected(_) | RowState::Pending => decided.push(verdict),
        }
    }
    let payments = |verdicts: &[Verdict]| verdicts.iter().map(payment).collect::<Vec<Payment>>();
    if !due.is_empty() {
        let payouts = backend.pay(payments(&due)).await;
        credited.left += decide(due, payouts, &mut decided);
    }
    if !revoked.is_empty() {
        let payouts = backend.cancel(payments(&revoked)).await;
        credited.left += decide(revoked, payouts, &mut decided);
    }
    decided
}

fn payment(verdict: &Verdict) -> Payment {
    Payment { packet: verdict.row.packet, user: verdict.row.user, amount: verdict.row.amount }
}

/// Goes by what the back end says; answers how many it does not know about.
fn decide(verdicts: Vec<Verdict>, payouts: Vec<Payout>, decided: &mut Vec<Verdict>) -> u64 {
    assert!(payouts.len() == verdicts.len(), "the back end answers every payment");
    let mut left = 0;
    for (mut verdict, payout) in verdicts.into_iter().zip(payouts) {
        match (payout, verdict.state) {
            (Payout::Unknown, _) => {
                left += 1;
                continue;
            }
            (Payout::Paid, _) => verdict.state = RowState::Credited,
            (Payout::Refused, RowState::Credited) => verdict.state = RowState::Rejected(Reason::Refused),
            (Payout::Refused, _) => {}
        }
        decided.push(verdict);
    }
    left
}

async fn book(kv: &dyn Kv, verdicts: &[Verdict], credited: &mut Credited) -> Result<(), CreditError> {
    let landed = bulk::write(kv, verdicts.iter().map(unit).collect()).await?;
    for (verdict, landed) in verdicts.iter().zip(landed) {
        let packet = verdict.row.packet;
        match (landed, verdict.state) {
            (Landed::Now | Landed::Before, RowState::Credited) => {
                credited.count += 1;
                let sum = credited.fen.checked_add(verdict.row.amount);
                credited.fen = sum.expect("the plan's packets add up to a budget");
            }
            (Landed::Now | Landed::Before, _) => {
                credited.rejected += 1;
                tracing::error!(%packet, user = %verdict.row.user, "a pending row was turned down: it is not payable");
            }
            // Another run decided otherwise at the same time, which the plan does not allow.
            (Landed::Never(_), _) => {
                return Err(CreditError::Stored(format!("the row of {packet} changed meanwhile")));
            }
        }
    }
    Ok(())
}

/// The unit that takes a row to its final state.
fn unit(verdict: &Verdict) -> Unit {
    let Verdict { row, stored, state } = verdict;
    let transfer = match state {
        RowState::Credited => Transfer::credit(row.packet, row.amount),
        _ => Transfer::release(row.packet, row.amount),
    };
    let transfer = transfer.expect("judge() leaves alone what no account could hold");
    let DataKey { partition, key } = keyspace::row(row.packet);
    let value = row.with_state(*state).encode();
    assert!(value != *stored, "the row changes, so that the second attempt sees the first");
    let ops = vec![DataOp::CompareAndSet { key, expected: Some(stored.clone()), value }];
    ledger::unit(partition, ops, &transfer)
}

/// Stops counting a packet that its user did not get after all.
async fn release(kv: &dyn Kv, tag: BuildTag, row: &Row) -> Result<(), CreditError> {
    let key = keyspace::claims(tag, row.user);
    for _ in 0..RELEASE_ATTEMPTS_MAX {
        let found = bulk::read(kv, vec![key.clone()]).await?.pop().flatten();
        let Some(found) = found else { return Ok(()) };
        let doc =
            ClaimDoc::decode(row.user, &found).map_err(|error| CreditError::Stored(error.to_string()))?;
        if !doc.contains(row.packet) {
            return Ok(());
        }
        let mut without = doc;
        without.remove(row.packet);
        let DataKey { partition, key } = key.clone();
        let ops = vec![
            DataOp::CompareAndSet { key, expected: Some(found), value: without.encode() },
            DataOp::Delete { key: keyspace::wallet(row.user, row.packet).key },
        ];
        match bulk::write(kv, vec![Unit { partition, ops }]).await?.pop() {
            Some(Landed::Now | Landed::Before) => return Ok(()),
            // Somebody else changed the document: look again.
            Some(Landed::Never(_)) | None => {}
        }
    }
    Err(CreditError::Stored(format!("the claims of user {} keep changing", row.user)))
}
