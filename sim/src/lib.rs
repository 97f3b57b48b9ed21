//! The simulator: the whole system, its production code, on simulated hosts.
//!
//! ```text
//!   seed -> knobs, schedule -> stage (hosts over `fabric`) -> run (steps, nemesis) -> judge -> summary
//! ```
//! Pure parts take data and return data, so that a verdict can be given again from what was
//! recorded: what goes wrong when ([`schedule`]), what clients saw ([`history`]), what must hold ([`oracle`]).
//!
//! Invariant: everything that happens in a run follows from its seed; the same seed gives the same
//! trace in any process.
//!
//! Not here: real time, real entropy, threads. Binaries that run seeds interpose libc's clock and
//! entropy calls (see `fabric::time`).

pub mod agree;
pub mod board;
pub mod drill;
pub mod event;
pub mod evidence;
pub mod fabric;
pub mod history;
pub mod host;
pub mod judge;
pub mod knobs;
pub mod links;
pub mod mischief;
pub mod mutants;
pub mod nemesis;
pub mod oracle;
pub mod rehearse;
pub mod run;
pub mod schedule;
pub mod stage;
pub mod tap;
pub mod target;
pub mod trace;
