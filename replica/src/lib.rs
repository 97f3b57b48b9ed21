//! One Raft member, generic over its state machine.
//!
//! ```text
//!   propose -> batcher -> openraft -> log (one writer, one sync for all groups) -> peers
//!                            |
//!                            '-> state (one batch: the machine's writes and the applied id) -> reply
//! ```
//! Invariant: what is acknowledged was synced by a majority of zones and applied here.
//!
//! Not here: keys, queues, tickets; what a machine means.

mod attach;
mod backlog;
mod batcher;
pub mod change;
pub mod codec;
pub mod config;
pub mod engine;
pub mod error;
mod formation;
pub mod group;
mod handler;
pub mod host;
pub mod identity;
pub mod limits;
pub mod log;
pub mod machine;
pub mod member_id;
pub mod members;
mod network;
pub mod plant;
mod reads;
mod retention;
pub mod state;
pub mod status;
pub mod testing;
pub mod transfer;
pub mod types;
