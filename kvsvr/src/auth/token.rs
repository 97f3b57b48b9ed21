//! Tokens: who, until when, and the proof. Pure.
//!
//! ```text
//!   hex of   format u8 = 1 | password revision u64 | expires, Unix milliseconds u64 | user | MAC 32
//!   MAC      BLAKE3 keyed with the token key, over everything before it
//! ```
//! Invariant: what does not verify says nothing about why.
//!
//! Not here: ending a token early. A new password and disabling authentication do that.

use bytes::{Buf, BufMut};

const FORMAT: u8 = 1;
const MAC_BYTES: usize = 32;
const HEAD_BYTES: usize = 17;

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) user: String,
    /// The auth revision at which the user's password was set.
    pub(super) password_revision: u64,
    pub(super) expires_ms: u64,
}

impl Token {
    pub(super) fn sign(&self, key: &[u8; 32]) -> String {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + self.user.len() + MAC_BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u64(self.password_revision);
        bytes.put_u64(self.expires_ms);
        bytes.put_slice(self.user.as_bytes());
        let mac = blake3::keyed_hash(key, &bytes);
        bytes.put_slice(mac.as_bytes());
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What the token says, when it was signed with this key and has not expired.
    pub(super) fn verify(text: &str, key: &[u8; 32], now_ms: u64) -> Option<Token> {
        let bytes = from_hex(text)?;
        let (body, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        let mac: [u8; MAC_BYTES] = mac.try_into().ok()?;
        // Compared in constant time.
        if blake3::keyed_hash(key, body) != blake3::Hash::from_bytes(mac) || body.len() < HEAD_BYTES {
            return None;
        }
        let mut rest = body;
        if rest.get_u8() != FORMAT {
            return None;
        }
        let (password_revision, expires_ms) = (rest.get_u64(), rest.get_u64());
        let user = String::from_utf8(rest.to_vec()).ok()?;
        (now_ms < expires_ms).then_some(Token { user, password_revision, expires_ms })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let value = |digit: u8| char::from(digit).to_digit(16);
    digits.chunks(2).map(|pair| u8::try_from(value(pair[0])? * 16 + value(pair[1])?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_verifies_with_its_key_in_its_time_and_unaltered() {
        let token = Token { user: "ann".to_owned(), password_revision: 7, expires_ms: 100 };
        let text = token.sign(&[1; 32]);
        assert_eq!(Token::verify(&text, &[1; 32], 99), Some(token));
        assert_eq!(Token::verify(&text, &[1; 32], 100), None);
        assert_eq!(Token::verify(&text, &[2; 32], 99), None);
        for place in 0..text.len() {
            let mut altered = text.clone().into_bytes();
            altered[place] = if altered[place] == b'0' { b'1' } else { b'0' };
            let altered = String::from_utf8(altered).expect("digits");
            assert_eq!(Token::verify(&altered, &[1; 32], 99), None, "digit {place} may not change");
        }
        for nonsense in ["", "x", "zz", "00", &text[2..], &text[..10]] {
            assert_eq!(Token::verify(nonsense, &[1; 32], 99), None);
        }
    }
}
