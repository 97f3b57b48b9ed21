//! Reconcile: the plan against everything that happened, to the fen.
//!
//! ```text
//!   manifest, ticket files --decrypt--> PlanSlice --+
//!   packet rows (all data groups) ------------------+--> Auditor --> Report (signed)
//!   accounts, wallets, claims, fund, refund --------+                   |
//!   rejections, unread messages, queue stats -------+                   '--> credit what matches
//! ```
//! Memory is bounded whatever the event's size: the plan is held in slices of a few million
//! packets (16 bytes each) and the rows are streamed past each slice; sets of the users' side are
//! compared by sums of hashes in buckets, and only the buckets that differ are read again.
//!
//! Invariant: a report that says `complete` saw a drained queue before and after, and then, per
//! batch, `plan = credited + pending + refunded + unissued`, where the plan comes from the files,
//! credited and pending from the rows, refunded from the records, and unissued from the accounts.
//! Every difference is a finding and counted as a mismatch.
//!
//! Not here: IO in [`audit`], [`plan`], [`sets`] and [`report`]; those are the pure core.

pub mod audit;
pub mod credit;
mod files;
mod holdings;
pub mod plan;
pub mod report;
pub mod run;
pub mod sets;

pub use credit::{CreditError, Credited, credit_pending};
pub use files::BuildDirError;
pub use report::Report;
pub use run::{ReconcileError, Sources, reconcile};

#[cfg(test)]
mod tests;
