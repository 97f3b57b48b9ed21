//! What happened when: printed as it happens, kept for the report.
//!
//! Invariant: moments are in order of time.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use world::Clock;

use super::report::Moment;
use crate::output::person_watches;

/// The demo's log book and progress bar.
pub struct Timeline {
    clock: Arc<dyn Clock>,
    started: Duration,
    moments: Mutex<Vec<Moment>>,
    bar: ProgressBar,
}

impl Timeline {
    /// Starts now.
    #[must_use]
    pub fn start(clock: Arc<dyn Clock>) -> Timeline {
        let bar = if person_watches() { ProgressBar::new(100) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("  {bar:30.red/dim} {msg}").expect("a valid template");
        bar.set_style(style);
        Timeline { started: clock.uptime(), clock, moments: Mutex::new(Vec::new()), bar }
    }

    /// Since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.uptime().saturating_sub(self.started)
    }

    /// Notes a moment and shows it.
    pub fn note(&self, what: impl Into<String>) {
        let what = what.into();
        let at = self.elapsed();
        let line = format!("  {:>7.2} s  {what}", at.as_secs_f64());
        if self.bar.is_hidden() {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
        }
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        self.moments.lock().push(Moment { at_ms, what });
    }

    /// Moves the bar: `part` of 1 and what to say beside it.
    pub fn progress(&self, part: f64, message: String) {
        let percent = (part.clamp(0.0, 1.0) * 100.0) as u64;
        self.bar.set_position(percent);
        self.bar.set_message(message);
    }

    /// Takes the bar away; answers all moments.
    #[must_use]
    pub fn finish(self) -> Vec<Moment> {
        self.bar.finish_and_clear();
        self.moments.into_inner()
    }
}
