//! What a consumer holds while it holds a message.
//!
//! ```text
//!   0        1            5        13       21      23         31
//!   | fmt 01 | partition  | seq    | term   | node  | lease no | dedup id ...
//! ```
//! To its holder a receipt is opaque, except that the client reads the partition to route it. Term
//! and node together are the fencing token of the leader that gave the lease; the lease number
//! counts that leader's leases. The dedup id leads to the tombstone, so that an ack which is
//! repeated after its answer was lost is still answered as done.
//!
//! Invariant: no two leases ever share a [`LeaseId`].
//!
//! Not here: whether a lease is still held (`lease`), and any secrecy: receipts are not
//! capabilities, whoever reaches this port is trusted.

use bytes::Bytes;
use world::NodeId;

use crate::codec::{CodecError, Reader, Writer};
use crate::limits::DEDUP_ID_LEN_MAX;

const FORMAT: u8 = 1;

/// Which leadership gave a lease. Two leaders of one term cannot both commit, but the term alone
/// does not name the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// Raft term.
    pub term: u64,
    /// The leader.
    pub node: NodeId,
}

/// One lease, unique for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseId {
    /// The leadership that gave it.
    pub token: Token,
    /// Counts that leadership's leases, from 1.
    pub number: u64,
}

/// A lease of a message, as its holder presents it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Partition number, from 0.
    pub partition: u32,
    /// The message within the partition.
    pub seq: u64,
    /// The lease of it.
    pub lease: LeaseId,
    /// The message's dedup id.
    pub dedup_id: Bytes,
}

impl LeaseId {
    pub(crate) fn write(&self, writer: Writer) -> Writer {
        writer.u64(self.token.term).u16(self.token.node.as_u16()).u64(self.number)
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<LeaseId, CodecError> {
        let term = reader.u64()?;
        let node = NodeId::from_u16(reader.u16()?).ok_or_else(|| reader.error())?;
        Ok(LeaseId { token: Token { term, node }, number: reader.u64()? })
    }
}

impl Receipt {
    /// The opaque form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let head = Writer::default().u8(FORMAT).u32(self.partition).u64(self.seq);
        self.lease.write(head).rest(&self.dedup_id).done().into()
    }

    /// Reads the opaque form.
    ///
    /// # Errors
    /// [`CodecError`] for bytes that never were a receipt.
    pub fn decode(bytes: &[u8]) -> Result<Receipt, CodecError> {
        let mut reader = Reader::new("a receipt", bytes);
        reader.expect(FORMAT)?;
        let (partition, seq) = (reader.u32()?, reader.u64()?);
        let lease = LeaseId::read(&mut reader)?;
        let dedup_id = Bytes::copy_from_slice(reader.rest());
        if dedup_id.is_empty() || dedup_id.len() > DEDUP_ID_LEN_MAX {
            return Err(reader.error());
        }
        Ok(Receipt { partition, seq, lease, dedup_id })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Receipt {
        let token = Token { term: 7, node: "b2".parse().expect("node") };
        let lease = LeaseId { token, number: 9 };
        Receipt { partition: 3, seq: 0x0102, lease, dedup_id: Bytes::from_static(b"id") }
    }

    #[test]
    fn the_bytes_of_a_receipt_are_frozen() {
        let expected: &[u8] = &[
            1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9,
            b'i', b'd',
        ];
        assert_eq!(&sample().encode()[..], expected);
        assert_eq!(Receipt::decode(expected), Ok(sample()));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_is_read_writes_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(receipt) = Receipt::decode(&bytes) {
                prop_assert_eq!(&receipt.encode()[..], &bytes[..]);
            }
        }
    }
}
