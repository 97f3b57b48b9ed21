//! Sessions whose tokens were found genuine: a user who shakes a hundred times has the signature checked once.
//!
//! Invariant: what stands here was accepted by `ticket::token::read` with this key, under the token's whole
//! text (of which there is one only); its expiry is looked at in every call.
//!
//! Not here: tokens that are refused. Whoever sends those must not be able to push others out.

use quick_cache::sync::Cache;
use ticket::id::UserId;
use ticket::sign::VerifyingKey;
use ticket::token::{self, Session, TokenError};
use world::UnixMs;

/// Sessions of a key.
pub(super) struct Sessions {
    key: VerifyingKey,
    genuine: Cache<String, Session>,
}

impl Sessions {
    /// Keeps at most `kept_max` sessions, about 200 bytes each.
    pub(super) fn new(key: VerifyingKey, kept_max: usize) -> Sessions {
        Sessions { key, genuine: Cache::new(kept_max) }
    }

    /// Whom `token` names.
    ///
    /// # Errors
    /// As [`token::read`] and [`Session::user_at`].
    pub(super) fn user(&self, token: &str, now: UnixMs) -> Result<UserId, TokenError> {
        if let Some(session) = self.genuine.get(token) {
            return session.user_at(now);
        }
        let session = token::read(&self.key, token)?;
        let user = session.user_at(now)?;
        self.genuine.insert(token.to_owned(), session);
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    use ticket::sign::SigningKey;

    use super::*;

    fn sessions(kept_max: usize) -> (SigningKey, Sessions) {
        let key = SigningKey::from_bytes([5; 32]);
        let public = key.verifying_key();
        (key, Sessions::new(public, kept_max))
    }

    #[test]
    fn a_session_ends_although_it_is_known() {
        let (key, sessions) = sessions(10);
        let token = token::issue(&key, UserId(42), UnixMs(1_000));
        assert_eq!(sessions.user(&token, UnixMs(1)), Ok(UserId(42)));
        assert_eq!(sessions.user(&token, UnixMs(999)), Ok(UserId(42)));
        assert_eq!(sessions.user(&token, UnixMs(1_000)), Err(TokenError::Expired));
        assert_eq!(sessions.genuine.len(), 1);
    }

    #[test]
    fn another_token_is_another_user_however_many_are_known() {
        let (key, sessions) = sessions(10);
        let tokens: Vec<String> =
            (0..100).map(|user| token::issue(&key, UserId(user), UnixMs(1_000))).collect();
        for _ in 0..2 {
            for (user, token) in (0..).zip(&tokens) {
                assert_eq!(sessions.user(token, UnixMs(1)), Ok(UserId(user)));
            }
        }
        assert!(sessions.genuine.len() <= 10, "{}", sessions.genuine.len());
    }

    #[test]
    fn what_is_refused_is_not_kept_and_stays_refused() {
        let (key, sessions) = sessions(10);
        let known = token::issue(&key, UserId(1), UnixMs(1_000));
        let forged = token::issue(&SigningKey::from_bytes([6; 32]), UserId(1), UnixMs(1_000));
        let over = token::issue(&key, UserId(1), UnixMs(5));
        assert_eq!(sessions.user(&known, UnixMs(9)), Ok(UserId(1)));
        for _ in 0..2 {
            assert_eq!(sessions.user(&forged, UnixMs(9)), Err(TokenError::BadSignature));
            assert_eq!(sessions.user(&over, UnixMs(9)), Err(TokenError::Expired));
            assert_eq!(sessions.user("no token", UnixMs(9)), Err(TokenError::Malformed));
        }
        assert_eq!(sessions.genuine.len(), 1);
    }
}
