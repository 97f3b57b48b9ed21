//! What users of the opener rely on.

use std::sync::Arc;

use ticket::control::EventState;
use ticket::id::KeyId;
use ticket::keys::KeyList;
use tokio::sync::watch;

use super::*;
use crate::keyspace;
use crate::row::RowState;
use crate::testing::build::{KEY_COUNT, NOW, TestBuild};
use crate::testing::faults::{Fault, Injector};
use crate::testing::kv::MemKv;
use crate::testing::queue::MemQueue;

struct Setting {
    test: TestBuild,
    kv: MemKv,
    queue: MemQueue,
    keys: watch::Sender<Arc<OpenKeyring>>,
    event: watch::Sender<Option<Arc<EventView>>>,
    opener: PacketOpener,
}

impl Setting {
    fn new() -> Setting {
        let test = TestBuild::new(8);
        let (kv, queue) = (MemKv::default(), MemQueue::default());
        let (keys, keys_seen) = watch::channel(test.all_keys());
        let view = EventView { event: test.event(EventState::Open), confirmed_ms: NOW };
        let (event, event_seen) = watch::channel(Some(Arc::new(view)));
        let watches = OpenerWatches { event: event_seen, keys: keys_seen };
        let opener =
            PacketOpener::new(Arc::new(queue.clone()), Arc::new(kv.clone()), test.unsealer(), watches);
        Setting { test, kv, queue, keys, event, opener }
    }

    async fn check(&self, user: u64, ticket: &[u8], now: UnixMs, expect: Result<bool, Code>) {
        let outcome = self.opener.open(UserId(user), ticket, now).await;
        assert_eq!(outcome.map(|opened| opened.again), expect);
    }

    fn faulty(&mut self, fault: Fault) {
        let queue = self.queue.through(Injector::with([(0, fault)]));
        self.opener.queue = Arc::new(queue);
    }
}

#[tokio::test]
async fn an_open_tells_packet_and_amount_and_is_enqueued_once() {
    let setting = Setting::new();
    let ticket = setting.test.ticket(1, 5);
    let opened = setting.opener.open(UserId(1), &ticket, NOW).await.expect("opened");
    let planned = setting.test.packets[5];
    assert_eq!(opened, Opened { packet: planned.packet, amount: planned.amount, again: false });
    // Later, but the same answer; the first opening stands.
    setting.check(1, &ticket, UnixMs(NOW.0 + 9), Ok(true)).await;
    let deliveries = setting.queue.lease(9, Duration::ZERO, Duration::ZERO).await.expect("leased");
    let bodies: Vec<_> =
        deliveries.iter().map(|delivery| Opening::decode(&delivery.body).expect("an opening")).collect();
    assert_eq!(bodies, vec![setting.test.opening(1, 5)]);
    assert_eq!(setting.opener.counters().get("opened"), Some(1));
    assert_eq!(setting.opener.counters().get("opened_again"), Some(1));
}

#[tokio::test]
async fn a_ticket_is_worth_nothing_to_another_user_or_altered() {
    let setting = Setting::new();
    let ticket = setting.test.ticket(1, 5);
    setting.check(2, &ticket, NOW, Err(Code::BadTicket)).await;
    for place in 0..ticket.len() {
        let mut altered = ticket.clone();
        altered[place] ^= 1;
        setting.check(1, &altered, NOW, Err(Code::BadTicket)).await;
    }
    setting.check(1, &ticket[1..], NOW, Err(Code::BadTicket)).await;
    setting.check(1, b"", NOW, Err(Code::BadTicket)).await;
    assert!(setting.queue.drained());
    assert_eq!(setting.opener.counters().get("bad_ticket"), Some(ticket.len() as u64 + 3));
}

#[tokio::test]
async fn a_ticket_expires_after_its_slot_and_grace() {
    let setting = Setting::new();
    // Slot 0 ends at 2000 ms, the grace is 500 ms.
    setting.check(1, &setting.test.ticket(1, 0), UnixMs(2_500), Ok(false)).await;
    setting.check(1, &setting.test.ticket(1, 1), UnixMs(2_501), Err(Code::Expired)).await;
    // Slot 1 starts at 2000 ms; a clock that lags opens it nevertheless.
    setting.check(1, &setting.test.ticket(1, 20), UnixMs(1_990), Ok(false)).await;
}

#[tokio::test]
async fn revoked_and_unlisted_keys_are_refused_as_soon_as_the_list_changes() {
    let setting = Setting::new();
    let key = setting.test.packets[0].record.key_id();
    let mut revoked = KeyList::all(KEY_COUNT);
    revoked.blacklist.insert(key);
    let mut unlisted = KeyList::all(KEY_COUNT);
    unlisted.whitelist.remove(&key);
    let ticket = setting.test.ticket(1, 0);
    for (list, code) in
        [(revoked, Code::KeyRevoked), (unlisted, Code::KeyUnlisted), (KeyList::none(), Code::KeyUnlisted)]
    {
        setting.keys.send_replace(setting.test.keyring(list));
        setting.check(1, &ticket, NOW, Err(code)).await;
    }
    setting.keys.send_replace(setting.test.all_keys());
    setting.check(1, &ticket, NOW, Ok(false)).await;
    assert_ne!(key, KeyId(0));
}

#[tokio::test]
async fn a_closed_unknown_stale_or_other_event_opens_nothing() {
    let setting = Setting::new();
    let ticket = setting.test.ticket(1, 0);
    let send = |state, confirmed_ms| {
        let view = EventView { event: setting.test.event(state), confirmed_ms };
        setting.event.send_replace(Some(Arc::new(view)));
    };
    send(EventState::Closed, NOW);
    setting.check(1, &ticket, NOW, Err(Code::Closed)).await;
    send(EventState::Open, NOW);
    setting.check(1, &ticket, UnixMs(NOW.0 + STALE_MS_MAX + 1), Err(Code::Unavailable)).await;
    let mut other = setting.test.event(EventState::Open);
    other.build.0[0] ^= 1;
    setting.event.send_replace(Some(Arc::new(EventView { event: other, confirmed_ms: NOW })));
    setting.check(1, &ticket, NOW, Err(Code::Unavailable)).await;
    setting.event.send_replace(None);
    setting.check(1, &ticket, NOW, Err(Code::Unavailable)).await;
    assert!(setting.queue.drained());
}

#[tokio::test]
async fn the_packet_of_another_user_is_already_opened() {
    let setting = Setting::new();
    // The record was issued twice: an access node broke its promise.
    setting.check(1, &setting.test.ticket(1, 3), NOW, Ok(false)).await;
    setting.check(2, &setting.test.ticket(2, 3), NOW, Err(Code::AlreadyOpened)).await;
    assert_eq!(setting.opener.counters().get("already_opened"), Some(1));
}

#[tokio::test]
async fn after_settling_the_row_tells_whose_the_packet_is() {
    let setting = Setting::new();
    setting.check(1, &setting.test.ticket(1, 3), NOW, Ok(false)).await;
    let delivery = setting.queue.lease(1, Duration::ZERO, Duration::ZERO).await.expect("leased").remove(0);
    assert!(setting.queue.ack(vec![delivery.receipt]).await[0].is_ok());
    // Acked without a row: nobody is told that it is theirs.
    setting.check(1, &setting.test.ticket(1, 3), NOW, Err(Code::AlreadyOpened)).await;
    let row = Row::of(&setting.test.opening(1, 3), RowState::Pending);
    let key = keyspace::row(row.packet);
    let ops = vec![kvsvr::api::DataOp::Put { key: key.key, value: row.encode() }];
    assert!(setting.kv.write(vec![kvsvr::api::Unit { partition: key.partition, ops }]).await[0].is_ok());
    setting.check(1, &setting.test.ticket(1, 3), NOW, Ok(true)).await;
    setting.check(2, &setting.test.ticket(2, 3), NOW, Err(Code::AlreadyOpened)).await;
}

#[tokio::test]
async fn an_answer_that_did_not_come_is_never_a_yes_or_a_no() {
    let mut setting = Setting::new();
    let ticket = setting.test.ticket(1, 3);
    for (fault, code) in [
        (Fault::Unavailable, Code::Unavailable),
        (Fault::UnknownLost, Code::Unknown),
        (Fault::UnknownDone, Code::Unknown),
    ] {
        setting.faulty(fault);
        setting.check(1, &ticket, NOW, Err(code)).await;
        assert!(code.retryable());
    }
    // The third one did happen, and the user gets the same packet.
    setting.check(1, &ticket, NOW, Ok(true)).await;
}
