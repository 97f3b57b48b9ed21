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
use crate::api::{DataKey, IngestOutcome, Kv, KvError};
use crate::etcd::{Identity, MemberInfo};
use crate::group::KvGroup;
use crate::machine::control::ControlMachine;
use crate::machine::data::DataMachine;
use crate::machine::encode_command;
use crate::quota::Quota;
use crate::server::{KvGroups, KvServer};
use crate::testing::trio::{NoChanges, Shared};
use crate::testing::{LocalMachine, LocalMember};
use crate::wire::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest};
use crate::wire::native::control_command::Command;
use crate::wire::native::data_kv_client::DataKvClient;
use crate::wire::native::ingest_part::{Header, Part};
use crate::wire::native::{ControlCommand, IngestPart};

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
            KvGroups { system, control, data: vec![data], changes: Arc::new(NoChanges) },
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

fn pair(key: &str, value: &[u8]) -> (DataKey, Bytes) {
    let key = Bytes::from(key.to_owned());
    (DataKey { partition: key.clone(), key }, Bytes::copy_from_slice(value))
}

#[tokio::test]
async fn pairs_are_ingested_once_whatever_their_order_and_number_of_files() {
    let nodes = three().await;
    let client = client(&nodes);
    // Two files and a bit: a value may be as long as a megabyte.
    let large = vec![7; 1 << 20];
    let mut pairs: Vec<_> = (0..18).rev().map(|number| pair(&format!("k{number:02}"), &large)).collect();
    pairs.push(pair("small", b"x"));
    let outcome = client.ingest(pairs.clone()).await;
    assert_eq!(outcome, Ok(IngestOutcome::Done { written: 19, present: 0 }));
    let keys = vec![pairs[0].0.clone(), pairs[18].0.clone()];
    let values = client.read(keys).await.expect("there");
    assert_eq!(values, [Some(Bytes::from(large)), Some("x".into())]);
    pairs.push(pair("zz", b"new"));
    let outcome = client.ingest(pairs).await;
    assert_eq!(outcome, Ok(IngestOutcome::Done { written: 1, present: 19 }));
}

#[tokio::test]
async fn a_file_with_one_conflict_writes_nothing_and_names_it() {
    let nodes = three().await;
    let client = client(&nodes);
    client.ingest(vec![pair("b", b"1")]).await.expect("written");
    let outcome = client.ingest(vec![pair("a", b"1"), pair("b", b"2"), pair("c", b"3")]).await;
    assert_eq!(outcome, Ok(IngestOutcome::Conflict { key: "b".into(), found: "1".into() }));
    let keys = ["a", "b", "c"].map(|key| pair(key, b"").0).to_vec();
    assert_eq!(client.read(keys).await.expect("read"), [None, Some("1".into()), None]);
    let twice = client.ingest(vec![pair("d", b"1"), pair("d", b"2")]).await;
    assert!(matches!(twice, Err(KvError::Refused(_))), "{twice:?}");
}

#[tokio::test]
async fn a_file_that_is_not_what_its_header_says_is_refused() {
    let node = Node::start(0).await;
    let channel = tonic::transport::Channel::from_shared(format!("http://{}", node.address));
    let channel = channel.expect("an address").connect().await.expect("it serves");
    let mut calls = DataKvClient::new(channel);
    let file = crate::sorted::files(vec![("k".into(), "v".into())], 100).expect("well formed").remove(0);
    let header = |file: &Bytes| Header {
        group: 0,
        hash: Bytes::copy_from_slice(blake3::hash(file).as_bytes()),
        bytes: file.len() as u64,
    };
    let mut send = async |header: Option<Header>, piece: &Bytes| {
        let header = header.into_iter().map(Part::Header);
        let parts = header.chain([Part::Piece(piece.clone())]).map(|part| IngestPart { part: Some(part) });
        let parts: Vec<IngestPart> = parts.collect();
        calls.ingest(futures_util::stream::iter(parts)).await
    };
    let broken = file.slice(..file.len() - 1);
    let altered = Bytes::from(vec![0; file.len()]);
    let cases = [
        (None, &file, "begins with its header"),
        (Some(header(&file)), &altered, "its hash differs"),
        (Some(header(&file)), &broken, "its hash differs"),
        (Some(header(&broken)), &file, "more than the header says"),
        (Some(header(&broken)), &broken, "breaks off"),
        (Some(Header { bytes: u64::MAX, ..header(&file) }), &file, "at most"),
        (Some(Header { group: 7, ..header(&file) }), &file, "no data group 7"),
    ];
    for (header, piece, said) in cases {
        let status = send(header, piece).await.expect_err("refused");
        assert!(status.message().contains(said), "{status:?}, not {said}");
        assert!(crate::outcome::not_done(&status), "{status:?}");
    }
    send(Some(header(&file)), &file).await.expect("taken");
}
