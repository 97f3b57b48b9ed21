//! openraft's view of the state: apply, build a snapshot, install one.
//!
//! ```text
//!   build:    pin view and meta --> record the meta --> flush --> report
//!   install:  sealed generation --> [head, membership, meta] in one durable batch
//!                 --> machine restored from it --> old generation deleted
//! ```
//!
//! Invariant: a snapshot is reported only when a power cut would leave a state at least as new, so
//! the log below it can go. Installing switches by one batch.
//!
//! Not here: pages and how they travel.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{OptionalSend, RaftSnapshotBuilder, Snapshot};
use world::mutant::{Mutant, armed};
use world::{GroupId, UnixMs};

use crate::codec;
use crate::engine::{Batch, Engine, EngineError};
use crate::log::{Attachments, DurableNext};
use crate::machine::{Machine, PrefixView, prefix_end};
use crate::state::apply::gather;
use crate::state::hot::Hot;
use crate::state::keys::{self, Kind};
use crate::state::live::{Core, Current, Head, StateHandle, put_head};
use crate::state::page;
use crate::state::snapshot::{OutgoingSnapshot, SnapshotData};
use crate::state::stage::{StageError, StagedSnapshot};
use crate::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig};

type StateSnapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Bytes of a page when a snapshot is copied within this process.
const COPY_PAGE_BYTES: usize = 1 << 20;
/// Pairs of a page when they do not come from a snapshot.
const COPY_PAGE_PAIRS: usize = 1024;

/// The state of one group.
pub struct StateStore<M> {
    core: Arc<Core<M>>,
}

impl<M: Machine> StateStore<M> {
    /// Opens the group's state as it survived, and restores the machine from it.
    ///
    /// # Errors
    /// [`EngineError`].
    pub fn open(group: GroupId, engine: Arc<dyn Engine>, machine: M) -> Result<StateStore<M>, EngineError> {
        StateStore::open_beside(group, engine, machine, Arc::default())
    }

    /// The same for a group that shares its memory for hot pairs with the others of its node.
    ///
    /// # Errors
    /// [`EngineError`].
    pub(crate) fn open_beside(
        group: GroupId,
        engine: Arc<dyn Engine>,
        machine: M,
        hot: Arc<Hot>,
    ) -> Result<StateStore<M>, EngineError> {
        Ok(StateStore { core: Arc::new(Core::open(group, engine, machine, hot)?) })
    }

    /// Names the log beside this state: how far it is durable is recorded with what is applied, so
    /// that a log that has lost its end is found out; what its entries name is read from there.
    #[must_use]
    pub(crate) fn beside(self, log: DurableNext, attachments: Arc<Attachments>) -> StateStore<M> {
        let known = self.core.log.set(log).is_ok() && self.core.attachments.set(attachments).is_ok();
        assert!(known, "a state has one log");
        self
    }

    /// Access for everybody else: reads, and receiving snapshots.
    #[must_use]
    pub fn handle(&self) -> StateHandle<M> {
        StateHandle::new(Arc::clone(&self.core))
    }

    /// Puts a sealed generation in force.
    fn install(&self, meta: &SnapshotMeta, staged: StagedSnapshot) -> io::Result<()> {
        let core = &*self.core;
        let (generation, now_ms) = staged
            .ready(core.group)
            .ok_or_else(|| io::Error::other("the snapshot was not sealed for this group"))?;
        let mut live = core.live.write();
        if live.applied > meta.last_log_id {
            return Err(io::Error::other(format!("the snapshot {meta} is older than the state")));
        }
        let old_generation = live.generation;
        assert!(generation != old_generation, "a snapshot is received beside the state");
        let now = live.now.max(UnixMs(now_ms));
        let mut batch = Batch::with_capacity(3);
        // What the log lacks of it came with the snapshot.
        let head = Head { generation, applied: meta.last_log_id, now, logged_next: 0 };
        put_head(&mut batch, core.group, &head);
        let membership = codec::stored_membership_to_pb(&meta.last_membership);
        batch.put(keys::about(core.group, Kind::Membership), codec::store(&membership));
        put_reported(&mut batch, core.group, meta);
        core.engine.write_durable(batch)?;
        staged.into_installed();
        live.generation = generation;
        live.applied = meta.last_log_id;
        live.membership = meta.last_membership.clone();
        live.now = now;
        core.tell_now(&live);
        core.flushed_next.raise(live.applied.as_ref());
        let prefix = keys::state(core.group, generation);
        live.machine.restore(&PrefixView::new(&*core.engine, prefix))?;
        let data = OutgoingSnapshot::pin(&*core.engine, core.group, &live);
        drop(live);
        core.announce();
        core.report(Current { meta: meta.clone(), data });
        let old = keys::state(core.group, old_generation);
        let mut batch = Batch::with_capacity(1);
        batch.delete_range(old.clone(), prefix_end(&old));
        Ok(core.engine.write(batch)?)
    }

    /// Begins with these pairs, as if they had come with a snapshot.
    pub(crate) async fn plant(
        &mut self,
        meta: &SnapshotMeta,
        pairs: &[(Bytes, Bytes)],
        now: UnixMs,
    ) -> Result<(), EngineError> {
        let failed = |error: StageError| match error {
            StageError::Engine(error) => error,
            other => EngineError::Corrupt(other.to_string()),
        };
        let mut staged = self.handle().stage_snapshot();
        for some in pairs.chunks(COPY_PAGE_PAIRS) {
            let mut page = BytesMut::new();
            some.iter().for_each(|(key, value)| page::push(&mut page, key, value));
            staged.write_page(page.freeze()).map_err(failed)?;
        }
        staged.seal_as_arrived(now.0).map_err(failed)?;
        let installed = self.install_snapshot(meta, SnapshotData::Incoming(staged)).await;
        installed.map_err(|error| EngineError::Failed(error.to_string()))
    }

    /// Receives a snapshot taken in this process, page by page like any other.
    fn copy(&self, mut outgoing: OutgoingSnapshot) -> io::Result<StagedSnapshot> {
        let mut staged = self.handle().stage_snapshot();
        while let Some(page) = outgoing.next_page(COPY_PAGE_BYTES)? {
            staged.write_page(page).map_err(io::Error::other)?;
        }
        staged.seal(&outgoing.seal()).map_err(io::Error::other)?;
        Ok(staged)
    }
}

impl<M: Machine> RaftStateMachine<TypeConfig> for StateStore<M> {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = StateBuilder<M>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let live = self.core.live.read();
        Ok((live.applied, live.membership.clone()))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        // The last run ends by finding the stream's end, and the next look must not poll it again.
        let mut entries = entries.fuse();
        loop {
            let run = gather(&mut entries).await?;
            if run.is_empty() {
                return Ok(());
            }
            let answers = self.core.apply_run(run)?;
            self.core.announce();
            for (responder, replies) in answers {
                responder.send(replies);
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> StateBuilder<M> {
        // Between two runs: nothing is applied while openraft waits for this.
        let live = self.core.live.read();
        let data = OutgoingSnapshot::pin(&*self.core.engine, self.core.group, &live);
        StateBuilder { core: Arc::clone(&self.core), meta: live.meta(), data }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let staged = match snapshot {
            SnapshotData::Incoming(staged) => staged,
            SnapshotData::Outgoing(outgoing) => self.copy(outgoing)?,
        };
        self.install(meta, staged)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<StateSnapshot>, io::Error> {
        let current = self.core.current.lock();
        Ok(current.as_ref().map(|current| Snapshot {
            meta: current.meta.clone(),
            snapshot: SnapshotData::Outgoing(current.data.clone()),
        }))
    }
}

/// A snapshot that is pinned and not yet durable.
pub struct StateBuilder<M> {
    core: Arc<Core<M>>,
    meta: SnapshotMeta,
    data: OutgoingSnapshot,
}

impl<M: Machine> RaftSnapshotBuilder<TypeConfig> for StateBuilder<M> {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<StateSnapshot, io::Error> {
        let core = &*self.core;
        // Written before the flush: when the record survives, so does everything applied before.
        let mut batch = Batch::with_capacity(1);
        put_reported(&mut batch, core.group, &self.meta);
        core.engine.write(batch)?;
        if !armed(Mutant::SnapshotNotFlushed) {
            core.engine.flush()?;
        }
        core.flushed_next.raise(self.meta.last_log_id.as_ref());
        core.report(Current { meta: self.meta.clone(), data: self.data.clone() });
        Ok(Snapshot { meta: self.meta.clone(), snapshot: SnapshotData::Outgoing(self.data.clone()) })
    }
}

/// Records that a snapshot was reported. A snapshot of nothing leaves no record.
fn put_reported(batch: &mut Batch, group: GroupId, meta: &SnapshotMeta) {
    if let Some(id) = &meta.last_log_id {
        let stored: Bytes = codec::store(&codec::log_id_to_pb(id));
        batch.put(keys::about(group, Kind::Snapshot), stored);
    }
}
