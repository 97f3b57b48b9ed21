//! Whole groups of three members: over real TCP and RocksDB, and over simulated disks whose power
//! fails. One binary, so that the replica is compiled once for all of it.

mod attached;
mod cluster;
mod identity;
mod leadership;
mod memnet;
mod planted;
mod power;
mod replication;
mod snapshots;
