//! What watches cost: one member in memory, the real machine, hub and sessions, no network.
//!
//! ```sh
//! cargo run --release -p kvsvr --features server --example watch_bench
//! ```
//! Puts are made as fast as the machine takes them, first with nobody watching, then with watches
//! that do not concern them, then with watches that do. The figures are puts a second, and events a
//! second that reached clients.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use kvsvr::control_port::ControlPort;
use kvsvr::etcd::{Identity, Responses, WatchService};
use kvsvr::group::KvGroup;
use kvsvr::machine::control::ControlMachine;
use kvsvr::machine::encode_command;
use kvsvr::testing::{LocalMachine, LocalMember};
use kvsvr::wire::etcdserverpb::watch_request::RequestUnion;
use kvsvr::wire::etcdserverpb::{PutRequest, WatchCreateRequest, WatchRequest};
use kvsvr::wire::native::ControlCommand;
use kvsvr::wire::native::control_command::Command;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

const PUTS: i64 = 30_000;

struct Bed {
    member: Arc<LocalMember<ControlMachine>>,
    service: WatchService,
}

impl Bed {
    fn new() -> Bed {
        let member = Arc::new(LocalMember::new(LocalMachine::new(ControlMachine)));
        let port = ControlPort::new(Arc::clone(&member) as Arc<dyn KvGroup>);
        let identity = Identity { cluster_id: 1, node: member.node() };
        Bed { member, service: WatchService::new(port, identity, watch::Sender::new(false)) }
    }

    /// A stream with watches of these prefixes.
    fn stream(&self, prefixes: impl Iterator<Item = String>) -> Responses {
        let creates: Vec<_> = prefixes.map(|prefix| Ok(create(&prefix))).collect();
        let requests = stream::iter(creates).chain(stream::pending());
        self.service.serve(Box::pin(requests), &MetadataMap::new()).expect("served")
    }

    async fn put_all(&self) {
        for number in 0..PUTS {
            let key = Bytes::from(format!("written/{:04}", number % 1_000));
            let put = PutRequest { key, value: Bytes::from_static(&[7; 128]), ..PutRequest::default() };
            let command = encode_command(&ControlCommand { command: Some(Command::Put(put)), author: None });
            self.member.propose(command).await.expect("taken");
            if number % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn create(prefix: &str) -> WatchRequest {
    let mut range_end = prefix.as_bytes().to_vec();
    *range_end.last_mut().expect("a prefix") += 1;
    let key = Bytes::copy_from_slice(prefix.as_bytes());
    let create = WatchCreateRequest { key, range_end: range_end.into(), ..WatchCreateRequest::default() };
    WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }
}

/// Reads until the last put was told; answers the events. Ready is told once all watches are there.
async fn follow(mut responses: Responses, watches: usize, last: i64) -> u64 {
    let mut events = 0;
    let mut created = 0;
    loop {
        let response = responses.next().await.expect("goes on").expect("a response");
        created += usize::from(response.created);
        events += response.events.len() as u64;
        let newest = response.events.last().and_then(|event| event.kv.as_ref()).map(|pair| pair.mod_revision);
        if created == watches && newest == Some(last) {
            return events;
        }
    }
}

async fn measure(what: &str, idle: usize, concerned: usize) {
    let bed = Bed::new();
    let mut idlers = Vec::new();
    for number in 0..idle / 100 {
        let mut idler = bed.stream((0..100).map(|place| format!("idle/{number:05}/{place:03}/")));
        for _ in 0..100 {
            assert!(idler.next().await.expect("goes on").expect("a response").created);
        }
        idlers.push(idler);
    }
    let mut followers = JoinSet::new();
    for _ in 0..concerned {
        followers.spawn(follow(bed.stream(["written/".to_owned()].into_iter()), 1, PUTS + 1));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    bed.put_all().await;
    let put = started.elapsed();
    let events: u64 = followers.join_all().await.into_iter().sum();
    let told = started.elapsed();
    assert_eq!(events, PUTS as u64 * concerned as u64, "an event is missing");
    let puts_per_second = PUTS as f64 / put.as_secs_f64();
    let events_per_second = events as f64 / told.as_secs_f64();
    println!("{what:<58} {puts_per_second:>10.0} puts/s {events_per_second:>10.0} events/s");
}

#[tokio::main]
async fn main() {
    measure("nobody watches", 0, 0).await;
    measure("10,000 watches of other prefixes, on 100 streams", 10_000, 0).await;
    measure("1 watch of all that is written", 0, 1).await;
    measure("1 watch of it, and 10,000 of other prefixes", 10_000, 1).await;
    measure("100 watches of it, on 100 streams", 0, 100).await;
}
