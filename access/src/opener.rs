//! The door from an access node to whoever opens packets. Access nodes hold no key that opens a
//! record, so they can only pass the sealed ticket on.

use async_trait::async_trait;

/// What the user learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The packet, as text (see `ticket::id::PacketId`).
    pub packet_id: String,
    /// Its amount in fen.
    pub amount_fen: u64,
}

/// Why an open was not acknowledged. `code` is stable and appears in metrics and replies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct OpenRefused {
    /// Stable code, like `bad_ticket`.
    pub code: &'static str,
    /// One generic sentence for the user; details go to the log and the counters only.
    pub message: String,
    /// Whether the same request may succeed later. True also for unknown outcomes: an open is
    /// idempotent.
    pub retryable: bool,
}

/// Opens sealed tickets.
#[async_trait]
pub trait Opener: Send + Sync + 'static {
    /// Opens `ticket` (sealed bytes) for `user`. `Ok` means durable on two zones.
    async fn open(&self, user: u64, ticket: &[u8]) -> Result<Opened, OpenRefused>;
}
