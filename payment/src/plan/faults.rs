//! What a verification found, as sentences from many threads.
//!
//! Invariant: the order of the sentences does not depend on the order of the threads, and a flood
//! of them is counted, not kept.
//!
//! Not here: what is a fault.

use parking_lot::Mutex;

use super::error::VerifyError;

/// Sentences kept; more are only counted.
const KEPT_MAX: usize = 200;

/// The list.
#[derive(Default)]
pub(crate) struct Faults {
    found: Mutex<(Vec<String>, usize)>,
}

impl Faults {
    /// Notes a fault.
    pub fn note(&self, fault: impl Into<String>) {
        let mut found = self.found.lock();
        if found.0.len() < KEPT_MAX {
            found.0.push(fault.into());
        } else {
            found.1 += 1;
        }
    }

    /// Notes a fault unless `holds`.
    pub fn ensure(&self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            self.note(fault());
        }
    }

    /// The value; or nothing, and the error is a fault.
    pub fn take<T, E: std::fmt::Display>(&self, outcome: Result<T, E>) -> Option<T> {
        outcome.map_err(|error| self.note(error.to_string())).ok()
    }

    /// All of them, sorted.
    ///
    /// # Errors
    /// [`VerifyError::Failed`] when there are any.
    pub fn into_result(self) -> Result<(), VerifyError> {
        let (mut found, more) = self.found.into_inner();
        found.sort();
        found.dedup();
        if more > 0 {
            found.push(format!("and {more} more"));
        }
        if found.is_empty() { Ok(()) } else { Err(VerifyError::Failed(found)) }
    }
}
