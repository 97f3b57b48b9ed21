//! Where payment keeps things in the data groups of the KV. One table, frozen.
//!
//! ```text
//!   key (ASCII prefix, then big-endian bytes)   partition        value
//!   row/       packet 12                        packet 12        Row             one per packet, see row.rs
//!   instant/   packet 12                        packet 12        fen u64         preloaded before the event
//!   rejected/  packet 12 | user 8               packet 12        Rejection       an opening that got no row
//!   acct/      tag 4 | batch 2 | kind 1         of the posting   fen i64         sub-account, one per group
//!   claims/    tag 4 | user 8                   user 8           ClaimDoc        what counts against the limits
//!   wallet/    user 8 | packet 12               user 8           fen u64         index of a user's packets
//!   fund/      tag 4 | batch 2                  tag 4 | batch 2  fen u64         the sponsor's money came in
//!   refund/    tag 4 | batch 2                  tag 4 | batch 2  fen u64         what went back to the sponsor
//!   closing/   tag 4                            tag 4            unix ms u64     no new rows from here on
//!   unread/    digest 16                        digest 16        body            a message that is no opening
//! ```
//! `tag` is the build tag that also begins every packet id, so two events share nothing.
//!
//! Invariant: all keys of one packet's decision (row, instant, rejections, its postings) share the
//! packet's partition, and all keys of one user's decision (claims, wallet) share the user's, so
//! each decision is one unit. An account is the only key that many partitions write: it is
//! written only by commutative `Add`, and its balance is the sum over the groups.
//!
//! Not here: what the values mean.

use bytes::Bytes;
use kvsvr::api::DataKey;
use ticket::id::{BatchId, PACKET_ID_LEN, PacketId, UserId};

use crate::ledger::{Account, AccountKind};

/// Prefix of packet rows.
pub const ROW: &[u8] = b"row/";
/// Prefix of the preloaded instant set.
pub const INSTANT: &[u8] = b"instant/";
/// Prefix of openings that got no row.
pub const REJECTED: &[u8] = b"rejected/";
/// Prefix of sub-accounts.
pub const ACCOUNT: &[u8] = b"acct/";
/// Prefix of the users' claim documents.
pub const CLAIMS: &[u8] = b"claims/";
/// Prefix of the users' packet index.
pub const WALLET: &[u8] = b"wallet/";
/// Prefix of funding records.
pub const FUND: &[u8] = b"fund/";
/// Prefix of refund records.
pub const REFUND: &[u8] = b"refund/";
/// Prefix of the closing marks.
pub const CLOSING: &[u8] = b"closing/";
/// Prefix of unreadable messages.
pub const UNREAD: &[u8] = b"unread/";

/// The first four bytes of a build id, as in every packet id.
pub type BuildTag = [u8; 4];

fn join(parts: &[&[u8]]) -> Bytes {
    Bytes::from(parts.concat())
}

/// The partition of everything decided per packet.
#[must_use]
pub fn packet_partition(packet: PacketId) -> Bytes {
    Bytes::copy_from_slice(&packet.to_bytes())
}

/// The partition of everything decided per user.
#[must_use]
pub fn user_partition(user: UserId) -> Bytes {
    Bytes::copy_from_slice(&user.0.to_be_bytes())
}

/// The partition of a batch's funding and refund.
#[must_use]
pub fn batch_partition(tag: BuildTag, batch: BatchId) -> Bytes {
    join(&[&tag, &batch.0.to_be_bytes()])
}

/// A packet's row.
#[must_use]
pub fn row(packet: PacketId) -> DataKey {
    DataKey { partition: packet_partition(packet), key: join(&[ROW, &packet.to_bytes()]) }
}

/// A packet's entry in the instant set.
#[must_use]
pub fn instant(packet: PacketId) -> DataKey {
    DataKey { partition: packet_partition(packet), key: join(&[INSTANT, &packet.to_bytes()]) }
}

/// The rejection of `user`'s opening of `packet`.
#[must_use]
pub fn rejected(packet: PacketId, user: UserId) -> DataKey {
    DataKey {
        partition: packet_partition(packet),
        key: join(&[REJECTED, &packet.to_bytes(), &user.0.to_be_bytes()]),
    }
}

/// A sub-account, within the group of whatever posting names it.
#[must_use]
pub fn account(account: Account) -> Bytes {
    join(&[ACCOUNT, &account.tag, &account.batch.0.to_be_bytes(), &[account.kind as u8]])
}

/// A user's claim document.
#[must_use]
pub fn claims(tag: BuildTag, user: UserId) -> DataKey {
    DataKey { partition: user_partition(user), key: join(&[CLAIMS, &tag, &user.0.to_be_bytes()]) }
}

/// A packet in a user's index.
#[must_use]
pub fn wallet(user: UserId, packet: PacketId) -> DataKey {
    DataKey {
        partition: user_partition(user),
        key: join(&[WALLET, &user.0.to_be_bytes(), &packet.to_bytes()]),
    }
}

/// A batch's funding record.
#[must_use]
pub fn fund(tag: BuildTag, batch: BatchId) -> DataKey {
    let partition = batch_partition(tag, batch);
    DataKey { key: join(&[FUND, &partition]), partition }
}

/// A batch's refund record.
#[must_use]
pub fn refund(tag: BuildTag, batch: BatchId) -> DataKey {
    let partition = batch_partition(tag, batch);
    DataKey { key: join(&[REFUND, &partition]), partition }
}

/// The mark after which no new row is accepted.
#[must_use]
pub fn closing(tag: BuildTag) -> DataKey {
    DataKey { partition: Bytes::copy_from_slice(&tag), key: join(&[CLOSING, &tag]) }
}

/// A message that is no opening, named by the first 16 bytes of its BLAKE3.
#[must_use]
pub fn unread(digest: [u8; 16]) -> DataKey {
    DataKey { partition: Bytes::copy_from_slice(&digest), key: join(&[UNREAD, &digest]) }
}

/// `prefix` narrowed to one build; for tables whose keys begin with the tag or a packet id.
#[must_use]
pub fn of_build(prefix: &[u8], tag: BuildTag) -> Vec<u8> {
    [prefix, &tag].concat()
}

/// The wallet keys of one user.
#[must_use]
pub fn wallet_of(user: UserId) -> Vec<u8> {
    [WALLET, &user.0.to_be_bytes()].concat()
}

/// Reads a packet id that ends a key of `prefix`; `None` when the key has another length.
#[must_use]
pub fn parse_packet(prefix: &[u8], key: &[u8]) -> Option<PacketId> {
    let bytes: [u8; PACKET_ID_LEN] = key.strip_prefix(prefix)?.try_into().ok()?;
    Some(PacketId::from_bytes(bytes))
}

/// Reads (packet, user) from a rejection's key.
#[must_use]
pub fn parse_rejected(key: &[u8]) -> Option<(PacketId, UserId)> {
    let (packet, user) = key.strip_prefix(REJECTED)?.split_at_checked(PACKET_ID_LEN)?;
    let packet = PacketId::from_bytes(packet.try_into().ok()?);
    Some((packet, UserId(u64::from_be_bytes(user.try_into().ok()?))))
}

/// Reads (user, packet) from a wallet key.
#[must_use]
pub fn parse_wallet(key: &[u8]) -> Option<(UserId, PacketId)> {
    let (user, packet) = key.strip_prefix(WALLET)?.split_at_checked(8)?;
    let user = UserId(u64::from_be_bytes(user.try_into().ok()?));
    Some((user, PacketId::from_bytes(packet.try_into().ok()?)))
}

/// Reads the user from a claim document's key.
#[must_use]
pub fn parse_claims(key: &[u8]) -> Option<UserId> {
    let user: [u8; 8] = key.strip_prefix(CLAIMS)?.get(4..)?.try_into().ok()?;
    Some(UserId(u64::from_be_bytes(user)))
}

/// Reads the account from its key.
#[must_use]
pub fn parse_account(key: &[u8]) -> Option<Account> {
    let bytes: [u8; 7] = key.strip_prefix(ACCOUNT)?.try_into().ok()?;
    let [t0, t1, t2, t3, b0, b1, kind] = bytes;
    Some(Account {
        tag: [t0, t1, t2, t3],
        batch: BatchId(u16::from_be_bytes([b0, b1])),
        kind: AccountKind::from_u8(kind)?,
    })
}

/// An amount as a value: 8 bytes, big-endian, unsigned.
#[must_use]
pub fn fen_value(fen: u64) -> Bytes {
    Bytes::copy_from_slice(&fen.to_be_bytes())
}

/// Reads [`fen_value`] (also: unix ms).
#[must_use]
pub fn parse_fen(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

/// Reads a sub-account's value.
#[must_use]
pub fn parse_balance(value: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: PacketId = PacketId { build_tag: [1, 2, 3, 4], batch: BatchId(5), serial: 6 };

    #[test]
    fn the_keys_are_frozen() {
        assert_eq!(&row(PACKET).key[..], b"row/\x01\x02\x03\x04\x00\x05\x00\x00\x00\x00\x00\x06");
        assert_eq!(&rejected(PACKET, UserId(7)).key[21..], b"\x00\x00\x00\x00\x00\x00\x00\x07");
        let payable = Account { tag: [1, 2, 3, 4], batch: BatchId(5), kind: AccountKind::Payable };
        assert_eq!(&account(payable)[..], b"acct/\x01\x02\x03\x04\x00\x05\x03");
        assert_eq!(&wallet(UserId(7), PACKET).key[..7], b"wallet/");
        assert_eq!(&refund([1, 2, 3, 4], BatchId(5)).key[..], b"refund/\x01\x02\x03\x04\x00\x05");
    }

    #[test]
    fn keys_read_back() {
        assert_eq!(parse_packet(ROW, &row(PACKET).key), Some(PACKET));
        assert_eq!(parse_packet(INSTANT, &instant(PACKET).key), Some(PACKET));
        assert_eq!(parse_rejected(&rejected(PACKET, UserId(7)).key), Some((PACKET, UserId(7))));
        assert_eq!(parse_wallet(&wallet(UserId(7), PACKET).key), Some((UserId(7), PACKET)));
        assert_eq!(parse_claims(&claims([1, 2, 3, 4], UserId(7)).key), Some(UserId(7)));
        let escrow = Account { tag: [1, 2, 3, 4], batch: BatchId(5), kind: AccountKind::Escrow };
        assert_eq!(parse_account(&account(escrow)), Some(escrow));
    }

    #[test]
    fn a_key_of_another_length_is_no_key() {
        assert_eq!(parse_packet(ROW, b"row/short"), None);
        assert_eq!(parse_rejected(b"rejected/x"), None);
        assert_eq!(parse_wallet(b"wallet/1234567812345678"), None);
        assert_eq!(parse_account(b"acct/\x01\x02\x03\x04\x00\x05\x63"), None);
    }
}
