//! Where a shake is served: gathers the facts, lets `shake` decide, takes and seals the record.
//!
//! ```text
//!   offer (swapped whole) ── phase, rules ──┐
//!   user memory + history ── limits ────────┼─> decide ─> take ─> seal ─> reply
//!   files ── stock ─────────────────────────┘      ^        | gone meanwhile
//!                                                  └────────┘
//! ```
//! Nothing here waits: no call, no sync, no allocation beyond the reply. A user's shakes are served
//! one at a time (their shard of the memory is held), so the limit per user is exact on this node.
//!
//! Invariant: a record that was taken is sealed to one user or to nobody, never to two.
//!
//! Not here: the network (see `edge`), and how the offer comes to be (see `node`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use ticket::control::{EventRecord, SlotWindow};
use ticket::id::UserId;
use ticket::seal::{Issue, NodeSealer, SEALED_LEN, SealNumber};
use world::{Clock, UnixMs};

use crate::counters::Counters;
use crate::history::{History, HistorySealer};
use crate::memory::{Seen, UserMemory};
use crate::pacing;
use crate::rules::Terms;
use crate::shake::{Facts, Phase, RESERVING_RETRY_MS, Stock, Verdict, decide, phase};
use crate::shelf::{ShelfFile, Taken};

/// Under this target each record that leaves is told, at level `debug`.
pub const ISSUED: &str = "access::issued";

/// How often a shake looks again after another one took the record it had seen.
const TAKES_MAX: usize = 4;

/// What this node offers at one moment. Replaced whole, never changed.
pub struct Offer {
    /// The event.
    pub event: Arc<EventRecord>,
    /// The rules in force.
    pub terms: Arc<Terms>,
    /// The files on the shelf, all slots.
    pub files: Vec<Arc<ShelfFile>>,
    /// Seals tickets of the event's build.
    pub sealer: Arc<NodeSealer>,
    /// Seals histories of the event.
    pub histories: HistorySealer,
}

/// What a shake brings, ready for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shaken {
    /// A packet.
    Packet {
        /// The record, sealed to the user.
        ticket: [u8; SEALED_LEN],
        /// The sponsor's page, if there is one.
        page: Option<String>,
        /// What the client carries from now on.
        history: String,
    },
    /// A page to look at.
    Page(String),
    /// Nothing.
    Nothing,
    /// Too soon.
    Throttled {
        /// Milliseconds to wait.
        retry_after_ms: u64,
    },
    /// No slot runs.
    Closed {
        /// When the next one starts.
        next_slot_at: Option<UnixMs>,
    },
}

/// Serves shakes.
pub struct Desk {
    offer: ArcSwapOption<Offer>,
    users: UserMemory,
    /// State of the quota, see [`pacing::admit`].
    quota_level_ns: AtomicU64,
    /// Moves the draws of this process away from those of others.
    salt: u64,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
}

impl Desk {
    /// A desk that offers nothing yet and remembers at most `users_max` users.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, counters: Arc<Counters>, users_max: usize, salt: u64) -> Desk {
        Desk {
            offer: ArcSwapOption::empty(),
            users: UserMemory::new(users_max),
            quota_level_ns: AtomicU64::new(0),
            salt,
            clock,
            counters,
        }
    }

    /// Offers this from now on; `None` closes the desk.
    pub fn set_offer(&self, offer: Option<Arc<Offer>>) {
        let event =
            |offer: &Option<Arc<Offer>>| offer.as_ref().map(|o| (o.event.event.clone(), o.event.build));
        let before = self.offer.swap(offer.clone());
        if before.is_some() && offer.is_some() && event(&before) != event(&offer) {
            self.users.forget();
        }
    }

    /// What is offered now.
    #[must_use]
    pub fn offer(&self) -> Option<Arc<Offer>> {
        self.offer.load_full()
    }

    /// Serves one shake of `user`, who may carry a history.
    pub fn shake(&self, user: UserId, history: Option<&str>) -> Shaken {
        let guard = self.offer.load();
        let shaken = match guard.as_ref() {
            None => Shaken::Closed { next_slot_at: None },
            Some(offer) => match phase(&offer.event, self.clock.now()) {
                Phase::Closed { next_slot_at } => Shaken::Closed { next_slot_at },
                Phase::Running(window) => {
                    let carried = self.read_history(offer, user, history);
                    self.users.with(user, |seen| {
                        seen.claims = seen.claims.max(carried);
                        self.serve(offer, window, user, seen)
                    })
                }
            },
        };
        self.counters.shaken(&shaken);
        shaken
    }

    fn serve(&self, offer: &Offer, window: &SlotWindow, user: UserId, seen: &mut Seen) -> Shaken {
        let uptime = self.clock.uptime();
        let uptime_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        let uptime_ns = u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX);
        let now = self.clock.now();
        let draw = mix(self.salt ^ user.0.rotate_left(32) ^ uptime_ns);
        let level_ns = self.quota_level_ns.load(Ordering::Relaxed);
        let mut facts = Facts {
            phase: Phase::Running(window),
            terms: &offer.terms,
            since_last_ms: seen.last_shake_ms.map(|last_ms| uptime_ms.saturating_sub(last_ms)),
            claims: seen.claims,
            quota_open: pacing::admit(level_ns, uptime_ns, offer.terms.quota_per_s).is_some(),
            stock: Stock::Exhausted,
            draw,
        };
        for _ in 0..TAKES_MAX {
            let (stock, file) = best(offer, window, now, draw);
            facts.stock = stock;
            match (decide(&facts), file) {
                (Verdict::Throttled { retry_after_ms }, _) => return Shaken::Throttled { retry_after_ms },
                (Verdict::Closed { next_slot_at }, _) => return Shaken::Closed { next_slot_at },
                (Verdict::Packet, Some((file, released))) => {
                    let Ok(taken) = file.take(released) else { continue };
                    self.spend_quota(uptime_ns, offer.terms.quota_per_s);
                    seen.last_shake_ms = Some(uptime_ms);
                    return self.seal(offer, file, user, seen, &taken, now);
                }
                (Verdict::Page(page), _) => {
                    seen.last_shake_ms = Some(uptime_ms);
                    return Shaken::Page(page.to_owned());
                }
                (Verdict::Nothing | Verdict::Packet, _) => {
                    seen.last_shake_ms = Some(uptime_ms);
                    return Shaken::Nothing;
                }
            }
        }
        Shaken::Throttled { retry_after_ms: RESERVING_RETRY_MS }
    }

    fn seal(
        &self,
        offer: &Offer,
        file: &ShelfFile,
        user: UserId,
        seen: &mut Seen,
        taken: &Taken,
        now: UnixMs,
    ) -> Shaken {
        let record = match file.record(taken) {
            Ok(record) => record,
            Err(error) => return self.spoiled(taken, &error),
        };
        let issue = Issue { record, slot: taken.slot, file: taken.file, index: taken.index, issued_ms: now };
        match offer.sealer.seal(user, &issue) {
            Ok(ticket) => {
                // Before the answer leaves: whoever keeps account hears of records nobody received.
                let number = SealNumber::of(&ticket);
                tracing::debug!(
                    target: ISSUED,
                    user = user.0,
                    slot = taken.slot.0,
                    file = taken.file.0,
                    index = taken.index,
                    node = number.node,
                    boot_epoch = number.boot_epoch,
                    counter = number.counter
                );
                seen.claims += 1;
                let history = History { claims: seen.claims, last_slot: taken.slot, at_ms: now };
                let page = offer.terms.sponsor_page(record.batch()).map(str::to_owned);
                Shaken::Packet { ticket, page, history: offer.histories.seal(user, &history) }
            }
            Err(error) => self.spoiled(taken, &error),
        }
    }

    /// A record that left and cannot be given to anybody: skipped, never repeated.
    fn spoiled(&self, taken: &Taken, error: &dyn std::error::Error) -> Shaken {
        tracing::error!(slot = %taken.slot, file = %taken.file, index = taken.index, %error, "a record was spoiled");
        self.counters.spoiled();
        Shaken::Throttled { retry_after_ms: RESERVING_RETRY_MS }
    }

    fn spend_quota(&self, now_ns: u64, quota_per_s: u32) {
        let spend = |level_ns| pacing::admit(level_ns, now_ns, quota_per_s);
        // Losing a race for the last place lets one packet more than planned through: the quota
        // protects capacity, not money.
        let _ = self.quota_level_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
    }

    fn read_history(&self, offer: &Offer, user: UserId, history: Option<&str>) -> u32 {
        match history.map(|text| offer.histories.open(user, text)) {
            None => 0,
            Some(Ok(history)) => history.claims,
            Some(Err(_)) => {
                self.counters.history_rejected();
                0
            }
        }
    }
}

/// The file to take from and what it offers, beginning at a drawn place so that files are used
/// evenly.
fn best<'a>(
    offer: &'a Offer,
    window: &SlotWindow,
    now: UnixMs,
    draw: u64,
) -> (Stock, Option<(&'a ShelfFile, u32)>) {
    let files = offer.files.len();
    let mut best = (Stock::Exhausted, None);
    if files == 0 {
        return best;
    }
    let pace = offer.terms.pace(window);
    let first = usize::try_from(draw % files as u64).expect("an index of a list");
    for file in offer.files[first..].iter().chain(&offer.files[..first]) {
        if file.slot() != window.slot {
            continue;
        }
        let released = pace.released(file.count(), now);
        let stock = file.stock(released);
        if best.0 < stock {
            best = (stock, Some((&**file, released)));
        }
        if stock == Stock::Ready {
            break;
        }
    }
    best
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014): spreads every input bit over the output.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests;
