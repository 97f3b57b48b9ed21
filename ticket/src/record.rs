//! The record: one packet in 26 bytes, as it stands in a ticket file.
//!
//! ```text
//!   off len field
//!     0   2  key id     u16   clear; chooses the data key
//!     2   2  batch      u16   clear; whose money
//!     4   6  serial     u48   clear; unique within the build
//!    10   4  secret           encrypted: amount u24 (fen) | flags u8
//!    14  12  tag              96-bit tag of AES-256-GCM
//!
//!   nonce = build tag u32 | batch u16 | serial u48      never stored; equals the packet id
//!   AAD   = domain (10) | slot u16 | key id u16 | batch u16
//!   key   = HKDF-SHA256(ikm = build secret, salt = build id, info = domain | key id u16)
//!
//!   flags: bits 0-1 kind (0 logo, 1 picture, 2 video), bit 7 credited at once, the rest zero
//! ```
//! Numbers are big-endian. The ids are readable by whoever holds the file but cannot be altered;
//! the amount is readable only with the data key.
//!
//! Invariant: two records of one build never share a nonce, because serials are unique within it
//! and another build has other keys and another tag.
//!
//! Not here: sealing and opening (see [`crate::mint`] and [`crate::open`]); a record taken from
//! bytes says nothing about its being genuine.

use serde::{Deserialize, Serialize};

use crate::id::{BatchId, BuildId, KeyId, PacketId};
use crate::limits::RECORD_CLEAR_LEN;
pub use crate::limits::{AMOUNT_FEN_MAX, RECORD_LEN};

/// One packet as bytes. Its content is not to be trusted until it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record(pub [u8; RECORD_LEN]);

impl Record {
    /// The data key it claims to be sealed with.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        KeyId(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// The sponsor's order it claims to be paid from.
    #[must_use]
    pub fn batch(&self) -> BatchId {
        BatchId(u16::from_be_bytes([self.0[2], self.0[3]]))
    }

    /// Its number within the build; 48 bits.
    #[must_use]
    pub fn serial(&self) -> u64 {
        let [.., s0, s1, s2, s3, s4, s5] = self.clear();
        u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5])
    }

    /// The packet it claims to be, if it is of this build.
    #[must_use]
    pub fn packet_id(&self, build: BuildId) -> PacketId {
        PacketId { build_tag: build.tag(), batch: self.batch(), serial: self.serial() }
    }

    /// The bytes as they stand in a file.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; RECORD_LEN] {
        &self.0
    }

    fn clear(&self) -> [u8; RECORD_CLEAR_LEN] {
        let [k0, k1, b0, b1, s0, s1, s2, s3, s4, s5, ..] = self.0;
        [k0, k1, b0, b1, s0, s1, s2, s3, s4, s5]
    }
}

impl std::fmt::Debug for Record {
    /// The clear part only: a log line must not hold what could be opened elsewhere.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Record(key {}, batch {}, serial {:012x})", self.key_id(), self.batch(), self.serial())
    }
}

/// What the user sees when the packet opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// The sponsor's logo.
    Logo = 0,
    /// A picture.
    Picture = 1,
    /// A video.
    Video = 2,
}

impl Kind {
    /// The word used in budgets, JSON and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Logo => "logo",
            Kind::Picture => "picture",
            Kind::Video => "video",
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = KindError;

    fn from_str(text: &str) -> Result<Kind, KindError> {
        match text {
            "logo" => Ok(Kind::Logo),
            "picture" => Ok(Kind::Picture),
            "video" => Ok(Kind::Video),
            _ => Err(KindError { text: text.to_owned() }),
        }
    }
}

/// A word that is no kind of packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a kind of packet: write logo, picture or video")]
pub struct KindError {
    text: String,
}

const KIND_BITS: u8 = 0b0000_0011;
const INSTANT_BIT: u8 = 0b1000_0000;

/// What stands beside the amount in a record's encrypted part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flags(u8);

impl Flags {
    /// The flags of a packet of this kind; `instant` when it is credited as it settles.
    #[must_use]
    pub const fn new(kind: Kind, instant: bool) -> Flags {
        Flags(kind as u8 | if instant { INSTANT_BIT } else { 0 })
    }

    /// Reads the persisted byte; `None` when a bit is set that has no meaning.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Flags> {
        if bits & !(KIND_BITS | INSTANT_BIT) != 0 || bits & KIND_BITS == KIND_BITS {
            return None;
        }
        Some(Flags(bits))
    }

    /// The persisted byte.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// What the user sees.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self.0 & KIND_BITS {
            0 => Kind::Logo,
            1 => Kind::Picture,
            2 => Kind::Video,
            _ => unreachable!("flags are built from a kind or checked by from_bits"),
        }
    }

    /// Whether it is credited as it settles, without waiting for reconcile.
    #[must_use]
    pub const fn instant(self) -> bool {
        self.0 & INSTANT_BIT != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clear_fields_are_where_the_drawing_says() {
        let mut bytes = [0u8; RECORD_LEN];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::try_from(index).expect("26 bytes");
        }
        let record = Record(bytes);
        assert_eq!(record.key_id(), KeyId(0x0001));
        assert_eq!(record.batch(), BatchId(0x0203));
        assert_eq!(record.serial(), 0x0405_0607_0809);
        let id = record.packet_id(BuildId([0xab; 16]));
        assert_eq!(id.to_string(), "abababab-515-040506070809");
    }

    #[test]
    fn a_flag_byte_without_meaning_is_refused() {
        let good: Vec<u8> = (0..=u8::MAX).filter(|bits| Flags::from_bits(*bits).is_some()).collect();
        assert_eq!(good, [0, 1, 2, 0x80, 0x81, 0x82]);
        for kind in [Kind::Logo, Kind::Picture, Kind::Video] {
            for instant in [false, true] {
                let flags = Flags::new(kind, instant);
                assert_eq!(Flags::from_bits(flags.bits()), Some(flags));
                assert_eq!((flags.kind(), flags.instant()), (kind, instant));
            }
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
    }

    #[test]
    fn a_record_in_a_log_shows_nothing_secret() {
        let shown = format!("{:?}", Record([0x55; RECORD_LEN]));
        assert_eq!(shown, "Record(key 21845, batch 21845, serial 555555555555)");
    }
}
