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

pub mod opener;
pub mod rules;
pub mod pacing;
pub mod shake;
pub mod history;
pub mod memory;
pub mod claim;
pub mod claimer;
pub mod incarnation;
pub mod cursor;
pub mod shelf;
pub mod counters;
pub mod desk;
pub mod view;
pub mod boot;
pub mod stockroom;
mod driver;
pub mod status;
pub mod node;
pub mod edge;
mod blocking;

#[cfg(test)]
mod testkit;
