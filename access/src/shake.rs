//! What one shake brings. Pure: everything it depends on is in [`Facts`].
//!
//! ```text
//!   no slot runs ................ closed, and when the next one starts
//!   shaken too soon ............. throttled for the rest of the interval
//!   has had enough packets ...... a page, or nothing
//!   quota of the second used .... a page, or nothing
//!   stock: none, or held back ... a page, or nothing
//!   stock: being reserved ....... throttled for a moment
//!   stock: ready ................ a packet
//! ```
//! The order matters: what costs nothing and protects most comes first, so a crowd outside the
//! slot or a hammering client never reaches the files.
//!
//! Invariant: a packet is promised only while a slot runs, to a user below the limit.
//!
//! Not here: taking the record and sealing it (see `desk`), which can still find the stock gone
//! and then decides again with what it found.

use ticket::control::{EventRecord, EventState, SlotWindow};
use world::UnixMs;

use crate::rules::Terms;

/// How long a user waits while a block of records is made durable.
pub const RESERVING_RETRY_MS: u64 = 50;

/// Where the event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase<'a> {
    /// Between slots, before the first or after the last.
    Closed {
        /// When the next slot starts, if one is left.
        next_slot_at: Option<UnixMs>,
    },
    /// This slot runs.
    Running(&'a SlotWindow),
}

/// What the node could issue right now. In order of worth: the best over all files counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stock {
    /// Nothing is left, or nothing is this node's to issue.
    Exhausted,
    /// The curve has not released the next record yet.
    Paced,
    /// The next block is not durable yet.
    Reserving,
    /// A record may leave.
    Ready,
}

/// What is known when a user shakes.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Where the event stands.
    pub phase: Phase<'a>,
    /// The rules in force.
    pub terms: &'a Terms,
    /// How long ago this user shook, if the node remembers.
    pub since_last_ms: Option<u64>,
    /// Packets this user has had: the most that the node or the user's own history says.
    pub claims: u32,
    /// Whether the second's quota has room.
    pub quota_open: bool,
    /// What the files hold.
    pub stock: Stock,
    /// 64 bits of chance, for the page.
    pub draw: u64,
}

/// What the user gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// The next record.
    Packet,
    /// A page to look at.
    Page(&'a str),
    /// Nothing.
    Nothing,
    /// Try again after this.
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

/// Where the event stands at `now`. Slots are in order and do not overlap.
#[must_use]
pub fn phase(event: &EventRecord, now: UnixMs) -> Phase<'_> {
    if event.state == EventState::Closed {
        return Phase::Closed { next_slot_at: None };
    }
    match event.slots.iter().find(|slot| now < slot.end_ms) {
        Some(slot) if slot.start_ms <= now => Phase::Running(slot),
        Some(slot) => Phase::Closed { next_slot_at: Some(slot.start_ms) },
        None => Phase::Closed { next_slot_at: None },
    }
}

/// Decides one shake.
#[must_use]
pub fn decide<'a>(facts: &Facts<'a>) -> Verdict<'a> {
    if let Phase::Closed { next_slot_at } = facts.phase {
        return Verdict::Closed { next_slot_at };
    }
    let interval_ms = facts.terms.user_interval_ms;
    if let Some(since_ms) = facts.since_last_ms
        && since_ms < interval_ms
    {
        return Verdict::Throttled { retry_after_ms: interval_ms - since_ms };
    }
    if facts.terms.claims_per_user_max <= facts.claims || !facts.quota_open {
        return consolation(facts);
    }
    match facts.stock {
        Stock::Ready => {
            assert!(facts.claims < facts.terms.claims_per_user_max, "a packet beyond the user's limit");
            Verdict::Packet
        }
        Stock::Reserving => Verdict::Throttled { retry_after_ms: RESERVING_RETRY_MS },
        Stock::Paced | Stock::Exhausted => consolation(facts),
    }
}

fn consolation<'a>(facts: &Facts<'a>) -> Verdict<'a> {
    match facts.terms.consolation(facts.draw) {
        Some(page) => Verdict::Page(page),
        None => Verdict::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ticket::control::FORMAT;
    use ticket::id::{BuildId, SlotNo};

    use super::*;
    use crate::rules::{PageWeight, Rules};
    use crate::testkit::roster;

    fn slot(no: u16, start: u64, end: u64) -> SlotWindow {
        SlotWindow { slot: SlotNo(no), id: format!("s{no}"), start_ms: UnixMs(start), end_ms: UnixMs(end) }
    }

    fn event(state: EventState) -> EventRecord {
        EventRecord {
            format: FORMAT,
            event: "e".into(),
            build: BuildId([1; 16]),
            scheme: "A".into(),
            state,
            slots: vec![slot(0, 100, 200), slot(1, 300, 400)],
            open_grace_ms: 0,
        }
    }

    fn terms() -> Terms {
        let rules = Rules {
            pages: vec![PageWeight { page: "logo".into(), weight: 1 }],
            nothing_weight: 0,
            claims_per_user_max: Some(3),
            ..Rules::default()
        };
        Terms::new(&rules, &roster(&[]))
    }

    fn check(change: impl Fn(&mut Facts<'_>), want: Verdict<'_>) {
        let (terms, running) = (terms(), slot(0, 100, 200));
        let mut facts = Facts {
            phase: Phase::Running(&running),
            terms: &terms,
            since_last_ms: None,
            claims: 0,
            quota_open: true,
            stock: Stock::Ready,
            draw: 0,
        };
        change(&mut facts);
        assert_eq!(decide(&facts), want);
    }

    #[test]
    fn a_slot_runs_from_its_start_until_just_before_its_end() {
        let event = event(EventState::Open);
        let next = |at| Phase::Closed { next_slot_at: at };
        assert_eq!(phase(&event, UnixMs(99)), next(Some(UnixMs(100))));
        assert_eq!(phase(&event, UnixMs(100)), Phase::Running(&event.slots[0]));
        assert_eq!(phase(&event, UnixMs(199)), Phase::Running(&event.slots[0]));
        assert_eq!(phase(&event, UnixMs(200)), next(Some(UnixMs(300))));
        assert_eq!(phase(&event, UnixMs(400)), next(None));
    }

    #[test]
    fn a_closed_event_has_no_next_slot() {
        let closed = event(EventState::Closed);
        assert_eq!(phase(&closed, UnixMs(150)), Phase::Closed { next_slot_at: None });
    }

    #[test]
    fn who_may_and_finds_stock_gets_a_packet() {
        check(|_| {}, Verdict::Packet);
        check(|f| f.since_last_ms = Some(200), Verdict::Packet);
        check(|f| f.claims = 2, Verdict::Packet);
    }

    #[test]
    fn who_shakes_too_soon_waits_for_the_rest_of_the_interval() {
        check(|f| f.since_last_ms = Some(150), Verdict::Throttled { retry_after_ms: 50 });
        check(|f| f.since_last_ms = Some(0), Verdict::Throttled { retry_after_ms: 200 });
    }

    #[test]
    fn without_stock_quota_or_claims_left_there_is_a_page() {
        check(|f| f.claims = 3, Verdict::Page("logo"));
        check(|f| f.quota_open = false, Verdict::Page("logo"));
        check(|f| f.stock = Stock::Exhausted, Verdict::Page("logo"));
        check(|f| f.stock = Stock::Paced, Verdict::Page("logo"));
    }

    #[test]
    fn a_block_in_the_making_is_worth_a_short_wait() {
        check(|f| f.stock = Stock::Reserving, Verdict::Throttled { retry_after_ms: RESERVING_RETRY_MS });
    }

    #[test]
    fn outside_a_slot_nothing_else_is_looked_at() {
        let next_slot_at = Some(UnixMs(9));
        check(
            |f| (f.phase, f.since_last_ms) = (Phase::Closed { next_slot_at }, Some(0)),
            Verdict::Closed { next_slot_at },
        );
    }

    proptest! {
        #[test]
        fn a_packet_needs_a_slot_a_quota_a_stock_and_a_user_below_the_limit(
            running in any::<bool>(), since in proptest::option::of(0u64..400), claims in 0u32..6,
            quota_open in any::<bool>(), stock in 0usize..4, draw in any::<u64>(),
        ) {
            let (terms, window) = (terms(), slot(0, 100, 200));
            let phase = if running { Phase::Running(&window) } else { Phase::Closed { next_slot_at: None } };
            let stock = [Stock::Exhausted, Stock::Paced, Stock::Reserving, Stock::Ready][stock];
            let facts = Facts { phase, terms: &terms, since_last_ms: since, claims, quota_open, stock, draw };
            let may = running && since.is_none_or(|ms| 200 <= ms) && claims < 3 && quota_open && stock == Stock::Ready;
            prop_assert_eq!(decide(&facts) == Verdict::Packet, may);
        }
    }
}
