//! Opening: records become amounts. Only the payment side enables this.
//!
//! ```text
//!   record -> revoked? -> a key of the build? -> whitelisted? -> AES-256-GCM -> sane? -> Packet
//!             `--------- decided by the clear key id alone ---------'
//! ```
//! Invariant: the clear key id chooses the one key that is tried, and a key that is revoked or not
//! whitelisted is refused before any cryptography. An empty whitelist refuses everything.
//!
//! Not here: minting (another type), who the user is and whether the plan knows the packet.

use crate::cipher::RecordCipher;
use crate::id::{BuildId, KeyId, PacketId, SlotNo};
use crate::keys::{BuildSecret, KeyList, KeyRefusal};
use crate::money::Fen;
use crate::record::{Flags, Record};

/// An opened record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Which packet.
    pub id: PacketId,
    /// What it is worth.
    pub amount: Fen,
    /// Its kind, and whether it is credited at once.
    pub flags: Flags,
    /// The data key it was sealed with.
    pub key: KeyId,
}

/// Why a record was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The key is blacklisted.
    #[error("key {0} is revoked")]
    Revoked(KeyId),
    /// The build has no such key.
    #[error("the build has no key {0}")]
    UnknownKey(KeyId),
    /// The key is not whitelisted.
    #[error("key {0} is not whitelisted")]
    NotWhitelisted(KeyId),
    /// The record was altered, forged, or is of another build or slot.
    #[error("the record is not genuine under key {0}")]
    BadTag(KeyId),
    /// A genuine record whose content no plan may hold: a fault of the minting side.
    #[error("the record under key {0} is genuine but holds no valid packet")]
    BadContent(KeyId),
}

/// All data keys of one build, for opening only, with the key list in force.
pub struct OpenKeyring {
    secret: BuildSecret,
    build: BuildId,
    list: KeyList,
    // Index is the key id - 1; `None` where the list refuses, so that a refused key has no
    // schedule in memory. Boxed because most of thousands may be refused.
    ciphers: Vec<Option<Box<RecordCipher>>>,
}

impl OpenKeyring {
    /// The keys 1 to `key_count` of `build`, as far as `list` allows them.
    #[must_use]
    pub fn new(secret: &BuildSecret, build: BuildId, key_count: u16, list: KeyList) -> OpenKeyring {
        let ciphers: Vec<_> = (1..=key_count)
            .map(|number| {
                let allowed = list.check(KeyId(number)).is_ok();
                allowed.then(|| Box::new(RecordCipher::new(secret, build, KeyId(number))))
            })
            .collect();
        assert!(ciphers.len() == usize::from(key_count), "one place per key");
        OpenKeyring { secret: secret.clone(), build, list, ciphers }
    }

    /// The same keys under another list; for when a key is revoked while the event runs.
    #[must_use]
    pub fn with_list(&self, list: KeyList) -> OpenKeyring {
        OpenKeyring::new(&self.secret, self.build, self.key_count(), list)
    }

    /// The build it opens.
    #[must_use]
    pub fn build(&self) -> BuildId {
        self.build
    }

    /// How many keys the build has.
    #[must_use]
    pub fn key_count(&self) -> u16 {
        u16::try_from(self.ciphers.len()).expect("made from a u16")
    }

    /// Opens a record that stood in a file of `slot`.
    ///
    /// # Errors
    /// [`RecordError`]; nothing of the record may then be believed.
    pub fn open(&self, slot: SlotNo, record: &Record) -> Result<Packet, RecordError> {
        let key = record.key_id();
        let refusal = self.list.check(key);
        if refusal == Err(KeyRefusal::Revoked) {
            return Err(RecordError::Revoked(key));
        }
        let index = usize::from(key.0).checked_sub(1).ok_or(RecordError::UnknownKey(key))?;
        let place = self.ciphers.get(index).ok_or(RecordError::UnknownKey(key))?;
        let cipher = place.as_ref().ok_or(RecordError::NotWhitelisted(key))?;
        assert!(refusal.is_ok(), "a refused key has no cipher");
        assert!(cipher.key() == key, "the clear key id chooses the key");

        let [.., s0, s1, s2, s3, t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11] = record.0;
        let mut secret = [s0, s1, s2, s3];
        let tag = [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11];
        if !cipher.open(slot, record.batch(), record.serial(), &mut secret, &tag) {
            return Err(RecordError::BadTag(key));
        }
        let [a0, a1, a2, flags] = secret;
        let amount = Fen::new(u64::from(u32::from_be_bytes([0, a0, a1, a2])));
        match Flags::from_bits(flags) {
            Some(flags) if !amount.is_zero() => {
                Ok(Packet { id: record.packet_id(self.build), amount, flags, key })
            }
            _ => Err(RecordError::BadContent(key)),
        }
    }
}

#[cfg(test)]
mod tests;
