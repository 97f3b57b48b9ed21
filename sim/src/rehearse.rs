//! What a drill came to, as a story for people: its slots, faults, commands and verdicts in order of
//! time.
//!
//! Invariant: everything told was recorded in the run or stands in the drill.
//!
//! Not here: how the story is shown (drill/).

use std::collections::BTreeMap;

use crate::board::Board;
use crate::drill::Drill;
use crate::drill::story::{Band, Story};
use crate::fabric::time::EPOCH_MS;
use crate::oracle::Verdict;

/// What is known of the run.
pub struct Rehearsal<'a> {
    /// Its seed.
    pub seed: u64,
    /// When it ended, in simulated milliseconds.
    pub end_ms: u64,
    /// How often each fault really happened.
    pub faults: &'a BTreeMap<String, u64>,
    /// What the oracles say.
    pub verdicts: &'a [Verdict],
}

/// Tells the story.
#[must_use]
pub fn story(drill: &Drill, board: &Board, run: &Rehearsal<'_>, replay: String) -> Story {
    let (scene, schedule) = (drill.scene(), drill.resolve());
    let mut story = Story::new(&drill.title, &drill.about, run.seed, &scene, &schedule, run.end_ms);
    let event = board.event.lock();
    let windows = event.as_ref().map_or(&[][..], |event| &event.slots);
    let band = |window: &ticket::control::SlotWindow| Band {
        name: window.id.clone(),
        from_ms: window.start_ms.0.saturating_sub(EPOCH_MS),
        to_ms: window.end_ms.0.saturating_sub(EPOCH_MS),
    };
    story.slots(windows.iter().map(band).collect());
    story.commands(&board.operator.lock());
    story.verdicts(run.verdicts.to_vec());
    story.faults.clone_from(run.faults);
    story.replay = replay;
    story
}
