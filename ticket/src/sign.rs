//! Signatures: Ed25519 over a domain and the bytes.
//!
//! ```text
//!   signed message = domain | 0x00 | bytes      domain: what kind of thing it is, never with a zero
//! ```
//! The domain keeps a signature on one kind of thing from standing under another.
//!
//! Invariant: verification is strict (RFC 8032 with canonical points and no weak keys), so every
//! verifier comes to the same answer.
//!
//! Not here: what is signed (see [`crate::manifest`] and [`crate::token`]).

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use ed25519_dalek::{Signature as DalekSignature, Signer};
use serde::{Deserialize, Serialize};
use world::disk::{Disk, publish_secret};
use world::rng::{self, EntropyError};
use zeroize::Zeroizing;

use crate::hex;
use crate::keyfile::{self, KeyFileError, KeyTextError};

const SIGNING_KIND: &str = "sign";
const VERIFYING_KIND: &str = "verify";

/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// A key that signs.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// The public half. As text: 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

/// A signature. As text: 128 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Signature([u8; SIGNATURE_LEN]);

/// A text that is not the key or signature it was taken for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {what}: expected {expected} lower-case hex digits")]
pub struct SignTextError {
    what: &'static str,
    expected: usize,
}

/// The bytes are not what the owner of the key signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not match")]
pub struct BadSignature;

fn message(domain: &str, bytes: &[u8]) -> Vec<u8> {
    assert!(!domain.contains('\0'), "a zero byte ends the domain");
    let mut message = Vec::with_capacity(domain.len() + 1 + bytes.len());
    message.extend_from_slice(domain.as_bytes());
    message.push(0);
    message.extend_from_slice(bytes);
    message
}

impl SigningKey {
    /// A new one nobody can guess.
    ///
    /// # Errors
    /// When the operating system's generator fails.
    pub fn generate() -> Result<SigningKey, EntropyError> {
        let secret = Zeroizing::new(rng::secret_bytes()?);
        Ok(SigningKey(ed25519_dalek::SigningKey::from_bytes(&secret)))
    }

    /// The key with this secret; for reproducible builds and tests.
    #[must_use]
    pub fn from_bytes(secret: [u8; 32]) -> SigningKey {
        let secret = Zeroizing::new(secret);
        SigningKey(ed25519_dalek::SigningKey::from_bytes(&secret))
    }

    /// Its public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }

    /// Signs `bytes` as a `domain`. The same arguments give the same signature.
    #[must_use]
    pub fn sign(&self, domain: &str, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&message(domain, bytes)).to_bytes())
    }

    /// The text of its key file.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        keyfile::to_text(SIGNING_KIND, self.0.as_bytes())
    }

    /// Reads the text of its key file.
    ///
    /// # Errors
    /// [`KeyTextError`], which never shows the text.
    pub fn parse(text: &str) -> Result<SigningKey, KeyTextError> {
        let secret: Zeroizing<[u8; 32]> = keyfile::parse(SIGNING_KIND, text)?;
        Ok(SigningKey(ed25519_dalek::SigningKey::from_bytes(&secret)))
    }

    /// Reads its key file.
    ///
    /// # Errors
    /// [`KeyFileError`] naming the file.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<SigningKey, KeyFileError> {
        keyfile::load(disk, path, SigningKey::parse)
    }

    /// Publishes its key file, readable by the owner only.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn publish(&self, path: &Path) -> io::Result<()> {
        publish_secret(path, self.to_text().as_bytes())
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(public {})", self.verifying_key())
    }
}

impl VerifyingKey {
    /// Whether `signature` is on `bytes` as a `domain`.
    ///
    /// # Errors
    /// [`BadSignature`] when it is not.
    pub fn verify(&self, domain: &str, bytes: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        let signature = DalekSignature::from_bytes(&signature.0);
        self.0.verify_strict(&message(domain, bytes), &signature).map_err(|_| BadSignature)
    }

    /// The text of its key file.
    #[must_use]
    pub fn to_text(&self) -> String {
        keyfile::to_text(VERIFYING_KIND, self.0.as_bytes()).as_str().to_owned()
    }

    /// Reads the text of its key file.
    ///
    /// # Errors
    /// [`KeyTextError`].
    pub fn parse(text: &str) -> Result<VerifyingKey, KeyTextError> {
        let bytes: Zeroizing<[u8; 32]> = keyfile::parse(VERIFYING_KIND, text)?;
        VerifyingKey::from_bytes(&bytes).ok_or(KeyTextError::Damaged)
    }

    /// Reads its key file.
    ///
    /// # Errors
    /// [`KeyFileError`] naming the file.
    pub fn load(disk: &dyn Disk, path: &Path) -> Result<VerifyingKey, KeyFileError> {
        keyfile::load(disk, path, VerifyingKey::parse)
    }

    /// Publishes its key file.
    ///
    /// # Errors
    /// Whatever the disk says.
    pub fn publish(&self, disk: &dyn Disk, path: &Path) -> io::Result<()> {
        disk.publish(path, self.to_text().as_bytes())
    }

    fn from_bytes(bytes: &[u8; 32]) -> Option<VerifyingKey> {
        ed25519_dalek::VerifyingKey::from_bytes(bytes).ok().map(VerifyingKey)
    }
}

impl Signature {
    /// The signature with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; SIGNATURE_LEN]) -> Signature {
        Signature(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SIGNATURE_LEN] {
        &self.0
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.as_bytes()))
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl FromStr for VerifyingKey {
    type Err = SignTextError;

    fn from_str(text: &str) -> Result<VerifyingKey, SignTextError> {
        let key = hex::decode(text).and_then(|bytes| VerifyingKey::from_bytes(&bytes));
        key.ok_or(SignTextError { what: "a verifying key", expected: 64 })
    }
}

impl FromStr for Signature {
    type Err = SignTextError;

    fn from_str(text: &str) -> Result<Signature, SignTextError> {
        let bytes = hex::decode(text).ok_or(SignTextError { what: "a signature", expected: 128 })?;
        Ok(Signature(bytes))
    }
}

macro_rules! text_form {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = SignTextError;
            fn try_from(text: String) -> Result<Self, SignTextError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
text_form!(VerifyingKey);
text_form!(Signature);

#[cfg(test)]
mod tests;
