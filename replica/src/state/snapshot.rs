//! A snapshot on its way out: the group's range, pinned, in pages.
//!
//! Invariant: all pages together are the range as it was when the snapshot was taken, whatever is
//! applied meanwhile.
//!
//! Not here: receiving (`stage`).

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use world::GroupId;

use crate::engine::{Engine, EngineError, View};
use crate::machine::{Machine, PrefixView};
use crate::state::keys;
use crate::state::live::Live;
use crate::state::page::{self, Sealer, SnapshotSeal};
use crate::state::stage::StagedSnapshot;

/// What openraft hands around as a snapshot.
pub enum SnapshotData {
    /// Taken here, to be sent: read its pages.
    Outgoing(OutgoingSnapshot),
    /// Received here, to be installed: write its pages, then seal it.
    Incoming(StagedSnapshot),
}

/// Pages of a pinned view, from the first. Clones read on independently.
#[derive(Clone)]
pub struct OutgoingSnapshot {
    view: Arc<dyn View>,
    prefix: Bytes,
    now_ms: u64,
    /// Where the next page begins; `None` when the last one was read.
    next: Option<Bytes>,
    sealer: Sealer,
}

impl OutgoingSnapshot {
    pub(super) fn pin<M: Machine>(engine: &dyn Engine, group: GroupId, live: &Live<M>) -> OutgoingSnapshot {
        OutgoingSnapshot {
            view: engine.snapshot(),
            prefix: keys::state(group, live.generation),
            now_ms: live.now.0,
            next: Some(Bytes::new()),
            sealer: Sealer::default(),
        }
    }

    /// The next page, of about `bytes_max` bytes (one pair may exceed it); `None` after the last.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn next_page(&mut self, bytes_max: usize) -> Result<Option<Bytes>, EngineError> {
        let Some(from) = self.next.take() else { return Ok(None) };
        let mut page = BytesMut::new();
        let mut pairs = 0;
        let mut next = None;
        let view = PrefixView::new(&*self.view, self.prefix.clone());
        view.scan(&from, &[], false, &mut |key, value| {
            if page.len() >= bytes_max {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            page::push(&mut page, key, value);
            pairs += 1;
            ControlFlow::Continue(())
        })?;
        self.next = next;
        self.sealer.add(&page, pairs);
        Ok((pairs > 0).then(|| page.freeze()))
    }

    /// Passes over what a receiver has kept from an earlier stream: all pairs up to and including
    /// the key `after`, `pairs` of them. They count for the seal all the same. `false`, and back at
    /// the beginning, when that is no place in this snapshot.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn skip(&mut self, after: &[u8], pairs: u64) -> Result<bool, EngineError> {
        let mut page = BytesMut::new();
        let mut sealer = Sealer::default();
        let mut last: Option<Bytes> = None;
        let mut next = None;
        let view = PrefixView::new(&*self.view, self.prefix.clone());
        view.scan(&[], &[], false, &mut |key, value| {
            if sealer.pairs() >= pairs {
                next = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            page.clear();
            page::push(&mut page, key, value);
            sealer.add(&page, 1);
            if sealer.pairs() == pairs {
                last = Some(Bytes::copy_from_slice(key));
            }
            ControlFlow::Continue(())
        })?;
        let fits = last.as_deref() == Some(after);
        (self.next, self.sealer) =
            if fits { (next, sealer) } else { (Some(Bytes::new()), Sealer::default()) };
        Ok(fits)
    }

    /// What the receiver checks against.
    ///
    /// # Panics
    /// When pages are left to read.
    #[must_use]
    pub fn seal(&self) -> SnapshotSeal {
        assert!(self.next.is_none(), "sealed before the last page was read");
        self.sealer.seal(self.now_ms)
    }
}
