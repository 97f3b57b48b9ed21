//! The whole event, as `make demo` plays it but smaller: with the loss of a zone and without.

use std::fs;

use serde_json::Value;
use tests::{hongbao, path};

fn demo(fault: &str) -> Value {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = dir.path().join("report.json");
    let words = [
        "demo",
        "--users",
        "12000",
        "--rate",
        "1500",
        "--slot",
        "4",
        "--gap",
        "2",
        "--fault",
        fault,
        "--report",
        path(&file),
        "-o",
        "json",
    ];
    let ran = hongbao(&words).expect(0);
    let printed = ran.json();
    let written: Value = serde_json::from_slice(&fs::read(&file).expect("the report")).expect("JSON");
    assert_eq!(printed, written);
    written
}

fn number(report: &Value, pointer: &str) -> u64 {
    report
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer} is no number in {report}"))
}

fn check(report: &Value) {
    assert_eq!(report["ok"], true, "{report:#}");
    assert_eq!(number(report, "/budget_fen"), 188_468_958);
    let parts = ["/credited_fen", "/pending_fen", "/refunded_fen", "/unissued_fen"];
    assert_eq!(parts.iter().map(|part| number(report, part)).sum::<u64>(), 188_468_958);
    assert_eq!((number(report, "/pending_fen"), number(report, "/unissued_fen")), (0, 0));
    for zero in ["/mismatches", "/opens/lost", "/claims/double", "/thefts/succeeded"] {
        assert_eq!(number(report, zero), 0, "{zero}");
    }
    for positive in ["/opens/acked", "/shakes", "/claims/total", "/packets/credited", "/thefts/tried"] {
        assert!(number(report, positive) > 0, "{positive}");
    }
    for slot in report["slots"].as_array().expect("a list") {
        assert!(
            number(slot, "/opened") > 0,
            "users who are not satisfied yet are there in every slot: {slot}"
        );
    }
    let held =
        report["invariants"].as_array().expect("a list").iter().filter(|verdict| verdict["held"] == true);
    assert_eq!(held.count(), 7);
}

#[test]
fn an_event_survives_the_loss_of_a_zone() {
    let report = demo("zone-kill");
    check(&report);
    assert_eq!(report["zone_failed"], "b");
    assert!(number(&report, "/writable_again_ms") < 3_000);
    assert!(number(&report, "/claims/taken_over") > 0, "the other zones took the lost zone's files over");
    assert!(number(&report, "/packets/frozen") > 0, "what the lost zone had claimed is reported");
}

#[test]
fn an_event_without_faults_ends_to_the_fen() {
    let report = demo("none");
    check(&report);
    assert_eq!(report["zone_failed"], Value::Null);
    assert_eq!(number(&report, "/packets/frozen"), 0);
}
