//! The opening: an opened packet on its way through the queue to the ledger.
//!
//! ```text
//!   off len field
//!     0   2  format    u16   1
//!     2  12  packet          build tag u32 | batch u16 | serial u48; also queue key and dedup id
//!    14   8  user      u64
//!    22   8  amount    u64   fen
//!    30   2  slot      u16
//!    32   4  file      u32
//!    36   4  index     u32
//!    40   2  key       u16
//!    42  26  record          as it stood in the file: whoever settles can open it again
//!    68   8  issued    u64   ms
//!    76   8  opened    u64   ms
//!    84   2  node      u16   who issued it
//!    86
//! ```
//! Numbers are big-endian.
//!
//! Invariant: packet, key and record name the same packet, in memory and in bytes.
//!
//! Not here: whether it is genuine. The settler believes the queue no more than the user.

use world::{NodeId, UnixMs};

use crate::id::{FileNo, KeyId, PACKET_ID_LEN, PacketId, SlotNo, UserId};
use crate::limits::RECORD_LEN;
use crate::money::Fen;
use crate::record::{AMOUNT_FEN_MAX, Record};

pub use crate::limits::OPENING_LEN;

/// The format number.
pub const OPENING_FORMAT: u16 = 1;

const _: () = assert!(2 + PACKET_ID_LEN + 8 + 8 + 2 + 4 + 4 + 2 + RECORD_LEN + 8 + 8 + 2 == OPENING_LEN);

/// An opened packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Which packet.
    pub packet: PacketId,
    /// Who opened it.
    pub user: UserId,
    /// What it is worth.
    pub amount: Fen,
    /// The slot it was issued in.
    pub slot: SlotNo,
    /// The file it stood in.
    pub file: FileNo,
    /// Its place in the file, from 0.
    pub index: u32,
    /// The data key of its record.
    pub key: KeyId,
    /// The record itself.
    pub record: Record,
    /// When it was issued, by the issuing node's wall clock.
    pub issued_ms: UnixMs,
    /// When it was opened, by the opener's wall clock.
    pub opened_ms: UnixMs,
    /// Who issued it.
    pub node: NodeId,
}

/// Bytes that are no opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpeningError {
    /// Not as long as an opening.
    #[error("an opening has {OPENING_LEN} bytes, this has {0}")]
    Length(usize),
    /// Of a format this program does not know.
    #[error("the opening has format {0}, this program reads {OPENING_FORMAT}")]
    Format(u16),
    /// The amount is none a packet can have.
    #[error("the opening's amount of {0} yuan is none a packet can have")]
    Amount(Fen),
    /// The node number is none a node can have.
    #[error("the opening names no node")]
    Node,
    /// Packet, key and record contradict each other.
    #[error("the opening's packet or key is not its record's")]
    Record,
}

impl Opening {
    /// Whether the fields agree with each other.
    fn validate(self) -> Result<Opening, OpeningError> {
        if self.amount.is_zero() || self.amount.get() > AMOUNT_FEN_MAX {
            return Err(OpeningError::Amount(self.amount));
        }
        let named = (self.packet.batch, self.packet.serial, self.key);
        if named != (self.record.batch(), self.record.serial(), self.record.key_id()) {
            return Err(OpeningError::Record);
        }
        Ok(self)
    }

    /// Its bytes.
    ///
    /// # Panics
    /// When its fields contradict each other: the opener takes them from one opened record.
    #[must_use]
    pub fn encode(&self) -> [u8; OPENING_LEN] {
        assert!(self.validate().is_ok(), "an opening that contradicts itself: {self:?}");
        let mut bytes = [0u8; OPENING_LEN];
        bytes[..2].copy_from_slice(&OPENING_FORMAT.to_be_bytes());
        bytes[2..14].copy_from_slice(&self.packet.to_bytes());
        bytes[14..22].copy_from_slice(&self.user.0.to_be_bytes());
        bytes[22..30].copy_from_slice(&self.amount.get().to_be_bytes());
        bytes[30..32].copy_from_slice(&self.slot.0.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.file.0.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.index.to_be_bytes());
        bytes[40..42].copy_from_slice(&self.key.0.to_be_bytes());
        bytes[42..68].copy_from_slice(self.record.as_bytes());
        bytes[68..76].copy_from_slice(&self.issued_ms.0.to_be_bytes());
        bytes[76..84].copy_from_slice(&self.opened_ms.0.to_be_bytes());
        bytes[84..].copy_from_slice(&self.node.as_u16().to_be_bytes());
        bytes
    }

    /// Reads the bytes back.
    ///
    /// # Errors
    /// [`OpeningError`] for anything [`Opening::encode`] would not have written.
    pub fn decode(bytes: &[u8]) -> Result<Opening, OpeningError> {
        let bytes: &[u8; OPENING_LEN] = bytes.try_into().map_err(|_| OpeningError::Length(bytes.len()))?;
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if u16_at(0) != OPENING_FORMAT {
            return Err(OpeningError::Format(u16_at(0)));
        }
        let opening = Opening {
            packet: PacketId::from_bytes(bytes[2..14].try_into().expect("twelve bytes")),
            user: UserId(u64_at(14)),
            amount: Fen::new(u64_at(22)),
            slot: SlotNo(u16_at(30)),
            file: FileNo(u32_at(32)),
            index: u32_at(36),
            key: KeyId(u16_at(40)),
            record: Record(bytes[42..68].try_into().expect("26 bytes")),
            issued_ms: UnixMs(u64_at(68)),
            opened_ms: UnixMs(u64_at(76)),
            node: NodeId::from_u16(u16_at(84)).ok_or(OpeningError::Node)?,
        };
        opening.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{BatchId, BuildId, SERIAL_MAX};
    use proptest::prelude::*;

    fn opening(record: [u8; RECORD_LEN], build: [u8; 16], amount: u64, rest: [u64; 3]) -> Opening {
        let record = Record(record);
        Opening {
            packet: record.packet_id(BuildId(build)),
            user: UserId(rest[0]),
            amount: Fen::new(amount),
            slot: SlotNo((rest[1] >> 48) as u16),
            file: FileNo((rest[1] & 0xffff_ffff) as u32),
            index: (rest[2] >> 32) as u32,
            key: record.key_id(),
            record,
            issued_ms: UnixMs(rest[1]),
            opened_ms: UnixMs(rest[2]),
            node: "b2".parse().expect("a node"),
        }
    }

    fn sample() -> Opening {
        opening([0x3c; RECORD_LEN], [0x7e; 16], 1_234, [42, 1_454_850_000_000, 1_454_850_001_000])
    }

    #[test]
    fn what_encode_would_not_write_is_refused() {
        let bytes = sample().encode();
        for len in (0..OPENING_LEN).chain([OPENING_LEN + 1]) {
            let mut other = bytes.to_vec();
            other.resize(len, 0);
            assert_eq!(Opening::decode(&other), Err(OpeningError::Length(len)));
        }
        let check = |at: usize, value: &[u8], expected: OpeningError| {
            let mut other = bytes;
            other[at..at + value.len()].copy_from_slice(value);
            assert_eq!(Opening::decode(&other), Err(expected), "byte {at}");
        };
        check(0, &[0, 2], OpeningError::Format(2));
        check(22, &[0; 8], OpeningError::Amount(Fen::ZERO));
        check(26, &[1, 0, 0, 0], OpeningError::Amount(Fen::new(1 << 24)));
        check(84, &[0, 0], OpeningError::Node);
        check(6, &[0], OpeningError::Record);
        check(13, &[0], OpeningError::Record);
        check(40, &[0], OpeningError::Record);
        check(42, &[0], OpeningError::Record);
    }

    #[test]
    #[should_panic(expected = "contradicts itself")]
    fn an_opening_that_contradicts_its_record_is_not_written() {
        let mut opening = sample();
        opening.packet.batch = BatchId(opening.packet.batch.0 ^ 1);
        let _ = opening.encode();
    }

    proptest! {
        #[test]
        fn every_opening_reads_back(
            record: [u8; RECORD_LEN], build: [u8; 16], amount in 1..=AMOUNT_FEN_MAX, rest: [u64; 3],
        ) {
            let opening = opening(record, build, amount, rest);
            prop_assert!(opening.packet.serial <= SERIAL_MAX);
            prop_assert_eq!(Opening::decode(&opening.encode()), Ok(opening));
        }

        #[test]
        fn what_reads_writes_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), OPENING_LEN)) {
            let mut bytes = bytes;
            bytes[..2].copy_from_slice(&OPENING_FORMAT.to_be_bytes());
            if let Ok(opening) = Opening::decode(&bytes) {
                prop_assert_eq!(opening.encode().to_vec(), bytes);
            }
        }
    }
}
