//! The packet row: the one place that says what became of a packet.
//!
//! ```text
//!   off len
//!     0   1  format id, 1
//!     1   1  state: 1 pending, 2 credited, 3 rejected
//!     2   1  reason, 0 unless rejected
//!     3   8  user
//!    11   8  amount, fen
//!    19   2  slot
//!    21   4  file
//!    25   4  index within the file
//!    29   2  key id
//!    31   2  node that issued it
//!    33   8  issued, unix ms
//!    41   8  opened, unix ms
//! ```
//! The packet id is the row's key and not repeated. A redelivered opening gives the same bytes.
//!
//! ```text
//!   (absent) --> Pending --> Credited
//!       |           '-----> Rejected (not in the plan, or refused by the back end)
//!       |--> Credited                   (in the instant set)
//!       '--> Rejected                   (over a limit, key no longer good, event closed)
//! ```
//! Invariant: a row never changes its user, amount or place, and never leaves Credited or Rejected.
//!
//! Not here: openings that never got a row (rejection.rs).

use bytes::Bytes;
use serde::Serialize;
use ticket::id::{FileNo, KeyId, PacketId, SlotNo, UserId};
use ticket::money::Fen;
use ticket::opening::Opening;
use world::{NodeId, UnixMs};

/// Format id of a row.
pub const FORMAT: u8 = 1;
/// Bytes of a row.
pub const ROW_LEN: usize = 49;

/// Why an opening earned nothing. The numbers are stored: frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Reason {
    /// The user holds as many packets of the event as allowed.
    OverEventLimit = 1,
    /// The user holds as many packets of the merchant as allowed.
    OverMerchantLimit = 2,
    /// The record's data key is on the blacklist.
    KeyRevoked = 3,
    /// The record's data key is not on the whitelist.
    KeyUnlisted = 4,
    /// Settled after the refund had begun.
    Closed = 5,
    /// Another user has the packet.
    Duplicate = 6,
    /// The record was not made with the build's keys.
    Forged = 7,
    /// The opening says something else than its record.
    Altered = 8,
    /// The payment back end said no, for good.
    Refused = 9,
    /// Reconcile did not find it in the plan.
    NotInPlan = 10,
}

impl Reason {
    /// All of them, in the order of their numbers.
    pub const ALL: [Reason; 10] = [
        Reason::OverEventLimit,
        Reason::OverMerchantLimit,
        Reason::KeyRevoked,
        Reason::KeyUnlisted,
        Reason::Closed,
        Reason::Duplicate,
        Reason::Forged,
        Reason::Altered,
        Reason::Refused,
        Reason::NotInPlan,
    ];

    /// Whether crediting turns rows down for this. It gives back their place in the user's claims and index
    /// afterwards. Settlement turns rows down for their keys too, and counts none of those.
    #[must_use]
    pub fn by_crediting(self) -> bool {
        use Reason::{KeyRevoked, KeyUnlisted, NotInPlan, Refused};
        matches!(self, NotInPlan | Refused | KeyRevoked | KeyUnlisted)
    }

    /// The stable name used in reports and counters.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Reason::OverEventLimit => "over_event_limit",
            Reason::OverMerchantLimit => "over_merchant_limit",
            Reason::KeyRevoked => "key_revoked",
            Reason::KeyUnlisted => "key_unlisted",
            Reason::Closed => "closed",
            Reason::Duplicate => "duplicate",
            Reason::Forged => "forged",
            Reason::Altered => "altered",
            Reason::Refused => "refused",
            Reason::NotInPlan => "not_in_plan",
        }
    }

    /// Reads the stored number.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Reason> {
        Reason::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// How far a packet's money has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowState {
    /// Opened and held; reconcile will compare it with the plan.
    Pending,
    /// The user's.
    Credited,
    /// Earned nothing; the money stays with the batch.
    Rejected(Reason),
}

impl RowState {
    /// Whether the packet counts as the user's: against limits, in the wallet.
    #[must_use]
    pub fn accepted(self) -> bool {
        match self {
            RowState::Pending | RowState::Credited => true,
            RowState::Rejected(_) => false,
        }
    }
}

/// What became of one packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Which packet; the row's key.
    pub packet: PacketId,
    /// Whose it is.
    pub user: UserId,
    /// What it is worth.
    pub amount: Fen,
    /// The slot it was issued in.
    pub slot: SlotNo,
    /// The ticket file it came from.
    pub file: FileNo,
    /// Its place in the file.
    pub index: u32,
    /// The data key of its record.
    pub key: KeyId,
    /// The access node that issued it.
    pub node: NodeId,
    /// How far its money has come.
    pub state: RowState,
    /// When it was issued.
    pub issued_ms: UnixMs,
    /// When it was opened.
    pub opened_ms: UnixMs,
}

/// A stored value that is not what its key promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored {what} of {of} cannot be read: {reason}")]
pub struct StoredError {
    what: &'static str,
    of: String,
    reason: &'static str,
}

impl StoredError {
    pub(crate) fn new(what: &'static str, of: impl ToString, reason: &'static str) -> StoredError {
        StoredError { what, of: of.to_string(), reason }
    }
}

impl Row {
    /// The row of an opening.
    #[must_use]
    pub fn of(opening: &Opening, state: RowState) -> Row {
        Row {
            packet: opening.packet,
            user: opening.user,
            amount: opening.amount,
            slot: opening.slot,
            file: opening.file,
            index: opening.index,
            key: opening.key,
            node: opening.node,
            state,
            issued_ms: opening.issued_ms,
            opened_ms: opening.opened_ms,
        }
    }

    /// The same row in another state.
    #[must_use]
    pub fn with_state(&self, state: RowState) -> Row {
        assert!(
            self.state == RowState::Pending,
            "row {} leaves its final state {:?}",
            self.packet,
            self.state
        );
        assert!(state != RowState::Pending, "row {} goes back to pending", self.packet);
        Row { state, ..self.clone() }
    }

    /// The stored bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let (state, reason) = match self.state {
            RowState::Pending => (1u8, 0u8),
            RowState::Credited => (2, 0),
            RowState::Rejected(reason) => (3, reason as u8),
        };
        let mut bytes = Vec::with_capacity(ROW_LEN);
        bytes.extend_from_slice(&[FORMAT, state, reason]);
        bytes.extend_from_slice(&self.user.0.to_be_bytes());
        bytes.extend_from_slice(&self.amount.get().to_be_bytes());
        bytes.extend_from_slice(&self.slot.0.to_be_bytes());
        bytes.extend_from_slice(&self.file.0.to_be_bytes());
        bytes.extend_from_slice(&self.index.to_be_bytes());
        bytes.extend_from_slice(&self.key.0.to_be_bytes());
        bytes.extend_from_slice(&self.node.as_u16().to_be_bytes());
        bytes.extend_from_slice(&self.issued_ms.0.to_be_bytes());
        bytes.extend_from_slice(&self.opened_ms.0.to_be_bytes());
        assert!(bytes.len() == ROW_LEN, "a row is {ROW_LEN} bytes, not {}", bytes.len());
        Bytes::from(bytes)
    }

    /// Reads the stored bytes of `packet`'s row.
    ///
    /// # Errors
    /// Another length, format, state, reason or node than this program knows.
    pub fn decode(packet: PacketId, bytes: &[u8]) -> Result<Row, StoredError> {
        let error = |reason| StoredError::new("row", packet, reason);
        let bytes: &[u8; ROW_LEN] = bytes.try_into().map_err(|_| error("wrong length"))?;
        if bytes[0] != FORMAT {
            return Err(error("unknown format"));
        }
        let state = match (bytes[1], bytes[2]) {
            (1, 0) => RowState::Pending,
            (2, 0) => RowState::Credited,
            (3, reason) => {
                RowState::Rejected(Reason::from_u8(reason).ok_or_else(|| error("unknown reason"))?)
            }
            _ => return Err(error("unknown state")),
        };
        let mut rest = Fields(&bytes[3..]);
        let row = Row {
            packet,
            user: UserId(u64::from_be_bytes(rest.take())),
            amount: Fen::new(u64::from_be_bytes(rest.take())),
            slot: SlotNo(u16::from_be_bytes(rest.take())),
            file: FileNo(u32::from_be_bytes(rest.take())),
            index: u32::from_be_bytes(rest.take()),
            key: KeyId(u16::from_be_bytes(rest.take())),
            node: NodeId::from_u16(u16::from_be_bytes(rest.take())).ok_or_else(|| error("no such node"))?,
            state,
            issued_ms: UnixMs(u64::from_be_bytes(rest.take())),
            opened_ms: UnixMs(u64::from_be_bytes(rest.take())),
        };
        assert!(rest.0.is_empty(), "the fields of a row fill it");
        Ok(row)
    }
}

/// Fixed fields of a slice whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk::<N>().expect("the length was checked before");
        self.0 = rest;
        *field
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticket::id::BatchId;

    fn sample() -> Row {
        Row {
            packet: PacketId { build_tag: [1, 2, 3, 4], batch: BatchId(5), serial: 6 },
            user: UserId(0x0102_0304_0506_0708),
            amount: Fen::new(188),
            slot: SlotNo(2),
            file: FileNo(3),
            index: 4,
            key: KeyId(9),
            node: "b2".parse().expect("a node"),
            state: RowState::Rejected(Reason::KeyRevoked),
            issued_ms: UnixMs(1000),
            opened_ms: UnixMs(2000),
        }
    }

    #[test]
    fn the_bytes_of_a_row_are_frozen() {
        let hex: String = sample().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "010303010203040506070800000000000000bc00020000000300000004000901020000\
             0000000003e800000000000007d0"
        );
    }

    #[test]
    fn rows_of_every_state_read_back() {
        let states = Reason::ALL.into_iter().map(RowState::Rejected);
        for state in states.chain([RowState::Pending, RowState::Credited]) {
            let row = Row { state, ..sample() };
            assert_eq!(Row::decode(row.packet, &row.encode()), Ok(row));
        }
    }

    #[test]
    fn damaged_rows_are_refused_and_never_panic() {
        let good = sample().encode();
        for length in 0..good.len() {
            assert!(Row::decode(sample().packet, &good[..length]).is_err());
        }
        for (place, value) in [(0, 2), (1, 0), (1, 4), (1, 1), (2, 0), (2, 11), (31, 0x7f)] {
            let mut bad = good.to_vec();
            bad[place] = value;
            assert!(Row::decode(sample().packet, &bad).is_err(), "byte {place} = {value}");
        }
    }

    #[test]
    #[should_panic(expected = "leaves its final state")]
    fn a_credited_row_is_final() {
        let _ = Row { state: RowState::Credited, ..sample() }.with_state(RowState::Rejected(Reason::Refused));
    }
}
