//! What the demo found, as one JSON object and as a page for a person.
//!
//! Invariant: `ok` is true only when every invariant held; the page and the object show the same
//! numbers.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};

use serde::Serialize;

use crate::output::{grouped, right, table, yuan};

/// The whole report.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether every invariant held.
    pub ok: bool,
    /// The event's id.
    pub event: String,
    /// The scheme that was built.
    pub scheme: String,
    /// The fault that was injected.
    pub fault: String,
    /// What the sponsors paid.
    pub budget_fen: u64,
    /// What users were credited.
    pub credited_fen: u64,
    /// Opened, not yet credited; 0 after the refund.
    pub pending_fen: u64,
    /// What went back to the sponsors.
    pub refunded_fen: u64,
    /// Neither opened nor refunded; 0 after the refund.
    pub unissued_fen: u64,
    /// Differences that reconcile could not explain.
    pub mismatches: u64,
    /// Packets by how far they came.
    pub packets: Packets,
    /// Opens as the crowd counted them.
    pub opens: Opens,
    /// Shakes answered.
    pub shakes: u64,
    /// Shakes by outcome.
    pub shake_outcomes: std::collections::BTreeMap<String, u64>,
    /// Claims of files.
    pub claims: Claims,
    /// Tickets altered or stolen by the crowd's thieves.
    pub thefts: Thefts,
    /// The zone that was lost.
    pub zone_failed: Option<String>,
    /// From the kill until KV and queue acknowledged writes again.
    pub writable_again_ms: Option<u64>,
    /// The same, apart.
    pub kv_writable_again_ms: Option<u64>,
    /// The same, apart.
    pub queue_writable_again_ms: Option<u64>,
    /// Latencies and rates seen by the crowd.
    pub speed: Speed,
    /// Per slot.
    pub slots: Vec<SlotRow>,
    /// Per zone.
    pub zones: Vec<ZoneRow>,
    /// What happened when.
    pub timeline: Vec<Moment>,
    /// A verdict each.
    pub invariants: Vec<Verdict>,
    /// Wall time of the whole demo.
    pub seconds: f64,
}

/// Packets by how far they came.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Packets {
    /// In the plan.
    pub planned: u64,
    /// Sealed to a user, at least; a node that was killed counts what it had reported last.
    pub issued: u64,
    /// With a row.
    pub opened: u64,
    /// Paid.
    pub credited: u64,
    /// Claimed by the zone that was lost and not issued.
    pub frozen: u64,
    /// Opened and refused at settlement, with a reason.
    pub rejected: u64,
}

/// Opens as the crowd counted them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Opens {
    /// Answered OK.
    pub acked: u64,
    /// Answered OK, and neither credited nor explained at the end. Must be 0.
    pub lost: u64,
    /// Never answered.
    pub unknown: u64,
    /// Refused, by code.
    pub refused: std::collections::BTreeMap<String, u64>,
}

/// Claims of files.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Claims {
    /// Files claimed.
    pub total: u64,
    /// Files claimed or issued from twice. Must be 0.
    pub double: u64,
    /// Files claimed by another node than their home.
    pub taken_over: u64,
}

/// What the thieves tried.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Thefts {
    /// Altered tickets and tickets of other users presented.
    pub tried: u64,
    /// Opened all the same. Must be 0.
    pub succeeded: u64,
}

/// What the crowd measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Speed {
    /// Shakes answered per second while slots ran.
    pub shakes_per_second: f64,
    /// Opens acknowledged per second while slots ran.
    pub opens_per_second: f64,
    /// Milliseconds.
    pub shake_p50_ms: f64,
    /// Milliseconds.
    pub shake_p99_ms: f64,
    /// Milliseconds, retries included.
    pub open_p50_ms: f64,
    /// Milliseconds, retries included.
    pub open_p99_ms: f64,
}

/// One slot.
#[derive(Clone, Debug, Serialize)]
pub struct SlotRow {
    /// Its name in the script.
    pub id: String,
    /// Packets planned.
    pub planned: u64,
    /// Packets issued.
    pub issued: u64,
    /// Packets with a row.
    pub opened: u64,
    /// Money in rows.
    pub opened_fen: u64,
    /// Packets frozen.
    pub frozen: u64,
    /// Zones that issued in it, as letters.
    pub zones: String,
}

/// One zone.
#[derive(Clone, Debug, Serialize)]
pub struct ZoneRow {
    /// Its letter.
    pub zone: String,
    /// Its state at the end.
    pub state: String,
    /// Files it claimed.
    pub files: u64,
    /// Of those, files of another home.
    pub taken_over: u64,
    /// Packets it issued.
    pub issued: u64,
    /// Packets frozen.
    pub frozen: u64,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize)]
pub struct Moment {
    /// Since the demo began.
    pub at_ms: u64,
    /// What.
    pub what: String,
}

/// Whether one invariant held.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// `I1` to `I7`.
    pub id: String,
    /// Whether it held.
    pub held: bool,
    /// The numbers that show it.
    pub detail: String,
}

impl Report {
    /// The page for a person. Whoever sat at the terminal has seen the timeline as it happened.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page = String::new();
        let _ = writeln!(page, "\n{}  scheme {}  fault {}\n", self.event, self.scheme, self.fault);
        if !(io::stdout().is_terminal() && io::stderr().is_terminal()) {
            self.write_timeline(&mut page);
        }
        self.write_slots(&mut page);
        self.write_zones(&mut page);
        self.write_money(&mut page);
        self.write_speed(&mut page);
        self.write_verdicts(&mut page);
        page
    }

    fn write_timeline(&self, page: &mut String) {
        let _ = writeln!(page, "What happened");
        for moment in &self.timeline {
            let _ = writeln!(page, "  {:>7.2} s  {}", moment.at_ms as f64 / 1_000.0, moment.what);
        }
        page.push('\n');
    }

    fn write_slots(&self, page: &mut String) {
        let mut rows = table(&["slot", "planned", "issued", "opened", "yuan opened", "frozen", "zones"]);
        for slot in &self.slots {
            rows.add_row(vec![
                slot.id.as_str().into(),
                right(grouped(slot.planned)),
                right(grouped(slot.issued)),
                right(grouped(slot.opened)),
                right(yuan(slot.opened_fen)),
                right(grouped(slot.frozen)),
                slot.zones.as_str().into(),
            ]);
        }
        let _ = writeln!(page, "{rows}\n");
    }

    fn write_zones(&self, page: &mut String) {
        let mut rows = table(&["zone", "at the end", "files", "taken over", "issued", "frozen"]);
        for zone in &self.zones {
            rows.add_row(vec![
                zone.zone.as_str().into(),
                zone.state.as_str().into(),
                right(grouped(zone.files)),
                right(grouped(zone.taken_over)),
                right(grouped(zone.issued)),
                right(grouped(zone.frozen)),
            ]);
        }
        let _ = writeln!(page, "{rows}\n");
    }

    fn write_money(&self, page: &mut String) {
        let mut rows = table(&["money", "yuan", "packets"]);
        let lines = [
            ("credited to users", self.credited_fen, self.packets.credited),
            ("pending", self.pending_fen, 0),
            ("refunded to sponsors", self.refunded_fen, self.packets.planned - self.packets.credited),
            ("unissued", self.unissued_fen, 0),
            ("budget", self.budget_fen, self.packets.planned),
        ];
        for (what, fen, packets) in lines {
            rows.add_row(vec![what.into(), right(yuan(fen)), right(grouped(packets))]);
        }
        let _ = writeln!(page, "{rows}\n");
    }

    fn write_speed(&self, page: &mut String) {
        let speed = &self.speed;
        let _ = writeln!(
            page,
            "Edge     {:.0} shakes/s (p50 {:.1} ms, p99 {:.1} ms), {:.0} opens/s durable on two zones (p50 {:.1} ms, p99 {:.1} ms)",
            speed.shakes_per_second,
            speed.shake_p50_ms,
            speed.shake_p99_ms,
            speed.opens_per_second,
            speed.open_p50_ms,
            speed.open_p99_ms
        );
        if let (Some(zone), Some(ms)) = (&self.zone_failed, self.writable_again_ms) {
            let _ = writeln!(
                page,
                "Zone {zone}   killed; KV and queue acknowledged writes again after {ms} ms (KV {}, queue {})",
                self.kv_writable_again_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms} ms")),
                self.queue_writable_again_ms.map_or_else(|| "?".to_owned(), |ms| format!("{ms} ms")),
            );
        }
        let _ = writeln!(
            page,
            "Thieves  {} altered or stolen tickets presented, {} opened\n",
            grouped(self.thefts.tried),
            self.thefts.succeeded
        );
    }

    fn write_verdicts(&self, page: &mut String) {
        for verdict in &self.invariants {
            let mark = if verdict.held { "held  " } else { "BROKEN" };
            let _ = writeln!(page, "  {:<3} {mark}  {}", verdict.id, verdict.detail);
        }
        let last = if self.ok { "Every invariant held." } else { "AN INVARIANT IS BROKEN." };
        let _ = writeln!(page, "\n{last} {:.1} s in all.", self.seconds);
    }
}
