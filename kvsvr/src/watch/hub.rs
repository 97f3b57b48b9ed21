//! Reads what was applied, once for all watches of a group, and wakes whom it concerns.
//!
//! ```text
//!   applied index changes --> replay(head + 1) --> ring
//!                                    '--> interests --> slot of each stream concerned: first, notify
//!   stream: take() --> (head, first) --> read(first) from the ring, or replay from the store
//! ```
//! Nothing is read while nobody watches, and a stream whose keys are not written is not woken.
//!
//! Invariant: after `take` answers no `first`, nothing through `head` concerns the stream, as far
//! as it had registered before. The lock orders registering, feeding and taking.
//!
//! Not here: what a stream does with it (`session`, `etcd::watch`).

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use replica::engine::EngineError;
use tokio::sync::Notify;

use super::interests::Interests;
use super::ring::Ring;
use super::span::Span;
use super::{Change, Page};
use crate::group::{KvGroup, read_long_with, read_with};
use crate::limits::{WATCH_PAGE_BYTES, WATCH_RING_BYTES};
use crate::machine::control;
use crate::machine::control::history::{self, Replay};
use crate::wire::mvccpb::KeyValue;

/// What a group's member has applied, for its watches.
pub struct Hub {
    group: Arc<dyn KvGroup>,
    shared: Mutex<Shared>,
    // Somebody left; the feed ends when nobody is left.
    left: Notify,
}

struct Shared {
    ring: Ring,
    interests: Interests<u64>,
    slots: BTreeMap<u64, Slot>,
    slot_next: u64,
    feeding: bool,
    failed: Option<EngineError>,
}

/// What the hub keeps for one stream.
struct Slot {
    notify: Arc<Notify>,
    // The earliest revision that concerns the stream and that it has not taken.
    first: Option<i64>,
    // Wake it when the head gets there, whatever happened.
    wake_at: Option<i64>,
    // How many of its watches watch each span.
    spans: BTreeMap<Span, usize>,
}

/// What a stream finds when it looks.
pub struct Taken {
    /// Everything through here has been looked at.
    pub head: i64,
    /// The earliest revision since the last look that concerns the stream.
    pub first: Option<i64>,
}

/// A stream's place at the hub; it is given up when dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    id: u64,
    notify: Arc<Notify>,
}

impl Hub {
    /// A hub over a member of a control group.
    pub fn new(group: Arc<dyn KvGroup>) -> Arc<Hub> {
        let shared = Shared {
            ring: Ring::new(0, WATCH_RING_BYTES),
            interests: Interests::default(),
            slots: BTreeMap::new(),
            slot_next: 0,
            feeding: false,
            failed: None,
        };
        Arc::new(Hub { group, shared: Mutex::new(shared), left: Notify::new() })
    }

    /// The store's revision as this member has applied it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn revision(&self) -> Result<i64, EngineError> {
        read_with(&*self.group, control::revision)
    }

    /// A place for a stream. Must be called within the runtime.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn subscribe(self: &Arc<Self>) -> Result<Subscription, EngineError> {
        let mut shared = self.shared.lock();
        if !shared.feeding {
            shared.ring = Ring::new(self.revision()?, WATCH_RING_BYTES);
            shared.failed = None;
            shared.feeding = true;
            tokio::spawn(Arc::clone(self).feed());
        }
        let id = shared.slot_next;
        shared.slot_next += 1;
        let notify = Arc::new(Notify::new());
        let slot = Slot { notify: Arc::clone(&notify), first: None, wake_at: None, spans: BTreeMap::new() };
        shared.slots.insert(id, slot);
        Ok(Subscription { hub: Arc::clone(self), id, notify })
    }

    async fn feed(self: Arc<Self>) {
        let mut applied = self.group.applied();
        loop {
            applied.borrow_and_update();
            match self.catch_up() {
                Ok(true) => {}
                // More than a page: others may run in between.
                Ok(false) => {
                    tokio::task::yield_now().await;
                    applied.mark_changed();
                }
                Err(error) => return self.fail(error),
            }
            tokio::select! {
                changed = applied.changed() => {
                    if changed.is_err() {
                        return self.fail(EngineError::Failed("the member has stopped".to_owned()));
                    }
                }
                () = self.left.notified() => {
                    let mut shared = self.shared.lock();
                    if shared.slots.is_empty() {
                        shared.feeding = false;
                        return;
                    }
                }
            }
        }
    }

    // Takes one page of what is new into the ring. Answers whether that was all.
    fn catch_up(&self) -> Result<bool, EngineError> {
        let from = self.shared.lock().ring.head() + 1;
        let (replay, newest) = read_with(&*self.group, |view| {
            Ok::<_, EngineError>((history::replay(view, from, WATCH_PAGE_BYTES)?, control::revision(view)?))
        })?;
        let mut shared = self.shared.lock();
        assert!(shared.ring.head() + 1 == from, "only the feed moves the head");
        match replay {
            Replay::Page { events, through } => {
                let page = Page { changes: events.into_iter().map(Change::new).collect(), through };
                shared.add(&page);
                Ok(through == newest)
            }
            // A snapshot brought the member past what was compacted elsewhere.
            Replay::Compacted(_) => {
                shared.ring = Ring::new(newest, WATCH_RING_BYTES);
                shared.slots.values_mut().for_each(|slot| slot.concern(from));
                Ok(true)
            }
        }
    }

    fn fail(&self, error: EngineError) {
        tracing::error!(%error, "watches end: history cannot be read");
        let mut shared = self.shared.lock();
        shared.feeding = false;
        shared.failed = Some(error);
        shared.slots.values().for_each(|slot| slot.notify.notify_one());
    }

    /// A page of history from the store.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn replay(&self, from: i64) -> Result<Result<Page, i64>, EngineError> {
        let replay = read_long_with(&*self.group, |view| history::replay(view, from, WATCH_PAGE_BYTES))?;
        Ok(match replay {
            Replay::Page { events, through } => {
                Ok(Page { changes: events.into_iter().map(Change::new).collect(), through })
            }
            Replay::Compacted(revision) => Err(revision),
        })
    }

    /// The pair before a change; `None` when there was none, or it is not kept any more.
    ///
    /// # Errors
    /// [`EngineError`]: that it cannot be read does not mean that it was not there.
    pub fn before(&self, change: &Change) -> Result<Option<KeyValue>, EngineError> {
        if let Some(known) = change.before.get() {
            return Ok(known.clone());
        }
        let pair = read_with(&*self.group, |view| history::before(view, &change.event))?;
        Ok(change.before.get_or_init(|| pair).clone())
    }
}

impl Shared {
    fn add(&mut self, page: &Page) {
        let mut concerned: BTreeMap<u64, i64> = BTreeMap::new();
        for change in &page.changes {
            let revision = change.revision();
            self.interests.each(&change.event.pair.key, &mut |id| {
                concerned.entry(id).or_insert(revision);
            });
        }
        self.ring.push(page);
        for (id, first) in concerned {
            self.slots.get_mut(&id).expect("interests go with the slot").concern(first);
        }
        for slot in self.slots.values_mut().filter(|slot| slot.wake_at.is_some()) {
            if slot.wake_at.take_if(|revision| *revision <= page.through).is_some() {
                slot.notify.notify_one();
            }
        }
    }
}

impl Slot {
    fn concern(&mut self, revision: i64) {
        self.first = Some(self.first.map_or(revision, |first| first.min(revision)));
        self.notify.notify_one();
    }
}

impl Subscription {
    /// The hub this is a place at.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Returns when there may be something to take. It may be nothing.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// From now on the stream wants to hear of these keys.
    pub fn register(&self, span: &Span) {
        let mut shared = self.hub.shared.lock();
        let slot = shared.slots.get_mut(&self.id).expect("a subscription has its slot");
        *slot.spans.entry(span.clone()).or_insert(0) += 1;
        shared.interests.add(span, self.id);
    }

    /// One watch less for these keys.
    pub fn unregister(&self, span: &Span) {
        let mut shared = self.hub.shared.lock();
        let slot = shared.slots.get_mut(&self.id).expect("a subscription has its slot");
        let count = slot.spans.get_mut(span).expect("what is unregistered was registered");
        *count -= 1;
        if *count == 0 {
            slot.spans.remove(span);
            shared.interests.remove(span, self.id);
        }
    }

    /// What has happened since the last look.
    ///
    /// # Errors
    /// [`EngineError`] when history could not be read; the stream has to end.
    pub fn take(&self) -> Result<Taken, EngineError> {
        let mut shared = self.hub.shared.lock();
        if let Some(error) = &shared.failed {
            return Err(error.clone());
        }
        let head = shared.ring.head();
        let slot = shared.slots.get_mut(&self.id).expect("a subscription has its slot");
        Ok(Taken { head, first: slot.first.take() })
    }

    /// Wakes the stream when the head reaches `revision`, whatever happens until then.
    pub fn wake_at(&self, revision: i64) {
        let mut shared = self.hub.shared.lock();
        let reached = shared.ring.head() >= revision;
        let slot = shared.slots.get_mut(&self.id).expect("a subscription has its slot");
        if reached {
            slot.notify.notify_one();
        } else {
            slot.wake_at = Some(slot.wake_at.map_or(revision, |at| at.min(revision)));
        }
    }

    /// A page from the ring; `None` when the store has to be asked.
    #[must_use]
    pub fn read(&self, from: i64) -> Option<Page> {
        self.hub.shared.lock().ring.read(from, WATCH_PAGE_BYTES)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut shared = self.hub.shared.lock();
        let slot = shared.slots.remove(&self.id).expect("a subscription has its slot");
        for span in slot.spans.keys() {
            shared.interests.remove(span, self.id);
        }
        drop(shared);
        self.hub.left.notify_one();
    }
}
