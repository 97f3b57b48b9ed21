//! When leases end: the leader's part.
//!
//! ```text
//!   machine (log)   which leases are in force, and their keys         machine::control::lease
//!   lessor (pure)   deadlines, as the leader of one term sees them    lessor
//!   keeper          clock and group around the lessor                 keeper
//! ```
//! As at etcd, prolonging a lease costs no log entry: deadlines live in the leader's memory, and a
//! new leader gives every lease its whole time again and a little more.
//!
//! Invariant: a lease ends only by an entry of the log, and never before its time has passed since
//! it was granted or since the last acknowledged keep-alive began, whoever led meanwhile. The
//! argument is in `docs/adr/0014-leases.md`.

mod keeper;
mod lessor;

#[cfg(test)]
mod keeper_test;
#[cfg(test)]
mod lessor_test;

pub use keeper::{LeaseCounts, LeaseKeeper};
