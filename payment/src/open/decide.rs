//! What an opener decides, without doing anything: may it open at all, is this ticket's time right,
//! what does the queue's answer mean for the user.
//!
//! ```text
//!   event view --admit--> event --window--> ok --(seal, record)--> Opening --(queue)--> answer
//! ```
//! Invariant: `Opened` is answered only for an opening that the queue holds for this very user.
//!
//! Not here: cryptography (ticket) and waiting (open.rs).

use queue::api::{Enqueued, QueueError};
use ticket::control::{EventRecord, EventState};
use ticket::id::{BuildId, SlotNo, UserId};
use ticket::open::RecordError;
use ticket::opening::Opening;
use world::UnixMs;

/// Why an open was not acknowledged. The names are stable: replies, metrics, documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// Seal or record do not verify, or belong to another user, event or build.
    BadTicket,
    /// The slot ended longer ago than the grace time.
    Expired,
    /// The record's data key is on the blacklist.
    KeyRevoked,
    /// The record's data key is not on the whitelist.
    KeyUnlisted,
    /// The event is closed.
    Closed,
    /// Another user opened this packet.
    AlreadyOpened,
    /// Not done; try again.
    Unavailable,
    /// Perhaps done; trying again is safe and tells.
    Unknown,
}

impl Code {
    /// All of them, in a fixed order.
    pub const ALL: [Code; 8] = [
        Code::BadTicket,
        Code::Expired,
        Code::KeyRevoked,
        Code::KeyUnlisted,
        Code::Closed,
        Code::AlreadyOpened,
        Code::Unavailable,
        Code::Unknown,
    ];

    /// The stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Code::BadTicket => "bad_ticket",
            Code::Expired => "expired",
            Code::KeyRevoked => "key_revoked",
            Code::KeyUnlisted => "key_unlisted",
            Code::Closed => "closed",
            Code::AlreadyOpened => "already_opened",
            Code::Unavailable => "unavailable",
            Code::Unknown => "unknown",
        }
    }

    /// One sentence for the user. It says nothing a forger could learn from.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Code::BadTicket | Code::KeyRevoked | Code::KeyUnlisted => "This red packet is not valid.",
            Code::Expired => "This red packet has expired.",
            Code::Closed => "The event is over.",
            Code::AlreadyOpened => "This red packet has been opened.",
            Code::Unavailable | Code::Unknown => {
                "The red packet could not be opened just now; please try again."
            }
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn retryable(self) -> bool {
        matches!(self, Code::Unavailable | Code::Unknown)
    }
}

/// The event as this process last saw it.
#[derive(Clone, Debug)]
pub struct EventView {
    /// The record.
    pub event: EventRecord,
    /// When it was last known to be current, by this process's wall clock.
    pub confirmed_ms: UnixMs,
}

/// The event, if packets of `build` may be opened at `now`.
///
/// # Errors
/// `Unavailable` when nothing current is known or another build is active, `Closed` when closed.
pub fn admit(
    view: Option<&EventView>,
    build: BuildId,
    stale_ms_max: u64,
    now: UnixMs,
) -> Result<&EventRecord, Code> {
    let view = view.ok_or(Code::Unavailable)?;
    // A process that is cut off must not go on opening an event that was closed meanwhile.
    if u128::from(stale_ms_max) < now.since(view.confirmed_ms).as_millis() {
        return Err(Code::Unavailable);
    }
    if view.event.build != build {
        return Err(Code::Unavailable);
    }
    match view.event.state {
        EventState::Open => Ok(&view.event),
        EventState::Closed => Err(Code::Closed),
    }
}

/// Whether a ticket of `slot` may be opened at `now`. There is no check against the slot's start:
/// a ticket in hand proves that its issuer thought the slot had started, and clocks differ.
///
/// # Errors
/// `BadTicket` for a slot the event does not have, `Expired` past its end and grace.
pub fn window(event: &EventRecord, slot: SlotNo, now: UnixMs) -> Result<(), Code> {
    let window = event.slots.iter().find(|window| window.slot == slot).ok_or(Code::BadTicket)?;
    let last_ms = window.end_ms.0.saturating_add(event.open_grace_ms);
    if now.0 <= last_ms { Ok(()) } else { Err(Code::Expired) }
}

/// What a record that does not open means for the user.
#[must_use]
pub fn record_code(error: &RecordError) -> Code {
    match error {
        RecordError::Revoked(_) => Code::KeyRevoked,
        RecordError::NotWhitelisted(_) => Code::KeyUnlisted,
        _ => Code::BadTicket,
    }
}

/// What the queue's answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Acknowledge. `again`: it had been before.
    Opened {
        /// Whether this open is a repetition.
        again: bool,
    },
    /// The packet was opened and settled before; only its row can tell by whom.
    AskRow,
    /// Do not acknowledge.
    Refused(Code),
}

/// Reads the queue's answer to `opening`.
#[must_use]
pub fn answer(opening: &Opening, enqueued: &Result<Enqueued, QueueError>) -> Answer {
    match enqueued {
        Ok(Enqueued::New) => Answer::Opened { again: false },
        Ok(Enqueued::Duplicate { body: None }) => Answer::AskRow,
        Ok(Enqueued::Duplicate { body: Some(body) }) => match Opening::decode(body) {
            Ok(first) if first.packet == opening.packet => owner(opening, first.user),
            // Somebody put something else under this packet's id: it is taken, and reconcile will tell.
            _ => Answer::Refused(Code::AlreadyOpened),
        },
        Err(QueueError::Unavailable { .. } | QueueError::Refused(_)) => Answer::Refused(Code::Unavailable),
        Err(QueueError::Unknown(_)) => Answer::Refused(Code::Unknown),
    }
}

/// The answer when the packet is known to be `first`'s.
#[must_use]
pub fn owner(opening: &Opening, first: UserId) -> Answer {
    if first == opening.user { Answer::Opened { again: true } } else { Answer::Refused(Code::AlreadyOpened) }
}
