//! Where a request's author is found out, and tokens are given out.
//!
//! Invariant: passwords are hashed and compared on threads of their own, never where requests or
//! entries are handled.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::Status;
use tonic::metadata::MetadataMap;
use world::Clock;

use super::token::Token;
use crate::control_port::{ControlPort, read_error};
use crate::group::read_with;
use crate::machine::control::access::Access;
use crate::machine::control::{Fault, auth};
use crate::outcome::CallError;
use crate::refusal::Refusal;
use crate::wire::native::{Author, StoredAuth};

/// Metadata keys of a token: of gRPC clients, and of those that come through a gateway.
const TOKEN_KEYS: [&str; 2] = ["token", "authorization"];
/// How long a token lasts. etcd's simple tokens last while they are used; these cannot be prolonged,
/// so they last long. Clients that authenticate again by themselves do not notice.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Passwords hashed at once; the others wait. Each takes a core for a while, and whoever guesses
/// passwords must not take all of them.
const HASHES_AT_ONCE: usize = 2;
/// Rounds of bcrypt, as a power of two; etcd's default.
const BCRYPT_COST: u32 = 10;

/// The desk of one member.
#[derive(Clone)]
pub(crate) struct AuthDesk {
    port: ControlPort,
    clock: Arc<dyn Clock>,
    hashing: Arc<Semaphore>,
}

impl AuthDesk {
    pub(crate) fn new(port: ControlPort, clock: Arc<dyn Clock>) -> AuthDesk {
        AuthDesk { port, clock, hashing: Arc::new(Semaphore::new(HASHES_AT_ONCE)) }
    }

    fn meta(&self) -> Result<StoredAuth, Status> {
        read_with(self.port.group(), |view| auth::meta(view)).map_err(|error| status(error.into()))
    }

    /// Whoever sent this metadata; nobody while authentication is not enabled.
    ///
    /// # Errors
    /// "invalid auth token".
    pub(crate) fn author(&self, metadata: &MetadataMap) -> Result<Author, Status> {
        let enabled = read_with(self.port.group(), |view| auth::is_enabled(view));
        let sent = TOKEN_KEYS.iter().find_map(|key| metadata.get(*key));
        let (true, Some(sent)) = (enabled.map_err(|error| status(error.into()))?, sent) else {
            return Ok(Author::default());
        };
        let meta = self.meta()?;
        let invalid = || CallError::Refused(Refusal::InvalidAuthToken).status();
        let text = sent.to_str().map_err(|_| invalid())?;
        let text = text.strip_prefix("Bearer ").unwrap_or(text);
        let key = token_key(&meta).ok_or_else(invalid)?;
        let token = Token::verify(text, &key, self.clock.now().0).ok_or_else(invalid)?;
        let user = read_with(self.port.group(), |view| auth::user(view, &token.user));
        let user = user.map_err(|error| status(error.into()))?;
        if user.is_none_or(|user| user.password_revision != token.password_revision) {
            return Err(invalid());
        }
        Ok(Author { user: token.user, auth_revision: meta.revision })
    }

    /// Has something decided about the author of this metadata, on what this member has applied.
    ///
    /// # Errors
    /// What `check` answers, as etcd says it.
    pub(crate) fn check(
        &self,
        metadata: &MetadataMap,
        check: impl FnOnce(&Access<'_>) -> Result<(), Fault>,
    ) -> Result<Author, Status> {
        let author = self.author(metadata)?;
        read_with(self.port.group(), |view| check(&Access::of(view, &author)?)).map_err(status)?;
        Ok(author)
    }

    /// A token for whoever knows the user's password.
    ///
    /// # Errors
    /// [`Status`] in etcd's words.
    pub(crate) async fn authenticate(&self, name: &str, password: String) -> Result<String, Status> {
        let caught_up = self.port.group().read_barrier_anywhere().await;
        caught_up.map_err(|error| read_error(error).status())?;
        let refused = |refusal| CallError::Refused(refusal).status();
        let meta = self.meta()?;
        if !meta.enabled {
            return Err(refused(Refusal::AuthNotEnabled));
        }
        let user = read_with(self.port.group(), |view| auth::user(view, name));
        let user = user.map_err(|error| status(error.into()))?;
        let user = user.ok_or_else(|| refused(Refusal::AuthFailed))?;
        if user.no_password {
            return Err(Status::unknown(
                "auth: authentication failed, password was given for no password user",
            ));
        }
        let hash = user.password_hash;
        let same = self.hashed(move || bcrypt::verify(password, &hash)).await?;
        if !same.unwrap_or(false) {
            return Err(refused(Refusal::AuthFailed));
        }
        let key = token_key(&meta).ok_or_else(|| Status::internal("the token key is missing"))?;
        let expires_ms = self.clock.now().plus(TOKEN_TTL).0;
        let token = Token { user: name.to_owned(), password_revision: user.password_revision, expires_ms };
        Ok(token.sign(&key))
    }

    /// The hash of a password, in the form etcd keeps.
    ///
    /// # Errors
    /// When it is longer than the hash can take.
    pub(crate) async fn hash_password(&self, password: String) -> Result<String, Status> {
        let hashed = self.hashed(move || bcrypt::non_truncating_hash(password, BCRYPT_COST)).await?;
        hashed.map_err(|error| Status::unknown(format!("bcrypt: {error}")))
    }

    async fn hashed<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, Status> {
        let _turn = self.hashing.acquire().await.expect("the turns are never closed");
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Status::internal(format!("hashing a password: {error}")))
    }
}

fn token_key(meta: &StoredAuth) -> Option<[u8; 32]> {
    meta.token_key.as_ref().try_into().ok()
}

fn status(fault: Fault) -> Status {
    match fault {
        Fault::Refused(refusal) => CallError::Refused(refusal).status(),
        Fault::Engine(error) => CallError::Storage(error.to_string()).status(),
    }
}
