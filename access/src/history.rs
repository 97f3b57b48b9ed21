//! The claim-history cookie: the client carries what it has been issued, so that any node can
//! hold it to the limit without asking anybody.
//!
//! ```text
//!   0  version 1 | 1  claims u32 | 5  last slot u16 | 7  at u64 (ms) | 15  MAC 16      = 31 bytes
//!   MAC = keyed BLAKE3( key of (event, build) ; bytes 0..15 | user u64 ), first 16 bytes
//! ```
//! Shown to clients as base64url without padding. The key is one for all nodes of an event.
//!
//! Invariant: a history that verifies was written by a node of this event for this user.
//!
//! Not here: trust in its absence. A client may drop its cookie or bring an old one; the node's own
//! memory and settlement hold the limit then.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ticket::id::{BuildId, SlotNo, UserId};
use world::UnixMs;

const VERSION: u8 = 1;
const BODY_LEN: usize = 15;
/// Bytes of a history before base64.
pub const HISTORY_LEN: usize = 31;
/// Characters of a history.
pub const HISTORY_TEXT_LEN: usize = 42;

const _: () = assert!(HISTORY_TEXT_LEN == (HISTORY_LEN * 4).div_ceil(3));

/// What a user has been issued, as their client says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Packets issued in this event.
    pub claims: u32,
    /// The slot of the last one.
    pub last_slot: SlotNo,
    /// When it was issued.
    pub at_ms: UnixMs,
}

/// A history that does not verify. Why is nobody's business but the counters'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the history does not verify")]
pub struct HistoryError;

/// Seals and opens histories of one event and build.
#[derive(Clone)]
pub struct HistorySealer {
    key: [u8; 32],
}

impl HistorySealer {
    /// From the key all nodes share. Each event and build gets a key of its own from it.
    #[must_use]
    pub fn new(shared: &[u8; 32], event: &str, build: BuildId) -> HistorySealer {
        let mut hasher = blake3::Hasher::new_derive_key("hongbao claim history v1");
        hasher.update(shared);
        hasher.update(&build.0);
        hasher.update(event.as_bytes());
        HistorySealer { key: *hasher.finalize().as_bytes() }
    }

    /// The text a client carries.
    #[must_use]
    pub fn seal(&self, user: UserId, history: &History) -> String {
        let mut bytes = [0u8; HISTORY_LEN];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&history.claims.to_be_bytes());
        bytes[5..7].copy_from_slice(&history.last_slot.0.to_be_bytes());
        bytes[7..15].copy_from_slice(&history.at_ms.0.to_be_bytes());
        let mac = self.mac(user, &bytes[..BODY_LEN]);
        bytes[BODY_LEN..].copy_from_slice(&mac.as_bytes()[..HISTORY_LEN - BODY_LEN]);
        let text = URL_SAFE_NO_PAD.encode(bytes);
        assert_eq!(text.len(), HISTORY_TEXT_LEN, "a history of another length");
        text
    }

    /// Reads what a client carried.
    ///
    /// # Errors
    /// [`HistoryError`] when it was altered, is another user's, event's or build's, or no history.
    pub fn open(&self, user: UserId, text: &str) -> Result<History, HistoryError> {
        let mut bytes = [0u8; HISTORY_LEN];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).map_err(|_| HistoryError)?;
        if length != HISTORY_LEN || bytes[0] != VERSION {
            return Err(HistoryError);
        }
        let mac = self.mac(user, &bytes[..BODY_LEN]);
        if !equal(&mac.as_bytes()[..HISTORY_LEN - BODY_LEN], &bytes[BODY_LEN..]) {
            return Err(HistoryError);
        }
        let [_, c0, c1, c2, c3, s0, s1, rest @ ..] = bytes;
        let [a0, a1, a2, a3, a4, a5, a6, a7, ..] = rest;
        Ok(History {
            claims: u32::from_be_bytes([c0, c1, c2, c3]),
            last_slot: SlotNo(u16::from_be_bytes([s0, s1])),
            at_ms: UnixMs(u64::from_be_bytes([a0, a1, a2, a3, a4, a5, a6, a7])),
        })
    }

    fn mac(&self, user: UserId, body: &[u8]) -> blake3::Hash {
        assert_eq!(body.len(), BODY_LEN, "a history of another length");
        let mut message = [0u8; BODY_LEN + 8];
        message[..BODY_LEN].copy_from_slice(body);
        message[BODY_LEN..].copy_from_slice(&user.0.to_be_bytes());
        blake3::keyed_hash(&self.key, &message)
    }
}

/// Compares in a time that does not depend on where the difference is.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |found, (a, b)| found | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer() -> HistorySealer {
        HistorySealer::new(&[7; 32], "spring", BuildId([1; 16]))
    }

    fn history() -> History {
        History { claims: 2, last_slot: SlotNo(5), at_ms: UnixMs(1_700_000_000_000) }
    }

    #[test]
    fn a_history_reads_back_for_its_user() {
        let text = sealer().seal(UserId(42), &history());
        assert_eq!(sealer().open(UserId(42), &text), Ok(history()));
    }

    #[test]
    fn the_format_is_frozen() {
        let text = sealer().seal(UserId(42), &history());
        assert_eq!(text, "AQAAAAIABQAAAYvP5WgA5EpPkVN2qTKVtKjB4B6zTg");
    }

    #[test]
    fn another_user_event_build_or_key_does_not_open_it() {
        let text = sealer().seal(UserId(42), &history());
        assert_eq!(sealer().open(UserId(43), &text), Err(HistoryError));
        for other in [
            HistorySealer::new(&[8; 32], "spring", BuildId([1; 16])),
            HistorySealer::new(&[7; 32], "autumn", BuildId([1; 16])),
            HistorySealer::new(&[7; 32], "spring", BuildId([2; 16])),
        ] {
            assert_eq!(other.open(UserId(42), &text), Err(HistoryError));
        }
    }

    #[test]
    fn a_history_altered_in_any_bit_does_not_open() {
        let text = sealer().seal(UserId(42), &history());
        let bytes = URL_SAFE_NO_PAD.decode(&text).expect("base64");
        for bit in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let altered = URL_SAFE_NO_PAD.encode(altered);
            assert_eq!(sealer().open(UserId(42), &altered), Err(HistoryError), "bit {bit}");
        }
        for text in ["", "x", &text[1..], &format!("{text}A")] {
            assert_eq!(sealer().open(UserId(42), text), Err(HistoryError), "{text:?}");
        }
    }
}
