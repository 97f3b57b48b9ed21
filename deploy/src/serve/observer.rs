//! What the other nodes last said about themselves.
//!
//! A node that has just died cannot be asked how much it had issued; its neighbours remember. The
//! figures are for people (how much is frozen); no decision about ownership rests on them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use parking_lot::Mutex;
use world::NodeId;
use world::net::Net;

use super::api::NodeReport;
use crate::config::Node;
use crate::http::{HttpClient, admin_call};

/// How often every node is asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long it may take to answer.
const ASK_WITHIN: Duration = Duration::from_millis(700);

/// The last report of every other node.
#[derive(Default)]
pub struct Observer {
    last: Mutex<BTreeMap<NodeId, NodeReport>>,
}

impl Observer {
    /// What `node` last said, however long ago.
    #[must_use]
    pub fn last_heard(&self, node: NodeId) -> Option<NodeReport> {
        self.last.lock().get(&node).cloned()
    }

    /// Asks one node again and again. Ends with the task it runs in.
    pub async fn watch(self: Arc<Self>, net: Arc<dyn Net>, node: Node, token: Option<String>) {
        let mut client = HttpClient::new(net, &node.admin).with_bearer(token);
        loop {
            let asked =
                admin_call::<NodeReport>(&mut client, Method::GET, "/v1/status", Bytes::new(), ASK_WITHIN);
            if let Ok(report) = asked.await {
                self.last.lock().insert(node.id, report);
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}
