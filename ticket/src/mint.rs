//! Minting: amounts become records. Only the planning machine enables this.
//!
//! ```text
//!   MintKeyring --sealer(key)--> RecordSealer --seal(slot, batch, serial, amount, flags)--> Record
//! ```
//! Invariant: what is sealed can be paid: an amount from 1 fen to 24 bits, a serial of 48 bits, a
//! key of the build. Breaking it is a fault of the plan and stops the build.
//!
//! Not here: opening (another type, so that who mints cannot be made to decrypt), and uniqueness
//! of serials, which the plan constructs.

use crate::cipher::RecordCipher;
use crate::id::{BatchId, BuildId, KeyId, SERIAL_MAX, SlotNo};
use crate::keys::BuildSecret;
use crate::limits::{AMOUNT_FEN_MAX, RECORD_LEN};
use crate::money::Fen;
use crate::record::{Flags, Record};

/// All data keys of one build, for sealing only.
pub struct MintKeyring {
    secret: BuildSecret,
    build: BuildId,
    key_count: u16,
}

impl MintKeyring {
    /// The keys 1 to `key_count` of `build`.
    ///
    /// # Panics
    /// When `key_count` is 0: a plan always needs a key.
    #[must_use]
    pub fn new(secret: &BuildSecret, build: BuildId, key_count: u16) -> MintKeyring {
        assert!(key_count > 0, "a build has at least one data key");
        MintKeyring { secret: secret.clone(), build, key_count }
    }

    /// A sealer under one key. Making it costs a key schedule: keep it for many records.
    ///
    /// # Panics
    /// When the build has no such key.
    #[must_use]
    pub fn sealer(&self, key: KeyId) -> RecordSealer {
        assert!(key.0 >= 1, "data keys are numbered from 1");
        assert!(key.0 <= self.key_count, "key {key} is past the build's {}", self.key_count);
        RecordSealer { cipher: RecordCipher::new(&self.secret, self.build, key) }
    }
}

/// Seals records under one data key.
pub struct RecordSealer {
    cipher: RecordCipher,
}

impl RecordSealer {
    /// The key it seals with.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.cipher.key()
    }

    /// Seals one packet. The same arguments give the same bytes; the same (batch, serial) must
    /// never be sealed with another amount or slot.
    ///
    /// # Panics
    /// When the amount is 0 or wider than 24 bits, or the serial wider than 48 bits.
    #[must_use]
    pub fn seal(&self, slot: SlotNo, batch: BatchId, serial: u64, amount: Fen, flags: Flags) -> Record {
        assert!(!amount.is_zero(), "a packet of nothing");
        assert!(amount.get() <= AMOUNT_FEN_MAX, "{amount} yuan is too much for one packet");
        assert!(serial <= SERIAL_MAX, "serial {serial} is wider than 48 bits");
        let [_, _, _, _, _, a0, a1, a2] = amount.get().to_be_bytes();
        let mut secret = [a0, a1, a2, flags.bits()];
        let tag = self.cipher.seal(slot, batch, serial, &mut secret);

        let mut bytes = [0u8; RECORD_LEN];
        bytes[..2].copy_from_slice(&self.cipher.key().0.to_be_bytes());
        bytes[2..4].copy_from_slice(&batch.0.to_be_bytes());
        bytes[4..10].copy_from_slice(&serial.to_be_bytes()[2..]);
        bytes[10..14].copy_from_slice(&secret);
        bytes[14..].copy_from_slice(&tag);
        Record(bytes)
    }
}
