//! Measures one group: three hosts in this process, over loopback TCP and RocksDB.
//!
//! ```text
//!   cargo run --release -p replica --example bench
//!   proposers 64/256/1000, closed loop, 128-byte commands --> ops/s, p50, p99
//!   leader's host dropped ten times                       --> time to the next acknowledged write
//! ```
//!
//! Invariant: an operation counts when its reply came: synced by two of three, applied by the
//! leader.
//!
//! Not here: clients over the network, other groups, other machines.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use replica::config::ReplicaConfig;
use replica::engine::Engine;
use replica::engine::rocks::{Memory, Mode, RocksEngine};
use replica::group::Group;
use replica::host::{Engines, Host, HostConfig};
use replica::identity::{self, Identity, LOG_DIR, STATE_DIR};
use replica::log::LogWriter;
use replica::testing::Sums;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use world::clock::SystemClock;
use world::disk::RealDisk;
use world::net::{Net, TcpNet};
use world::{GroupId, NodeId};

const GROUP: GroupId = GroupId(1);
const NAMES: [&str; 3] = ["a1", "b1", "c1"];
const COMMAND_BYTES: usize = 128;
const MEASURE: Duration = Duration::from_secs(3);
const KILLS: usize = 10;

struct Node {
    host: Arc<Host>,
    group: Arc<Group<Sums>>,
    writer: LogWriter,
    runtime: Runtime,
}

impl Node {
    /// Stops it as a lost machine would: nothing is handed over.
    fn drop_dead(self) {
        self.runtime.shutdown_timeout(Duration::from_secs(5));
        self.writer.stop();
        drop((self.host, self.group));
    }
}

struct Bench {
    home: PathBuf,
    addresses: BTreeMap<NodeId, String>,
    nodes: BTreeMap<NodeId, Node>,
}

fn engines(home: &Path, id: NodeId) -> (Engines, Identity) {
    std::fs::create_dir_all(home).expect("a directory");
    let log: Arc<dyn Engine> =
        RocksEngine::open(&home.join(LOG_DIR), Mode::Log, Memory::default()).expect("a log");
    let state: Arc<dyn Engine> =
        RocksEngine::open(&home.join(STATE_DIR), Mode::State, Memory::default()).expect("a state");
    let identity = identity::settle(&RealDisk, home, "bench", id, &*log, &*state).expect("its own disk");
    let log_writer = LogWriter::start_thread(Arc::clone(&log)).expect("a thread");
    (Engines { log_writer, log, state }, identity)
}

async fn serve(
    identity: Identity,
    engines: Engines,
    addresses: BTreeMap<NodeId, String>,
) -> (Arc<Host>, Arc<Group<Sums>>) {
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let id = identity.member.node;
    let config = HostConfig { identity, replica: ReplicaConfig::default() };
    let host = Host::start(config, Arc::clone(&net), Arc::new(SystemClock::new()), engines).expect("a host");
    let incoming = net.listen(&addresses[&id]).await.expect("to listen");
    tokio::spawn(world::net::server().add_service(host.peer_service()).serve_with_incoming(incoming));
    let voters: Vec<(NodeId, String)> = addresses.into_iter().collect();
    let first = NAMES[0].parse().expect("a name");
    let group = host.add_group(GROUP, Sums::default(), &voters, first).await.expect("a group");
    (host, group)
}

impl Bench {
    fn start(&mut self, id: NodeId) {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (engines, identity) = engines(&self.home.join(id.to_string()), id);
        let writer = engines.log_writer.clone();
        let (host, group) = runtime.block_on(serve(identity, engines, self.addresses.clone()));
        self.nodes.insert(id, Node { host, group, writer, runtime });
    }

    fn leader(&self) -> (NodeId, Arc<Group<Sums>>) {
        let give_up = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some((id, node)) = self.nodes.iter().find(|(_, node)| node.group.is_leader()) {
                return (*id, Arc::clone(&node.group));
            }
            assert!(Instant::now() < give_up, "no leader");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Operations per second and every latency, sorted, with `proposers` in a closed loop.
    fn load(&self, proposers: u64) {
        let (id, leader) = self.leader();
        let before = (leader.status().counts, self.nodes[&id].writer.stats());
        let until = Instant::now() + MEASURE;
        let started = Instant::now();
        let tasks: Vec<_> = (0..proposers)
            .map(|proposer| self.nodes[&id].runtime.spawn(propose(Arc::clone(&leader), proposer, until)))
            .collect();
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let mut taken: Vec<Duration> = Vec::new();
        for task in tasks {
            taken.extend(runtime.block_on(task).expect("it ends"));
        }
        let elapsed = started.elapsed().as_secs_f64();
        taken.sort_unstable();
        let at = |per_mille: usize| taken[(taken.len() - 1) * per_mille / 1_000].as_secs_f64() * 1e3;
        let after = (leader.status().counts, self.nodes[&id].writer.stats());
        println!(
            "{proposers:>5} proposers {:>8.0} op/s  p50 {:>6.2} ms  p99 {:>6.2} ms  {:>5.1} commands/entry  {:>5.0} syncs/s",
            taken.len() as f64 / elapsed,
            at(500),
            at(990),
            taken.len() as f64 / (after.0.proposals - before.0.proposals).max(1) as f64,
            (after.1.syncs - before.1.syncs) as f64 / elapsed,
        );
    }

    /// Drops the leader's host; answers how long no write was acknowledged.
    fn fail_over(&mut self, round: usize) -> Duration {
        let (id, group) = self.leader();
        drop(group);
        let node = self.nodes.remove(&id).expect("it leads");
        let killed = Instant::now();
        let dying = std::thread::spawn(move || node.drop_dead());
        let command = Sums::add(&format!("kill{round}"), 1);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let gap = runtime.block_on(async {
            loop {
                for node in self.nodes.values() {
                    if node.group.propose(command.clone()).await.is_ok() {
                        return killed.elapsed();
                    }
                }
                assert!(killed.elapsed() < Duration::from_secs(30), "no write after a kill");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        dying.join().expect("dropped");
        self.start(id);
        std::thread::sleep(Duration::from_secs(1));
        gap
    }
}

async fn propose(leader: Arc<Group<Sums>>, proposer: u64, until: Instant) -> Vec<Duration> {
    let name = format!("{proposer:0width$}", width = COMMAND_BYTES - 9);
    let command: Bytes = Sums::add(&name, 1);
    assert_eq!(command.len(), COMMAND_BYTES);
    let mut taken = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        match leader.propose(command.clone()).await {
            Ok(_) => taken.push(asked.elapsed()),
            Err(error) => {
                eprintln!("{error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    taken
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

fn main() {
    let home = tempfile::tempdir().expect("a directory");
    let ids = NAMES.map(|name| name.parse::<NodeId>().expect("a node name"));
    let addresses = ids.map(|id| (id, free_address())).into();
    let mut bench = Bench { home: home.path().to_owned(), addresses, nodes: BTreeMap::new() };
    for id in ids {
        bench.start(id);
    }
    for proposers in [1, 64, 256, 1_000] {
        bench.load(proposers);
    }
    let mut gaps: Vec<Duration> = (0..KILLS).map(|round| bench.fail_over(round)).collect();
    gaps.sort_unstable();
    println!("failover, {KILLS} times: median {:?}, max {:?}", gaps[KILLS / 2], gaps[KILLS - 1]);
    for node in std::mem::take(&mut bench.nodes).into_values() {
        node.drop_dead();
    }
}
