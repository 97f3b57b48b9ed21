//! How many packets a user holds, of the event and of each merchant: the document behind the
//! limits.
//!
//! ```text
//!   off len
//!     0   1  format id, 1
//!     1   2  count n
//!     3 12n  packet ids, in the order they were reserved
//! ```
//! A place is reserved here before the packet's row is written, and given back when the row turns
//! out to be somebody else's or rejected. The same unit keeps the user's wallet index in step.
//!
//! Invariant: once the queue is drained, a document lists exactly the packets whose row is this
//! user's and accepted; at no moment does it list more than the limits allow.
//!
//! Not here: the limits of the shake (a sealed cookie; those save work, these save money).

use std::collections::BTreeMap;

use bytes::Bytes;
use ticket::id::{BatchId, PACKET_ID_LEN, PacketId, UserId};
use ticket::manifest::Manifest;

use crate::row::{Reason, StoredError};

/// Format id of a claim document.
pub const FORMAT: u8 = 1;
/// Bounds a document whatever the event allows: 48 KiB. More would make each open rewrite too much.
pub const PACKETS_PER_USER_MAX: u32 = 4096;

/// How much one user may get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Packets per user in the event; `None`: only [`PACKETS_PER_USER_MAX`] holds.
    pub event_max: Option<u32>,
    /// Packets per user and merchant; `None`: no such limit.
    pub merchant_max: Option<u32>,
    /// Which merchant a batch belongs to (any numbering). A batch not named is its own merchant.
    pub merchant_of: BTreeMap<BatchId, u32>,
}

/// The packets one user holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimDoc {
    packets: Vec<PacketId>,
}

/// Merchants and merchantless batches in one number space.
#[derive(PartialEq, Eq)]
enum Merchant {
    Named(u32),
    Batch(BatchId),
}

impl Limits {
    /// The limits the plan was made with.
    #[must_use]
    pub fn of(manifest: &Manifest) -> Limits {
        let limit = |max: u32| (0 < max).then_some(max);
        Limits {
            event_max: limit(manifest.claims_per_user_max),
            merchant_max: limit(manifest.claims_per_merchant_max),
            merchant_of: manifest.batches.iter().map(|batch| (batch.batch, batch.merchant_id)).collect(),
        }
    }

    fn merchant(&self, batch: BatchId) -> Merchant {
        self.merchant_of.get(&batch).map_or(Merchant::Batch(batch), |number| Merchant::Named(*number))
    }

    /// Whether a user holding `doc` may get `packet` as well.
    ///
    /// # Errors
    /// The limit that stands in the way.
    pub fn admit(&self, doc: &ClaimDoc, packet: PacketId) -> Result<(), Reason> {
        assert!(!doc.contains(packet), "{packet} was counted before");
        let event_max = self.event_max.unwrap_or(PACKETS_PER_USER_MAX).min(PACKETS_PER_USER_MAX);
        if event_max as usize <= doc.packets.len() {
            return Err(Reason::OverEventLimit);
        }
        if let Some(merchant_max) = self.merchant_max {
            let merchant = self.merchant(packet.batch);
            let held = doc.packets.iter().filter(|held| self.merchant(held.batch) == merchant).count();
            if merchant_max as usize <= held {
                return Err(Reason::OverMerchantLimit);
            }
        }
        Ok(())
    }

    /// Whether a whole document keeps the limits; for reconcile.
    ///
    /// # Errors
    /// The first limit it breaks.
    pub fn check(&self, doc: &ClaimDoc) -> Result<(), Reason> {
        let mut so_far = ClaimDoc::default();
        for packet in &doc.packets {
            self.admit(&so_far, *packet)?;
            so_far.packets.push(*packet);
        }
        Ok(())
    }
}

impl ClaimDoc {
    /// Whether `packet` is counted.
    #[must_use]
    pub fn contains(&self, packet: PacketId) -> bool {
        self.packets.contains(&packet)
    }

    /// The packets, in the order they were reserved.
    #[must_use]
    pub fn packets(&self) -> &[PacketId] {
        &self.packets
    }

    /// Counts `packet`.
    pub fn add(&mut self, packet: PacketId) {
        assert!(!self.contains(packet), "{packet} was counted before");
        assert!(self.packets.len() < usize::from(u16::MAX), "a document never grows that long");
        self.packets.push(packet);
    }

    /// Stops counting `packet`.
    pub fn remove(&mut self, packet: PacketId) {
        let before = self.packets.len();
        self.packets.retain(|held| *held != packet);
        assert!(self.packets.len() + 1 == before, "{packet} was counted exactly once");
    }

    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let count = u16::try_from(self.packets.len()).expect("add() bounds the length");
        let mut bytes = Vec::with_capacity(3 + self.packets.len() * PACKET_ID_LEN);
        bytes.push(FORMAT);
        bytes.extend_from_slice(&count.to_be_bytes());
        for packet in &self.packets {
            bytes.extend_from_slice(&packet.to_bytes());
        }
        Bytes::from(bytes)
    }

    /// Reads the stored bytes of `user`'s document.
    ///
    /// # Errors
    /// Another length or format, or a packet that stands twice.
    pub fn decode(user: UserId, bytes: &[u8]) -> Result<ClaimDoc, StoredError> {
        let error = |reason| StoredError::new("claim document", user, reason);
        let (head, body) = bytes.split_first_chunk::<3>().ok_or_else(|| error("too short"))?;
        if head[0] != FORMAT {
            return Err(error("unknown format"));
        }
        let count = usize::from(u16::from_be_bytes([head[1], head[2]]));
        if body.len() != count * PACKET_ID_LEN {
            return Err(error("wrong length"));
        }
        let (chunks, _) = body.as_chunks::<PACKET_ID_LEN>();
        let packets: Vec<PacketId> = chunks.iter().map(|chunk| PacketId::from_bytes(*chunk)).collect();
        let mut sorted = packets.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != count {
            return Err(error("a packet stands twice"));
        }
        Ok(ClaimDoc { packets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(batch: u16, serial: u64) -> PacketId {
        PacketId { build_tag: [1, 2, 3, 4], batch: BatchId(batch), serial }
    }

    #[test]
    fn the_event_limit_holds() {
        let limits = Limits { event_max: Some(2), ..Limits::default() };
        let mut doc = ClaimDoc::default();
        for serial in 0..2 {
            assert_eq!(limits.admit(&doc, packet(1, serial)), Ok(()));
            doc.add(packet(1, serial));
        }
        assert_eq!(limits.admit(&doc, packet(2, 9)), Err(Reason::OverEventLimit));
        doc.remove(packet(1, 0));
        assert_eq!(limits.admit(&doc, packet(2, 9)), Ok(()));
    }

    #[test]
    fn batches_of_one_merchant_count_together() {
        let merchant_of = BTreeMap::from([(BatchId(1), 7), (BatchId(2), 7)]);
        let limits = Limits { event_max: None, merchant_max: Some(1), merchant_of };
        let mut doc = ClaimDoc::default();
        doc.add(packet(1, 0));
        assert_eq!(limits.admit(&doc, packet(2, 1)), Err(Reason::OverMerchantLimit));
        assert_eq!(limits.admit(&doc, packet(7, 1)), Ok(()), "batch 7 is not merchant 7");
        doc.add(packet(2, 1));
        assert_eq!(limits.check(&doc), Err(Reason::OverMerchantLimit));
    }

    #[test]
    fn no_limit_still_bounds_the_document() {
        let mut doc = ClaimDoc::default();
        for serial in 0..u64::from(PACKETS_PER_USER_MAX) {
            doc.packets.push(packet(1, serial));
        }
        assert_eq!(Limits::default().admit(&doc, packet(2, 0)), Err(Reason::OverEventLimit));
    }

    #[test]
    fn documents_read_back_and_their_bytes_are_frozen() {
        let mut doc = ClaimDoc::default();
        doc.add(packet(5, 6));
        let bytes = doc.encode();
        assert_eq!(&bytes[..], b"\x01\x00\x01\x01\x02\x03\x04\x00\x05\x00\x00\x00\x00\x00\x06");
        assert_eq!(ClaimDoc::decode(UserId(1), &bytes), Ok(doc));
        for length in 0..bytes.len() {
            assert!(ClaimDoc::decode(UserId(1), &bytes[..length]).is_err());
        }
        let twice = [&b"\x01\x00\x02"[..], &bytes[3..], &bytes[3..]].concat();
        assert!(ClaimDoc::decode(UserId(1), &twice).is_err());
    }
}
