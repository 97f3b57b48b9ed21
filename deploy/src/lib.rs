//! The `hongbao` program: node assembly, clusters on one machine, distribution, failover, the
//! command line and the demo.
//!
//! Invariant: nothing here decides about money or ownership on its own; it assembles the crates that
//! do and hands them the real clock, chance, disk and network.

mod bench;
pub mod cli;
pub mod clients;
pub mod config;
pub mod demo;
pub mod dev;
pub mod distribute;
pub mod failover;
pub mod failure;
pub mod http;
pub mod membership;
pub mod output;
pub mod serve;
pub mod store;
