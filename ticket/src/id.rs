//! Names of things in an event. Their numbers stand in files, seals, rows and messages, so their
//! widths and meanings are frozen.
//!
//! Invariant: a [`PacketId`] names one packet for ever: build tag, batch and serial are exactly
//! the AES-GCM nonce of its record, so two packets with one id cannot exist under one key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $raw:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $raw);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number!(
    /// A sponsor's order: the `batch_id` column of the budget.
    BatchId, u16
);
number!(
    /// A time window of the event: its place in the script, from 0.
    SlotNo, u16
);
number!(
    /// A ticket file: its place in the manifest, from 0; unique within a build.
    FileNo, u32
);
number!(
    /// A data key of the build, from 1.
    KeyId, u16
);
number!(
    /// A user, as the caller's own system numbers them.
    UserId, u64
);

/// The largest serial: they are 48 bits wide.
pub const SERIAL_MAX: u64 = (1 << 48) - 1;

/// One run of `plan build`: 16 bytes, shown as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId(pub [u8; 16]);

impl BuildId {
    /// The first four bytes: what stands in nonces and packet ids.
    #[must_use]
    pub fn tag(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }
}

/// An event's id as eight bytes: what stands in file headers and is bound into seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventTag([u8; 8]);

impl EventTag {
    /// The tag of the event with this id: the first bytes of BLAKE3 in its key derivation mode.
    #[must_use]
    pub fn of(event: &str) -> EventTag {
        let [a, b, c, d, e, f, g, h, ..] = blake3::derive_key("hongbao 2026 event tag", event.as_bytes());
        EventTag([a, b, c, d, e, f, g, h])
    }

    /// The persisted form.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }

    /// Reads the persisted form.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> EventTag {
        EventTag(bytes)
    }
}

impl fmt::Display for EventTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// One packet: build tag, batch, serial. Shown as `0a1b2c3d-12-00000000002a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PacketId {
    /// First four bytes of the build id.
    pub build_tag: [u8; 4],
    /// The sponsor's order.
    pub batch: BatchId,
    /// Unique within the build; at most [`SERIAL_MAX`].
    pub serial: u64,
}

/// Bytes of a packet id in its binary form.
pub const PACKET_ID_LEN: usize = 12;

impl PacketId {
    /// The binary form, which is also the nonce of the packet's record.
    #[must_use]
    pub fn to_bytes(self) -> [u8; PACKET_ID_LEN] {
        assert!(self.serial <= SERIAL_MAX, "serial {} is wider than 48 bits", self.serial);
        let mut bytes = [0u8; PACKET_ID_LEN];
        bytes[..4].copy_from_slice(&self.build_tag);
        bytes[4..6].copy_from_slice(&self.batch.0.to_be_bytes());
        bytes[6..].copy_from_slice(&self.serial.to_be_bytes()[2..]);
        bytes
    }

    /// Reads the binary form.
    #[must_use]
    pub fn from_bytes(bytes: [u8; PACKET_ID_LEN]) -> PacketId {
        let [t0, t1, t2, t3, b0, b1, s @ ..] = bytes;
        let [s0, s1, s2, s3, s4, s5] = s;
        PacketId {
            build_tag: [t0, t1, t2, t3],
            batch: BatchId(u16::from_be_bytes([b0, b1])),
            serial: u64::from_be_bytes([0, 0, s0, s1, s2, s3, s4, s5]),
        }
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = u32::from_be_bytes(self.build_tag);
        write!(f, "{tag:08x}-{}-{:012x}", self.batch, self.serial)
    }
}

/// A text that is not the id it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct IdError {
    text: String,
    what: &'static str,
}

impl FromStr for PacketId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<PacketId, IdError> {
        let parse = || -> Option<PacketId> {
            let mut parts = text.split('-');
            let (tag, batch, serial) = (parts.next()?, parts.next()?, parts.next()?);
            if parts.next().is_some() || tag.len() != 8 || serial.len() != 12 {
                return None;
            }
            let packet = PacketId {
                build_tag: u32::from_str_radix(tag, 16).ok()?.to_be_bytes(),
                batch: BatchId(batch.parse().ok()?),
                serial: u64::from_str_radix(serial, 16).ok()?,
            };
            // Only the canonical text names a packet: no signs, no capitals, no leading zeros.
            (packet.to_string() == text).then_some(packet)
        };
        parse().ok_or_else(|| IdError { text: text.to_owned(), what: "packet id" })
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for BuildId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<BuildId, IdError> {
        let parsed = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
        match parsed {
            Some(number) if BuildId(number.to_be_bytes()).to_string() == text => {
                Ok(BuildId(number.to_be_bytes()))
            }
            _ => Err(IdError { text: text.to_owned(), what: "build id" }),
        }
    }
}

macro_rules! text_form {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(id: $type) -> String {
                id.to_string()
            }
        }
    };
}
text_form!(PacketId);
text_form!(BuildId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packet_ids_read_back_in_both_forms() {
        let id = PacketId { build_tag: [0x0a, 0x1b, 0x2c, 0x3d], batch: BatchId(12), serial: 42 };
        assert_eq!(id.to_string(), "0a1b2c3d-12-00000000002a");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(PacketId::from_bytes(id.to_bytes()), id);
    }

    #[test]
    fn only_the_canonical_text_is_a_packet_id() {
        for text in [
            "",
            "0a1b2c3d-12-2a",
            "0A1b2c3d-12-00000000002a",
            "0a1b2c3d-012-00000000002a",
            "0a1b2c3d-12-00000000002a-",
            "+a1b2c3d-12-00000000002a",
        ] {
            assert!(text.parse::<PacketId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn only_the_canonical_text_is_a_build_id() {
        let build = BuildId([0xab; 16]);
        assert_eq!(build.to_string().parse(), Ok(build));
        for text in ["", "ab", &"AB".repeat(16), &"ab".repeat(17), "+babababababababababababababababa"] {
            assert!(text.parse::<BuildId>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn events_with_different_ids_have_different_tags() {
        assert_ne!(EventTag::of("spring-2016"), EventTag::of("spring-2017"));
        let tag = EventTag::of("spring-2016");
        assert_eq!(EventTag::from_bytes(tag.to_bytes()), tag);
    }

    proptest! {
        #[test]
        fn every_packet_id_reads_back_and_sorts_like_its_bytes(
            build_tag: [u8; 4], batch: u16, serial in 0..=SERIAL_MAX, other in 0..=SERIAL_MAX,
        ) {
            let id = PacketId { build_tag, batch: BatchId(batch), serial };
            prop_assert_eq!(PacketId::from_bytes(id.to_bytes()), id);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            let other = PacketId { serial: other, ..id };
            prop_assert_eq!(id.cmp(&other), id.to_bytes().cmp(&other.to_bytes()));
        }

        #[test]
        fn every_build_id_reads_back(bytes: [u8; 16]) {
            let build = BuildId(bytes);
            prop_assert_eq!(build.to_string().parse(), Ok(build));
            prop_assert_eq!(&build.tag()[..], &bytes[..4]);
        }
    }
}
