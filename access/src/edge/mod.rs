//! The port users talk to: HTTP/1.1, HTTP/2 and gRPC on one listener.
//!
//! ```text
//!   Incoming ─ connection ─ hyper (1.1 or 2, told apart by the preface) ─┬─ /v1/shake, /v1/open
//!                                                                        ├─ /hongbao.edge.v1.Edge/*
//!                                                                        └─ /healthz
//! ```
//! Both protocols end in [`Edge::shake`] and [`Edge::open`]; they only translate.
//!
//! Invariant: a call without a valid session token reaches neither the desk nor the opener, and
//! never more than `opens_max` opens are under way.
//!
//! Not here: TLS, and queue-wait based admission (shedding is by count).

pub mod error;
pub mod grpc;
pub mod http;
pub mod serve;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use ticket::id::UserId;
use ticket::seal::SEALED_LEN;
use ticket::sign::VerifyingKey;
use tokio::sync::Semaphore;
use world::Clock;

use crate::desk::Shaken;
use crate::edge::error::EdgeError;
use crate::edge::sessions::Sessions;
use crate::node::AccessNode;
use crate::opener::{Opened, Opener};

pub use serve::{router, serve};

/// The proto's Rust.
#[allow(missing_docs, reason = "generated; the proto is documented")]
pub mod proto {
    tonic::include_proto!("hongbao.edge.v1");
}

/// Sessions whose signatures are not checked again: about 25 MB of them.
const SESSIONS_KEPT_MAX: usize = 131_072;

/// What the edge is told.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Verifies session tokens.
    pub session_key: VerifyingKey,
    /// Opens under way at once; more are shed.
    pub opens_max: usize,
    /// How long an open may take before its outcome is called unknown.
    pub open_timeout: Duration,
}

impl EdgeConfig {
    /// The usual limits.
    #[must_use]
    pub fn new(session_key: VerifyingKey) -> EdgeConfig {
        EdgeConfig { session_key, opens_max: 1_024, open_timeout: Duration::from_secs(5) }
    }
}

/// The calls of the edge, whatever protocol they came by.
pub struct Edge {
    config: EdgeConfig,
    sessions: Sessions,
    node: Arc<AccessNode>,
    opener: Arc<dyn Opener>,
    clock: Arc<dyn Clock>,
    opens: Semaphore,
}

impl Edge {
    /// An edge of `node` that passes opens on to `opener`.
    #[must_use]
    pub fn new(
        config: EdgeConfig,
        node: Arc<AccessNode>,
        opener: Arc<dyn Opener>,
        clock: Arc<dyn Clock>,
    ) -> Arc<Edge> {
        let opens = Semaphore::new(config.opens_max);
        let sessions = Sessions::new(config.session_key, SESSIONS_KEPT_MAX);
        Arc::new(Edge { config, sessions, node, opener, clock, opens })
    }

    /// The node behind it.
    #[must_use]
    pub fn node(&self) -> &AccessNode {
        &self.node
    }

    /// Who calls, by the value of the `authorization` header.
    ///
    /// # Errors
    /// `unauthorized` or `token_expired`.
    pub fn authenticate(&self, authorization: Option<&[u8]>) -> Result<UserId, EdgeError> {
        let token = authorization.and_then(|value| std::str::from_utf8(value).ok()).and_then(bearer);
        let Some(token) = token else {
            self.node.counters().unauthorized();
            return Err(EdgeError::unauthorized());
        };
        self.sessions.user(token, self.clock.now()).map_err(|error| {
            self.node.counters().unauthorized();
            match error {
                ticket::token::TokenError::Expired => EdgeError::token_expired(),
                _ => EdgeError::unauthorized(),
            }
        })
    }

    /// Serves one shake.
    pub fn shake(&self, user: UserId, history: Option<&str>) -> Shaken {
        self.node.shake(user, history)
    }

    /// Passes one open on, unless too many are under way.
    ///
    /// # Errors
    /// [`EdgeError`]; counted under its code.
    pub async fn open(&self, user: UserId, ticket: &[u8]) -> Result<Opened, EdgeError> {
        let outcome = self.try_open(user, ticket).await;
        self.node.counters().opened(outcome.as_ref().map_or_else(|error| error.code, |_| "opened"));
        outcome
    }

    async fn try_open(&self, user: UserId, ticket: &[u8]) -> Result<Opened, EdgeError> {
        if ticket.len() != SEALED_LEN {
            return Err(EdgeError::bad_ticket());
        }
        let Ok(_permit) = self.opens.try_acquire() else { return Err(EdgeError::overloaded()) };
        match tokio::time::timeout(self.config.open_timeout, self.opener.open(user.0, ticket)).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(refused)) => Err(EdgeError::refused(refused)),
            Err(_) => Err(EdgeError::open_unknown()),
        }
    }

    /// An open that could not even be read counts as one.
    pub fn count_unreadable_open(&self, error: &EdgeError) {
        self.node.counters().opened(error.code);
    }
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests;
