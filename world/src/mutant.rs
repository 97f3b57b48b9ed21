//! Seeded bugs: one mistake each, at a place where it would cost money or data, that the simulator
//! switches on to see whether its oracles notice.
//!
//! ```text
//!   if mutant::armed(Mutant::AckBeforeFsync) { the mistake }
//! ```
//! A test-only switch: it exists where debug assertions do (the development profile, which tests
//! and simulator use). In a release build [`armed`] is the constant `false` and the mistakes are
//! not compiled in. Nothing arms a mutant but a call of [`arm`]: no flag, no file, no environment.
//!
//! Invariant: at most one mutant is armed in a process, from before anything starts until its end.
//!
//! Not here: who finds which (the simulator runs the table).

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $variant:ident = $name:literal,)+) => {
        /// One mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Mutant {
            $($(#[doc = $what])+ $variant,)+
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$variant,)+];

            /// Its name on command lines and in tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$variant => $name,)+ }
            }

            /// What is wrong, in a sentence.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self { $(Mutant::$variant => concat!($($what),+).trim_ascii_start(),)+ }
            }
        }
    };
}

mutants! {
    /// A log append is reported durable before it is synced.
    AckBeforeFsync = "ack-before-fsync",
    /// A vote is answered before it is durable.
    VoteNotDurable = "vote-not-durable",
    /// A restarted leader goes on in its old term without an election.
    LeaderRestored = "leader-restored",
    /// A leader answers reads without proving that it still leads.
    ReadWithoutQuorum = "read-without-quorum",
    /// A snapshot is reported, and the log before it purged, without a flush of the state.
    SnapshotNotFlushed = "snapshot-not-flushed",
    /// The conditions of a control transaction are taken to hold.
    CompareIgnored = "compare-ignored",
    /// A deletion is acknowledged and leaves the keys.
    DeleteForgotten = "delete-forgotten",
    /// An insertion takes place although the key exists.
    InsertOverwrites = "insert-overwrites",
    /// Of an ingested file, a pair that contradicts what is there is passed over, and the rest written.
    IngestInPart = "ingest-in-part",
    /// An ingested file replaces values that are there.
    IngestOverwrites = "ingest-overwrites",
    /// An enqueue whose outcome is unknown is acknowledged.
    UnknownIsSuccess = "unknown-is-success",
    /// A dedup id that was accepted before is accepted again.
    DedupSkipped = "dedup-skipped",
    /// A lease that has run out, or was given out under an earlier leadership, still settles its message.
    LeaseNotFenced = "lease-not-fenced",
    /// A message delivered too often vanishes instead of becoming a dead letter.
    DeadLetterDropped = "dead-letter-dropped",
    /// A settled message is acked before its row is written.
    AckBeforeRow = "ack-before-row",
    /// A restarted node issues again what it had reserved last.
    CursorReused = "cursor-reused",
    /// The cursor is not synced before records leave.
    CursorNotSynced = "cursor-not-synced",
    /// A claim is written although the file is claimed.
    ClaimOverwrites = "claim-overwrites",
    /// A claim does not depend on the epoch of its zone.
    ClaimNotFenced = "claim-not-fenced",
    /// A node seals under the same boot epoch after every start.
    BootEpochReused = "boot-epoch-reused",
    /// Openers and settlers do not look at the key list.
    KeyListIgnored = "key-list-ignored",
    /// Crediting does not compare rows with the ticket files.
    PlanNotCompared = "plan-not-compared",
    /// Settlement does not count a user's packets.
    LimitIgnored = "limit-ignored",
    /// A refund is booked once more each time it is run.
    RefundTwice = "refund-twice",
}

static ARMED: AtomicU8 = AtomicU8::new(u8::MAX);

/// Switches one mistake on for the rest of the process.
///
/// # Errors
/// The mutant, when this build has none compiled in, or another one is armed already.
pub fn arm(mutant: Mutant) -> Result<(), ArmError> {
    if !cfg!(debug_assertions) {
        return Err(ArmError::NotCompiled);
    }
    let free = ARMED.compare_exchange(u8::MAX, mutant as u8, Ordering::SeqCst, Ordering::SeqCst);
    free.map(|_| ()).map_err(|_| ArmError::OneOnly)
}

/// Whether this mistake is switched on.
#[inline]
#[must_use]
pub fn armed(mutant: Mutant) -> bool {
    cfg!(debug_assertions) && ARMED.load(Ordering::Relaxed) == mutant as u8
}

/// Why a mutant was not armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmError {
    /// The build is without debug assertions.
    NotCompiled,
    /// Another one is armed.
    OneOnly,
}

impl fmt::Display for ArmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArmError::NotCompiled => {
                "this build has no mutants: build the simulator in the development profile"
            }
            ArmError::OneOnly => "a mutant is armed already: one process, one mutant",
        })
    }
}

impl std::error::Error for ArmError {}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mutant {
    type Err = String;

    fn from_str(name: &str) -> Result<Mutant, String> {
        let found = Mutant::ALL.iter().find(|mutant| mutant.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
            format!("no mutant is called {name:?}; there are {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_nothing_is_armed_by_itself() {
        for mutant in Mutant::ALL {
            assert_eq!(mutant.name().parse(), Ok(*mutant));
            assert!(!armed(*mutant) && mutant.what().ends_with('.'), "{mutant}");
        }
        assert!("ack".parse::<Mutant>().is_err_and(|error| error.contains("ack-before-fsync")));
    }
}
