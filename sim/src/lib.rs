//! The simulator.
pub mod history;
pub mod schedule;
pub mod target;
