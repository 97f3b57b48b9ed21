//! The types openraft is instantiated with, fixed once for the whole crate.
//!
//! ```text
//!   Proposal = group's clock | commands: (length u32 be, bytes) (length u32 be, bytes) ...
//!   Replies  = one reply per command, in the same order
//! ```
//!
//! A proposal may have an attachment: bytes that are too many for an entry and lie beside the log
//! (`log::attachments`). It belongs to all commands of the proposal.
//!
//! Many commands share one log entry: an entry costs a round trip and a share of an fsync, a
//! command in it costs four bytes.
//!
//! Invariant: a Raft node id is a [`crate::member_id::MemberId`] as a number, and nothing else.
//!
//! Not here: how these values become bytes (`codec`).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::type_config::alias;

openraft::declare_raft_types!(
    /// Numbers, payloads and runtime of every group of this project.
    pub TypeConfig:
        D = Proposal,
        R = Replies,
        NodeId = u64,
        Node = Peer,
);

/// A log position with the leader that wrote it.
pub type LogId = alias::LogIdOf<TypeConfig>;
/// Term and node of a leader: the fencing token.
pub type LeaderId = alias::LeaderIdOf<TypeConfig>;
/// Whom a member follows.
pub type Vote = alias::VoteOf<TypeConfig>;
/// A log entry.
pub type Entry = alias::EntryOf<TypeConfig>;
/// What an entry carries.
pub type Payload = alias::PayloadOf<TypeConfig>;
/// Voters and learners.
pub type Membership = openraft::Membership<u64, Peer>;
/// A membership and the entry that brought it.
pub type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;

/// The longest run of commands one entry may carry, in bytes. A proposal is refused above it, so
/// that one entry always fits a frame and a batch.
pub const PROPOSAL_BYTES_MAX: usize = 8 << 20;

/// How a member is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Host and port of the peers port.
    pub addr: String,
}

/// Bytes beside the log that belong to an entry of it, as the entry names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// BLAKE3 of the content.
    pub hash: [u8; 32],
    /// Length of the content.
    pub bytes: u64,
}

impl Attachment {
    /// The name of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Attachment {
        Attachment { hash: *blake3::hash(content).as_bytes(), bytes: content.len() as u64 }
    }

    /// What `entry` names.
    #[must_use]
    pub fn named_by(entry: &Entry) -> Option<Attachment> {
        match &entry.payload {
            openraft::EntryPayload::Normal(proposal) => proposal.attachment,
            _ => None,
        }
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.hash;
        write!(f, "attachment {a:02x}{b:02x}{c:02x}{d:02x}.. of {} bytes", self.bytes)
    }
}

/// Commands proposed together, and when.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The group's clock as the leader read it, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// Framed commands; read them with [`Proposal::commands`].
    pub commands: Bytes,
    /// What else belongs to the commands.
    pub attachment: Option<Attachment>,
}

/// One reply per command of the proposal, in order. Empty for entries without commands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replies(pub Vec<Bytes>);

/// Commands that are not framed as a proposal frames them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a proposal's commands break off after {at} of {len} bytes")]
pub struct FrameError {
    at: usize,
    len: usize,
}

impl Proposal {
    /// Frames `commands` into one proposal. Copies each command once.
    ///
    /// # Panics
    /// When the commands exceed [`PROPOSAL_BYTES_MAX`]: whoever gathers them must stop before.
    #[must_use]
    pub fn pack<'a>(now_ms: u64, commands: impl Iterator<Item = &'a [u8]> + Clone) -> Proposal {
        let size: usize = commands.clone().map(Proposal::framed_len).sum();
        assert!(size <= PROPOSAL_BYTES_MAX, "a proposal of {size} bytes was gathered");
        let mut framed = BytesMut::with_capacity(size);
        for command in commands {
            let len = u32::try_from(command.len()).expect("bounded by PROPOSAL_BYTES_MAX");
            framed.put_u32(len);
            framed.put_slice(command);
        }
        assert!(framed.len() == size, "sizes are summed as they are written");
        Proposal { now_ms, commands: framed.freeze(), attachment: None }
    }

    /// Bytes that `command` takes inside a proposal.
    #[must_use]
    pub fn framed_len(command: &[u8]) -> usize {
        4 + command.len()
    }

    /// The commands in order, as slices of the same buffer. Ends after the first error.
    pub fn commands(&self) -> impl Iterator<Item = Result<Bytes, FrameError>> {
        let mut rest = self.commands.clone();
        let len = rest.len();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let at = len - rest.len();
            let broken = |rest: &mut Bytes| {
                rest.clear();
                Some(Err(FrameError { at, len }))
            };
            if rest.len() < 4 {
                return broken(&mut rest);
            }
            let command_len = rest.get_u32() as usize;
            if rest.len() < command_len {
                return broken(&mut rest);
            }
            Some(Ok(rest.split_to(command_len)))
        })
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of commands at {}ms", self.commands.len(), self.now_ms)
    }
}

impl fmt::Display for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} replies", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packed_commands_come_out_in_order(
            commands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
        ) {
            let packed = Proposal::pack(7, commands.iter().map(Vec::as_slice));
            let unpacked: Vec<Bytes> =
                packed.commands().collect::<Result<_, _>>().expect("well framed");
            prop_assert_eq!(unpacked, commands);
        }

        #[test]
        fn broken_framing_is_an_error_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let proposal = Proposal { now_ms: 0, commands: bytes.into(), attachment: None };
            prop_assert!(proposal.commands().count() <= 64);
        }
    }

    #[test]
    fn a_cut_command_is_reported_with_its_place() {
        let whole = Proposal::pack(1, [b"ab".as_slice(), b"cdef"].into_iter());
        let cut = Proposal { commands: whole.commands.slice(..12), ..whole };
        let read: Vec<_> = cut.commands().collect();
        assert_eq!(read, vec![Ok(Bytes::from_static(b"ab")), Err(FrameError { at: 6, len: 12 })]);
    }
}
