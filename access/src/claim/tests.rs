//! Who may claim when, and that whatever order nodes act in, a file has one owner.

use kvsvr::api::ControlOp;
use proptest::prelude::*;
use ticket::control::{encode, zone_key};
use ticket::id::BuildId;
use world::ZoneId;

use super::*;
use crate::testkit::{node, roster};

const TIMING: ClaimTiming = ClaimTiming { early_ms: 100, grace_ms: 50 };

struct Scene {
    event: Seen<EventRecord>,
    zones: BTreeMap<ZoneId, Seen<ZoneRecord>>,
    roster: Roster,
    claims: BTreeMap<(SlotNo, FileNo), ClaimRecord>,
    shelved: BTreeSet<(SlotNo, FileNo)>,
}

fn window(slot: u16, start: u64, end: u64) -> SlotWindow {
    SlotWindow { slot: SlotNo(slot), id: format!("s{slot}"), start_ms: UnixMs(start), end_ms: UnixMs(end) }
}

/// Two slots, 1000..2000 and 2000..3000; one file each, home a1, then b1, then c1.
fn scene() -> Scene {
    let event = EventRecord {
        format: FORMAT,
        event: "e".into(),
        build: BuildId([1; 16]),
        scheme: "A".into(),
        state: EventState::Open,
        slots: vec![window(0, 1_000, 2_000), window(1, 2_000, 3_000)],
        open_grace_ms: 0,
    };
    Scene {
        event: Seen { record: event, mod_revision: 7 },
        zones: BTreeMap::new(),
        roster: roster(&[(0, &["a1", "b1", "c1"], 10), (1, &["a1", "b1", "c1"], 10)]),
        claims: BTreeMap::new(),
        shelved: BTreeSet::new(),
    }
}

fn zone(name: &str) -> ZoneId {
    name.parse().expect("a zone")
}

fn operated(state: ZoneState, from_slot: u16) -> Seen<ZoneRecord> {
    let record = ZoneRecord {
        format: FORMAT,
        state,
        epoch: Epoch(3),
        from_slot: SlotNo(from_slot),
        reason: String::new(),
        at_ms: UnixMs(0),
        operations: Vec::new(),
    };
    Seen { record, mod_revision: 42 }
}

impl Scene {
    fn due(&self, name: &str, now: u64) -> Vec<ClaimIntent> {
        let holdings = Holdings::new(&self.roster, node(name));
        due(&Situation {
            node: node(name),
            incarnation: "00",
            event: &self.event,
            zones: &self.zones,
            holdings: &holdings,
            claims: &self.claims,
            shelved: &self.shelved,
            timing: TIMING,
            now: UnixMs(now),
        })
    }

    fn slots(&self, name: &str, now: u64) -> Vec<u16> {
        self.due(name, now).iter().map(|intent| intent.slot.0).collect()
    }
}

#[test]
fn the_home_node_claims_from_shortly_before_its_slot_to_its_end() {
    let scene = scene();
    assert_eq!(scene.slots("a1", 899), [0u16; 0]);
    assert_eq!(scene.slots("a1", 900), [0]);
    assert_eq!(scene.slots("a1", 1_899), [0]);
    assert_eq!(scene.slots("a1", 1_900), [0, 1]);
    assert_eq!(scene.slots("a1", 2_000), [1]);
    assert_eq!(scene.slots("a1", 3_000), [0u16; 0]);
}

#[test]
fn the_next_holders_wait_for_their_grace() {
    let scene = scene();
    assert_eq!(scene.slots("b1", 1_049), [0u16; 0]);
    assert_eq!(scene.slots("b1", 1_050), [0]);
    assert_eq!(scene.slots("c1", 1_099), [0u16; 0]);
    assert_eq!(scene.slots("c1", 1_100), [0]);
    assert_eq!(scene.slots("d1", 1_500), [0u16; 0], "who holds nothing claims nothing");
}

#[test]
fn after_a_failover_the_next_holder_claims_at_the_start_without_waiting() {
    let mut scene = scene();
    scene.zones.insert(zone("a"), operated(ZoneState::Failed, 0));
    assert_eq!(scene.slots("a1", 1_500), [0u16; 0], "a failed zone claims nothing");
    assert_eq!(scene.slots("b1", 999), [0u16; 0]);
    assert_eq!(scene.slots("b1", 1_000), [0]);
    assert_eq!(scene.slots("c1", 1_049), [0u16; 0]);
    assert_eq!(scene.slots("c1", 1_050), [0]);
}

#[test]
fn a_failover_holds_from_its_slot_and_a_restore_from_its_own() {
    let mut scene = scene();
    scene.zones.insert(zone("a"), operated(ZoneState::Failed, 1));
    assert_eq!(scene.slots("a1", 1_900), [0]);
    assert_eq!(scene.slots("b1", 2_000), [1]);
    scene.zones.insert(zone("a"), operated(ZoneState::Active, 1));
    assert_eq!(scene.slots("a1", 1_900), [1]);
    assert_eq!(scene.slots("b1", 1_000), [0]);
}

#[test]
fn what_is_claimed_or_closed_is_not_claimed_again() {
    let mut scene = scene();
    let claim = scene.due("b1", 1_500)[0].record.clone();
    scene.claims.insert((SlotNo(0), FileNo(0)), claim);
    assert_eq!(scene.slots("a1", 1_500), [0u16; 0]);
    scene.claims.clear();
    scene.event.record.state = EventState::Closed;
    assert_eq!(scene.slots("a1", 1_500), [0u16; 0]);
}

#[test]
fn a_clock_set_back_over_a_slots_end_claims_nothing_again() {
    let mut scene = scene();
    assert_eq!(scene.slots("a1", 1_950), [0, 1]);
    // Claimed, served, closed at 2_000; the claim left the view with its slot. Then the clock is set back.
    scene.shelved.insert((SlotNo(0), FileNo(0)));
    assert_eq!(scene.slots("a1", 1_950), [1]);
}

#[test]
fn a_claim_is_fenced_by_its_absence_the_event_and_every_zone_before_it() {
    let mut scene = scene();
    scene.zones.insert(zone("a"), operated(ZoneState::Failed, 0));
    let intent = &scene.due("b1", 1_500)[0];
    let key = |text: String| Bytes::from(text);
    assert_eq!(
        intent.compares,
        [
            Compare::Absent(key(claim_key(SlotNo(0), FileNo(0)))),
            Compare::ModRevision(key(EVENT_KEY.to_owned()), 7),
            Compare::ModRevision(key(zone_key(zone("a"))), 42),
            Compare::Absent(key(zone_key(zone("b")))),
        ]
    );
    assert_eq!(intent.record.node, node("b1"));
    assert_eq!(intent.record.zone_epoch, Epoch(0));
}

/// A control group reduced to what claims need: keys with the revision of their last write.
#[derive(Default)]
struct TinyKv {
    revision: i64,
    keys: BTreeMap<Bytes, (Bytes, i64)>,
}

impl TinyKv {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.revision += 1;
        self.keys.insert(key, (value, self.revision));
    }

    fn txn(&mut self, compares: &[Compare], write: ControlOp) -> bool {
        let holds = |compare: &Compare| match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::ModRevision(key, at) => self.keys.get(key).is_some_and(|(_, found)| found == at),
            Compare::Value(key, value) => self.keys.get(key).is_some_and(|(found, _)| found == value),
        };
        let made = compares.iter().all(holds);
        if let (true, ControlOp::Put(key, value)) = (made, write) {
            self.put(key, value);
        }
        made
    }

    fn read_zones(&self) -> BTreeMap<ZoneId, Seen<ZoneRecord>> {
        let read = |name: &str| {
            let key = zone_key(zone(name));
            let (value, mod_revision) = self.keys.get(key.as_bytes())?;
            let record = decode(&key, value).expect("a zone record");
            Some((zone(name), Seen { record, mod_revision: *mod_revision }))
        };
        ["a", "b", "c"].into_iter().filter_map(read).collect()
    }
}

#[derive(Clone, Debug)]
enum Act {
    /// A node looks at the zones and claims.
    Look(usize),
    /// A node decides by what it saw, at this time, and writes.
    Claim(usize, u64),
    /// An operator turns a zone.
    Turn(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0usize..3).prop_map(Act::Look),
        (0usize..3, 0u64..3_500).prop_map(|(node, now)| Act::Claim(node, now)),
        (0usize..3).prop_map(Act::Turn),
    ]
}

proptest! {
    #[test]
    fn in_any_order_with_any_clocks_a_file_has_one_owner_and_no_failed_zone_claims(
        acts in proptest::collection::vec(act(), 1..60),
    ) {
        let names = ["a1", "b1", "c1"];
        let zones = ["a", "b", "c"];
        let mut kv = TinyKv::default();
        let mut scenes = [scene(), scene(), scene()];
        kv.put(Bytes::from_static(EVENT_KEY.as_bytes()), Bytes::new());
        for scene in &mut scenes {
            scene.event.mod_revision = 1;
        }
        let mut owners: BTreeMap<(SlotNo, FileNo), NodeId> = BTreeMap::new();
        let mut failed = [false; 3];
        for act in acts {
            match act {
                Act::Look(who) => scenes[who].zones = kv.read_zones(),
                Act::Turn(which) => {
                    failed[which] = !failed[which];
                    let state = if failed[which] { ZoneState::Failed } else { ZoneState::Active };
                    let record = operated(state, 0).record;
                    kv.put(Bytes::from(zone_key(zone(zones[which]))), Bytes::from(encode(&record)));
                }
                Act::Claim(who, now) => {
                    for intent in scenes[who].due(names[who], now) {
                        let key = (intent.slot, intent.file);
                        let write = ControlOp::Put(
                            Bytes::from(claim_key(intent.slot, intent.file)),
                            Bytes::from(encode(&intent.record)),
                        );
                        if kv.txn(&intent.compares, write) {
                            prop_assert!(!failed[who], "zone {} claims while failed", zones[who]);
                            let before = owners.insert(key, node(names[who]));
                            prop_assert_eq!(before, None, "a second owner");
                        }
                    }
                }
            }
        }
    }
}
