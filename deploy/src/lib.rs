//! The `hongbao` program: node assembly, clusters on one machine, distribution, failover, the
//! command line and the demo.
//!
//! Invariant: nothing here decides about money or ownership on its own; it assembles the crates that
//! do and hands them the real clock, chance, disk and network.

mod bench;
pub mod cli;
mod clients;
mod config;
mod demo;
mod dev;
mod distribute;
mod failover;
mod failure;
mod http;
mod output;
mod serve;
mod store;
