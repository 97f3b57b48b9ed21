//! From a budget and a script to signed ticket files, and back to check them.
//!
//! ```text
//!   budget.csv --+                                                            +--> files/*.hbt
//!                +-> parse -> check -> deal -> split -> shuffle -> mint -> ---+--> instant.bin
//!   script.toml -+           (every    (counts  (amounts, per file, by any    +--> manifest, roster
//!                             finding)  first)    thread in any order)             (signed), keys
//! ```
//! Money is decided top down: batch, slot, file, packet; every level adds up to the one above it,
//! asserted where it is made and checked again by [`verify()`] from the bytes on disk.
//!
//! Invariant: minted amounts and counts equal the budget, per batch, to the fen, each amount within
//! its batch's bounds; the same seed and inputs give the same bytes on any machine at any number
//! of threads; other inputs give another build id, so no nonce is ever repeated.
//!
//! Not here: distribution of the files (deploy), issuing (access), opening and settling.

mod amount;
mod audit;
mod batch_rules;
mod budget;
mod build;
mod chance;
mod collect;
mod deal;
mod error;
mod faults;
mod inputs;
pub mod instant;
mod keys;
mod layout;
pub mod limits;
mod lot;
mod moment;
mod press;
mod script;
mod section;
mod seeds;
mod serial;
mod show;
mod source;
mod spread;
mod verify;

pub use budget::{Batch, Budget, Split, Tier};
pub use build::{BuildOptions, BuildSummary, Watch, build};
pub use error::{BuildError, CheckError, PlanError, PlanErrors, VerifyError};
pub use inputs::{CheckSummary, Plan, check, load, parse};
pub use layout::Layout;
pub use script::{Event, Exposure, Page, Scheme, Script, Slot};
pub use show::{BatchRow, Shown, SlotRow, Sum, load_manifest, show};
pub use verify::{VerifyOptions, VerifySummary, verify};

#[cfg(test)]
mod tests;
