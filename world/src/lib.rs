//! The doors through which chance and time enter, and the names of places.
//!
//! ```text
//!        clock      randomness      disk       network
//!          |            |            |            |
//!   -------+------------+------------+------------+------  crate `world`
//!          |            |            |            |
//!        every crate of ours; production and simulator alike
//! ```
//!
//! Invariant: no other crate reads a clock, draws a random number from the operating system,
//! publishes a file or opens a socket except through a value from here that was handed to it.
//! So the same code runs in production and in the simulator.
//!
//! Not here: anything about money, keys, queues or consensus.

pub mod checked;
pub mod clock;
#[cfg(feature = "net")]
pub mod codec;
pub mod disk;
pub mod mutant;
#[cfg(feature = "net")]
pub mod mux;
#[cfg(feature = "net")]
pub mod net;
pub mod pace;
pub mod place;
pub mod rng;

pub use clock::{Clock, UnixMs};
pub use place::{Epoch, GroupId, NodeId, ZoneId};
