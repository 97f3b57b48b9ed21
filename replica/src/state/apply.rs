//! Applying a run of entries: one transaction, one batch, then the replies.
//!
//! ```text
//!   stream --gather--> run --write lock--> Txn over the group's range --> batch:
//!                                             machine writes
//!                                             head (generation, applied, now)
//!                                             membership, if it changed
//!                                          --> engine.write --> unlock --> replies
//! ```
//!
//! Invariant: whoever sees a reply, or reads under the lock, sees a state that contains the whole
//! run. The clock handed to the machine never runs backwards along the log.
//!
//! Not here: durability (the state engine has none until it is flushed).

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder};
use world::UnixMs;

use crate::codec;
use crate::engine::{Batch, EngineError};
use crate::machine::{At, Machine, PrefixView, Txn, Writes};
use crate::member_id::MemberId;
use crate::state::hot::HotView;
use crate::state::keys::{self, Kind};
use crate::state::live::{Core, Head, Live, put_head};
use crate::types::{Attachment, Entry, LogId, Proposal, Replies, StoredMembership, TypeConfig};

/// Commands of one run, in bytes. After a restart the whole log may be waiting to be applied; it
/// must not become one transaction.
const RUN_BYTES_MAX: usize = 4 << 20;
/// Entries of one run, for entries without commands.
const RUN_ENTRIES_MAX: usize = 4096;

/// A replier and what it is to say.
type Answer = (ApplyResponder<TypeConfig>, Replies);

/// Takes entries until the stream ends or the run is long enough.
pub(super) async fn gather<S>(entries: &mut S) -> Result<Vec<EntryResponder<TypeConfig>>, io::Error>
where
    S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin,
{
    let mut run = Vec::new();
    let mut bytes = 0;
    while bytes < RUN_BYTES_MAX && run.len() < RUN_ENTRIES_MAX {
        let Some(item) = entries.next().await else { break };
        let item = item?;
        if let EntryPayload::Normal(proposal) = &item.0.payload {
            let attached = proposal.attachment.map_or(0, |attachment| attachment.bytes);
            bytes += proposal.commands.len() + usize::try_from(attached).unwrap_or(usize::MAX / 2);
        }
        run.push(item);
    }
    Ok(run)
}

impl<M: Machine> Core<M> {
    /// Applies a run and answers what to reply. Nothing of it is visible before all of it is.
    pub(super) fn apply_run(&self, run: Vec<EntryResponder<TypeConfig>>) -> Result<Vec<Answer>, EngineError> {
        let attached: Vec<Option<Bytes>> =
            run.iter().map(|(entry, _)| self.attached_to(entry)).collect::<Result<_, _>>()?;
        let mut live = self.live.write();
        let prefix = keys::state(self.group, live.generation);
        let engine = HotView::new(&*self.engine, &self.hot);
        let view = PrefixView::new(&engine, prefix.clone());
        let mut txn = Txn::new(&view);
        let mut answers = Vec::with_capacity(run.len());
        let mut membership = None;
        for ((entry, responder), attached) in run.into_iter().zip(attached) {
            txn.attach(attached);
            if live.applied >= Some(entry.log_id) {
                let applied = live.applied;
                return Err(EngineError::Failed(format!(
                    "{}: {} applied after {applied:?}",
                    self.group, entry.log_id
                )));
            }
            live.applied = Some(entry.log_id);
            let replies = match entry.payload {
                EntryPayload::Blank => Replies::default(),
                EntryPayload::Normal(proposal) => live.apply_proposal(&mut txn, entry.log_id, &proposal)?,
                EntryPayload::Membership(changed) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), changed));
                    Replies::default()
                }
            };
            answers.extend(responder.map(|responder| (responder, replies)));
        }
        let mut batch = encode_writes(&prefix, txn.into_parts());
        if let Some(changed) = membership {
            let stored = codec::store(&codec::stored_membership_to_pb(&changed));
            batch.put(keys::about(self.group, Kind::Membership), stored);
            live.membership = changed;
        }
        let head = Head {
            generation: live.generation,
            applied: live.applied,
            now: live.now,
            logged_next: self.logged(live.applied),
        };
        put_head(&mut batch, self.group, &head);
        self.tell_now(&live);
        self.hot.write(&batch);
        // After a failure the engine answers nothing any more, and neither must what is kept of it.
        self.engine.write(batch).inspect_err(|_| self.hot.clear())?;
        Ok(answers)
    }
}

impl<M: Machine> Core<M> {
    fn attached_to(&self, entry: &Entry) -> Result<Option<Bytes>, EngineError> {
        let Some(attachment) = Attachment::named_by(entry) else { return Ok(None) };
        let Some(attachments) = self.attachments.get() else {
            return Err(EngineError::Failed(format!(
                "{}: {attachment} of a log that is not known",
                self.group
            )));
        };
        attachments.content(&attachment).map(Some)
    }
}

impl<M: Machine> Live<M> {
    fn apply_proposal(
        &mut self,
        txn: &mut Txn<'_>,
        log_id: LogId,
        proposal: &Proposal,
    ) -> Result<Replies, EngineError> {
        let leader = MemberId::from_raft_id(log_id.leader_id.node_id)
            .ok_or_else(|| EngineError::Corrupt(format!("entry {log_id} is from no member")))?
            .node;
        // A new leader's clock may be behind the old one's.
        self.now = self.now.max(UnixMs(proposal.now_ms));
        let at = At { index: log_id.index, term: log_id.leader_id.term, leader, now: self.now };
        let mut replies = Vec::new();
        for command in proposal.commands() {
            let command = command.map_err(|error| EngineError::Corrupt(error.to_string()))?;
            replies.push(self.machine.apply(txn, at, &command)?);
        }
        Ok(Replies(replies))
    }
}

/// The machine's writes under its prefix, with one buffer for all keys.
fn encode_writes(prefix: &[u8], writes: Writes) -> Batch {
    let key_bytes: usize = writes.points.keys().map(|key| prefix.len() + key.len()).sum();
    let mut buffer = BytesMut::with_capacity(key_bytes);
    let mut under_prefix = |key: &[u8]| {
        buffer.extend_from_slice(prefix);
        buffer.extend_from_slice(key);
        buffer.split().freeze()
    };
    let mut batch = Batch::with_capacity(writes.points.len() + writes.ranges.len() + 2);
    for (from, to) in &writes.ranges {
        batch.delete_range(under_prefix(from), under_prefix(to));
    }
    for (key, value) in writes.points {
        let key = under_prefix(&key);
        match value {
            Some(value) => batch.put(key, value),
            None => batch.delete(key),
        }
    }
    batch
}
