//! The applied state of a group: a range of the state engine, and the machine over it.
//!
//! ```text
//!   openraft --apply--> StateStore --one batch: writes, applied id, now--> state engine (no WAL)
//!                           |  write lock
//!                        Machine (caches)
//!                           |  read lock
//!   Group::read <----- StateHandle::read: machine and durable state at one applied index
//! ```
//!
//! The state engine keeps no write-ahead log: the Raft log is one. After a power cut the state is
//! some earlier applied index, and openraft applies again from there. So the log may be purged only
//! below a snapshot, and a snapshot is reported only after the state was flushed.
//!
//! A snapshot is a pinned view of the group's range, sent as pages. It is received into the next
//! generation of the range, verified, and put in force by one durable batch.
//!
//! Invariant: machine writes, applied id, membership and clock change in one atomic batch; replies
//! are given after it. A crash leaves the old state or the new one, never a mix.
//!
//! Not here: what commands mean (`machine`), the transport of pages.

mod apply;
mod hot;
mod keys;
mod live;
mod page;
mod snapshot;
mod stage;
mod store;

pub(crate) use hot::Hot;
pub use live::{FlushedNext, PinnedState, StateHandle};
pub use page::SnapshotSeal;
pub use snapshot::{OutgoingSnapshot, SnapshotData};
pub use stage::{StageError, StagedSnapshot};
pub use store::{StateBuilder, StateStore};

#[cfg(test)]
mod tests;
