//! The oracle of the tests: what must hold in the KV once the queue is drained, computed the plain
//! way, apart from reconcile.

use std::collections::{BTreeMap, BTreeSet};

use ticket::id::{PacketId, UserId};
use ticket::opening::Opening;

use super::build::TestBuild;
use super::kv::MemKv;
use crate::claims::ClaimDoc;
use crate::keyspace;
use crate::ledger::{Ledger, Transfer};
use crate::rejection::Rejection;
use crate::row::{Row, RowState};

/// Everything payment stored, decoded.
pub struct Stored {
    pub rows: BTreeMap<PacketId, Row>,
    pub rejections: BTreeMap<(PacketId, UserId), Rejection>,
    pub unread: usize,
}

/// Reads everything and checks I4 to I6 for the openings that were acknowledged.
pub fn audit(test: &TestBuild, kv: &MemKv, acknowledged: &[Opening]) -> Stored {
    let mut rows = BTreeMap::new();
    for (key, value) in kv.all(keyspace::ROW) {
        let packet = keyspace::parse_packet(keyspace::ROW, &key).expect("a row's key");
        rows.insert(packet, Row::decode(packet, &value).expect("a row"));
    }
    let mut rejections = BTreeMap::new();
    for (key, value) in kv.all(keyspace::REJECTED) {
        let (packet, user) = keyspace::parse_rejected(&key).expect("a rejection's key");
        rejections.insert((packet, user), Rejection::decode(packet, user, &value).expect("a rejection"));
    }
    for opening in acknowledged {
        let own = rows.get(&opening.packet).is_some_and(|row| row.user == opening.user);
        let turned_down = rejections.contains_key(&(opening.packet, opening.user));
        assert!(
            own ^ turned_down,
            "{} of {} has a row: {own}, a rejection: {turned_down}",
            opening.packet,
            opening.user
        );
    }
    check_plan(test, &rows);
    check_ledger(kv, &rows);
    check_users(test, kv, &rows);
    Stored { rows, rejections, unread: kv.all(keyspace::UNREAD).len() }
}

/// I6: what is credited is in the plan, with this amount. (Pending rows are reconcile's to judge.)
fn check_plan(test: &TestBuild, rows: &BTreeMap<PacketId, Row>) {
    let plan: BTreeMap<PacketId, u64> =
        test.packets.iter().map(|planned| (planned.packet, planned.amount.get())).collect();
    for row in rows.values().filter(|row| row.state == RowState::Credited) {
        assert_eq!(
            plan.get(&row.packet),
            Some(&row.amount.get()),
            "credit of {} is not in the plan",
            row.packet
        );
    }
}

/// I5: the accounts are what the rows say, to the fen.
fn check_ledger(kv: &MemKv, rows: &BTreeMap<PacketId, Row>) {
    let mut expected = Ledger::default();
    for (key, value) in kv.all(keyspace::FUND) {
        let bytes = &key[keyspace::FUND.len()..];
        let batch = ticket::id::BatchId(u16::from_be_bytes(bytes[4..].try_into().expect("a batch")));
        let fen = ticket::money::Fen::new(keyspace::parse_fen(&value).expect("an amount"));
        let transfer = Transfer::fund(bytes[..4].try_into().expect("a tag"), batch, fen).expect("an amount");
        expected.post(&transfer).expect("room");
    }
    for (key, value) in kv.all(keyspace::REFUND) {
        let bytes = &key[keyspace::REFUND.len()..];
        let batch = ticket::id::BatchId(u16::from_be_bytes(bytes[4..].try_into().expect("a batch")));
        let fen = ticket::money::Fen::new(keyspace::parse_fen(&value).expect("an amount"));
        if let Ok(transfer) = Transfer::refund(bytes[..4].try_into().expect("a tag"), batch, fen) {
            expected.post(&transfer).expect("room");
        }
    }
    for row in rows.values() {
        let transfer = match row.state {
            RowState::Pending => Transfer::hold(row.packet, row.amount),
            RowState::Credited => Transfer::instant(row.packet, row.amount),
            RowState::Rejected(_) => continue,
        };
        expected.post(&transfer.expect("an amount")).expect("room");
    }
    let mut found = Ledger::default();
    for (key, value) in kv.all(keyspace::ACCOUNT) {
        let account = keyspace::parse_account(&key).expect("an account");
        found.add_found(account, keyspace::parse_balance(&value).expect("a balance")).expect("room");
    }
    assert_eq!(found.total(), 0, "money came from nowhere");
    let moved = |ledger: &Ledger| ledger.iter().filter(|(_, balance)| *balance != 0).collect::<Vec<_>>();
    assert_eq!(moved(&found), moved(&expected), "the accounts are not what the rows say");
}

/// The users' side: claims, wallets and accepted rows are one set, and the limits hold.
fn check_users(test: &TestBuild, kv: &MemKv, rows: &BTreeMap<PacketId, Row>) {
    let accepted: BTreeSet<(UserId, PacketId, u64)> = rows
        .values()
        .filter(|row| row.state.accepted())
        .map(|row| (row.user, row.packet, row.amount.get()))
        .collect();
    let wallets: BTreeSet<(UserId, PacketId, u64)> = kv
        .all(keyspace::WALLET)
        .iter()
        .map(|(key, value)| {
            let (user, packet) = keyspace::parse_wallet(key).expect("a wallet key");
            (user, packet, keyspace::parse_fen(value).expect("an amount"))
        })
        .collect();
    assert_eq!(wallets, accepted, "the wallets are not what the rows say");
    let mut claimed = BTreeSet::new();
    for (key, value) in kv.all(keyspace::CLAIMS) {
        let user = keyspace::parse_claims(&key).expect("a user");
        let doc = ClaimDoc::decode(user, &value).expect("a document");
        assert!(
            doc.packets().len() <= test.manifest.claims_per_user_max as usize,
            "user {user} is over the limit"
        );
        claimed.extend(doc.packets().iter().map(|packet| (user, *packet)));
    }
    let accepted: BTreeSet<_> = accepted.into_iter().map(|(user, packet, _)| (user, packet)).collect();
    assert_eq!(claimed, accepted, "the claims are not what the rows say");
}
