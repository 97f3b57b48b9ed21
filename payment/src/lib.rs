//! Payment: from the sponsor's budget to the user's credit.
//!
//! ```text
//!   budget --plan--> ticket files + manifest --(access)--> sealed ticket --open--> queue
//!     --settle--> rows and postings in the KV --reconcile--> credit --refund--> sponsor
//! ```
//! Invariant: per batch, to the fen, at every moment of rest:
//! credited + pending + refunded + unissued = budget.
//!
//! Not here: shaking and issuing (access), storage (kvsvr, queue), any wire.

pub mod bulk;
pub mod claims;
pub mod fund;
pub mod instant;
pub mod keyspace;
pub mod ledger;
pub mod open;
pub mod plan;
pub mod reconcile;
pub mod refund;
pub mod rejection;
pub mod row;
pub mod settle;
pub mod trace;

#[cfg(test)]
mod testing;
