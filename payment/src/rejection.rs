//! An opening that earned nothing and got no row: what it said, and why it was turned down.
//!
//! ```text
//!   off len
//!     0   1  format id, 1
//!     1   1  reason (row.rs)
//!     2   n  the opening as it travelled in the queue (ticket::opening)
//! ```
//! These never take the packet's row: a forger must not be able to occupy a packet whose rightful
//! opening is still to come.
//!
//! Invariant: one rejection per (packet, user), the first one; kept for ever as evidence.
//!
//! Not here: over-limit and revoked-key openings of genuine records; those have a rejected row.

use bytes::Bytes;
use ticket::id::{PacketId, UserId};
use ticket::opening::Opening;

use crate::row::{Reason, StoredError};

/// Format id of a rejection.
pub const FORMAT: u8 = 1;

/// A rejected opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// What it said.
    pub opening: Opening,
}

impl Rejection {
    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![FORMAT, self.reason as u8];
        bytes.extend_from_slice(&self.opening.encode());
        Bytes::from(bytes)
    }

    /// Reads the stored bytes of the rejection of (packet, user).
    ///
    /// # Errors
    /// Another format or reason than this program knows, or an opening of something else.
    pub fn decode(packet: PacketId, user: UserId, bytes: &[u8]) -> Result<Rejection, StoredError> {
        let error = |reason| StoredError::new("rejection", packet, reason);
        let (head, body) = bytes.split_first_chunk::<2>().ok_or_else(|| error("too short"))?;
        if head[0] != FORMAT {
            return Err(error("unknown format"));
        }
        let reason = Reason::from_u8(head[1]).ok_or_else(|| error("unknown reason"))?;
        let opening = Opening::decode(body).map_err(|_| error("its opening cannot be read"))?;
        if opening.packet != packet || opening.user != user {
            return Err(error("it stands under another opening's key"));
        }
        Ok(Rejection { reason, opening })
    }
}
