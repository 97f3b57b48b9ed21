//! The Raft logs of all groups of a process in one engine, written by one writer.
//!
//! ```text
//!   group 0  LogStore --append--+
//!   group 1  LogStore --vote----+--> queue --> LogWriter: drain all, one batch, one fsync,
//!   group 7  LogStore --append--+              then every callback
//!               |
//!               +-- tail cache: what was appended and may not be durable yet, readable at once
//! ```
//!
//! While one fsync runs, everything that arrives queues up and shares the next one: group commit
//! without a timer, and with a batch of one when nothing else is waiting.
//!
//! Invariant: a callback or a return from `save_vote` means that a power cut cannot take it back,
//! nor anything queued before it. The order of a group's operations is the order on disk.
//!
//! Not here: what entries mean, when to purge (openraft decides, `StateStore` limits).

mod attachments;
mod footprint;
mod keys;
mod promise;
mod reader;
mod store;
mod tail;
mod writer;

pub(crate) use attachments::Attachments;
pub(crate) use promise::Promise;
pub use reader::LogReader;
pub(crate) use store::LogExtent;
pub use store::LogStore;
pub(crate) use writer::DurableNext;
pub use writer::{LogWriter, Pause, WriterStats};

#[cfg(test)]
mod damage_test;
#[cfg(test)]
mod suite_test;
#[cfg(test)]
mod tests;
