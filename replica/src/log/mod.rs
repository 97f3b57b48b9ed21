//! The Raft logs of all groups of a process in one engine, written by one writer.
//!
//! ```text
//!   LogWriter::start_thread(engine: Arc<dyn Engine>) -> LogWriter            production
//!   LogWriter::start_task(engine: Arc<dyn Engine>, pause: Pause) -> LogWriter   simulator
//!   LogStore::open(group: GroupId, engine: Arc<dyn Engine>, writer: LogWriter)
//!       -> Result<LogStore, EngineError>                  RaftLogStorage<TypeConfig>
//! ```
