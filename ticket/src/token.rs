//! The session token: who a caller is, checked without asking anyone.
//!
//! ```text
//!   off len field
//!     0   1  version   u8    1
//!     1   8  user      u64
//!     9   8  expires   u64   ms since the Unix epoch; refused from then on
//!    17  64  Ed25519 signature over bytes 0..17, domain "hongbao/session"
//!    81      as base64url without padding: 108 characters
//! ```
//! Invariant: only the canonical text of a token is a token, so a token can be a cache key.
//!
//! Not here: revocation before expiry. Issue short ones.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use world::UnixMs;

use crate::id::UserId;
use crate::limits::TOKEN_LEN;
use crate::sign::{SIGNATURE_LEN, Signature, SigningKey, VerifyingKey};

const VERSION: u8 = 1;
const DOMAIN: &str = "hongbao/session";
const CLAIM_LEN: usize = 17;
const BYTES_LEN: usize = CLAIM_LEN + SIGNATURE_LEN;
const _: () = assert!(BYTES_LEN / 3 * 4 == TOKEN_LEN && BYTES_LEN.is_multiple_of(3));

/// Why a caller is not who the token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not the text of a token.
    #[error("this is not a session token")]
    Malformed,
    /// Of a version this program does not know.
    #[error("the session token has version {0}, this program reads {VERSION}")]
    Version(u8),
    /// Altered, or signed with another key.
    #[error("the session token is not genuine")]
    BadSignature,
    /// Genuine, but over.
    #[error("the session token has expired: log in again")]
    Expired,
}

/// A token for `user` until `expires`.
#[must_use]
pub fn issue(key: &SigningKey, user: UserId, expires: UnixMs) -> String {
    let mut bytes = [0u8; BYTES_LEN];
    bytes[0] = VERSION;
    bytes[1..9].copy_from_slice(&user.0.to_be_bytes());
    bytes[9..17].copy_from_slice(&expires.0.to_be_bytes());
    let signature = key.sign(DOMAIN, &bytes[..CLAIM_LEN]);
    bytes[CLAIM_LEN..].copy_from_slice(signature.as_bytes());
    let token = URL_SAFE_NO_PAD.encode(bytes);
    assert!(token.len() == TOKEN_LEN, "81 bytes are 108 characters");
    token
}

/// What a genuine token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Who the caller is.
    pub user: UserId,
    /// When the token ends.
    pub expires: UnixMs,
}

impl Session {
    /// The user, if `now` is before the expiry.
    ///
    /// # Errors
    /// [`TokenError::Expired`].
    pub fn user_at(&self, now: UnixMs) -> Result<UserId, TokenError> {
        if self.expires <= now { Err(TokenError::Expired) } else { Ok(self.user) }
    }
}

/// What `token` says, if it is genuine; whether it has expired is for [`Session::user_at`] to say.
///
/// # Errors
/// [`TokenError`], but not that it has expired.
pub fn read(key: &VerifyingKey, token: &str) -> Result<Session, TokenError> {
    if token.len() != TOKEN_LEN {
        return Err(TokenError::Malformed);
    }
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed)?;
    let bytes: [u8; BYTES_LEN] = bytes.try_into().map_err(|_| TokenError::Malformed)?;
    if bytes[0] != VERSION {
        return Err(TokenError::Version(bytes[0]));
    }
    let signature = Signature::from_bytes(bytes[CLAIM_LEN..].try_into().expect("64 bytes"));
    key.verify(DOMAIN, &bytes[..CLAIM_LEN], &signature).map_err(|_| TokenError::BadSignature)?;
    let user = UserId(u64::from_be_bytes(bytes[1..9].try_into().expect("eight bytes")));
    let expires = UnixMs(u64::from_be_bytes(bytes[9..17].try_into().expect("eight bytes")));
    Ok(Session { user, expires })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes([5; 32])
    }

    fn check(token: &str, now: u64) -> Result<UserId, TokenError> {
        read(&key().verifying_key(), token)?.user_at(UnixMs(now))
    }

    #[test]
    fn a_token_names_its_user_until_it_expires() {
        let token = issue(&key(), UserId(42), UnixMs(1_000));
        assert_eq!(check(&token, 0), Ok(UserId(42)));
        assert_eq!(check(&token, 999), Ok(UserId(42)));
        assert_eq!(check(&token, 1_000), Err(TokenError::Expired));
        let other = SigningKey::from_bytes([6; 32]);
        assert_eq!(read(&other.verifying_key(), &token), Err(TokenError::BadSignature));
    }

    #[test]
    fn a_token_altered_in_any_character_is_refused() {
        let token = issue(&key(), UserId(42), UnixMs(1_000));
        for at in 0..token.len() {
            for other in ["A", "b", "_", "=", "+", "é"] {
                let mut altered = token.clone();
                altered.replace_range(at..=at, other);
                let refused = altered == token || check(&altered, 0).is_err();
                assert!(refused, "character {at} may be {other}");
            }
        }
        for text in ["", "x", &token[1..], &format!("{token}A"), &format!("{token}=")] {
            assert_eq!(check(text, 0), Err(TokenError::Malformed));
        }
    }

    #[test]
    fn a_forged_expiry_is_found_before_the_expiry_is_looked_at() {
        let token = issue(&key(), UserId(42), UnixMs(1_000));
        let mut bytes = URL_SAFE_NO_PAD.decode(&token).expect("base64");
        bytes[16] ^= 1;
        assert_eq!(check(&URL_SAFE_NO_PAD.encode(&bytes), 5_000), Err(TokenError::BadSignature));
        bytes[0] = 2;
        assert_eq!(check(&URL_SAFE_NO_PAD.encode(&bytes), 5_000), Err(TokenError::Version(2)));
    }

    #[test]
    fn a_signature_made_for_something_else_makes_no_token() {
        let mut bytes = URL_SAFE_NO_PAD.decode(issue(&key(), UserId(1), UnixMs(9))).expect("base64");
        let claim = bytes[..CLAIM_LEN].to_vec();
        bytes[CLAIM_LEN..].copy_from_slice(key().sign("hongbao/roster", &claim).as_bytes());
        assert_eq!(check(&URL_SAFE_NO_PAD.encode(&bytes), 0), Err(TokenError::BadSignature));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_token_reads_back(user: u64, expires in 1u64..) {
            let token = issue(&key(), UserId(user), UnixMs(expires));
            prop_assert_eq!(check(&token, expires - 1), Ok(UserId(user)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,120}") {
            prop_assert!(check(&text, 0).is_err());
        }
    }
}
