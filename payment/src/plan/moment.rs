//! The script's times: local times of a named zone, or times with an offset.
//!
//! Invariant: a text is one instant or an error. A local time that a clock change skips or
//! repeats names none or two instants and is refused rather than guessed.
//!
//! Not here: the order of slots.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use world::UnixMs;

/// The calendar of the event.
pub(crate) struct Calendar {
    zone: TimeZone,
}

/// Why a text is no instant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadMoment {
    pub message: &'static str,
    pub cure: &'static str,
}

impl Calendar {
    /// The calendar of a zone by its IANA name; `None` when the bundled database has no such zone.
    pub fn new(name: &str) -> Option<Calendar> {
        // The bundled database, not the machine's: the same script must mean the same everywhere.
        let zone = jiff::tz::TimeZoneDatabase::bundled().get(name).ok()?;
        Some(Calendar { zone })
    }

    /// The instant a text names.
    pub fn instant(&self, text: &str) -> Result<UnixMs, BadMoment> {
        const SHAPE: &str = "write it like 2016-02-07T19:00:00";
        if text.len() > 40 || !text.is_ascii() {
            return Err(BadMoment { message: "is not a time", cure: SHAPE });
        }
        let offset = text.ends_with('Z') || text.get(10..).is_some_and(|time| time.contains(['+', '-']));
        let instant = if offset {
            text.parse::<Timestamp>().map_err(|_| BadMoment { message: "is not a time", cure: SHAPE })?
        } else {
            self.local(text.parse().map_err(|_| BadMoment { message: "is not a time", cure: SHAPE })?)?
        };
        let since_epoch = u64::try_from(instant.as_millisecond());
        since_epoch.map(UnixMs).map_err(|_| BadMoment { message: "is before 1970", cure: "correct the year" })
    }

    fn local(&self, local: DateTime) -> Result<Timestamp, BadMoment> {
        const CURE: &str = "write it with its offset, like 2016-02-07T19:00:00+08:00";
        let bad = |message| BadMoment { message, cure: CURE };
        let ambiguous = self.zone.to_ambiguous_timestamp(local);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                ambiguous.unambiguous().map_err(|_| bad("is out of the calendar's range"))
            }
            AmbiguousOffset::Gap { .. } => Err(bad("does not exist there: the clocks skip it")),
            AmbiguousOffset::Fold { .. } => Err(bad("happens twice there: the clocks are set back")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(zone: &str, text: &str, expected: Result<u64, &'static str>) {
        let calendar = Calendar::new(zone).expect("a zone");
        let found = calendar.instant(text).map(|at| at.0).map_err(|bad| bad.message);
        assert_eq!(found, expected, "{text} in {zone}");
    }

    #[test]
    fn local_times_become_instants() {
        check("Asia/Shanghai", "2016-02-07T19:00:00", Ok(1_454_842_800_000));
        check("Asia/Shanghai", "2016-02-07 19:00", Ok(1_454_842_800_000));
        check("Europe/Berlin", "2016-02-07T19:00:00+08:00", Ok(1_454_842_800_000));
        check("UTC", "2016-02-07T11:00:00Z", Ok(1_454_842_800_000));
    }

    #[test]
    fn a_time_that_is_no_instant_or_two_is_refused() {
        check("Europe/Berlin", "2016-03-27T02:30:00", Err("does not exist there: the clocks skip it"));
        check("Europe/Berlin", "2016-10-30T02:30:00", Err("happens twice there: the clocks are set back"));
        check("Asia/Shanghai", "2016-02-30T19:00:00", Err("is not a time"));
        check("Asia/Shanghai", "1960-02-07T19:00:00", Err("is before 1970"));
        check("Asia/Shanghai", "tomorrow", Err("is not a time"));
        assert!(Calendar::new("Mars/Base").is_none());
    }
}
