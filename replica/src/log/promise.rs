//! To whom this member has promised that it may form the group.
//!
//! A group is formed once, by a founder that has the promise of every voter, its own included. A
//! member gives its promise to one founder only, durably, before it answers. So of two founders (a
//! founder whose disk was exchanged in between, or two nodes that disagree about who it is) at most
//! one ever gets all promises, as long as one of the disks that gave one is still there.
//!
//! Invariant: the answer never changes once it was given.
//!
//! Not here: asking for promises and what follows (`formation`).

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use world::GroupId;

use crate::codec::{self, pb};
use crate::engine::{Batch, Engine, EngineError};
use crate::log::keys::{self, Kind};
use crate::log::writer::LogWriter;

/// One group's promise on this disk.
pub(crate) struct Promise {
    group: GroupId,
    engine: Arc<dyn Engine>,
    writer: LogWriter,
    /// Reading and writing it is one step.
    turn: tokio::sync::Mutex<()>,
}

impl Promise {
    pub(super) fn new(group: GroupId, engine: Arc<dyn Engine>, writer: LogWriter) -> Promise {
        Promise { group, engine, writer, turn: tokio::sync::Mutex::new(()) }
    }

    /// To whom the promise was given, as a Raft id.
    pub(crate) fn given(&self) -> Result<Option<u64>, EngineError> {
        let Some(stored) = self.engine.get(&keys::single(self.group, Kind::Promise))? else {
            return Ok(None);
        };
        let promise: pb::Promise = codec::load(stored)?;
        Ok(Some(promise.founder))
    }

    /// Gives the promise to `founder` unless it was given before; answers to whom it was given.
    pub(crate) async fn give(&self, founder: u64) -> io::Result<u64> {
        let _turn = self.turn.lock().await;
        if let Some(given) = self.given()? {
            return Ok(given);
        }
        let mut batch = Batch::with_capacity(1);
        let key = keys::single(self.group, Kind::Promise);
        batch.put(Bytes::copy_from_slice(&key), codec::store(&pb::Promise { founder }));
        self.writer.write(batch, None).await?;
        Ok(founder)
    }
}
