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

mod auth;
mod authority;
mod cluster;
pub(crate) mod courier;
pub(crate) mod forwarder;
#[cfg(test)]
mod forwarder_test;
mod health;
mod hop;
pub(crate) mod http;
mod kv;
mod lane;
mod leader;
mod lease;
mod maintenance;
pub(crate) mod metrics;
mod recipes;
mod stream;
mod watch;
#[cfg(test)]
mod watch_test;

pub use auth::AuthService;
pub use authority::with_schemes;
pub use cluster::ClusterService;
pub use health::HealthService;
pub use hop::HopService;
pub use kv::KvService;
pub use lane::{Counted, EtcdPort};
pub use leader::LeaderMonitor;
pub use lease::LeaseService;
pub use maintenance::{MaintenanceService, StateBytes};
pub(crate) use recipes::Tools;
pub use recipes::{ElectionService, LockService};
pub use stream::StreamService;
pub use watch::{Responses, WatchService};

use tonic::metadata::MetadataMap;
use world::NodeId;

use crate::control_port::ControlPort;
use crate::wire::etcdserverpb::ResponseHeader;

/// The etcd release whose behaviour is served.
pub const ETCD_VERSION: &str = "3.5.21";

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
    /// Completes a header; the revision stays.
    pub(crate) fn fill(&self, header: &mut ResponseHeader, port: &ControlPort) {
        header.cluster_id = self.cluster_id;
        header.member_id = member_id(self.node);
        header.raft_term = port.group().standing().term;
    }
}

/// Metadata of a client that wants nothing from a member without a leader, be it an answer or the
/// rest of a stream.
const LEADER_WANTED_KEY: &str = "hasleader";

fn leader_wanted(metadata: &MetadataMap) -> bool {
    metadata.get(LEADER_WANTED_KEY).is_some_and(|value| value.as_bytes() == b"true")
}

/// A node's number as an etcd member id.
#[must_use]
pub fn member_id(node: NodeId) -> u64 {
    u64::from(node.as_u16())
}

/// The node behind an etcd member id.
#[must_use]
pub fn node_of(member_id: u64) -> Option<NodeId> {
    u16::try_from(member_id).ok().and_then(NodeId::from_u16)
}
