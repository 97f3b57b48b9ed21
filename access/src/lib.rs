//! The access node: where users shake, and where opens pass through.
//!
//! ```text
//!            users (HTTP/JSON and gRPC on one port)
//!                          |
//!   edge ──── shake ── desk ── shelf: verified files, atomic index, durable cursors
//!     |                 ^
//!     |               driver ── claims one file at a time in KvSvr, once, for ever
//!     └────── open ── Opener (another crate's: holds the keys this node must not have)
//! ```
//! A shake makes no call and waits for no disk: it takes the next record of a local file and seals
//! it to the user. What a record is worth is nothing this crate can know.
//!
//! Invariants: each (slot, file) is issued by one node incarnation only (I2); each record leaves at
//! most once, whatever crashes (I3).
//!
//! Not here: opening, money, and the queue.

mod blocking;
pub mod boot;
pub mod claim;
pub mod claimer;
pub mod counters;
pub mod cursor;
pub mod desk;
mod driver;
pub mod edge;
pub mod history;
pub mod incarnation;
pub mod memory;
pub mod node;
pub mod opener;
pub mod pacing;
pub mod rules;
pub mod shake;
pub mod shelf;
pub mod status;
pub mod stockroom;
pub mod view;

#[cfg(test)]
mod testkit;
