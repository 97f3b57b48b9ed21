//! The next step of settling one opening, from what the KV holds. Pure: called again after every
//! step, and from the start after a crash, until it says `Done`.
//!
//! ```text
//!   not genuine ............................. Reject (no row, no claim)
//!   row of another user ..... claimed? Release, then Reject(duplicate)
//!   row of this user, rejected  claimed? Release, then Done
//!   row of this user, accepted  claimed? Done : Reserve
//!   no row, instant set says otherwise ...... claimed? Release, then Reject(altered)
//!   no row, key bad / closing / over limit .. claimed? Release, then Insert(rejected)
//!   no row .................. claimed? Insert(pending | credited) : Reserve
//! ```
//! The claim is reserved before the row is written and released after the row has told that it is
//! not needed, so a crash between the two can only leave a reservation that the redelivered
//! message completes or gives back.
//!
//! Invariant: a row is accepted only while its packet is counted in the user's claims, and credited
//! at once only when the preloaded instant set names exactly its amount.
//!
//! Not here: doing it (settle.rs), judging the record (check.rs).

use ticket::money::Fen;
use ticket::opening::Opening;
use world::mutant::{Mutant, armed};

use super::check::Fault;
use crate::claims::{ClaimDoc, Limits};
use crate::rejection::Rejection;
use crate::row::{Reason, Row, RowState};

/// What the event allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Packets per user.
    pub limits: Limits,
    /// Whether packets of the instant set are credited at settlement. Off: all wait for reconcile,
    /// as they must when another back end than the embedded ledger pays.
    pub instant_credit: bool,
}

/// What the KV holds about one packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The packet's row.
    pub row: Option<Row>,
    /// Its amount in the instant set.
    pub instant: Option<Fen>,
    /// Whether the refund has begun.
    pub closing: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the message can be acked.
    Done,
    /// Count the packet in the user's claims.
    Reserve,
    /// Stop counting it.
    Release,
    /// Insert this row, with its posting if it is accepted.
    Insert(Row),
    /// Insert this rejection; the packet's row is not this opening's.
    Reject(Rejection),
}

/// The next step for `opening`.
#[must_use]
pub fn decide(
    opening: &Opening,
    checked: Result<(), Fault>,
    seen: &Seen,
    doc: &ClaimDoc,
    rules: &Rules,
) -> Step {
    let reject = |reason| Step::Reject(Rejection { reason, opening: *opening });
    let claimed = doc.contains(opening.packet);
    match checked {
        // Its packet may be another's, rightly claimed: touch nothing.
        Err(Fault::Forged) => return reject(Reason::Forged),
        Err(Fault::Altered) => return reject(Reason::Altered),
        Ok(()) | Err(Fault::KeyRevoked | Fault::KeyUnlisted) => {}
    }
    if let Some(row) = &seen.row {
        assert!(row.packet == opening.packet, "the row of {} was read for {}", row.packet, opening.packet);
        return match (row.user == opening.user, row.state.accepted(), claimed) {
            (true, true, true) | (true, false, false) => Step::Done,
            (true, true, false) => Step::Reserve,
            (true, false, true) | (false, _, true) => Step::Release,
            (false, _, false) => reject(Reason::Duplicate),
        };
    }
    // The plan gave this packet another amount: somebody minted it anew with the build's keys.
    if seen.instant.is_some_and(|planned| planned != opening.amount) {
        return if claimed { Step::Release } else { reject(Reason::Altered) };
    }
    let state = match refusal(opening, checked, seen, doc, &rules.limits) {
        Some(_) if claimed => return Step::Release,
        Some(reason) => RowState::Rejected(reason),
        None if !claimed => return Step::Reserve,
        None if rules.instant_credit && seen.instant == Some(opening.amount) => RowState::Credited,
        None => RowState::Pending,
    };
    assert!(state.accepted() == claimed, "an accepted row is counted, a rejected one is not");
    Step::Insert(Row::of(opening, state))
}

fn refusal(
    opening: &Opening,
    checked: Result<(), Fault>,
    seen: &Seen,
    doc: &ClaimDoc,
    limits: &Limits,
) -> Option<Reason> {
    match checked {
        Err(Fault::KeyRevoked) => return Some(Reason::KeyRevoked),
        Err(Fault::KeyUnlisted) => return Some(Reason::KeyUnlisted),
        Ok(()) => {}
        Err(Fault::Forged | Fault::Altered) => unreachable!("turned down before the row was looked at"),
    }
    if seen.closing {
        return Some(Reason::Closed);
    }
    if doc.contains(opening.packet) || armed(Mutant::LimitIgnored) {
        None
    } else {
        limits.admit(doc, opening.packet).err()
    }
}
