//! The secrets of a build, and which of its data keys may be used.
//!
//! ```text
//!   BuildSecret  --HKDF(salt build id, info domain|key id)-->  data key 1..=key_count   (records)
//!   SealMaster   --HKDF(info domain|node)-->  NodeSealKey   (tickets sealed to users by one node)
//!   KeyList      whitelist and blacklist of data keys; public, changed while the event runs
//! ```
//! Invariants: a data key belongs to one build only, so building again never reuses a nonce; a
//! node's key says nothing about another node's; secrets are wiped when dropped and never shown.
//!
//! Not here: who holds what. The planning machine has all; openers have both masters; an access
//! node has its own [`NodeSealKey`] and nothing else.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use world::NodeId;
use world::disk::{Disk, publish_secret};
use world::mutant::{Mutant, armed};
use world::rng::{self, EntropyError};
use zeroize::Zeroizing;

use crate::id::{BuildId, EventTag, KeyId};
use crate::keyfile;
pub use crate::keyfile::{KeyFileError, KeyTextError};

/// Bytes of every secret here.
pub const SECRET_LEN: usize = 32;

const NODE_KEY_INFO: &[u8] = b"hongbao/node-seal/v1";
const SEAL_KEY_INFO: &[u8] = b"hongbao/seal/v1";

pub(crate) type SecretBytes = Zeroizing<[u8; SECRET_LEN]>;

/// HKDF-SHA256 (RFC 5869). `info` parts are of fixed width except the first, a constant.
fn derive(ikm: &SecretBytes, salt: &[u8], info: &[&[u8]]) -> SecretBytes {
    let mut okm = Zeroizing::new([0u8; SECRET_LEN]);
    Hkdf::<Sha256>::new(Some(salt), ikm.as_slice())
        .expand_multi_info(info, okm.as_mut_slice())
        .expect("32 bytes are within HKDF's 8160");
    okm
}

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(SecretBytes);

        impl $name {
            /// A new one nobody can guess.
            ///
            /// # Errors
            /// When the operating system's generator fails.
            pub fn generate() -> Result<Self, EntropyError> {
                Ok(Self(Zeroizing::new(rng::secret_bytes()?)))
            }

            /// The secret with these bytes; for reproducible builds and tests.
            #[must_use]
            pub fn from_bytes(bytes: [u8; SECRET_LEN]) -> Self {
                Self(Zeroizing::new(bytes))
            }

            /// The text of its key file.
            #[must_use]
            pub fn to_text(&self) -> Zeroizing<String> {
                keyfile::to_text($kind, self.0.as_slice())
            }

            /// Reads the text of its key file.
            ///
            /// # Errors
            /// [`KeyTextError`], which never shows the text.
            pub fn parse(text: &str) -> Result<Self, KeyTextError> {
                keyfile::parse($kind, text).map(Self)
            }

            /// Reads its key file.
            ///
            /// # Errors
            /// [`KeyFileError`] naming the file.
            pub fn load(disk: &dyn Disk, path: &Path) -> Result<Self, KeyFileError> {
                keyfile::load(disk, path, Self::parse)
            }

            /// Publishes its key file, readable by the owner only.
            ///
            /// # Errors
            /// Whatever the disk says.
            pub fn publish(&self, path: &Path) -> io::Result<()> {
                publish_secret(path, self.to_text().as_bytes())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(secret)"))
            }
        }
    };
}

secret!(
    /// What all data keys of one build derive from.
    BuildSecret, "build"
);
secret!(
    /// What every node's seal key derives from.
    SealMaster, "seal"
);

impl BuildSecret {
    /// The key that seals records naming `key`.
    #[cfg(any(feature = "mint", feature = "open"))]
    pub(crate) fn data_key(&self, build: BuildId, key: KeyId) -> SecretBytes {
        assert!(key.0 >= 1, "data keys are numbered from 1");
        derive(&self.0, &build.0, &[b"hongbao/record/v1", &key.0.to_be_bytes()])
    }
}

impl SealMaster {
    /// The key with which `node` seals tickets; all it is given.
    #[must_use]
    pub fn node_key(&self, node: NodeId) -> NodeSealKey {
        let secret = derive(&self.0, &[], &[NODE_KEY_INFO, &node.as_u16().to_be_bytes()]);
        NodeSealKey { node, secret }
    }
}

/// One node's seal key. Deliberately not `Clone`: a [`crate::seal::NodeSealer`] takes it whole,
/// because two sealers counting nonces under one key and boot epoch would repeat them.
pub struct NodeSealKey {
    node: NodeId,
    secret: SecretBytes,
}

const NODE_SEAL_KIND: &str = "node-seal";
const NODE_SEAL_LEN: usize = 2 + SECRET_LEN;

impl NodeSealKey {
    /// Whose key it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The key of the cipher for one event and build.
    pub(crate) fn seal_key(&self, event: EventTag, build: BuildId) -> SecretBytes {
        derive(&self.secret, &build.0, &[SEAL_KEY_INFO, &event.to_bytes()])
    }

    /// The text of its key file.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0u8; NODE_SEAL_LEN]);
        bytes[..2].copy_from_slice(&self.node.as_u16().to_be_bytes());
        bytes[2..].copy_from_slice(self.secret.as_slice());
        keyfile::to_text(NODE_SEAL_KIND, bytes.as_slice())
    }

    /// Reads the text of its key file.
    ///
    /// # Errors
    /// [`KeyTextError`], which never shows the text.
    pub fn parse(text: &str) -> Result<NodeSealKey, KeyTextError> {
        let bytes: Zeroizing<[u8; NODE_SEAL_LEN]> = keyfile::parse(NODE_SEAL_KIND, text)?;
        let [n0, n1, secret @ ..] = *bytes;
        let node = NodeId::from_u16(u16::from_be_bytes([n0, n1])).ok_or(KeyTextError::Damaged)?;
        Ok(NodeSealKey { node, secret: Zeroizing::new(secret) })
    }

    /// Reads its key file.
    ///
    /// # Errors
    /// [`KeyFileError`] naming the file.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<NodeSealKey, KeyFileError> {
        keyfile::load(disk, path, NodeSealKey::parse)
    }

    /// Publishes its key file, readable by the owner only.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn publish(&self, path: &Path) -> io::Result<()> {
        publish_secret(path, self.to_text().as_bytes())
    }
}

impl std::fmt::Debug for NodeSealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeSealKey({}, secret)", self.node)
    }
}

/// Format number of a [`KeyList`].
pub const KEY_LIST_FORMAT: u32 = 1;

/// Which data keys may be used. JSON: `{"format":1,"whitelist":[1,2],"blacklist":[2]}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyList {
    /// [`KEY_LIST_FORMAT`].
    pub format: u32,
    /// Keys that may be used. Empty means none.
    pub whitelist: BTreeSet<KeyId>,
    /// Keys that may not, whatever the whitelist says.
    pub blacklist: BTreeSet<KeyId>,
}

/// Why a key may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// It is blacklisted.
    #[error("the key is revoked")]
    Revoked,
    /// It is not whitelisted.
    #[error("the key is not whitelisted")]
    NotWhitelisted,
}

/// A key list that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyListError {
    /// Not the JSON it should be.
    #[error("the key list cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by another version.
    #[error(
        "the key list has format {0}, this program reads {KEY_LIST_FORMAT}: use the version that wrote it"
    )]
    Format(u32),
}

impl KeyList {
    /// No key may be used.
    #[must_use]
    pub fn none() -> KeyList {
        KeyList { format: KEY_LIST_FORMAT, whitelist: BTreeSet::new(), blacklist: BTreeSet::new() }
    }

    /// All keys of a build may be used.
    #[must_use]
    pub fn all(key_count: u16) -> KeyList {
        KeyList { whitelist: (1..=key_count).map(KeyId).collect(), ..KeyList::none() }
    }

    /// Whether `key` may be used. The blacklist is asked first.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub fn check(&self, key: KeyId) -> Result<(), KeyRefusal> {
        if armed(Mutant::KeyListIgnored) {
            return Ok(());
        }
        if self.blacklist.contains(&key) {
            return Err(KeyRefusal::Revoked);
        }
        if !self.whitelist.contains(&key) {
            return Err(KeyRefusal::NotWhitelisted);
        }
        Ok(())
    }

    /// Its JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a key list is always valid JSON")
    }

    /// Reads its JSON.
    ///
    /// # Errors
    /// [`KeyListError`].
    pub fn decode(bytes: &[u8]) -> Result<KeyList, KeyListError> {
        // The format first: another one may well have other fields.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.format != KEY_LIST_FORMAT {
            return Err(KeyListError::Format(head.format));
        }
        Ok(serde_json::from_slice(bytes)?)
    }
}

impl Default for KeyList {
    /// No key may be used.
    fn default() -> KeyList {
        KeyList::none()
    }
}

#[cfg(test)]
mod tests;
