//! The attachments of one group: bytes that entries of the log name and that lie beside it.
//!
//! ```text
//!   put      pieces, durable one after the other -> record, durable -> there
//!   named    an entry that names it may be appended: kept until the log is purged behind that entry
//!   purge    what no entry in the log names any more goes with the entries, in one batch
//!   open     what is there and not named by the log was of a proposal that came to nothing: goes
//! ```
//! Invariant: an attachment that an entry of the log names is there, whole and durable, for as long as the
//! entry is. So whoever has a committed entry can apply it without asking anybody.
//!
//! Not here: fetching from other members (`attach`), what the content means.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use world::GroupId;

use crate::codec;
use crate::engine::{Batch, Engine, EngineError, View};
use crate::limits::ATTACHMENT_PIECE_BYTES;
use crate::log::keys::{self, Kind};
use crate::log::writer::{Done, LogWriter};
use crate::machine::prefix_end;
use crate::types::Attachment;

/// What the entries of a log name, each with the last entry that does.
pub(super) type Named = BTreeMap<[u8; 32], (Attachment, u64)>;

/// The right to write.
pub(super) type Turn<'a> = tokio::sync::MutexGuard<'a, ()>;

/// One attachment that is there.
#[derive(Clone, Copy, Debug)]
struct Kept {
    bytes: u64,
    /// The last entry that names it, or may.
    until: u64,
    /// Proposals under way that name it.
    held: u32,
}

/// A group's attachments on this disk.
pub(crate) struct Attachments {
    group: GroupId,
    engine: Arc<dyn Engine>,
    writer: LogWriter,
    kept: Mutex<BTreeMap<[u8; 32], Kept>>,
    /// One is written at a time.
    turn: tokio::sync::Mutex<()>,
}

/// Keeps an attachment while a proposal that names it is under way.
pub(crate) struct Hold<'a> {
    attachments: &'a Attachments,
    hash: [u8; 32],
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut kept = self.attachments.kept.lock();
        let kept = kept.get_mut(&self.hash).expect("what is held stays");
        kept.held -= 1;
    }
}

impl Attachments {
    /// What is there, after everything that no entry names was given up.
    pub(super) fn open(
        group: GroupId,
        engine: Arc<dyn Engine>,
        writer: LogWriter,
        named: &Named,
    ) -> Result<Attachments, EngineError> {
        let mut kept = BTreeMap::new();
        for (hash, (attachment, until)) in named {
            if recorded(group, &*engine, hash)? != Some(*attachment) {
                let lacks = format!("{group}: entry {until} names {attachment}, which is not there");
                return Err(EngineError::Corrupt(lacks));
            }
            kept.insert(*hash, Kept { bytes: attachment.bytes, until: *until, held: 0 });
        }
        let mut batch = Batch::default();
        for hash in found(group, &*engine)? {
            if !kept.contains_key(&hash) {
                remove(&mut batch, group, &hash);
            }
        }
        if batch.size_bytes() > 0 {
            writer.submit(batch, Done::Lazy).map_err(|error| EngineError::Failed(error.to_string()))?;
        }
        Ok(Attachments { group, engine, writer, kept: Mutex::new(kept), turn: tokio::sync::Mutex::default() })
    }

    /// Whether it is there.
    pub(crate) fn has(&self, attachment: &Attachment) -> bool {
        self.kept.lock().get(&attachment.hash).is_some_and(|kept| kept.bytes == attachment.bytes)
    }

    /// Bytes of all that are there.
    pub(crate) fn bytes(&self) -> u64 {
        self.kept.lock().values().map(|kept| kept.bytes).sum()
    }

    /// Makes `content` durable and holds it: returns when a power cut cannot take it back.
    pub(crate) async fn put(&self, content: &Bytes) -> io::Result<Hold<'_>> {
        let attachment = Attachment::of(content);
        let _turn = self.turn.lock().await;
        if let Some(hold) = self.hold(&attachment) {
            return Ok(hold);
        }
        let mut rest = content.clone();
        let mut number = 0;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(ATTACHMENT_PIECE_BYTES));
            let mut batch = Batch::with_capacity(1);
            batch.put(keys::piece(self.group, &attachment.hash, number), piece);
            // One after the other: entries of other groups go between.
            self.writer.write(batch, None).await?;
            number += 1;
        }
        let mut record = Batch::with_capacity(1);
        let stored = codec::store(&codec::attachment_to_pb(&attachment));
        record.put(keys::attached(self.group, &attachment.hash), stored);
        self.writer.write(record, None).await?;
        let there = Kept { bytes: attachment.bytes, until: 0, held: 1 };
        let replaced = self.kept.lock().insert(attachment.hash, there);
        assert!(replaced.is_none(), "{attachment} was put twice");
        Ok(Hold { attachments: self, hash: attachment.hash })
    }

    fn hold(&self, attachment: &Attachment) -> Option<Hold<'_>> {
        let mut kept = self.kept.lock();
        kept.get_mut(&attachment.hash)?.held += 1;
        Some(Hold { attachments: self, hash: attachment.hash })
    }

    /// Keeps it until the log is purged behind the entry `index`, which names it. Answers whether it is there.
    pub(crate) fn named(&self, attachment: &Attachment, index: u64) -> bool {
        let mut kept = self.kept.lock();
        let Some(kept) = kept.get_mut(&attachment.hash).filter(|kept| kept.bytes == attachment.bytes) else {
            return false;
        };
        kept.until = kept.until.max(index);
        true
    }

    /// The content, whole and as it was put.
    ///
    /// # Errors
    /// [`EngineError::Corrupt`] when it is not.
    pub(crate) fn content(&self, attachment: &Attachment) -> Result<Bytes, EngineError> {
        let length = usize::try_from(attachment.bytes).unwrap_or(usize::MAX);
        let mut content = BytesMut::with_capacity(length.min(crate::limits::ATTACHMENT_BYTES_MAX));
        let mut number = 0;
        while content.len() < length {
            let Some(piece) = self.engine.get(&keys::piece(self.group, &attachment.hash, number))? else {
                break;
            };
            content.extend_from_slice(&piece);
            number += 1;
        }
        if Attachment::of(&content) != *attachment {
            return Err(EngineError::Corrupt(format!("{}: {attachment} is not what was put", self.group)));
        }
        Ok(content.freeze())
    }

    /// Removes what no entry behind `upto` names; to be written with the purge of the log, before the turn
    /// is given back: what is put again must not be removed. While one is put nothing goes; the next purge
    /// takes it.
    pub(super) fn purge(&self, upto: u64) -> Option<(Batch, Turn<'_>)> {
        let turn = self.turn.try_lock().ok()?;
        let mut batch = Batch::default();
        self.kept.lock().retain(|hash, kept| {
            let stays = kept.held > 0 || upto < kept.until;
            if !stays {
                remove(&mut batch, self.group, hash);
            }
            stays
        });
        Some((batch, turn))
    }
}

fn recorded(group: GroupId, view: &dyn View, hash: &[u8; 32]) -> Result<Option<Attachment>, EngineError> {
    let Some(stored) = view.get(&keys::attached(group, hash))? else { return Ok(None) };
    Ok(Some(codec::attachment_from_pb(&codec::load(stored)?)?))
}

/// Everything of which a piece is there, all of it or not.
fn found(group: GroupId, view: &dyn View) -> Result<Vec<[u8; 32]>, EngineError> {
    let prefix = keys::prefix(group, Kind::Piece);
    let end = prefix_end(&prefix);
    let mut hashes: Vec<[u8; 32]> = Vec::new();
    let mut from = Bytes::copy_from_slice(&prefix);
    loop {
        let mut next = None;
        view.scan(&from, &end, false, &mut |key, _| {
            next = keys::hash_of_piece(key);
            ControlFlow::Break(())
        })?;
        let Some(hash) = next else { return Ok(hashes) };
        assert!(hashes.last().is_none_or(|last| *last < hash), "a look behind one finds the next");
        hashes.push(hash);
        from = keys::piece(group, &hash, u32::MAX);
    }
}

fn remove(batch: &mut Batch, group: GroupId, hash: &[u8; 32]) {
    batch.delete(keys::attached(group, hash));
    batch.delete_range(keys::piece(group, hash, 0), keys::piece(group, hash, u32::MAX));
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use openraft::EntryPayload;
    use openraft::entry::RaftEntry;
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt};

    use super::*;
    use crate::engine::sim::{SimDisk, SimEngine};
    use crate::log::LogStore;
    use crate::log::tests::entry;
    use crate::types::Entry;

    const GROUP: GroupId = GroupId(3);

    fn content(length: usize) -> Bytes {
        (0..length).map(|at| (at % 251) as u8).collect::<Vec<u8>>().into()
    }

    fn open(disk: &SimDisk) -> Result<LogStore, EngineError> {
        let engine = SimEngine::open(disk);
        let writer = LogWriter::start_task(engine.clone(), Arc::new(|| Box::pin(ready(()))));
        LogStore::open(GROUP, engine, writer)
    }

    fn naming(index: u64, attachment: Attachment) -> Entry {
        let mut entry = entry(index, "x");
        if let EntryPayload::Normal(proposal) = &mut entry.payload {
            proposal.attachment = Some(attachment);
        }
        entry
    }

    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_a_durable_entry_names_survives_a_power_cut_until_the_entry_is_purged() {
        let disk = SimDisk::new();
        let mut log = open(&disk).expect("empty");
        let content = content(ATTACHMENT_PIECE_BYTES * 2 + 7);
        let attachment = Attachment::of(&content);
        let held = log.attachments();
        drop(held.put(&content).await.expect("durable"));
        log.blocking_append([naming(0, attachment), entry(1, "y"), entry(2, "z")]).await.expect("appended");
        drop((log, held));
        disk.crash(&mut |_| 0);
        let mut log = open(&disk).expect("as it was");
        assert_eq!(log.attachments().content(&attachment).expect("there"), content);
        log.purge(naming(0, attachment).log_id()).await.expect("purged");
        assert!(!log.attachments().has(&attachment));
        drop(log);
        settle().await;
        let log = open(&disk).expect("as it was");
        assert!(found(GROUP, &*SimEngine::open(&disk)).expect("readable").is_empty(), "pieces were left");
        assert_eq!(log.attachments().bytes(), 0);
    }

    #[tokio::test]
    async fn what_no_entry_names_is_given_up_at_the_next_start() {
        let disk = SimDisk::new();
        let log = open(&disk).expect("empty");
        drop(log.attachments().put(&content(1_000)).await.expect("durable"));
        drop(log);
        let mut log = open(&disk).expect("as it was");
        assert_eq!(log.attachments().bytes(), 0);
        // Nobody waits for the removal: it goes with what is waited for.
        log.blocking_append([entry(0, "x")]).await.expect("appended");
        assert!(found(GROUP, &*SimEngine::open(&disk)).expect("readable").is_empty(), "pieces were left");
    }

    #[tokio::test]
    async fn what_is_held_or_expected_outlives_a_purge() {
        let disk = SimDisk::new();
        let mut log = open(&disk).expect("empty");
        let (one, other) = (content(10), content(20));
        let attachments = log.attachments();
        let held = attachments.put(&one).await.expect("durable");
        drop(attachments.put(&other).await.expect("durable"));
        assert!(attachments.named(&Attachment::of(&other), 2));
        log.blocking_append([entry(0, "x"), entry(1, "y")]).await.expect("appended");
        log.purge(entry(1, "y").log_id()).await.expect("purged");
        assert_eq!(attachments.bytes(), 30);
        drop(held);
        log.blocking_append([naming(2, Attachment::of(&other)), entry(3, "z")]).await.expect("appended");
        log.purge(entry(2, "z").log_id()).await.expect("purged");
        assert_eq!(attachments.bytes(), 0);
    }

    #[tokio::test]
    async fn no_entry_is_appended_whose_attachment_is_not_there() {
        let disk = SimDisk::new();
        let mut log = open(&disk).expect("empty");
        let attachment = Attachment::of(&content(10));
        log.blocking_append([naming(0, attachment)]).await.expect_err("refused");
        drop(log.attachments().put(&content(10)).await.expect("durable"));
        log.blocking_append([naming(0, attachment)]).await.expect("appended");
    }

    #[tokio::test]
    async fn a_log_that_lacks_what_it_names_is_refused_and_altered_content_is_found_out() {
        let disk = SimDisk::new();
        let mut log = open(&disk).expect("empty");
        let attachment = Attachment::of(&content(10));
        drop(log.attachments().put(&content(10)).await.expect("durable"));
        log.blocking_append([naming(0, attachment)]).await.expect("appended");
        let engine = SimEngine::open(&disk);
        let mut batch = Batch::default();
        batch.put(keys::piece(GROUP, &attachment.hash, 0), content(11));
        engine.write_durable(batch).expect("written");
        drop(log);
        let log = open(&disk).expect("as it was");
        assert!(matches!(log.attachments().content(&attachment), Err(EngineError::Corrupt(_))));
        drop(log);
        let mut batch = Batch::default();
        remove(&mut batch, GROUP, &attachment.hash);
        SimEngine::open(&disk).write_durable(batch).expect("written");
        let error = open(&disk).err().expect("refused");
        assert!(error.to_string().contains("entry 0 names"), "{error}");
    }
}
