//! Connections to the KV and the queue of a cluster, the nearest node first.

use std::sync::Arc;

use kvsvr::client::{Client as KvClient, ClientConfig as KvClientConfig};
use queue::client::{ClientConfig as QueueClientConfig, QueueClient};
use ticket::keys::HistoryKey;
use world::NodeId;
use world::net::Net;

use crate::config::Cluster;
use crate::failure::{Context, Exit, Failure};

/// A client of the KV.
#[must_use]
pub fn kv(cluster: &Cluster, net: &Arc<dyn Net>, near: Option<NodeId>) -> KvClient {
    KvClient::new(Arc::clone(net), KvClientConfig::new(endpoints(cluster, near), cluster.kv.data_groups))
}

/// A client of the queue.
///
/// # Errors
/// When an address is none; the configuration was checked, so it never is.
pub fn queue(cluster: &Cluster, net: &Arc<dyn Net>, near: Option<NodeId>) -> Result<QueueClient, Failure> {
    let endpoints = endpoints(cluster, near);
    QueueClient::new(net, cluster.queue.partitions, &endpoints, QueueClientConfig::default())
        .context(Exit::Usage, "the addresses of the queue")
}

/// The members of all groups, one a zone; `near` first, because most calls can be served there.
fn endpoints(cluster: &Cluster, near: Option<NodeId>) -> Vec<(NodeId, String)> {
    let mut endpoints = cluster.voters();
    endpoints.sort_by_key(|(node, _)| (Some(*node) != near, *node));
    endpoints
}
