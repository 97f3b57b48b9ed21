//! The simulator's pure parts: what goes wrong when ([`schedule`]), what clients saw ([`history`]), and
//! what must hold of it ([`oracle`]).
//!
//! Invariant: everything here takes data and returns data: no async, no clock, no input or output,
//! so that a verdict about a run can be given again from what was recorded of it.
//!
//! Not here: the world a schedule is played in.

pub mod drill;
pub mod history;
pub mod oracle;
pub mod schedule;
pub mod target;
