//! What is in force: the machine, where it stands, and what store, snapshots and readers share.
//!
//! Invariant: `Live` is what the engine holds for the generation in force; both change only under
//! the write lock. The engine's live view under the read lock is therefore a consistent cut, and
//! needs no pinned view.
//!
//! Not here: openraft's traits (`store`), how entries are applied (`apply`).

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use world::{GroupId, UnixMs};

use crate::codec::{self, pb};
use crate::engine::{Batch, Engine, EngineError, View};
use crate::log::{Attachments, DurableNext};
use crate::machine::{Machine, PrefixView};
use crate::state::hot::{Hot, HotView};
use crate::state::keys::{self, Kind};
use crate::state::snapshot::OutgoingSnapshot;
use crate::state::stage::StagedSnapshot;
use crate::types::{LogId, SnapshotMeta, StoredMembership};

/// Entries below this index are applied in the state as a power cut would leave it.
#[derive(Clone, Debug, Default)]
pub struct FlushedNext(Arc<AtomicU64>);

impl FlushedNext {
    /// The first index that is not known to be applied durably.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn raise(&self, applied: Option<&LogId>) {
        self.0.fetch_max(applied.map_or(0, |id| id.index + 1), Ordering::AcqRel);
    }
}

/// The machine and where it stands.
pub(super) struct Live<M> {
    pub(super) machine: M,
    pub(super) generation: u32,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) now: UnixMs,
}

impl<M> Live<M> {
    pub(super) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}

/// A snapshot that was reported to openraft.
pub(super) struct Current {
    pub(super) meta: SnapshotMeta,
    pub(super) data: OutgoingSnapshot,
}

pub(super) struct Core<M> {
    pub(super) group: GroupId,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) live: RwLock<Live<M>>,
    /// Pairs of the generation in force, among those of other groups.
    pub(super) hot: Arc<Hot>,
    pub(super) flushed_next: FlushedNext,
    pub(super) current: Mutex<Option<Current>>,
    /// How far the log beside it is durable.
    pub(super) log: OnceLock<DurableNext>,
    /// What the entries of that log name.
    pub(super) attachments: OnceLock<Arc<Attachments>>,
    /// What the log must hold at least, as the state was found.
    logged_next: u64,
    /// The applied index, told to whoever waits for it; see [`Core::announce`].
    announced: watch::Sender<u64>,
    generation_next: AtomicU32,
    /// `Live::now`, for those who must not wait for the lock.
    applied_ms: AtomicU64,
}

impl<M: Machine> Core<M> {
    /// Reads what survived, drops what was unfinished, restores the machine.
    pub(super) fn open(
        group: GroupId,
        engine: Arc<dyn Engine>,
        mut machine: M,
        hot: Arc<Hot>,
    ) -> Result<Core<M>, EngineError> {
        let head: pb::StateHead = load(&*engine, group, Kind::Head)?.unwrap_or(pb::StateHead {
            generation: keys::GENERATION_FIRST,
            applied: None,
            now_ms: 0,
            logged_next: 0,
        });
        if head.generation < keys::GENERATION_FIRST {
            return Err(EngineError::Corrupt(format!("{group}: the head names no generation")));
        }
        let membership = match load(&*engine, group, Kind::Membership)? {
            Some(stored) => codec::stored_membership_from_pb(stored)?,
            None => StoredMembership::default(),
        };
        drop_other_generations(group, &*engine, head.generation)?;
        let prefix = keys::state(group, head.generation);
        machine.restore(&PrefixView::new(&*engine, prefix))?;
        let live = Live {
            machine,
            generation: head.generation,
            applied: head.applied.as_ref().map(codec::log_id_from_pb),
            membership,
            now: UnixMs(head.now_ms),
        };
        let flushed_next = FlushedNext::default();
        flushed_next.raise(live.applied.as_ref());
        // All of what survived is durable, so it is itself a snapshot, at least as new as the one
        // that was reported before the restart.
        let reported: Option<pb::LogId> = load(&*engine, group, Kind::Snapshot)?;
        let current = reported
            .map(|_| Current { meta: live.meta(), data: OutgoingSnapshot::pin(&*engine, group, &live) });
        Ok(Core {
            group,
            engine,
            hot,
            flushed_next,
            current: Mutex::new(current),
            log: OnceLock::new(),
            attachments: OnceLock::new(),
            logged_next: head.logged_next,
            announced: watch::Sender::new(live.applied.as_ref().map_or(0, |id| id.index)),
            generation_next: AtomicU32::new(live.generation + 1),
            applied_ms: AtomicU64::new(live.now.0),
            live: RwLock::new(live),
        })
    }

    /// Entries below this are applied and durable in the log. Whatever is applied is committed, so
    /// they stay.
    pub(super) fn logged(&self, applied: Option<LogId>) -> u64 {
        let applied_next = applied.map_or(0, |id| id.index + 1);
        self.log.get().map_or(0, |log| log.load(Ordering::Acquire).min(applied_next))
    }

    /// Tells the clock of what is applied. Under the write lock: whoever reads the state finds it told.
    pub(super) fn tell_now(&self, live: &Live<M>) {
        let before = self.applied_ms.swap(live.now.0, Ordering::AcqRel);
        assert!(before <= live.now.0, "{}: the clock went back from {before} to {}", self.group, live.now);
    }

    /// A generation that nobody uses.
    pub(super) fn new_generation(&self) -> u32 {
        let generation = self.generation_next.fetch_add(1, Ordering::Relaxed);
        assert!(generation < u32::MAX, "a group receives far fewer than 2^32 snapshots");
        generation
    }

    /// Tells how far the state is, after a run was applied or a snapshot put in force. What is told
    /// can be read: never call it before the engine has taken the batch.
    pub(super) fn announce(&self) {
        let applied = self.live.read().applied.as_ref().map_or(0, |id| id.index);
        let before = self.announced.send_replace(applied);
        assert!(before <= applied, "{}: the state went back from {before} to {applied}", self.group);
    }

    /// Replaces the reported snapshot unless it is newer than this one.
    pub(super) fn report(&self, current: Current) {
        let mut reported = self.current.lock();
        let newer = reported.as_ref().is_none_or(|old| old.meta.last_log_id <= current.meta.last_log_id);
        if newer {
            *reported = Some(current);
        }
    }
}

/// The state of a group at one applied index. Old versions stay on disk while it is held.
pub struct PinnedState {
    view: Arc<dyn View>,
    prefix: Bytes,
}

impl PinnedState {
    /// The machine's key space.
    #[must_use]
    pub fn view(&self) -> PrefixView<'_> {
        PrefixView::new(&*self.view, self.prefix.clone())
    }
}

/// Access to a group's machine and state; clones share it.
pub struct StateHandle<M> {
    core: Arc<Core<M>>,
}

impl<M> Clone for StateHandle<M> {
    fn clone(&self) -> StateHandle<M> {
        StateHandle { core: Arc::clone(&self.core) }
    }
}

impl<M: Machine> StateHandle<M> {
    pub(super) fn new(core: Arc<Core<M>>) -> StateHandle<M> {
        StateHandle { core }
    }

    /// Reads machine and durable state at one applied index. Applying waits meanwhile: read what
    /// is needed and return.
    pub fn read<R>(&self, read: impl FnOnce(&M, &dyn View) -> R) -> R {
        let live = self.core.live.read();
        let prefix = keys::state(self.core.group, live.generation);
        let engine = HotView::new(&*self.core.engine, &self.core.hot);
        read(&live.machine, &PrefixView::new(&engine, prefix))
    }

    /// The durable state at one applied index, as it is now and stays: for reads that take long.
    /// Applying does not wait for them.
    #[must_use]
    pub fn pin(&self) -> PinnedState {
        let live = self.core.live.read();
        PinnedState {
            view: self.core.engine.snapshot(),
            prefix: keys::state(self.core.group, live.generation),
        }
    }

    /// The last entry that was applied.
    #[must_use]
    pub fn applied(&self) -> Option<LogId> {
        self.core.live.read().applied
    }

    /// The log had durably held every entry below this when the state was written that was found at
    /// start; none of them can have been taken back since.
    #[must_use]
    pub(crate) fn logged_next(&self) -> u64 {
        self.core.logged_next
    }

    /// The index of the last entry that was applied, whenever it changes. Closed when the group has
    /// stopped and nobody holds its state any more.
    #[must_use]
    pub fn announcements(&self) -> watch::Receiver<u64> {
        self.core.announced.subscribe()
    }

    /// The largest clock of any applied proposal. Does not wait for what is being applied.
    #[must_use]
    pub fn now(&self) -> UnixMs {
        UnixMs(self.core.applied_ms.load(Ordering::Acquire))
    }

    /// How far the state is durable: the limit of purging the log.
    #[must_use]
    pub fn flushed_next(&self) -> FlushedNext {
        self.core.flushed_next.clone()
    }

    /// Begins to receive a snapshot. Nothing changes until it is installed; dropping it gives up.
    pub fn stage_snapshot(&self) -> StagedSnapshot {
        let generation = self.core.new_generation();
        StagedSnapshot::begin(self.core.group, Arc::clone(&self.core.engine), generation)
    }
}

/// Where a group stands.
pub(super) struct Head {
    pub(super) generation: u32,
    pub(super) applied: Option<LogId>,
    pub(super) now: UnixMs,
    pub(super) logged_next: u64,
}

/// Records where a group stands.
pub(super) fn put_head(batch: &mut Batch, group: GroupId, head: &Head) {
    let applied = head.applied.as_ref().map(codec::log_id_to_pb);
    let head = pb::StateHead {
        generation: head.generation,
        applied,
        now_ms: head.now.0,
        logged_next: head.logged_next,
    };
    batch.put(keys::about(group, Kind::Head), codec::store(&head));
}

fn load<T: prost::Message + Default>(
    view: &dyn View,
    group: GroupId,
    kind: Kind,
) -> Result<Option<T>, EngineError> {
    let stored = view.get(&keys::about(group, kind))?;
    Ok(stored.map(codec::load).transpose()?)
}

/// Deletes generations that were being received, or given up, when the process ended.
fn drop_other_generations(group: GroupId, engine: &dyn Engine, current: u32) -> Result<(), EngineError> {
    for (from, to) in keys::other_generations(group, current) {
        let mut stale = false;
        engine.scan(&from, &to, false, &mut |_, _| {
            stale = true;
            ControlFlow::Break(())
        })?;
        if stale {
            let mut batch = Batch::with_capacity(1);
            batch.delete_range(from, to);
            engine.write(batch)?;
        }
    }
    Ok(())
}
