//! The quorum queue.
pub mod api;
