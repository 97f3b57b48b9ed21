//! What goes to standard output: a table for people or one JSON object for programs.
//!
//! Invariant: data goes to standard output, everything else to standard error; colour and progress
//! bars appear only on a terminal.

use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde::Serialize;

use crate::failure::{Context, Exit, Failure};

/// The form of what a command prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs: one object, or one a line where they come bit by bit.
    Json,
}

/// Prints `value` as JSON, or what `table` makes of it.
///
/// # Errors
/// When standard output is closed.
pub fn print<T: Serialize>(
    format: Format,
    value: &T,
    table: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let text = match format {
        Format::Table => table(value),
        Format::Json => serde_json::to_string_pretty(value).context(Exit::Error, "making JSON")?,
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end()).context(Exit::Error, "writing to standard output")
}

/// Prints `value` as one line: of JSON, or what `line` makes of it. For what comes bit by bit.
///
/// # Errors
/// When standard output is closed.
pub fn print_line<T: Serialize>(
    format: Format,
    value: &T,
    line: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let text = match format {
        Format::Table => line(value),
        Format::Json => serde_json::to_string(value).context(Exit::Error, "making JSON")?,
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.trim_end()).context(Exit::Error, "writing to standard output")
}

/// An empty table in the house style.
#[must_use]
pub fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|h| Cell::new(*h)));
    table
}

/// A cell whose text stands at the right, for numbers.
#[must_use]
pub fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// A count with thin groups: `1508000` becomes `1,508,000`.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Fen as yuan with groups: `188468958` becomes `1,884,689.58`.
#[must_use]
pub fn yuan(fen: u64) -> String {
    format!("{}.{:02}", grouped(fen / 100), fen % 100)
}

/// Whether a person looks at standard error, so that progress bars make sense.
#[must_use]
pub fn person_watches() -> bool {
    io::stderr().is_terminal()
}

/// An instant as RFC 3339 in UTC, with milliseconds.
#[must_use]
pub fn rfc3339(at: world::UnixMs) -> String {
    let at_ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(at_ms) {
        Ok(timestamp) => format!("{timestamp:.3}"),
        Err(_) => "out of range".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_508_000), "1,508,000");
        assert_eq!(yuan(188_468_958), "1,884,689.58");
        assert_eq!(yuan(5), "0.05");
    }

    #[test]
    fn instants_are_rfc_3339() {
        assert_eq!(rfc3339(world::UnixMs(1_454_846_400_000)), "2016-02-07T12:00:00.000Z");
    }
}
