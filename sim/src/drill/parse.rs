//! A drill file: text to [`Drill`], or every error in it with its line and cure.
//!
//! ```text
//!   title = "Zone b is lost"          [event]  slots, slot, gap, first_slot, heal, users
//!   about = "..."                     [cluster] nodes_per_zone, groups
//!   seed = 16                         [[step]] at, action, what the action needs
//!   must_hold = ["I2", "I3"]          (all invariants if not there)
//! ```
//! Invariant: what is not understood is an error; no key is passed over.
//!
//! Not here: default faults; a drill without a step is refused.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::when::{Slots, When, span_ms};
use super::{Drill, INVARIANTS, Setting, Written};
use crate::schedule::{Action, validate};

/// Slots a drill may have, and groups, users and nodes of a zone.
const SLOTS_MAX: u16 = 50;
const GROUPS_MAX: u32 = 64;
const USERS_MAX: u32 = 100_000;
const NODES_PER_ZONE_MAX: u8 = 9;

/// What is wrong with a drill file, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// How to mend it.
    pub cure: String,
}

impl fmt::Display for DrillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.what, self.cure)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    #[serde(default)]
    about: String,
    #[serde(default = "default_seed")]
    seed: u64,
    must_hold: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    event: Event,
    #[serde(default)]
    cluster: Cluster,
    #[serde(default)]
    step: Vec<Spanned<toml::Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Event {
    slots: Spanned<u16>,
    slot: Spanned<String>,
    gap: Spanned<String>,
    first_slot: Spanned<String>,
    heal: Spanned<String>,
    users: Spanned<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Cluster {
    nodes_per_zone: Spanned<u8>,
    groups: Spanned<u32>,
}

fn default_seed() -> u64 {
    1
}

fn unwritten<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

impl Default for Event {
    fn default() -> Event {
        Event {
            slots: unwritten(4),
            slot: unwritten("10 s".to_owned()),
            gap: unwritten("1 s".to_owned()),
            first_slot: unwritten("5 s".to_owned()),
            heal: unwritten("5 s".to_owned()),
            users: unwritten(200),
        }
    }
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster { nodes_per_zone: unwritten(1), groups: unwritten(4) }
    }
}

/// Reads a drill file.
///
/// # Errors
/// Every error in it, in order of line.
pub fn parse(text: &str) -> Result<Drill, Vec<DrillError>> {
    let mut reader = Reader { text, errors: Vec::new() };
    let file: File = match toml::from_str(text) {
        Ok(file) => file,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reader.wrong(at, error.message().to_owned(), "mend the line, or take the key out");
            return Err(reader.errors);
        }
    };
    let drill = reader.drill(file);
    if reader.errors.is_empty() {
        reader.playable(&drill);
    }
    reader.errors.sort_by_key(|error| error.line);
    if reader.errors.is_empty() { Ok(drill) } else { Err(reader.errors) }
}

struct Reader<'a> {
    text: &'a str,
    errors: Vec<DrillError>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    fn wrong(&mut self, at: usize, what: String, cure: &str) {
        self.errors.push(DrillError { line: self.line(at), what, cure: cure.to_owned() });
    }

    fn drill(&mut self, file: File) -> Drill {
        if file.title.trim().is_empty() {
            self.wrong(0, "the title is empty".to_owned(), "say in one line what is rehearsed");
        }
        if file.step.is_empty() {
            self.wrong(self.text.len(), "nothing happens".to_owned(), "add a [[step]] with at and action");
        }
        let setting = self.setting(&file.event, &file.cluster);
        let must_hold = match file.must_hold {
            None => INVARIANTS.map(str::to_owned).into(),
            Some(ids) => self.must_hold(ids),
        };
        let steps = file.step.into_iter().filter_map(|step| self.step(step, &setting)).collect();
        Drill { title: file.title, about: file.about, seed: file.seed, must_hold, setting, steps }
    }

    fn must_hold(&mut self, ids: Vec<Spanned<String>>) -> BTreeSet<String> {
        let mut known = BTreeSet::new();
        for id in ids {
            let (at, id) = (id.span().start, id.into_inner());
            if INVARIANTS.contains(&id.as_str()) {
                known.insert(id);
            } else {
                let cure = format!("write some of {}", INVARIANTS.join(", "));
                self.wrong(at, format!("there is no invariant {id:?}"), &cure);
            }
        }
        known
    }

    fn setting(&mut self, event: &Event, cluster: &Cluster) -> Setting {
        let slots = Slots {
            first_ms: self.span(&event.first_slot),
            length_ms: self.span(&event.slot).max(1),
            gap_ms: self.span(&event.gap),
            count: self.number(&event.slots, 1, SLOTS_MAX, "slots"),
        };
        Setting {
            nodes_per_zone: self.number(&cluster.nodes_per_zone, 1, NODES_PER_ZONE_MAX, "nodes in a zone"),
            groups: self.number(&cluster.groups, 1, GROUPS_MAX, "groups"),
            users: self.number(&event.users, 1, USERS_MAX, "users"),
            slots,
            heal_ms: self.span(&event.heal),
        }
    }

    fn number<N: Copy + Ord + fmt::Display>(
        &mut self,
        value: &Spanned<N>,
        least: N,
        most: N,
        what: &str,
    ) -> N {
        let number = *value.get_ref();
        if !(least..=most).contains(&number) {
            self.wrong(value.span().start, format!("{number} {what}"), &format!("write {least} to {most}"));
        }
        number.clamp(least, most)
    }

    fn span(&mut self, text: &Spanned<String>) -> u64 {
        let read = span_ms(text.get_ref());
        read.unwrap_or_else(|_| {
            let what = format!("{:?} is not a length of time", text.get_ref());
            self.wrong(text.span().start, what, "write \"10 s\", \"500 ms\" or the like");
            1
        })
    }

    fn step(&mut self, step: Spanned<toml::Table>, setting: &Setting) -> Option<Written> {
        let at = step.span().start;
        let mut table = step.into_inner();
        let when = match table.remove("at") {
            Some(toml::Value::String(text)) => text.parse::<When>().map_err(|error| error.to_string()),
            Some(other) => Err(format!("at is {other}, not a text")),
            None => Err("a step without a time".to_owned()),
        };
        let when = match when {
            Ok(when) if when.at_ms(&setting.slots).is_some() => Some(when),
            Ok(_) => {
                let count = setting.slots.count;
                self.wrong(
                    at,
                    "there is no such slot, or it would be before the beginning".to_owned(),
                    &format!("name one of the {count} slots, from 1"),
                );
                None
            }
            Err(what) => {
                self.wrong(at, what, "write at = \"slot 2 + 3 s\" or the like");
                None
            }
        };
        let name = table.get("action").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
        let action = match Action::deserialize(toml::Value::Table(table)) {
            Ok(action) => Some(action),
            Err(error) => {
                let (what, cure) = action_cure(&name, error.message());
                self.wrong(at, what, &cure);
                None
            }
        };
        Some(Written { line: self.line(at), when: when?, action: action? })
    }

    /// What the schedule of the drill cannot be played for.
    fn playable(&mut self, drill: &Drill) {
        let mut lines: Vec<(u64, usize)> = drill
            .steps
            .iter()
            .filter_map(|step| Some((step.when.at_ms(&drill.setting.slots)?, step.line)))
            .collect();
        lines.sort_by_key(|(at, _)| *at);
        for problem in validate(&drill.resolve(), &drill.scene()) {
            let line = problem.step.and_then(|step| lines.get(step)).map_or(1, |(_, line)| *line);
            self.errors.push(DrillError { line, what: problem.what, cure: problem.cure });
        }
    }
}

/// What is wrong with an action and how to mend it.
fn action_cure(name: &str, message: &str) -> (String, String) {
    if name.is_empty() {
        return (
            "a step without an action".to_owned(),
            "write action = \"zone-down\" or the like".to_owned(),
        );
    }
    if !Action::NAMES.contains(&name) {
        let nearest =
            Action::NAMES.iter().min_by_key(|known| distance(known, name)).expect("there are actions");
        return (format!("there is no action {name:?}"), format!("did you mean {nearest:?}?"));
    }
    (format!("{name}: {message}"), "give the action what it needs, and nothing else".to_owned())
}

/// How many letters must be changed to come from one word to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let swapped = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = swapped.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "title = \"T\"\n";

    fn check(body: &str, expected: &[&str]) {
        let errors = parse(&format!("{HEAD}{body}")).err().unwrap_or_default();
        let said: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_drill_is_read_with_its_defaults() {
        let drill =
            parse(&format!("{HEAD}[[step]]\nat = \"slot 2 + 1 s\"\naction = \"zone-down\"\nzone = \"b\"\n"));
        let drill = drill.expect("a drill");
        assert_eq!(drill.must_hold.len(), INVARIANTS.len());
        assert_eq!(drill.steps[0].line, 2);
        let schedule = drill.resolve();
        assert_eq!(schedule.steps.len(), 2, "heal-all is added");
        assert_eq!((schedule.steps[0].at_ms, schedule.steps[1].at_ms), (17_000, 53_000));
    }

    #[test]
    fn a_misspelt_action_is_answered_with_the_nearest() {
        check(
            "[[step]]\nat = \"1 s\"\naction = \"zone-dwn\"\nzone = \"b\"\n",
            &["line 2: there is no action \"zone-dwn\": did you mean \"zone-down\"?"],
        );
    }

    #[test]
    fn every_error_is_reported_with_its_line() {
        check(
            "must_hold = [\"I2\", \"I99\"]\n[event]\nslot = \"ten\"\n[[step]]\naction = \"crash\"\nnodes = [\"a1\"]\n[[step]]\nat = \"slot 9\"\naction = \"island\"\nzone = \"a\"\nnode = \"a1\"\n",
            &[
                "line 2: there is no invariant \"I99\": write some of I1, I2, I3, I4, I5, I6, I7, I8, I9, I10, IN, QC, QD, PB, OP",
                "line 4: \"ten\" is not a length of time: write \"10 s\", \"500 ms\" or the like",
                "line 5: a step without a time: write at = \"slot 2 + 3 s\" or the like",
                "line 8: there is no such slot, or it would be before the beginning: name one of the 4 slots, from 1",
                "line 8: island: unknown field `node`, expected `zone` or `crowd`: give the action what it needs, and nothing else",
            ],
        );
    }

    #[test]
    fn a_drill_that_cannot_be_played_names_the_line_of_the_step() {
        check(
            "[[step]]\nat = \"2 s\"\naction = \"restart\"\nnodes = [\"a1\"]\n\n[[step]]\nat = \"1 s\"\naction = \"crash\"\nnodes = [\"b1\"]\n",
            &["line 2: a1 is running at that moment: crash it or cut its power before"],
        );
        check(
            "[[step]]\nat = \"10 min\"\naction = \"crash\"\nnodes = [\"b1\"]\n",
            &[
                "line 1: it happens at 53000 ms, before the step above it at 600000 ms: put the steps in order of time",
                "line 2: it happens at 600000 ms, after the end of all faults at 53000 ms: let it happen earlier, or make the run longer",
            ],
        );
    }

    #[test]
    fn a_drill_in_which_nothing_happens_is_refused() {
        check("", &["line 2: nothing happens: add a [[step]] with at and action"]);
    }

    #[test]
    fn unknown_keys_are_errors() {
        check(
            "sed = 5\n",
            &[
                "line 2: unknown field `sed`, expected one of `title`, `about`, `seed`, `must_hold`, `event`, `cluster`, `step`: mend the line, or take the key out",
            ],
        );
        check(
            "[event]\nslots = 0\n[[step]]\nat = \"0 s\"\naction = \"heal-all\"\n",
            &["line 3: 0 slots: write 1 to 50"],
        );
    }

    #[test]
    fn words_are_as_far_apart_as_letters_differ() {
        for (one, other, expected) in
            [("", "", 0), ("a", "", 1), ("crash", "crush", 1), ("heal", "heal-all", 4)]
        {
            assert_eq!(distance(one, other), expected);
        }
    }
}
