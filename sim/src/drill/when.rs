//! Times in drill files: `12.5 s`, `slot 3`, `slot 3 + 200 ms`.
//!
//! Invariant: a time is exact to the millisecond; what is finer is refused, not rounded.
//!
//! Not here: dates; a drill begins at 0.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// When slots start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The first slot starts then.
    pub first_ms: u64,
    /// Each is so long.
    pub length_ms: u64,
    /// Nothing is given out between two of them for so long.
    pub gap_ms: u64,
    /// So many.
    pub count: u16,
}

impl Slots {
    /// The start of each.
    #[must_use]
    pub fn starts_ms(&self) -> Vec<u64> {
        let apart = self.length_ms + self.gap_ms;
        (0..u64::from(self.count)).map(|slot| self.first_ms + slot * apart).collect()
    }

    /// The end of the last.
    #[must_use]
    pub fn end_ms(&self) -> u64 {
        self.starts_ms().last().map_or(self.first_ms, |start| start + self.length_ms)
    }
}

/// A time as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// So long after the beginning.
    At(u64),
    /// So long after (or, below 0, before) the start of a slot, counted from 1.
    Slot(u16, i64),
}

/// A text that is no time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a time: write \"12.5 s\", \"300 ms\", \"slot 3\", \"slot 3 + 2 s\" or \"slot 3 - 200 ms\""
)]
pub struct WhenError(String);

impl When {
    /// Milliseconds since the beginning; `None` if there is no such slot, or it would be before the
    /// beginning.
    #[must_use]
    pub fn at_ms(&self, slots: &Slots) -> Option<u64> {
        match *self {
            When::At(ms) => Some(ms),
            When::Slot(slot, offset) => {
                let start = slots.starts_ms().get(usize::from(slot).checked_sub(1)?).copied()?;
                start.checked_add_signed(offset)
            }
        }
    }
}

/// A length of time, like `2 s`, `1.5 s`, `300 ms` or `2 min`.
///
/// # Errors
/// When it is not one.
pub fn span_ms(text: &str) -> Result<u64, WhenError> {
    let wrong = || WhenError(text.to_owned());
    let trimmed = text.trim();
    let at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = trimmed.split_at(at);
    let unit_ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let mut ms = whole.checked_mul(unit_ms).ok_or_else(wrong)?;
    let mut part = unit_ms;
    if number.contains('.') && fraction.is_empty() {
        return Err(wrong());
    }
    for digit in fraction.chars() {
        let digit = u64::from(digit.to_digit(10).ok_or_else(wrong)?);
        if !part.is_multiple_of(10) && digit != 0 {
            return Err(wrong());
        }
        part /= 10;
        ms = ms.checked_add(digit * part).ok_or_else(wrong)?;
    }
    Ok(ms)
}

impl FromStr for When {
    type Err = WhenError;

    fn from_str(text: &str) -> Result<When, WhenError> {
        let wrong = || WhenError(text.to_owned());
        let Some(rest) = text.trim().strip_prefix("slot") else {
            return span_ms(text).map(When::At).map_err(|_| wrong());
        };
        let (slot, offset) = match rest.split_once(['+', '-']) {
            None => (rest, 0),
            Some((slot, span)) => {
                let ms = i64::try_from(span_ms(span).map_err(|_| wrong())?).map_err(|_| wrong())?;
                (slot, if rest.contains('-') { -ms } else { ms })
            }
        };
        Ok(When::Slot(slot.trim().parse().map_err(|_| wrong())?, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: Slots = Slots { first_ms: 3_000, length_ms: 9_000, gap_ms: 1_000, count: 4 };

    fn check(text: &str, expected: Option<u64>) {
        assert_eq!(text.parse::<When>().ok().and_then(|when| when.at_ms(&SLOTS)), expected, "{text}");
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        check("0 ms", Some(0));
        check("12.5 s", Some(12_500));
        check("250ms", Some(250));
        check("1.25 min", Some(75_000));
        check("slot 1", Some(3_000));
        check("slot 3 + 2 s", Some(25_000));
        check("slot 2-200 ms", Some(12_800));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "12",
            "s",
            "1. s",
            ".5 s",
            "1.5 h",
            "-3 s",
            "slot",
            "slot x",
            "slot 0",
            "slot 5",
            "slot 1 - 4 s",
            "slot 1 + 2",
            "1.0005 s",
            "0.5 ms",
            "99999999999999999999 s",
        ] {
            check(text, None);
        }
    }
}
