//! The quorum queue: messages survive the loss of any zone, one dedup id is one message for ever,
//! messages of one key keep their order.
//!
//! ```text
//!   client ---- hash of the key ----> partition = one Raft group, served by its leader
//!                                       service     the wire
//!                                       partition   machine behind a log + lease table
//!                                       machine     replicated: table, backlog, command
//!                                       lease       in the leader's memory
//! ```
//! Invariant: an acknowledged message is delivered until it is acked, a dead letter, or purged by
//! an operator; nothing is ever dropped to make room.
//!
//! Feature `server` adds everything below the client.

pub mod api;
pub mod client;
pub mod codec;
pub mod limits;
pub mod partitioner;
pub mod receipt;
pub mod wire;

#[cfg(feature = "server")]
pub mod backlog;
#[cfg(feature = "server")]
pub mod command;
#[cfg(feature = "server")]
pub mod lease;
#[cfg(feature = "server")]
pub mod log;
#[cfg(feature = "server")]
pub mod machine;
#[cfg(feature = "server")]
mod member;
#[cfg(feature = "server")]
pub mod partition;
#[cfg(feature = "server")]
pub mod service;
#[cfg(feature = "server")]
pub mod table;
#[cfg(feature = "server")]
pub mod testing;
