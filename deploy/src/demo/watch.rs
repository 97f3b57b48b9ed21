//! What the nodes say they have issued, asked all the time: a node that is killed cannot be asked
//! afterwards.
//!
//! Invariant: a figure never falls; the last one heard before a kill stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use ticket::id::{FileNo, SlotNo};
use world::NodeId;
use world::net::Net;

use crate::config::{Cluster, Node};
use crate::http::{HttpClient, admin_call};
use crate::serve::api::NodeReport;

/// How often each node is asked.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How long it may take to answer.
const ASK_WITHIN: Duration = Duration::from_secs(2);

/// Records issued by a node from a file in a slot; only files of which one was issued.
pub type Issued = BTreeMap<(NodeId, SlotNo, FileNo), u32>;

/// What the nodes said, and at least what was opened: of its last quarter of a second a node that
/// was killed has said nothing. `opened` names the place of every opened packet.
#[must_use]
pub fn at_least_opened(
    mut said: Issued,
    opened: impl IntoIterator<Item = (NodeId, SlotNo, FileNo)>,
) -> Issued {
    let mut counts = Issued::new();
    for place in opened {
        *counts.entry(place).or_insert(0) += 1;
    }
    for (place, count) in counts {
        let most = said.entry(place).or_insert(0);
        *most = count.max(*most);
    }
    said
}

/// Asking all nodes.
pub struct Watch {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Issued>>,
}

impl Watch {
    /// Starts to ask.
    #[must_use]
    pub fn start(cluster: &Cluster, net: &Arc<dyn Net>) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let ask = |node: &Node| tokio::spawn(ask(Arc::clone(net), node.clone(), Arc::clone(&stop)));
        Watch { tasks: cluster.nodes.iter().map(ask).collect(), stop }
    }

    /// Asks once more and answers the most that was heard.
    pub async fn finish(self) -> Issued {
        self.stop.store(true, Ordering::SeqCst);
        let mut issued = Issued::new();
        for task in self.tasks {
            match task.await {
                Ok(heard) => issued.extend(heard),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        issued
    }
}

async fn ask(net: Arc<dyn Net>, node: Node, stop: Arc<AtomicBool>) -> Issued {
    let mut client = HttpClient::new(net, &node.admin);
    let mut issued = Issued::new();
    loop {
        let last = stop.load(Ordering::SeqCst);
        let answer =
            admin_call::<NodeReport>(&mut client, Method::GET, "/v1/status", Bytes::new(), ASK_WITHIN).await;
        for file in answer.into_iter().flat_map(|report| report.files).filter(|file| file.issued > 0) {
            let most = issued.entry((node.id, file.slot, file.file)).or_insert(0);
            *most = file.issued.max(*most);
        }
        if last {
            return issued;
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_opened_was_issued_whatever_the_node_could_still_say() {
        let node: NodeId = "b1".parse().expect("a node");
        let place = |file| (node, SlotNo(2), FileNo(file));
        let said = Issued::from([(place(1), 3), (place(2), 1)]);
        let opened = [place(1), place(2), place(2), place(3)];
        let expected = Issued::from([(place(1), 3), (place(2), 2), (place(3), 1)]);
        assert_eq!(at_least_opened(said, opened), expected);
    }
}
