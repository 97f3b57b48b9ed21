//! A run's hosts, set up: three zones with a node each, an operator, a crowd, recording clients.
//!
//! Invariant: hosts are added in one order, so that every address and every draw of the network is
//! fixed by the seed.
//!
//! Not here: moving time (run.rs).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use deploy::cli::target::Connected;
use deploy::clients;
use deploy::config::{Access, Cluster, Kv as KvShape, Node, Queue as QueueShape, Raft};
use deploy::distribute::BuildDir;
use deploy::failure::{Context, Exit, Failure};
use kvsvr::api::Kv;
use kvsvr::client::{Client, ClientConfig};
use queue::api::Queue;
use tokio::sync::mpsc;
use world::net::Net;
use world::{Clock, NodeId};

use crate::board::Board;
use crate::event::{BUILD_DIR, HISTORY_KEY, Minted};
use crate::fabric::clock::SimClock;
use crate::fabric::disk::SimDisk;
use crate::fabric::net::SimNet;
use crate::fabric::storage::SimStorage;
use crate::fabric::time::EPOCH_MS;
use crate::host::kv::{KvClient, final_scan};
use crate::host::node::Site;
use crate::host::operator::{Operator, obey};
use crate::host::orders::Typed;
use crate::host::queue::{QueueClient, count};
use crate::host::{APPS, CROWD, OPERATOR, crowd};
use crate::knobs::{Knobs, Purpose, Scenario, stream};

/// The nodes: one a zone.
pub const NODES: [&str; 3] = ["a1", "b1", "c1"];
/// The step of simulated time.
const TICK: Duration = Duration::from_millis(1);
/// Far more than a connection to one listener ever has waiting.
const TCP_CAPACITY: usize = 4_096;
/// Longer than any run: turmoil ends with an error there.
const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// How long a client of one node waits until that node leads.
const PINNED_DEADLINE: Duration = Duration::from_millis(400);

/// A run that can be stepped.
pub struct Stage {
    /// turmoil's simulation.
    pub sim: turmoil::Sim<'static>,
    /// The nodes, in order.
    pub sites: Vec<Arc<Site>>,
    /// What hosts and driver share.
    pub board: Arc<Board>,
    /// Where command lines are typed.
    pub orders: mpsc::UnboundedSender<Typed>,
    /// What was minted.
    pub manifest: ticket::manifest::Manifest,
    /// The cluster's description.
    pub cluster: Cluster,
}

impl Stage {
    /// Sets the stage of a seed.
    ///
    /// # Errors
    /// When the event cannot be minted.
    pub fn set(seed: u64, knobs: &Knobs) -> Result<Stage, Failure> {
        let nodes = NODES.map(|node| node.parse::<NodeId>().expect("a node's name"));
        let minted = Minted::mint(seed, knobs, &nodes)?;
        let cluster = cluster(knobs, &nodes, &minted);
        cluster.validate().map_err(|wrong| Failure::new(Exit::Usage, wrong))?;
        let board = Board::new();
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
            .simulation_duration(DURATION_MAX)
            .tick_duration(TICK)
            .min_message_latency(Duration::from_millis(knobs.latency_ms.0))
            .max_message_latency(Duration::from_millis(knobs.latency_ms.1))
            .tcp_capacity(TCP_CAPACITY)
            .enable_random_order()
            .build();
        let mut sites = Vec::new();
        for (number, node) in (0..).zip(nodes) {
            let storage = SimStorage::new(knobs.syncs, stream(seed, Purpose::Syncs, number));
            let site = Site::new(node, &cluster, storage);
            minted.give_node(node, &site.disk, &site.data_dir());
            let runs = Arc::clone(&site);
            sim.host(site.name(), move || Arc::clone(&runs).run());
            sites.push(site);
        }
        let disk = SimDisk::new();
        minted.give_operator(&disk);
        let build = BuildDir::load(Arc::new(disk.mount()), Path::new(BUILD_DIR))?;
        let manifest = build.manifest.clone();
        let orders = add_operator(&mut sim, knobs, &cluster, build, &board)?;
        if knobs.scenario == Scenario::Event {
            let edges = cluster.nodes.iter().map(|node| node.edge.clone()).collect();
            let crowd = crowd::run(seed, knobs.clone(), edges, minted.session_key, Arc::clone(&board));
            sim.client(CROWD, crowd);
        } else {
            sim.client(CROWD, async { Ok(()) });
        }
        add_apps(&mut sim, seed, knobs, &cluster, &board)?;
        Ok(Stage { sim, sites, board, orders, manifest, cluster })
    }
}

fn cluster(knobs: &Knobs, nodes: &[NodeId], minted: &Minted) -> Cluster {
    let node = |id: &NodeId| Node {
        id: *id,
        data_dir: PathBuf::from(format!("/data/{id}")),
        peers: format!("{id}:7000"),
        edge: format!("{id}:7001"),
        admin: format!("{id}:7003"),
        etcd: format!("{id}:2379"),
    };
    let (heartbeat_ms, election_min_ms, election_max_ms) = knobs.raft_ms;
    Cluster {
        id: None,
        name: "simulated".to_owned(),
        session_public_key: minted.session_key.verifying_key().to_text(),
        admin_token_file: None,
        history_key_file: Some(PathBuf::from(HISTORY_KEY)),
        kv: KvShape { data_groups: knobs.data_groups, ..KvShape::default() },
        queue: QueueShape { partitions: knobs.partitions, ..QueueShape::default() },
        raft: Raft {
            heartbeat_ms,
            election_min_ms,
            election_max_ms,
            snapshot_every_entries: knobs.snapshot_every,
            keep_entries: knobs.keep_entries,
        },
        access: Access { reserve_records: knobs.reserve_records, ..Access::default() },
        nodes: nodes.iter().map(node).collect(),
    }
}

fn kv_client(cluster: &Cluster, near: NodeId) -> Arc<dyn Kv> {
    let net: Arc<dyn Net> = Arc::new(SimNet);
    Arc::new(clients::kv(cluster, &net, Some(near)))
}

/// A client that knows one node only, and so is served while that node leads.
fn pinned_client(cluster: &Cluster, node: NodeId) -> Result<Arc<dyn Kv>, Failure> {
    let net: Arc<dyn Net> = Arc::new(SimNet);
    let mut config =
        ClientConfig::new(vec![(node, cluster.node(node)?.peers.clone())], cluster.kv.data_groups);
    config.deadline = PINNED_DEADLINE;
    Ok(Arc::new(Client::new(net, config)))
}

fn queue_client(cluster: &Cluster, near: NodeId) -> Result<Arc<dyn Queue>, Failure> {
    let net: Arc<dyn Net> = Arc::new(SimNet);
    Ok(Arc::new(clients::queue(cluster, &net, Some(near))?))
}

fn add_operator(
    sim: &mut turmoil::Sim<'static>,
    knobs: &Knobs,
    cluster: &Cluster,
    build: BuildDir,
    board: &Arc<Board>,
) -> Result<mpsc::UnboundedSender<Typed>, Failure> {
    let (orders, lines) = mpsc::unbounded_channel();
    let net: Arc<dyn Net> = Arc::new(SimNet);
    let nothing = SimDisk::new();
    let connected = Arc::new(Connected::to(cluster.clone(), net, &nothing.mount())?);
    let (knobs, board, cluster) = (knobs.clone(), Arc::clone(board), cluster.clone());
    sim.client(OPERATOR, async move {
        tokio::spawn(obey(Arc::clone(&connected), Arc::clone(&board), lines));
        if knobs.scenario == Scenario::Queue {
            return std::future::pending().await;
        }
        let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
        let near = cluster.nodes[0].id;
        let (kv, queue) = (kv_client(&cluster, near), queue_client(&cluster, near)?);
        let operator = Operator { connected, build, kv, queue, clock, board, knobs };
        Box::pin(operator.run()).await?;
        // Later command lines are still carried out.
        std::future::pending().await
    });
    Ok(orders)
}

fn add_apps(
    sim: &mut turmoil::Sim<'static>,
    seed: u64,
    knobs: &Knobs,
    cluster: &Cluster,
    board: &Arc<Board>,
) -> Result<(), Failure> {
    let (knobs, board, cluster) = (knobs.clone(), Arc::clone(board), cluster.clone());
    let near = move |number: u32| NODES[number as usize % NODES.len()].parse().context(Exit::Usage, "a node");
    sim.client(APPS, async move {
        let mut clients = Vec::new();
        let pinned = u32::try_from(NODES.len()).unwrap_or(0);
        for number in 0..knobs.kv_clients + pinned {
            // Some follow leaders; one for each node asks that node and no other.
            let asks = if number < knobs.kv_clients { None } else { Some(near(number - knobs.kv_clients)?) };
            let client = KvClient {
                number,
                asks,
                keys: knobs.kv_keys,
                think_ms: if asks.is_some() { (100, 700) } else { (10, 250) },
                kv: asks.map_or_else(
                    || near(number).map(|near| kv_client(&cluster, near)),
                    |node| pinned_client(&cluster, node),
                )?,
                chance: stream(seed, Purpose::KvClients, u64::from(number) * 1_000),
                board: Arc::clone(&board),
            };
            clients.push(tokio::spawn(client.run()));
        }
        let consumers = if knobs.scenario == Scenario::Queue { knobs.queue_clients } else { 0 };
        for number in 0..2 * consumers {
            let client = QueueClient {
                number: 100 + number,
                queue: queue_client(&cluster, near(number)?)?,
                chance: stream(seed, Purpose::QueueClients, u64::from(number) * 1_000),
                board: Arc::clone(&board),
            };
            clients.push(match number % 2 {
                0 => tokio::spawn(client.produce()),
                _ => tokio::spawn(client.consume()),
            });
        }
        if knobs.scenario == Scenario::Queue {
            let net: Arc<dyn Net> = Arc::new(SimNet);
            count(&clients::queue(&cluster, &net, Some(near(0)?))?, &board).await;
        }
        for client in clients {
            client.await?;
        }
        final_scan(&*kv_client(&cluster, near(0)?), &board).await;
        Ok(())
    });
    Ok(())
}
