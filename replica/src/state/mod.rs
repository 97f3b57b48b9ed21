//! The applied state of a group: a range of the state engine, and the machine over it.
//!
//! ```text
//!   StateStore::open(group: GroupId, engine: Arc<dyn Engine>, machine: M)
//!       -> Result<StateStore<M>, EngineError>             RaftStateMachine<TypeConfig>
//!   StateStore::handle(&self) -> StateHandle<M>           Clone; for Group::read and snapshots
//!   StateHandle::read(|&M, &dyn View| -> R) -> R          consistent cut
//!   StateHandle::stage_snapshot() -> StagedSnapshot       an incoming snapshot
//!   SnapshotData = Outgoing(OutgoingSnapshot) | Incoming(StagedSnapshot)
//! ```
