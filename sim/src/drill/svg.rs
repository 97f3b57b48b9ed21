//! The picture of a story: zones over time, slots as bands, claims and failovers.
//!
//! Invariant: well-formed XML whatever the texts hold; nothing is loaded from elsewhere. Colours come
//! with a pattern or a word, so that the picture can be read without them.
//!
//! Not here: the page around it.

use std::fmt::Write as _;

use super::html::escape;
use super::lanes::Condition;
use super::story::{Story, Who};
use super::terminal::nice_step_ms;
use crate::schedule::span;

const WIDTH: u64 = 960;
const LEFT: u64 = 72;
const RIGHT: u64 = 16;
const TOP: u64 = 44;
const LANE: u64 = 30;
const PITCH: u64 = 58;
/// A word is written into a bar of this width or more.
const WORD_MIN: u64 = 46;
const MARKS: u64 = 9;

struct Picture<'a> {
    story: &'a Story,
    out: String,
}

/// The picture, as an `svg` element.
pub(super) fn picture(story: &Story) -> String {
    let mut picture = Picture { story, out: String::new() };
    picture.begin();
    picture.slots();
    picture.axis();
    for row in 0..story.zones.len() {
        picture.zone(row);
    }
    picture.people();
    picture.out.push_str("</svg>\n");
    picture.out
}

impl Picture<'_> {
    fn x(&self, at_ms: u64) -> u64 {
        let end_ms = self.story.end_ms.max(1);
        LEFT + at_ms.min(end_ms) * (WIDTH - LEFT - RIGHT) / end_ms
    }

    fn top(row: usize) -> u64 {
        TOP + PITCH * row as u64
    }

    fn bottom(&self) -> u64 {
        Self::top(self.story.zones.len())
    }

    fn begin(&mut self) {
        let height = self.bottom() + 46;
        let _ = writeln!(
            self.out,
            "<svg class=\"picture\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"Zones over time\" xmlns=\"http://www.w3.org/2000/svg\">"
        );
        self.out.push_str(concat!(
            "<defs>\n",
            "<pattern id=\"island\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">",
            "<rect width=\"8\" height=\"8\" class=\"island-back\"/><rect width=\"3\" height=\"8\" class=\"island-line\"/></pattern>\n",
            "<pattern id=\"away\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">",
            "<rect width=\"3\" height=\"6\" class=\"away-line\"/></pattern>\n",
            "</defs>\n",
        ));
    }

    fn slots(&mut self) {
        let height = self.bottom() - TOP + 8;
        for (number, slot) in self.story.slots.iter().enumerate() {
            let (from, to) = (self.x(slot.from_ms), self.x(slot.to_ms));
            let (class, middle) = (["band even", "band odd"][number % 2], from.midpoint(to));
            let (name, width) = (escape(&slot.name), to - from);
            let _ = writeln!(
                self.out,
                "<rect class=\"{class}\" x=\"{from}\" y=\"{}\" width=\"{width}\" height=\"{height}\"><title>slot {name}</title></rect>\
                 <text class=\"band-name\" x=\"{middle}\" y=\"{}\">{name}</text>",
                TOP - 16,
                TOP - 22
            );
        }
    }

    fn axis(&mut self) {
        let bottom = self.bottom();
        let step = nice_step_ms(self.story.end_ms, MARKS);
        for at in (0..).map(|n| n * step).take_while(|at| *at <= self.story.end_ms) {
            let x = self.x(at);
            let _ = writeln!(
                self.out,
                "<line class=\"axis\" x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{bottom}\"/><text class=\"mark\" x=\"{x}\" y=\"{}\">{}</text>",
                TOP - 16,
                bottom + 14,
                span(at)
            );
        }
    }

    fn zone(&mut self, row: usize) {
        let zone = self.story.zones[row];
        let top = Self::top(row);
        let _ = writeln!(
            self.out,
            "<text class=\"zone\" x=\"{}\" y=\"{}\">zone {zone}</text>",
            LEFT - 10,
            top + 20
        );
        for spell in self.story.spells.iter().filter(|spell| spell.zone == zone) {
            let (from, to) = (self.x(spell.from_ms), self.x(spell.to_ms));
            let width = (to - from).max(2);
            let word = match spell.condition {
                Condition::Up => "up",
                Condition::Degraded => "degraded",
                Condition::Island => "island",
                Condition::Down => "down",
            };
            let (begun, ended) = (span(spell.from_ms), span(spell.to_ms));
            let _ = writeln!(
                self.out,
                "<rect class=\"{word}\" x=\"{from}\" y=\"{top}\" width=\"{width}\" height=\"{LANE}\"><title>zone {zone} {word}, {begun} to {ended}</title></rect>"
            );
            if spell.condition != Condition::Up && width >= WORD_MIN {
                let _ = writeln!(
                    self.out,
                    "<text class=\"word\" x=\"{}\" y=\"{}\">{word}</text>",
                    from + width / 2,
                    top + 19
                );
            }
        }
        for shift in self.story.shifts.iter().filter(|shift| shift.zone == zone) {
            let (from, width) = (self.x(shift.from_ms), (self.x(shift.to_ms) - self.x(shift.from_ms)).max(2));
            let _ = writeln!(
                self.out,
                "<rect class=\"away\" x=\"{from}\" y=\"{}\" width=\"{width}\" height=\"7\"><title>files of zone {zone} with the other zones, {} to {}</title></rect>",
                top + LANE + 2,
                span(shift.from_ms),
                span(shift.to_ms)
            );
        }
        for claim in self.story.claims.iter().filter(|claim| claim.node.zone() == zone) {
            let class = if claim.home == zone { "claim" } else { "claim taken" };
            let _ = writeln!(
                self.out,
                "<circle class=\"{class}\" cx=\"{}\" cy=\"{}\" r=\"4\"><title>{} claimed file {} of slot {}, at home in zone {}</title></circle>",
                self.x(claim.at_ms),
                top + LANE / 2,
                claim.node,
                claim.file,
                claim.slot + 1,
                claim.home
            );
        }
    }

    /// Commands below the lanes; violations through all of them.
    fn people(&mut self) {
        let bottom = self.bottom();
        for entry in &self.story.timeline {
            let (x, what, at) = (self.x(entry.at_ms), escape(&entry.what), span(entry.at_ms));
            let _ = match entry.who {
                Who::Operator => writeln!(
                    self.out,
                    "<path class=\"operator\" d=\"M{} {} l6 12 h-12 z\"><title>{at}: {what}</title></path>",
                    x,
                    bottom + 22
                ),
                Who::Violation => writeln!(
                    self.out,
                    "<line class=\"violation\" x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{}\"><title>{at}: {what}</title></line>",
                    TOP - 16,
                    bottom
                ),
                _ => Ok(()),
            };
        }
        let _ = writeln!(
            self.out,
            "<text class=\"zone\" x=\"{}\" y=\"{}\">operator</text>",
            LEFT - 10,
            bottom + 33
        );
    }
}
