//! A group's state as it was at one applied index, for readers that take long.
//!
//! Invariant: nothing that is applied later shows, and nothing waits for the reader.
//!
//! Not here: how long it may be held. It keeps old versions on disk: drop it soon.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{EngineError, View, Visit};
use crate::machine::PrefixView;

/// The pinned state; clones share it.
#[derive(Clone)]
pub struct PinnedState {
    view: Arc<dyn View>,
    prefix: Bytes,
}

impl PinnedState {
    pub(super) fn new(view: Arc<dyn View>, prefix: Bytes) -> PinnedState {
        PinnedState { view, prefix }
    }

    fn range(&self) -> PrefixView<'_> {
        PrefixView::new(&*self.view, self.prefix.clone())
    }
}

impl View for PinnedState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.range().get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], reverse: bool, visit: Visit<'_>) -> Result<(), EngineError> {
        self.range().scan(from, to, reverse, visit)
    }
}
