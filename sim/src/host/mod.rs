//! The parties of a run, each on its own simulated host.
//!
//! ```text
//!   a1 b1 c1   node.rs         the production node, over the doors of `fabric`
//!   ops        operator.rs     deploys the event, runs zone commands, reconciles and refunds
//!              controller.rs   carries out what was decided long ago
//!              auditor.rs      keeps accounts of claims, zones and money all the time
//!              insider.rs      has the keys and makes packets up
//!   bank       bank.rs         the payment back end, and its moods
//!   crowd      crowd.rs        the demo's crowd, over HTTP
//!   apps       kv.rs queue.rs  clients that record what they were told
//!              etcd.rs         the same through etcd's API, with watches and leases
//! ```
//! Invariant: whoever is not a node uses only the network.
//!
//! Not here: faults, and the order in which hosts run.

pub mod auditor;
pub mod bank;
pub mod calls;
pub mod controller;
pub mod crowd;
pub mod etcd;
pub mod ingest;
pub mod insider;
pub mod kv;
pub mod node;
pub mod operator;
pub mod orders;
pub mod queue;

/// The operator's host.
pub const OPERATOR: &str = "ops";
/// The payment back end's host.
pub const BANK: &str = "bank";
/// The users' host.
pub const CROWD: &str = "crowd";
/// The host of the recording clients.
pub const APPS: &str = "apps";
