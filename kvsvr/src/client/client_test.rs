//! The client against real services over loopback, one in-memory member behind each.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use world::clock::SystemClock;
use world::net::{Net, TcpNet};
use world::{NodeId, ZoneId};

use super::{Client, ClientConfig, WatchBatch, WatchEnd, WatchEvent, Watcher};
use crate::etcd::{Identity, MemberInfo};
use crate::group::KvGroup;
use crate::machine::control::ControlMachine;
use crate::machine::data::DataMachine;
use crate::machine::encode_command;
use crate::quota::Quota;
use crate::server::{KvGroups, KvServer};
use crate::testing::trio::Shared;
use crate::testing::{LocalMachine, LocalMember};
use crate::wire::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest};
use crate::wire::native::ControlCommand;
use crate::wire::native::control_command::Command;

/// One node: its member of the system group, and its server while it runs.
struct Node {
    id: NodeId,
    address: String,
    member: Arc<LocalMember<ControlMachine>>,
    server: Option<(KvServer, oneshot::Sender<()>, JoinHandle<()>)>,
}

fn node_id(zone: u8) -> NodeId {
    NodeId::new(ZoneId::from_index(zone).expect("a zone"), 1).expect("a node")
}

impl Node {
    async fn start(zone: u8) -> Node {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        drop(listener);
        let member = Arc::new(LocalMember::new(LocalMachine::new(ControlMachine)));
        let mut node = Node { id: node_id(zone), address, member, server: None };
        node.serve().await;
        node
    }

    async fn serve(&mut self) {
        let net: Arc<dyn Net> = Arc::new(TcpNet);
        let info = MemberInfo {
            node: self.id,
            peer_address: self.address.clone(),
            etcd_address: self.address.clone(),
        };
        let system = Arc::clone(&self.member) as Arc<dyn KvGroup>;
        let control = Shared::led_by(self.id).member(self.id);
        let data = Arc::new(LocalMember::new(LocalMachine::new(DataMachine)));
        let identity = Identity { cluster_id: 1, node: self.id };
        let server = KvServer::new(
            identity,
            vec![info],
            Arc::clone(&net),
            Arc::new(SystemClock::new()),
            KvGroups { system, control, data: vec![data] },
            Arc::new(|| 0),
            Quota::new(0),
        );
        let incoming = net.listen(&self.address).await.expect("to listen");
        let routes = server.peer_routes(tonic::service::Routes::default());
        let (stop, stopped) = oneshot::channel();
        let serving = world::net::server().add_routes(routes);
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.expect("told to stop") };
            serving.serve_with_incoming_shutdown(incoming, stopped).await.expect("served");
        });
        self.server = Some((server, stop, task));
    }

    async fn stop(&mut self) {
        let (server, stop, task) = self.server.take().expect("it runs");
        server.end_streams();
        stop.send(()).expect("it runs");
        timeout(Duration::from_secs(5), task).await.expect("no stream keeps it").expect("it ends");
    }

    async fn apply(&self, command: Command) {
        let command = encode_command(&ControlCommand { command: Some(command), author: None });
        self.member.propose(command).await.expect("taken");
    }
}

/// The same command on every node, as consensus would bring it.
async fn apply(nodes: &[Node], command: Command) {
    for node in nodes {
        node.apply(command.clone()).await;
    }
}

fn put(key: &str, value: &str) -> Command {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    Command::Put(PutRequest { key, value, ..PutRequest::default() })
}

fn client(nodes: &[Node]) -> Client {
    let endpoints = nodes.iter().map(|node| (node.id, node.address.clone())).collect();
    Client::new(Arc::new(TcpNet), ClientConfig::new(endpoints, 1))
}

async fn three() -> Vec<Node> {
    vec![Node::start(0).await, Node::start(1).await, Node::start(2).await]
}

async fn next(watcher: &mut Watcher) -> Result<WatchBatch, WatchEnd> {
    timeout(Duration::from_secs(20), watcher.next()).await.expect("in time")
}

async fn revisions_through(watcher: &mut Watcher, last: i64) -> Vec<i64> {
    let mut revisions = Vec::new();
    while revisions.last().is_none_or(|revision| *revision < last) {
        let batch = next(watcher).await.expect("goes on");
        revisions.extend(batch.events.iter().map(WatchEvent::revision));
    }
    revisions
}

#[tokio::test]
async fn a_watch_tells_puts_and_deletes_under_its_prefix() {
    let nodes = three().await;
    apply(&nodes, put("a/1", "x")).await;
    let mut watcher = client(&nodes).watch(b"a/", Some(2));
    apply(&nodes, put("b/1", "y")).await;
    let all = DeleteRangeRequest { key: "a/1".into(), ..DeleteRangeRequest::default() };
    apply(&nodes, Command::DeleteRange(all)).await;
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(next(&mut watcher).await.expect("goes on").events);
    }
    assert!(matches!(&events[0], WatchEvent::Put(pair) if pair.value == "x" && pair.mod_revision == 2));
    assert_eq!(events[1], WatchEvent::Delete { key: "a/1".into(), revision: 4 });
}

#[tokio::test]
async fn a_watch_goes_on_at_another_member_without_gap_or_repeat() {
    let mut nodes = three().await;
    let mut watcher = client(&nodes).watch(b"", Some(2));
    let mut told = Vec::new();
    let mut last = 1;
    for round in 0..6 {
        for _ in 0..20 {
            apply(&nodes, put("k", "v")).await;
            last += 1;
        }
        told.extend(revisions_through(&mut watcher, last - 7).await);
        nodes[round % 3].stop().await;
        apply(&nodes, put("k", "while away")).await;
        last += 1;
        told.extend(revisions_through(&mut watcher, last).await);
        nodes[round % 3].serve().await;
    }
    assert_eq!(told, (2..=last).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_watch_waits_at_a_member_that_has_not_applied_that_much_yet() {
    let mut nodes = three().await;
    apply(&nodes, put("k", "2")).await;
    nodes[0].apply(put("k", "3")).await;
    let mut watcher = client(&nodes).watch(b"k", Some(2));
    assert_eq!(revisions_through(&mut watcher, 3).await, [2, 3]);
    nodes[0].stop().await;
    let waiting = timeout(Duration::from_millis(300), watcher.next()).await;
    assert!(waiting.is_err(), "what was handed out came again: {waiting:?}");
    for node in &nodes[1..] {
        node.apply(put("k", "3")).await;
        node.apply(put("k", "4")).await;
    }
    assert_eq!(revisions_through(&mut watcher, 4).await, [4]);
}

#[tokio::test]
async fn a_watch_leaves_a_member_that_has_lost_its_leader() {
    let nodes = three().await;
    let mut watcher = client(&nodes).watch(b"k", Some(2));
    apply(&nodes, put("k", "2")).await;
    assert_eq!(revisions_through(&mut watcher, 2).await, [2]);
    nodes[0].member.set_leader(None);
    for node in &nodes[1..] {
        node.apply(put("k", "3")).await;
    }
    assert_eq!(revisions_through(&mut watcher, 3).await, [3], "the others have what the first one lacks");
}

#[tokio::test]
async fn a_watch_whose_next_revision_is_compacted_ends() {
    let nodes = three().await;
    for value in ["2", "3", "4", "5"] {
        apply(&nodes, put("k", value)).await;
    }
    apply(&nodes, Command::Compact(CompactionRequest { revision: 4, physical: false })).await;
    let client = client(&nodes);
    assert_eq!(next(&mut client.watch(b"k", Some(3))).await, Err(WatchEnd::Compacted { revision: 4 }));
    assert_eq!(revisions_through(&mut client.watch(b"k", Some(4)), 5).await, [4, 5]);
}
