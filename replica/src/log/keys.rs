//! Keys of the log engine.
//!
//! ```text
//!   group u32 be | kind u8 | index u64 be          13 bytes
//!
//!   kind 1  vote        index 0   pb::Vote          rewritten
//!   kind 2  committed   index 0   pb::LogId         rewritten, not waited for
//!   kind 3  purged      index 0   pb::LogId         rewritten with each purge
//!   kind 4  entry       its own   pb::Entry         written once, purged from the front,
//!                                                   truncated from the back
//!   kind 5  promise     index 0   pb::Promise       written once, before the group is formed
//!
//!   group u32 be | kind u8 | hash 32                             37 bytes
//!   kind 6  attached    pb::Attachment              its pieces are all there
//!
//!   group u32 be | kind u8 | hash 32 | number u32 be             41 bytes
//!   kind 7  piece       bytes                       of an attachment's content, from 0
//! ```
//!
//! Invariant: big-endian, so that the order of keys is the order of entries. Numbers are frozen.
//!
//! Not here: the values (`codec`).

use bytes::Bytes;
use world::GroupId;

/// Length of every key that has an index.
pub(super) const KEY_LEN: usize = 13;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Vote = 1,
    Committed = 2,
    Purged = 3,
    Entry = 4,
    Promise = 5,
    Attached = 6,
    Piece = 7,
}

/// The key of a value of which a group has one.
pub(super) fn single(group: GroupId, kind: Kind) -> [u8; KEY_LEN] {
    assert!(
        !matches!(kind, Kind::Entry | Kind::Attached | Kind::Piece),
        "a group has more than one of these"
    );
    encode(group, kind, 0)
}

/// The key of the entry at `index`.
pub(super) fn entry(group: GroupId, index: u64) -> [u8; KEY_LEN] {
    encode(group, Kind::Entry, index)
}

/// The first key after every entry of the group.
pub(super) fn entries_end(group: GroupId) -> [u8; KEY_LEN] {
    let mut key = encode(group, Kind::Entry, 0);
    key[4] += 1;
    key
}

/// The key that says that an attachment is all there.
pub(super) fn attached(group: GroupId, hash: &[u8; 32]) -> Bytes {
    [&prefix(group, Kind::Attached)[..], hash].concat().into()
}

/// The key of a piece of an attachment's content.
pub(super) fn piece(group: GroupId, hash: &[u8; 32], number: u32) -> Bytes {
    [&prefix(group, Kind::Piece)[..], hash, &number.to_be_bytes()].concat().into()
}

/// All keys of this kind begin with it.
pub(super) fn prefix(group: GroupId, kind: Kind) -> [u8; 5] {
    let mut prefix = [0u8; 5];
    prefix[..4].copy_from_slice(&group.0.to_be_bytes());
    prefix[4] = kind as u8;
    prefix
}

/// The attachment that a key of kind `Piece` belongs to.
pub(super) fn hash_of_piece(key: &[u8]) -> Option<[u8; 32]> {
    key.get(5..37)?.try_into().ok()
}

/// The index in an entry's key.
pub(super) fn entry_index(key: &[u8]) -> Option<u64> {
    let key: &[u8; KEY_LEN] = key.try_into().ok()?;
    (key[4] == Kind::Entry as u8)
        .then(|| u64::from_be_bytes(key[5..].try_into().expect("13 bytes less 5 are 8")))
}

fn encode(group: GroupId, kind: Kind, index: u64) -> [u8; KEY_LEN] {
    let mut key = [0u8; KEY_LEN];
    key[..4].copy_from_slice(&group.0.to_be_bytes());
    key[4] = kind as u8;
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_frozen_and_ordered() {
        let group = GroupId(0x0102_0304);
        assert_eq!(entry(group, 0x05), [1, 2, 3, 4, 4, 0, 0, 0, 0, 0, 0, 0, 5]);
        assert_eq!(single(group, Kind::Vote), [1, 2, 3, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(single(group, Kind::Committed)[4], 2);
        assert_eq!(single(group, Kind::Purged)[4], 3);
        assert_eq!(single(group, Kind::Promise)[4], 5);
        let hash = [9u8; 32];
        assert_eq!(attached(group, &hash), [&[1, 2, 3, 4, 6][..], &hash].concat());
        assert_eq!(piece(group, &hash, 258), [&[1, 2, 3, 4, 7][..], &hash, &[0, 0, 1, 2]].concat());
        assert_eq!(hash_of_piece(&piece(group, &hash, 258)), Some(hash));
        assert!(entries_end(group) <= single(group, Kind::Promise));
        assert!(entry(group, 255) < entry(group, 256));
        assert!(entry(group, u64::MAX) < entries_end(group));
        assert!(entries_end(group) < single(GroupId(group.0 + 1), Kind::Vote));
    }

    #[test]
    fn an_index_is_read_from_entry_keys_only() {
        assert_eq!(entry_index(&entry(GroupId(1), 77)), Some(77));
        assert_eq!(entry_index(&single(GroupId(1), Kind::Vote)), None);
        assert_eq!(entry_index(b"short"), None);
    }
}
