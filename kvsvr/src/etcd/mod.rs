//! The etcd v3 API over the control group.
//!
//! ```text
//!   client --> any member --> leader: answered here
//!                       \--> follower: writes are forwarded once to the leader's peers port,
//!                                      reads and watches answered here
//! ```
//! Invariant: a client cannot tell the member it asked from the leader, but by the member id in
//! the header. A request is forwarded at most once, so two members that believe in each other
//! cannot pass it round for ever.
//!
//! Not here: Lease, Auth, Lock and Election; they answer "unimplemented".

mod cluster;
mod kv;
mod leader;
mod maintenance;
mod watch;
#[cfg(test)]
mod watch_test;

pub use cluster::ClusterService;
pub use kv::KvService;
pub use leader::LeaderMonitor;
pub use maintenance::MaintenanceService;
pub use watch::{Responses, WatchService};

use world::NodeId;

use crate::control_port::ControlPort;
use crate::wire::etcdserverpb::ResponseHeader;

/// The etcd release whose behaviour is served.
pub const ETCD_VERSION: &str = "3.4.0";

/// A member as etcd's clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Which node.
    pub node: NodeId,
    /// Where its peers reach it: `host:port`.
    pub peer_address: String,
    /// Where etcd's clients reach it: `host:port`.
    pub etcd_address: String,
}

/// What stands in every header besides the revision.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Tells clusters apart.
    pub cluster_id: u64,
    /// This node.
    pub node: NodeId,
}

impl Identity {
    fn fill(&self, header: &mut ResponseHeader, port: &ControlPort) {
        header.cluster_id = self.cluster_id;
        header.member_id = member_id(self.node);
        header.raft_term = port.group().standing().term;
    }
}

/// A node's number as an etcd member id.
#[must_use]
pub fn member_id(node: NodeId) -> u64 {
    u64::from(node.as_u16())
}
