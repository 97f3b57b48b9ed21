//! How many opens went how; read by the metrics page.
//!
//! Invariant: every call of the opener is counted exactly once, under its outcome.
//!
//! Not here: times (the edge measures those).

use std::sync::atomic::{AtomicU64, Ordering};

use super::decide::Code;

/// Counters of one opener.
#[derive(Debug, Default)]
pub struct Counters {
    opened: AtomicU64,
    again: AtomicU64,
    refused: [AtomicU64; Code::ALL.len()],
}

impl Counters {
    pub(super) fn opened(&self, again: bool) {
        let counter = if again { &self.again } else { &self.opened };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, code: Code) {
        self.refused[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All counts by name: `opened`, `opened_again`, and every refusal's code.
    #[must_use]
    pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut counts = vec![("opened", read(&self.opened)), ("opened_again", read(&self.again))];
        counts.extend(Code::ALL.iter().map(|code| (code.name(), read(&self.refused[*code as usize]))));
        counts
    }

    /// One count by name; `None` for a name that is not counted.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<u64> {
        self.snapshot().into_iter().find(|(known, _)| *known == name).map(|(_, count)| count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_counter() {
        let counters = Counters::default();
        for (place, code) in Code::ALL.into_iter().enumerate() {
            for _ in 0..=place {
                counters.refused(code);
            }
        }
        for (place, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(counters.get(code.name()), Some(place as u64 + 1), "{}", code.name());
        }
        assert_eq!(counters.get("nonsense"), None);
    }
}
