//! A story on the terminal: the zones as lanes of letters, the timeline, the verdicts.
//!
//! ```text
//!            0 s            20 s           40 s
//!   slot     .....|s1.....|s2......|s3.......|s4......|
//!   zone a   ==========================================
//!   zone b   ==================#############===========
//! ```
//! Invariant: plain text, no colour and no control characters; a letter stands for the worst that was
//! in its span of time.
//!
//! Not here: progress while it runs.

use std::fmt::Write as _;

use super::lanes::Condition;
use super::story::{Story, Who};
use crate::schedule::span;

/// Letters of a lane when the width is not known.
pub const WIDTH: usize = 72;
/// What stands left of a lane.
const LABEL: usize = 10;
/// Marks on the axis at most.
const MARKS: u64 = 6;

/// The whole story, `width` letters wide in its lanes.
#[must_use]
pub fn text(story: &Story, width: usize) -> String {
    let width = width.max(10);
    let mut out = String::new();
    let _ = writeln!(out, "{} (seed {})\n", story.title, story.seed);
    out.push_str(&picture(story, width));
    out.push('\n');
    for entry in &story.timeline {
        let who = match entry.who {
            Who::Event | Who::System => " ",
            Who::Fault => "*",
            Who::Operator => ">",
            Who::Violation => "!",
        };
        let _ = writeln!(out, "{:>9} {who} {}", seconds(entry.at_ms), entry.what);
    }
    out.push('\n');
    for verdict in &story.verdicts {
        let mark = if verdict.held { "held  " } else { "BROKEN" };
        let _ = writeln!(out, "  {:<4} {mark}  {}", verdict.id, verdict.detail);
    }
    let said = if story.ok() { "everything held" } else { "NOT everything held; play it again with" };
    let _ = writeln!(out, "\n{said}{}{}", if story.ok() { ": " } else { ":\n  " }, story.replay);
    out
}

/// Seconds with three places.
#[must_use]
pub fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// A step between marks that people read easily.
#[must_use]
pub fn nice_step_ms(end_ms: u64, marks: u64) -> u64 {
    let least = (end_ms / marks.max(1)).max(1);
    let steps = [1, 2, 5].into_iter();
    let mut all = steps.cycle().zip((0..).map(|n: u32| 10u64.saturating_pow(n / 3)));
    all.find_map(|(digit, ten)| Some(digit * ten).filter(|step| least <= *step)).expect("steps grow")
}

fn picture(story: &Story, width: usize) -> String {
    let end_ms = story.end_ms.max(1);
    let column = |at_ms: u64| usize::try_from(at_ms.min(end_ms) * width as u64 / end_ms).expect("a column");
    let mut axis = String::new();
    let step = nice_step_ms(end_ms, MARKS);
    for at in (0..).map(|n| n * step).take_while(|at| *at < end_ms) {
        let pad = column(at).saturating_sub(axis.chars().count());
        let _ = write!(axis, "{}{}", " ".repeat(pad), span(at));
        axis.push(' ');
    }
    let mut out = format!("{:LABEL$}{}\n", "", axis.trim_end());
    let mut slots = vec!['.'; width];
    for slot in &story.slots {
        for (at, letter) in (column(slot.from_ms)..width).zip(format!("|{}", slot.name).chars()) {
            slots[at] = letter;
        }
        if let Some(end) = slots.get_mut(column(slot.to_ms)) {
            *end = '|';
        }
    }
    lane(&mut out, "slot", &slots);
    for zone in &story.zones {
        let mut letters = vec![Condition::Up; width];
        for spell in story.spells.iter().filter(|spell| spell.zone == *zone) {
            let to = column(spell.to_ms).max(column(spell.from_ms) + 1).min(width);
            for letter in &mut letters[column(spell.from_ms).min(width - 1)..to] {
                *letter = (*letter).max(spell.condition);
            }
        }
        let letters: Vec<char> = letters.into_iter().map(letter).collect();
        lane(&mut out, &format!("zone {zone}"), &letters);
        let mut away = vec![' '; width];
        for shift in story.shifts.iter().filter(|shift| shift.zone == *zone) {
            away[column(shift.from_ms).min(width - 1)..column(shift.to_ms)].fill('^');
        }
        if away.contains(&'^') {
            lane(&mut out, "", &away);
        }
    }
    out.push_str("          = up  ~ degraded  o island  # down  ^ files with the other zones\n");
    out
}

fn letter(condition: Condition) -> char {
    match condition {
        Condition::Up => '=',
        Condition::Degraded => '~',
        Condition::Island => 'o',
        Condition::Down => '#',
    }
}

fn lane(out: &mut String, label: &str, letters: &[char]) {
    let letters: String = letters.iter().collect();
    let _ = writeln!(out, "{}", format!("{label:<LABEL$}{letters}").trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::golden::{golden, sample};

    #[test]
    fn marks_stand_at_round_times() {
        for (end_ms, step) in [(60_000, 10_000), (45_000, 10_000), (1, 1), (700, 200), (3_600_000, 1_000_000)]
        {
            assert_eq!(nice_step_ms(end_ms, MARKS), step, "{end_ms}");
        }
    }

    #[test]
    fn a_story_is_told_as_it_always_was() {
        golden("story.txt", &text(&sample(true), 60));
    }

    #[test]
    fn a_story_that_ended_well_says_so() {
        assert!(
            text(&sample(false), 60).ends_with("everything held: hongbao drill replay zone-kill --seed 16\n")
        );
    }

    #[test]
    fn a_short_outage_is_still_a_letter() {
        let mut story = sample(false);
        story.end_ms = 10_000_000;
        assert!(text(&story, 20).contains('#'));
    }
}
