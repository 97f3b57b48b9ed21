//! One group's log, as openraft writes it.
//!
//! ```text
//!   append          encode -> tail cache -> queue -> return      callback when durable
//!   save_vote       queue -> durable -> visible -> return
//!   truncate/purge  tail -> queue -> durable -> return
//!   save_committed  queue -> return                              durable with whatever comes next
//! ```
//!
//! An entry is appended only when the attachment that it names is there, and goes together with it.
//!
//! Invariant: entries are readable when `append` returns and acknowledged only when durable; the
//! log never has a hole; it is never purged beyond what the state engine holds durably.
//!
//! Not here: fsync (`writer`), reads (`reader`).

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use parking_lot::Mutex;
use world::GroupId;
use world::mutant::{Mutant, armed};

use crate::codec::{self, pb};
use crate::engine::{Batch, Engine, EngineError, View};
use crate::log::attachments::{Attachments, Named};
use crate::log::footprint::Footprint;
use crate::log::keys::{self, Kind};
use crate::log::promise::Promise;
use crate::log::reader::{self, LogReader, Shared};
use crate::log::tail::Tail;
use crate::log::writer::{Done, DurableNext, LogWriter};
use crate::state::FlushedNext;
use crate::types::{Attachment, Entry, LogId, TypeConfig, Vote};

/// Bytes of durable entries kept in memory per group, so that replication rarely reads the disk.
const CACHE_BYTES_MAX: usize = 8 << 20;

/// The log of one group.
pub struct LogStore {
    shared: Arc<Shared>,
    writer: LogWriter,
    durable_next: DurableNext,
    flushed_next: Option<FlushedNext>,
    attachments: Arc<Attachments>,
    cache_bytes_max: usize,
}

impl LogStore {
    /// Reads where the group's log stands and opens it for writing through `writer`, which must
    /// write to the same engine.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when the log contradicts itself.
    pub fn open(group: GroupId, engine: Arc<dyn Engine>, writer: LogWriter) -> Result<LogStore, EngineError> {
        let (tail, named) = recover(group, &*engine)?;
        let attachments = Attachments::open(group, Arc::clone(&engine), writer.clone(), &named)?;
        let attachments = Arc::new(attachments);
        let durable_next = Arc::new(AtomicU64::new(tail.next));
        let shared = Arc::new(Shared { group, engine, tail: Mutex::new(tail) });
        let cache_bytes_max = CACHE_BYTES_MAX;
        Ok(LogStore { shared, writer, durable_next, flushed_next: None, attachments, cache_bytes_max })
    }

    /// Refuses purges beyond what the group's state engine holds durably. openraft should never
    /// ask for one; without the log those entries would be lost by a power cut.
    #[must_use]
    pub fn guarded_by(mut self, flushed_next: FlushedNext) -> LogStore {
        self.flushed_next = Some(flushed_next);
        self
    }

    /// The group's promise, which is kept beside its log.
    pub(crate) fn promise(&self) -> Promise {
        Promise::new(self.shared.group, Arc::clone(&self.shared.engine), self.writer.clone())
    }

    /// What its entries name.
    pub(crate) fn attachments(&self) -> Arc<Attachments> {
        Arc::clone(&self.attachments)
    }

    /// Says below which index the log is durable.
    pub(crate) fn durable_next(&self) -> DurableNext {
        Arc::clone(&self.durable_next)
    }

    /// Says how much of the disk the log takes.
    pub(crate) fn extent(&self) -> LogExtent {
        LogExtent { shared: Arc::clone(&self.shared) }
    }

    /// The last entry that was purged, and the last one there is.
    pub(crate) fn ends(&self) -> (Option<LogId>, Option<LogId>) {
        let tail = self.shared.tail.lock();
        (tail.purged, tail.last)
    }

    /// Changes how many bytes of durable entries stay in memory.
    #[must_use]
    pub fn with_cache_bytes_max(mut self, cache_bytes_max: usize) -> LogStore {
        self.cache_bytes_max = cache_bytes_max;
        self
    }

    fn put_single<M: prost::Message>(&self, kind: Kind, message: &M) -> Batch {
        let mut batch = Batch::with_capacity(1);
        let key = keys::single(self.shared.group, kind);
        batch.put(Bytes::copy_from_slice(&key), codec::store(message));
        batch
    }

    /// Encodes entries into as few allocations as possible: one buffer for all keys, one that
    /// grows for all values. Returns the batch and each value's size.
    fn encode(&self, entries: &[Entry]) -> (Batch, Vec<usize>) {
        let mut batch = Batch::with_capacity(entries.len());
        let mut sizes = Vec::with_capacity(entries.len());
        let mut keys = BytesMut::with_capacity(entries.len() * keys::KEY_LEN);
        let mut values = BytesMut::new();
        for entry in entries {
            keys.extend_from_slice(&keys::entry(self.shared.group, entry.index()));
            codec::store_into(&codec::entry_to_pb(entry), &mut values);
            sizes.push(values.len());
            batch.put(keys.split().freeze(), values.split().freeze());
        }
        (batch, sizes)
    }

    fn delete_entries(&self, range: &std::ops::Range<u64>) -> Batch {
        let mut batch = Batch::with_capacity(2);
        batch.delete_range(
            Bytes::copy_from_slice(&keys::entry(self.shared.group, range.start)),
            Bytes::copy_from_slice(&keys::entry(self.shared.group, range.end)),
        );
        batch
    }

    fn check_purge(&self, upto: &LogId) -> io::Result<()> {
        let Some(flushed_next) = &self.flushed_next else { return Ok(()) };
        let flushed_next = flushed_next.get();
        if upto.index < flushed_next {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "purge up to {upto} refused: the state is durable only below index {flushed_next}"
        )))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.shared.tail.lock();
        Ok(LogState { last_purged_log_id: tail.purged, last_log_id: tail.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let batch = self.put_single(Kind::Vote, &codec::vote_to_pb(vote));
        if armed(Mutant::VoteNotDurable) {
            self.writer.submit(batch, Done::Lazy)?;
        } else {
            self.writer.write(batch, None).await?;
        }
        self.shared.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let batch = match &committed {
            Some(id) => self.put_single(Kind::Committed, &codec::log_id_to_pb(id)),
            None => {
                let mut batch = Batch::with_capacity(1);
                let key = keys::single(self.shared.group, Kind::Committed);
                batch.delete(Bytes::copy_from_slice(&key));
                batch
            }
        };
        self.writer.submit(batch, Done::Lazy)?;
        self.shared.tail.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.shared.tail.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        for entry in &entries {
            if let Some(attachment) = Attachment::named_by(entry)
                && !self.attachments.named(&attachment, entry.index())
            {
                let id = entry.log_id();
                return Err(io::Error::other(format!("entry {id} names {attachment}, which is not there")));
            }
        }
        let (batch, sizes) = self.encode(&entries);
        let next = {
            let mut tail = self.shared.tail.lock();
            for (entry, size) in entries.into_iter().zip(sizes) {
                let index = entry.index();
                if !tail.accepts(index) {
                    let expected = tail.next;
                    return Err(io::Error::other(format!(
                        "entry {index} would leave a hole, expected {expected}"
                    )));
                }
                tail.push(entry, size);
            }
            tail.evict(self.cache_bytes_max, self.durable_next.load(Ordering::Acquire));
            tail.next
        };
        let done = Done::Appended(callback, Arc::clone(&self.durable_next), next);
        self.writer.submit(batch, done)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let gone = self.shared.tail.lock().truncate_after(last_log_id);
        let Some(gone) = gone else { return Ok(()) };
        let batch = self.delete_entries(&gone);
        self.writer.write(batch, Some((Arc::clone(&self.durable_next), gone.start))).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.check_purge(&log_id)?;
        let (gone, next) = {
            let mut tail = self.shared.tail.lock();
            (tail.purge(log_id), tail.next)
        };
        let Some(gone) = gone else { return Ok(()) };
        let mut batch = self.delete_entries(&gone);
        batch.append(self.put_single(Kind::Purged, &codec::log_id_to_pb(&log_id)));
        let _turn = self.attachments.purge(log_id.index).map(|(removed, turn)| {
            batch.append(removed);
            turn
        });
        // Everything queued before is durable by then; nothing is appended while this is awaited.
        self.writer.write(batch, Some((Arc::clone(&self.durable_next), next))).await
    }
}

/// Where the group's log stands on disk. All of it is read: a log with a hole or a flipped bit is
/// found before anything is promised on it.
fn recover(group: GroupId, view: &dyn View) -> Result<(Tail, Named), EngineError> {
    let purged = load_log_id(group, Kind::Purged, view)?;
    let (footprint, named) = (Footprint::default(), Named::default());
    let mut walk = Walk { group, first: None, last: purged, footprint, named };
    let mut outcome = Ok(());
    let (from, to) = (keys::entry(group, 0), keys::entries_end(group));
    view.scan(&from, &to, false, &mut |key, value| {
        outcome = walk.step(key, value);
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    let span = walk.first.zip(walk.last);
    let mut tail = Tail::recovered(purged, span);
    tail.footprint = walk.footprint;
    tail.committed = load_log_id(group, Kind::Committed, view)?;
    tail.vote = match view.get(&keys::single(group, Kind::Vote))? {
        Some(stored) => Some(codec::vote_from_pb(&codec::load(stored)?)),
        None => None,
    };
    Ok((tail, walk.named))
}

/// Reading a log from its beginning.
struct Walk {
    group: GroupId,
    first: Option<u64>,
    /// The entry before the next one, or what was purged.
    last: Option<LogId>,
    footprint: Footprint,
    named: Named,
}

impl Walk {
    fn step(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let group = self.group;
        let corrupt = |text: String| Err(EngineError::Corrupt(format!("{group}: {text}")));
        let entry = reader::decode(value)?;
        let id = entry.log_id();
        if keys::entry_index(key) != Some(id.index) {
            return corrupt(format!("entry {id} under another index"));
        }
        match self.last {
            Some(last) if last.index + 1 != id.index => {
                return corrupt(format!("entry {} is missing from the log", last.index + 1));
            }
            Some(last) if last.leader_id > id.leader_id => {
                return corrupt(format!("entry {id} follows {last}, which is of a later leader"));
            }
            _ => {}
        }
        if let Some(attachment) = Attachment::named_by(&entry) {
            self.named.insert(attachment.hash, (attachment, id.index));
        }
        self.first.get_or_insert(id.index);
        self.last = Some(id);
        self.footprint.push(id.index, value.len());
        Ok(())
    }
}

fn load_log_id(group: GroupId, kind: Kind, view: &dyn View) -> Result<Option<LogId>, EngineError> {
    let Some(stored) = view.get(&keys::single(group, kind))? else { return Ok(None) };
    let id: pb::LogId = codec::load(stored)?;
    Ok(Some(codec::log_id_from_pb(&id)))
}

/// How much of the disk a group's log takes.
#[derive(Clone)]
pub(crate) struct LogExtent {
    shared: Arc<Shared>,
}

impl LogExtent {
    /// Bytes of the entries from `index` on, roughly.
    pub(crate) fn bytes_from(&self, index: u64) -> u64 {
        self.shared.tail.lock().footprint.bytes_from(index)
    }

    /// An index from which on the entries take at most `bytes`.
    pub(crate) fn first_within(&self, bytes: u64) -> u64 {
        let tail = self.shared.tail.lock();
        tail.footprint.first_within(bytes).unwrap_or(tail.next)
    }
}
