//! The cipher of records, shared by minting and opening and reachable only through them.
//!
//! Invariant: nonce and associated data are made here and nowhere else, fixed width only, so both
//! sides agree and no two field values can give the same bytes.
//!
//! Why a 96-bit tag: a forged record passes with probability 2^-94 per try. Tags of 64 bits and
//! fewer would let one lucky forgery reveal the hash key (Ferguson 2005).

use aes_gcm::aead::KeyInit;
use aes_gcm::aead::consts::U12;
use aes_gcm::aes::Aes256;
use aes_gcm::{AeadInOut, AesGcm};

use crate::id::{BatchId, BuildId, KeyId, PACKET_ID_LEN, PacketId, SlotNo};
use crate::keys::BuildSecret;
use crate::limits::{RECORD_SECRET_LEN, RECORD_TAG_LEN};

/// Ten bytes, so that the associated data is exactly one block of the hash.
const AAD_DOMAIN: &[u8; 10] = b"hb/record1";
const AAD_LEN: usize = 16;
const _: () = assert!(AAD_DOMAIN.len() + 6 == AAD_LEN, "one GHASH block");

type Gcm = AesGcm<Aes256, U12, U12>;

/// AES-256-GCM under one data key; the key schedule is made once.
pub(crate) struct RecordCipher {
    gcm: Gcm,
    build_tag: [u8; 4],
    key: KeyId,
}

pub(crate) type Secret = [u8; RECORD_SECRET_LEN];
pub(crate) type Tag = [u8; RECORD_TAG_LEN];

impl RecordCipher {
    pub(crate) fn new(secret: &BuildSecret, build: BuildId, key: KeyId) -> RecordCipher {
        let data_key = secret.data_key(build, key);
        RecordCipher { gcm: Gcm::new((&*data_key).into()), build_tag: build.tag(), key }
    }

    pub(crate) fn key(&self) -> KeyId {
        self.key
    }

    fn nonce(&self, batch: BatchId, serial: u64) -> [u8; PACKET_ID_LEN] {
        PacketId { build_tag: self.build_tag, batch, serial }.to_bytes()
    }

    fn aad(&self, slot: SlotNo, batch: BatchId) -> [u8; AAD_LEN] {
        let mut aad = [0u8; AAD_LEN];
        aad[..10].copy_from_slice(AAD_DOMAIN);
        aad[10..12].copy_from_slice(&slot.0.to_be_bytes());
        aad[12..14].copy_from_slice(&self.key.0.to_be_bytes());
        aad[14..].copy_from_slice(&batch.0.to_be_bytes());
        aad
    }

    /// Encrypts `secret` in place and returns its tag.
    #[cfg(feature = "mint")]
    pub(crate) fn seal(&self, slot: SlotNo, batch: BatchId, serial: u64, secret: &mut Secret) -> Tag {
        let nonce = self.nonce(batch, serial);
        let aad = self.aad(slot, batch);
        let tag = self
            .gcm
            .encrypt_inout_detached((&nonce).into(), &aad, secret.as_mut_slice().into())
            .expect("four bytes are within AES-GCM's limits");
        tag.into()
    }

    /// Decrypts `secret` in place; `false`, and `secret` is garbage, when the tag does not match.
    #[cfg(feature = "open")]
    #[must_use]
    pub(crate) fn open(
        &self,
        slot: SlotNo,
        batch: BatchId,
        serial: u64,
        secret: &mut Secret,
        tag: &Tag,
    ) -> bool {
        let nonce = self.nonce(batch, serial);
        let aad = self.aad(slot, batch);
        self.gcm
            .decrypt_inout_detached((&nonce).into(), &aad, secret.as_mut_slice().into(), tag.into())
            .is_ok()
    }
}
