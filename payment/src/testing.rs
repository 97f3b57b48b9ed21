//! Doubles for this crate's tests: a KV and a queue in memory behind one injector of faults, and
//! a small build with its keys.
//!
//! Invariant: every call of KV and queue passes the injector, so a test can make any one of them
//! fail in any way the contracts allow.
//!
//! Not here: the real machines (their own crates test those; tests/whole_run.rs uses them).

pub mod audit;
pub mod build;
pub mod faults;
pub mod kv;
pub mod queue;
pub mod scene;
