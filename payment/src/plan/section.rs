//! Reading one TOML table field by field, with every finding instead of the first.
//!
//! serde stops at the first error; a person who mends a script wants all of them. So the table is
//! walked by hand: each field read is remembered, and what was not asked for is an unknown key.
//!
//! Invariant: every `None` returned for a field that was written or required has left a finding.
//!
//! Not here: what the fields mean (the script says).

use std::collections::BTreeSet;

use ticket::money::Fen;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::budget::message_and_cure;
use super::limits::{ID_BYTES_MAX, NAME_BYTES_MAX};
use super::source::{Findings, Source};

/// One table of the script while it is read.
pub(crate) struct Section<'a> {
    /// How findings call it, like `[event]`.
    pub title: String,
    source: &'a Source,
    table: &'a DeTable<'a>,
    offset: usize,
    asked: BTreeSet<&'static str>,
}

/// Whether a field may be left out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Required,
    Optional,
}

/// A value and the line it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub line: usize,
    pub value: T,
}

impl<'a> Section<'a> {
    /// Begins to read `table`, whose header stands at `offset`.
    pub fn new(title: String, source: &'a Source, table: &'a DeTable<'a>, offset: usize) -> Section<'a> {
        Section { title, source, table, offset, asked: BTreeSet::new() }
    }

    /// The line of the table's header.
    pub fn line(&self) -> usize {
        self.source.line_at(self.offset)
    }

    /// The raw value of a field.
    pub fn value(
        &mut self,
        key: &'static str,
        need: Need,
        findings: &mut Findings,
    ) -> Option<&'a Spanned<DeValue<'a>>> {
        self.asked.insert(key);
        let found = self.table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value);
        if found.is_none() && need == Need::Required {
            let message = format!("{} has no {key}", self.title);
            findings.note(&self.source.name, self.line(), message, format!("add {key}"));
        }
        found
    }

    /// The line of a value.
    pub fn line_of(&self, value: &Spanned<DeValue<'_>>) -> usize {
        self.source.line_at(value.span().start)
    }

    /// Notes something about a value.
    pub fn note(&self, line: usize, message: String, cure: &str, findings: &mut Findings) {
        findings.note(&self.source.name, line, format!("{}: {message}", self.title), cure);
    }

    /// A text that people read.
    pub fn name(&mut self, key: &'static str, findings: &mut Findings) -> Option<At<String>> {
        let text = self.text(key, Need::Required, findings)?;
        if text.value.is_empty()
            || text.value.len() > NAME_BYTES_MAX
            || text.value.chars().any(char::is_control)
        {
            let message =
                format!("{key} is empty, longer than {NAME_BYTES_MAX} bytes or holds control characters");
            self.note(text.line, message, "shorten it to plain text", findings);
            return None;
        }
        Some(text)
    }

    /// A text that programs compare: it becomes part of keys, file names and seals.
    pub fn id(&mut self, key: &'static str, findings: &mut Findings) -> Option<At<String>> {
        let text = self.text(key, Need::Required, findings)?;
        let shaped = text.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if text.value.is_empty() || text.value.len() > ID_BYTES_MAX || !shaped {
            let message = format!("{key} {:?} is not an id", text.value);
            let cure = "use 1 to 64 letters, digits, `-`, `_` or `.`";
            self.note(text.line, message, cure, findings);
            return None;
        }
        Some(text)
    }

    /// A text, or a date written without quotes.
    pub fn text(&mut self, key: &'static str, need: Need, findings: &mut Findings) -> Option<At<String>> {
        let value = self.value(key, need, findings)?;
        let line = self.line_of(value);
        match value.get_ref() {
            DeValue::String(text) => Some(At { line, value: text.to_string() }),
            DeValue::Datetime(moment) => Some(At { line, value: moment.to_string() }),
            other => {
                let message = format!("{key} is {}, not a text", article(other));
                self.note(line, message, "put it in quotes", findings);
                None
            }
        }
    }

    /// An amount of money.
    pub fn money(&mut self, key: &'static str, findings: &mut Findings) -> Option<At<Fen>> {
        let value = self.value(key, Need::Required, findings)?;
        let line = self.line_of(value);
        let Some(text) = value.get_ref().as_str() else {
            let message = format!("{key} is {}, not a text", article(value.get_ref()));
            self.note(line, message, "write yuan in quotes, like \"12.34\"", findings);
            return None;
        };
        match Fen::parse_yuan(text) {
            Ok(value) => Some(At { line, value }),
            Err(error) => {
                let (message, cure) = message_and_cure(&error);
                self.note(line, format!("{key}: {message}"), &cure, findings);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn number(
        &mut self,
        key: &'static str,
        need: Need,
        bounds: std::ops::RangeInclusive<u64>,
        findings: &mut Findings,
    ) -> Option<At<u64>> {
        let value = self.value(key, need, findings)?;
        let line = self.line_of(value);
        let parsed = match value.get_ref() {
            DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        let parsed = parsed.filter(|number| bounds.contains(number));
        if parsed.is_none() {
            let message = format!("{key} is not a whole number from {} to {}", bounds.start(), bounds.end());
            self.note(line, message, "correct the number", findings);
        }
        parsed.map(|value| At { line, value })
    }

    /// A table within this one, with its fields as (name, line, value).
    pub fn entries(
        &mut self,
        key: &'static str,
        need: Need,
        findings: &mut Findings,
    ) -> Vec<(&'a str, usize, &'a Spanned<DeValue<'a>>)> {
        let Some(value) = self.value(key, need, findings) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            let message = format!("{key} is {}, not a table", article(value.get_ref()));
            self.note(self.line_of(value), message, "write it like in events/spring/script.toml", findings);
            return Vec::new();
        };
        let lines = table.iter().map(|(name, value)| {
            let line = self.source.line_at(name.span().start);
            (name.get_ref().as_ref(), line, value)
        });
        lines.collect()
    }

    /// Notes every key that nothing asked for.
    pub fn finish(self, findings: &mut Findings) {
        for name in self.table.keys() {
            if !self.asked.contains(name.get_ref().as_ref()) {
                let line = self.source.line_at(name.span().start);
                let message = format!("{}: the key {:?} is not known", self.title, name.get_ref());
                let known: Vec<&str> = self.asked.iter().copied().collect();
                let cure = format!("remove it, or use one of {}", known.join(", "));
                findings.note(&self.source.name, line, message, cure);
            }
        }
    }
}

/// The kind of a value as a sentence calls it.
pub(crate) fn article(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(_) => "a whole number".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Float(_) => "a number with a point".to_owned(),
        DeValue::Boolean(_) => "true or false".to_owned(),
        DeValue::String(_) => "a text".to_owned(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
