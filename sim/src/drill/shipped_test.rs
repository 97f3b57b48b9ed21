//! The drills that come with hongbao: each can be played, and together they rehearse what they must.

use std::collections::BTreeMap;

use super::*;
use crate::schedule::validate;

fn shipped() -> BTreeMap<String, Drill> {
    let folder = format!("{}/../deploy/drills", env!("CARGO_MANIFEST_DIR"));
    let mut drills = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("the folder of drills") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).expect("a text");
        let drill = parse(&text).unwrap_or_else(|errors| panic!("{name}: {errors:#?}"));
        drills.insert(name, drill);
    }
    drills
}

#[test]
fn every_shipped_drill_can_be_played() {
    let drills = shipped();
    assert!(drills.len() >= 10, "only {} drills are shipped", drills.len());
    for (name, drill) in drills {
        assert!(!drill.about.trim().is_empty(), "{name} does not say what to look at");
        assert!(validate(&drill.resolve(), &drill.scene()).is_empty(), "{name}");
    }
}

#[test]
fn the_shipped_drills_are_those_an_operator_must_have_seen() {
    let names: Vec<String> = shipped().into_keys().collect();
    for must in [
        "zone-kill",
        "island-at-slot-start",
        "island-during-failover",
        "two-links-down",
        "slow-disk",
        "queue-backlog",
        "key-leak",
        "late-sponsor",
        "wrong-zone",
        "old-zone-returns",
    ] {
        assert!(names.iter().any(|name| name == must), "{must} is not shipped");
    }
}

#[test]
fn a_drill_at_a_slot_boundary_begins_just_before_it() {
    let drill = &shipped()["island-at-slot-start"];
    let (first, slots) = (&drill.resolve().steps[0], drill.scene().slots_ms);
    assert_eq!(first.at_ms + 100, slots[1]);
}
