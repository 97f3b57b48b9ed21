//! Watches: what was applied, told to whoever wants to hear of it.
//!
//! ```text
//!   state --applied--> Hub: reads new history once, keeps the newest in a ring
//!     |                 |  wakes only the streams that an event concerns
//!     |                 v
//!     '--replay--> Session, one per stream: which events, to which watch, from where on
//!                       |
//!                       v
//!                  driver (`etcd::watch`): requests, bounded queue, the client's pace
//! ```
//! A watch is a position in history and nothing else. When the ring still holds what comes next it
//! is taken from there, otherwise from the store. So there is one way of going on for a watch that
//! keeps up, one that starts in the past, one whose client is slow, and one whose member was sent a
//! snapshot; none of them can lose or repeat an event, and none of them holds up what is applied.
//!
//! Invariant: a watch gets every event it asked for once, in order, and a revision as a whole.
//!
//! Not here: the gRPC stream (`etcd::watch`), and resuming after a break (`client`).

mod hub;
mod interests;
mod ring;
mod session;
#[cfg(test)]
mod session_test;
mod span;

pub use hub::{Hub, Subscription};
pub use session::Session;
pub(crate) use session::refused;
pub use span::Span;

use std::sync::Arc;
use std::sync::OnceLock;

use crate::machine::control::Event;
use crate::wire::mvccpb::KeyValue;

/// An event as watches share it, with the pair before it once somebody has asked for that.
#[derive(Debug)]
pub struct Change {
    pub(crate) event: Event,
    before: OnceLock<Option<KeyValue>>,
}

/// All events of the revisions up to `through` that are not in a page before this one.
#[derive(Clone, Debug)]
pub struct Page {
    pub(crate) changes: Vec<Arc<Change>>,
    pub(crate) through: i64,
}

impl Change {
    fn new(event: Event) -> Arc<Change> {
        Arc::new(Change { event, before: OnceLock::new() })
    }

    fn revision(&self) -> i64 {
        self.event.pair.mod_revision
    }

    // Roughly what it holds in memory.
    fn bytes(&self) -> usize {
        self.event.pair.key.len() + self.event.pair.value.len() + size_of::<Change>()
    }
}
