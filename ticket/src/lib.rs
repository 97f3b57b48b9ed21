//! Formats and cryptography of packets.
pub mod control;
pub mod id;
