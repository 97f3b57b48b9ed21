//! One gRPC channel per node, dialled when first used.
//!
//! Invariant: a channel is made once and kept; it reconnects by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tonic::transport::Channel;
use world::NodeId;
use world::net::{self, Net};

/// The nodes that can be called, and how.
pub struct Peers {
    net: Arc<dyn Net>,
    addresses: BTreeMap<NodeId, String>,
    channels: Mutex<BTreeMap<NodeId, Channel>>,
}

impl Peers {
    /// Nodes and their peer addresses (`host:port`).
    pub fn new(net: Arc<dyn Net>, addresses: impl IntoIterator<Item = (NodeId, String)>) -> Peers {
        Peers { net, addresses: addresses.into_iter().collect(), channels: Mutex::default() }
    }

    /// The nodes in order.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.addresses.keys().copied().collect()
    }

    /// The channel to a node; `None` when the node is not known or its address is no address.
    pub fn channel(&self, node: NodeId) -> Option<Channel> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(&node) {
            return Some(channel.clone());
        }
        let channel = net::channel(&self.net, self.addresses.get(&node)?).ok()?;
        channels.insert(node, channel.clone());
        Some(channel)
    }
}
