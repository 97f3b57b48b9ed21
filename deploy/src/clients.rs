//! Connections to the KV and the queue of a cluster, the nearest node first.

use std::sync::Arc;

use kvsvr::client::{Client as KvClient, ClientConfig as KvClientConfig};
use queue::client::{ClientConfig as QueueClientConfig, QueueClient};
use world::NodeId;
use world::disk::Disk;
use world::net::Net;
use world::rng;

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

/// The key that authenticates claim histories. Nodes that share none do not know each other's.
///
/// # Errors
/// When the file cannot be read or holds no 64 hex digits.
pub fn history_key(disk: &dyn Disk, cluster: &Cluster) -> Result<[u8; 32], Failure> {
    let Some(path) = &cluster.history_key_file else {
        return rng::secret_bytes().context(Exit::Error, "making a key for claim histories");
    };
    let doing = || format!("reading {}", path.display());
    let text = disk.read(path).context(Exit::Denied, doing())?;
    let text = String::from_utf8(text).context(Exit::Usage, doing())?;
    let parsed = parse_hex(text.trim());
    parsed.ok_or_else(|| Failure::new(Exit::Usage, format!("{}: expected 64 hex digits", path.display())))
}

fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0u8; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(key)
}
