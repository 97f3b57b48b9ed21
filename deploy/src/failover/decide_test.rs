//! What may be failed over and what may not.

use std::collections::BTreeMap;

use ticket::control::{ClaimRecord, EventRecord, EventState, FORMAT, SlotWindow, ZoneRecord, ZoneState};
use ticket::digest::Digest;
use ticket::id::{BuildId, FileNo, SlotNo};
use ticket::manifest::{FileEntry, MANIFEST_FORMAT, Roster, SlotEntry};
use world::{Epoch, NodeId, UnixMs, ZoneId};

use super::*;

struct World {
    zones: BTreeMap<ZoneId, (ZoneRecord, i64)>,
    event: EventRecord,
    roster: Roster,
    claims: Vec<(SlotNo, FileNo, ClaimRecord)>,
    nodes: BTreeMap<NodeId, NodeView>,
}

fn zone(text: &str) -> ZoneId {
    text.parse().expect("a zone")
}

fn node(text: &str) -> NodeId {
    text.parse().expect("a node")
}

/// Two slots, 100..200 and 300..400; file 0 is b1's in the first, file 1 in the second.
fn world() -> World {
    let record = ZoneRecord {
        format: FORMAT,
        state: ZoneState::Active,
        epoch: Epoch(3),
        from_slot: SlotNo(0),
        reason: String::new(),
        at_ms: UnixMs(0),
        operations: Vec::new(),
    };
    let window = |slot: u16, start: u64| SlotWindow {
        slot: SlotNo(slot),
        id: format!("s{slot}"),
        start_ms: UnixMs(start),
        end_ms: UnixMs(start + 100),
    };
    let entry = |no: u32, slot: u16| FileEntry {
        no: FileNo(no),
        slot: SlotNo(slot),
        home: node("b1"),
        holders: vec![node("b1"), node("c1"), node("a1")],
        count: 50,
        size_bytes: 1,
        digest: Digest::of(b""),
    };
    let claim = ClaimRecord {
        format: FORMAT,
        node: node("b1"),
        incarnation: "00".repeat(16),
        zone_epoch: Epoch(3),
        at_ms: UnixMs(99),
    };
    let view = |verified: &[u32]| NodeView {
        drained: false,
        serving: true,
        verified: verified.iter().map(|no| FileNo(*no)).collect(),
        issued: BTreeMap::new(),
    };
    let mut b1 = view(&[0, 1]);
    b1.issued.insert((SlotNo(0), FileNo(0)), 20);
    World {
        zones: ["a", "b", "c"].iter().map(|z| (zone(z), (record.clone(), 7))).collect(),
        event: EventRecord {
            format: FORMAT,
            event: "e".to_owned(),
            build: BuildId([1; 16]),
            scheme: "A".to_owned(),
            state: EventState::Open,
            slots: vec![window(0, 100), window(1, 300)],
            open_grace_ms: 0,
        },
        roster: Roster {
            format: MANIFEST_FORMAT,
            event: "e".to_owned(),
            scheme: "A".to_owned(),
            build: BuildId([1; 16]),
            claims_per_user_max: 3,
            claims_per_merchant_max: 1,
            consolations: Vec::new(),
            open_grace_ms: 0,
            slots: Vec::<SlotEntry>::new(),
            pages: Vec::new(),
            files: vec![entry(0, 0), entry(1, 1)],
        },
        claims: vec![(SlotNo(0), FileNo(0), claim)],
        nodes: [(node("a1"), view(&[0, 1])), (node("b1"), b1), (node("c1"), view(&[0, 1]))].into(),
    }
}

impl World {
    fn view(&self, now: u64) -> View<'_> {
        View {
            zones: self.zones.clone(),
            event: Some(&self.event),
            roster: Some(&self.roster),
            claims: self.claims.clone(),
            nodes: self.nodes.clone(),
            now: UnixMs(now),
        }
    }

    fn failover(&self, now: u64, name: &str) -> Result<Decision, Guard> {
        failover(&self.view(now), zone(name), asked())
    }
}

fn asked() -> Asked<'static> {
    Asked { reason: "test", operation: Some("5e7") }
}

fn committed(decided: Result<Decision, Guard>) -> Operation {
    match decided {
        Ok(Decision::Commit(operation)) => *operation,
        other => panic!("expected an operation, got {other:?}"),
    }
}

#[test]
fn a_lost_zone_is_failed_over_from_the_running_slot_and_its_claims_freeze() {
    let operation = committed(world().failover(150, "b"));
    assert_eq!(operation.record.state, ZoneState::Failed);
    assert_eq!(operation.record.epoch, Epoch(4));
    assert_eq!(operation.from_slot, SlotNo(0));
    assert_eq!(operation.unchanged.len(), 3, "every zone record is a condition");
    let frozen: Vec<_> = operation.frozen.iter().map(|(f, _)| (f.file, f.count - f.issued)).collect();
    assert_eq!(frozen, vec![(FileNo(0), 30)]);
}

#[test]
fn between_slots_nothing_freezes_and_the_next_slot_moves() {
    let operation = committed(world().failover(250, "b"));
    assert_eq!(operation.from_slot, SlotNo(1));
    assert!(operation.frozen.is_empty());
}

#[test]
fn a_claim_made_ahead_of_its_slot_freezes_too() {
    let mut world = world();
    let (_, _, claim) = world.claims[0].clone();
    world.claims.push((SlotNo(1), FileNo(1), claim));
    let operation = committed(world.failover(299, "b"));
    assert_eq!(operation.frozen.len(), 1);
    assert_eq!(operation.frozen[0].0.file, FileNo(1));
}

#[test]
fn repeating_a_failover_changes_nothing() {
    let mut world = world();
    let first = committed(world.failover(150, "b"));
    world.zones.insert(zone("b"), (first.record.clone(), 8));
    let Ok(Decision::Already(again)) = world.failover(160, "b") else { panic!("it is done already") };
    assert_eq!(again.record, first.record);
    assert_eq!(again.frozen, first.frozen, "freezes that were not written are written in the same words");
}

#[test]
fn a_command_that_arrives_after_others_is_turned_down() {
    let mut world = world();
    for number in 0..=2 * OPERATIONS_KEPT {
        let name = number.to_string();
        let asked = Asked { reason: "test", operation: Some(&name) };
        let failed = committed(failover(&world.view(150), zone("b"), asked));
        world.zones.insert(zone("b"), (failed.record, 8));
        assert!(matches!(failover(&world.view(150), zone("b"), asked), Ok(Decision::Already(_))));
        assert_eq!(restore(&world.view(150), zone("b"), asked), Err(Guard::Superseded(zone("b"))));
        let name = format!("{number} back");
        let back = Asked { reason: "test", operation: Some(&name) };
        let restored = committed(restore(&world.view(150), zone("b"), back));
        assert!(restored.record.operations.len() <= OPERATIONS_KEPT);
        world.zones.insert(zone("b"), (restored.record, 9));
        assert_eq!(failover(&world.view(150), zone("b"), asked), Err(Guard::Superseded(zone("b"))));
    }
}

#[test]
fn a_second_zone_is_never_failed_over() {
    let mut world = world();
    world.zones.get_mut(&zone("b")).expect("zone b").0.state = ZoneState::Failed;
    assert_eq!(world.failover(150, "c"), Err(Guard::AnotherOpen { open: zone("b") }));
}

#[test]
fn two_healthy_zones_must_remain() {
    let mut world = world();
    world.nodes.insert(node("c1"), NodeView::default());
    assert_eq!(world.failover(150, "b"), Err(Guard::TooFewHealthy { zone: zone("b"), healthy: 1 }));
}

#[test]
fn the_next_slots_copies_must_be_verified_where_they_are_needed() {
    let mut world = world();
    world.nodes.get_mut(&node("c1")).expect("c1").verified.clear();
    let refused = world.failover(150, "b").expect_err("unverified copies");
    assert!(matches!(refused, Guard::CopiesUnverified { missing: 1, .. }), "{refused}");
    assert!(world.failover(350, "b").is_ok(), "in the last slot no further copies are needed");
}

#[test]
fn an_unknown_zone_is_refused() {
    assert_eq!(world().failover(150, "d"), Err(Guard::UnknownZone(zone("d"))));
}

#[test]
fn a_zone_is_restored_from_the_next_slot_when_it_serves() {
    let mut world = world();
    world.zones.get_mut(&zone("b")).expect("zone b").0.state = ZoneState::Failed;
    let operation = committed(restore(&world.view(150), zone("b"), asked()));
    assert_eq!((operation.record.state, operation.from_slot), (ZoneState::Active, SlotNo(1)));
    let operation = committed(restore(&world.view(350), zone("b"), asked()));
    assert_eq!(operation.from_slot, SlotNo(2), "after the last slot it gets nothing back");
    world.nodes.insert(node("b1"), NodeView::default());
    assert_eq!(restore(&world.view(150), zone("b"), asked()), Err(Guard::NotServing(zone("b"))));
}
