//! Raft values as protobuf: one form for the disk and for the wire.
//!
//! ```text
//!   stored value = FORMAT u8 | protobuf message
//!   sent value   = protobuf message inside a gRPC frame
//! ```
//!
//! Invariant: decoding what was encoded gives the same value, and decoding anything else gives an
//! error, never a panic and never a guess. Field numbers and the format id are frozen.
//!
//! Not here: which key a value is stored under (`log::keys`, `state::keys`), and services.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use openraft::vote::RaftLeaderId;
use prost::Message;

use crate::engine::EngineError;
use crate::state::SnapshotSeal;
use crate::types::{
    Attachment, Entry, LeaderId, LogId, Membership, Peer, Proposal, SnapshotMeta, StoredMembership, Vote,
};

/// The generated messages.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("hongbao.replica.v1");
}

/// First byte of every stored value.
pub const FORMAT: u8 = 1;

/// Bytes or messages that are not what their place requires.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// A required part is absent.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Not a protobuf message of this kind.
    #[error("not a message: {0}")]
    Malformed(String),
    /// The value was written by a version that this one does not know.
    #[error("format {found} is not known (this version writes {FORMAT})")]
    Format {
        /// The first byte, or 0 for an empty value.
        found: u8,
    },
    /// A membership that names a voter without saying how to reach it.
    #[error("membership is inconsistent: {0}")]
    Membership(String),
}

impl From<CodecError> for EngineError {
    fn from(error: CodecError) -> EngineError {
        EngineError::Corrupt(error.to_string())
    }
}

/// `message` behind the format id, in one allocation.
pub fn store<M: Message>(message: &M) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    store_into(message, &mut bytes);
    bytes.freeze()
}

/// Appends the stored form of `message` to a buffer.
pub fn store_into<M: Message>(message: &M, buffer: &mut BytesMut) {
    buffer.put_u8(FORMAT);
    buffer.reserve(message.encoded_len());
    message.encode(buffer).expect("a growing buffer has room");
}

/// Reads a stored value.
///
/// # Errors
/// [`CodecError::Format`], [`CodecError::Malformed`].
pub fn load<M: Message + Default>(mut stored: Bytes) -> Result<M, CodecError> {
    let found = stored.first().copied().unwrap_or(0);
    if found != FORMAT {
        return Err(CodecError::Format { found });
    }
    let message = stored.split_off(1);
    M::decode(message).map_err(|error| CodecError::Malformed(error.to_string()))
}

/// The wire form of a log id.
#[must_use]
pub fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
}

/// A log id from the wire.
#[must_use]
pub fn log_id_from_pb(id: &pb::LogId) -> LogId {
    LogId::new(LeaderId::new(id.term, id.node), id.index)
}

/// The wire form of a vote.
#[must_use]
pub fn vote_to_pb(vote: &Vote) -> pb::Vote {
    pb::Vote { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
}

/// A vote from the wire.
#[must_use]
pub fn vote_from_pb(vote: &pb::Vote) -> Vote {
    Vote { leader_id: LeaderId::new(vote.term, vote.node), committed: vote.committed }
}

/// The wire form of a membership.
#[must_use]
pub fn membership_to_pb(membership: &Membership) -> pb::Membership {
    let configs = membership
        .get_joint_config()
        .iter()
        .map(|voters| pb::Voters { ids: voters.iter().copied().collect() })
        .collect();
    let members =
        membership.nodes().map(|(id, peer)| pb::Member { id: *id, addr: peer.addr.clone() }).collect();
    pb::Membership { configs, members }
}

/// A membership from the wire.
///
/// # Errors
/// [`CodecError::Membership`] when a voter has no address or a configuration is empty.
pub fn membership_from_pb(membership: pb::Membership) -> Result<Membership, CodecError> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.into_iter().map(|voters| voters.ids.into_iter().collect()).collect();
    let members: BTreeMap<u64, Peer> =
        membership.members.into_iter().map(|member| (member.id, Peer { addr: member.addr })).collect();
    Membership::new(configs, members).map_err(|error| CodecError::Membership(error.to_string()))
}

/// The wire form of a membership and its entry.
#[must_use]
pub fn stored_membership_to_pb(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: stored.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(stored.membership())),
    }
}

/// A membership and its entry from the wire.
///
/// # Errors
/// [`CodecError::Missing`], [`CodecError::Membership`].
pub fn stored_membership_from_pb(stored: pb::StoredMembership) -> Result<StoredMembership, CodecError> {
    let membership = stored.membership.ok_or(CodecError::Missing("membership"))?;
    Ok(StoredMembership::new(stored.log_id.as_ref().map(log_id_from_pb), membership_from_pb(membership)?))
}

/// The wire form of what a snapshot covers.
#[must_use]
pub fn snapshot_meta_to_pb(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_to_pb),
        last_membership: Some(stored_membership_to_pb(&meta.last_membership)),
    }
}

/// What a snapshot covers, from the wire.
///
/// # Errors
/// [`CodecError::Missing`], [`CodecError::Membership`].
pub fn snapshot_meta_from_pb(meta: pb::SnapshotMeta) -> Result<SnapshotMeta, CodecError> {
    let membership = meta.last_membership.ok_or(CodecError::Missing("last_membership"))?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_log_id.as_ref().map(log_id_from_pb),
        last_membership: stored_membership_from_pb(membership)?,
    })
}

/// The wire form of an entry. Commands are shared, not copied.
#[must_use]
pub fn entry_to_pb(entry: &Entry) -> pb::Entry {
    use pb::entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(proposal) => {
            let attachment = proposal.attachment.as_ref().map(attachment_to_pb);
            let (now_ms, commands) = (proposal.now_ms, proposal.commands.clone());
            Payload::Normal(pb::Proposal { now_ms, commands, attachment })
        }
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_pb(membership)),
    };
    pb::Entry { log_id: Some(log_id_to_pb(&entry.log_id)), payload: Some(payload) }
}

/// An entry from the wire. Commands are slices of the buffer it was decoded from.
///
/// # Errors
/// [`CodecError::Missing`], [`CodecError::Membership`].
pub fn entry_from_pb(entry: pb::Entry) -> Result<Entry, CodecError> {
    use pb::entry::Payload;
    let log_id = log_id_from_pb(&entry.log_id.ok_or(CodecError::Missing("log_id"))?);
    let payload = match entry.payload.ok_or(CodecError::Missing("payload"))? {
        Payload::Blank(pb::Blank {}) => EntryPayload::Blank,
        Payload::Normal(proposal) => {
            let attachment = proposal.attachment.as_ref().map(attachment_from_pb).transpose()?;
            let (now_ms, commands) = (proposal.now_ms, proposal.commands);
            EntryPayload::Normal(Proposal { now_ms, commands, attachment })
        }
        Payload::Membership(membership) => EntryPayload::Membership(membership_from_pb(membership)?),
    };
    Ok(Entry { log_id, payload })
}

/// The wire form of an attachment's name.
#[must_use]
pub fn attachment_to_pb(attachment: &Attachment) -> pb::Attachment {
    pb::Attachment { hash: Bytes::copy_from_slice(&attachment.hash), bytes: attachment.bytes }
}

/// An attachment's name from the wire.
///
/// # Errors
/// [`CodecError::Missing`] when the hash has another length.
pub fn attachment_from_pb(attachment: &pb::Attachment) -> Result<Attachment, CodecError> {
    let hash = attachment.hash.as_ref().try_into().map_err(|_| CodecError::Missing("a 32-byte hash"))?;
    Ok(Attachment { hash, bytes: attachment.bytes })
}

/// The wire form of a snapshot's seal.
#[must_use]
pub fn snapshot_seal_to_pb(seal: &SnapshotSeal) -> pb::SnapshotSeal {
    pb::SnapshotSeal { pairs: seal.pairs, now_ms: seal.now_ms, digest: Bytes::copy_from_slice(&seal.digest) }
}

/// A snapshot's seal from the wire.
///
/// # Errors
/// [`CodecError::Missing`] when the digest has another length.
pub fn snapshot_seal_from_pb(seal: &pb::SnapshotSeal) -> Result<SnapshotSeal, CodecError> {
    let digest = seal.digest.as_ref().try_into().map_err(|_| CodecError::Missing("a 32-byte digest"))?;
    Ok(SnapshotSeal { pairs: seal.pairs, now_ms: seal.now_ms, digest })
}

#[cfg(test)]
mod tests;
