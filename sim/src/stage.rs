//! A run's hosts, set up: three zones with a node each, an operator, a bank, a crowd, recording clients.
//!
//! Invariant: hosts are added in one order, so that every address and every draw of the network is
//! fixed by the seed.
//!
//! Not here: moving time (run.rs).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use deploy::cli::target::Connected;
use deploy::clients;
use deploy::config::{Access, Cluster, Kv as KvShape, Node, Queue as QueueShape, Raft};
use deploy::config::{CONTROL_GROUP, QUEUE_GROUPS_FROM, SYSTEM_GROUP};
use deploy::distribute::BuildDir;
use deploy::failure::{Context, Exit, Failure};
use kvsvr::api::Kv;
use kvsvr::client::{Client, ClientConfig};
use queue::api::Queue;
use ticket::id::BuildId;
use ticket::manifest::Manifest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use world::net::Net;
use world::{Clock, GroupId, NodeId};

use crate::board::Board;
use crate::event::{HISTORY_KEY, Minted, build_dir, orders};
use crate::evidence::Plan;
use crate::fabric::clock::SimClock;
use crate::fabric::disk::SimDisk;
use crate::fabric::net::SimNet;
use crate::fabric::rocks::Scratch;
use crate::fabric::storage::SimStorage;
use crate::fabric::time::EPOCH_MS;
use crate::history::access::{Issue, RecordPlace};
use crate::host::auditor;
use crate::host::controller::{self, Errand};
use crate::host::crowd::Town;
use crate::host::etcd::lease::LeaseClientOf;
use crate::host::etcd::watch::EtcdWatcher;
use crate::host::etcd::{self, EtcdClient};
use crate::host::ingest::{self, IngestClient};
use crate::host::kv::{KvClient, final_scan};
use crate::host::node::{DATA_DIR, Site};
use crate::host::operator::{FIRST, LATE, Tools};
use crate::host::orders::{Typed, obey};
use crate::host::queue::{Line, QueueClient, count};
use crate::host::{APPS, BANK, CROWD, OPERATOR, bank};
use crate::knobs::{Knobs, Purpose, Scenario, stream};
use crate::tap;

/// The nodes: one a zone.
pub const NODES: [&str; 3] = ["a1", "b1", "c1"];
/// The step of simulated time.
const TICK: Duration = Duration::from_millis(1);
/// Far more than a connection to one listener ever has waiting.
const TCP_CAPACITY: usize = 4_096;
/// Longer than any run: turmoil ends with an error there.
const DURATION_MAX: Duration = Duration::from_secs(3_600);

/// Watchers of etcd's API.
const ETCD_WATCHERS: usize = 2;
/// Clients that ingest files.
const INGEST_CLIENTS: u32 = 2;
/// Clients that hold leases.
const LEASE_HOLDERS: u32 = 2;
/// Producers that come in a burst, at most.
const BURST_PRODUCERS_MAX: u32 = 12;
/// The numbers of producers that come in bursts begin here.
const BURST_PRODUCERS_FROM: u32 = 1_000;
/// How long a client of one node waits until that node leads.
const PINNED_DEADLINE: Duration = Duration::from_millis(400);

/// What a schedule wants on stage beside what is always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Props {
    /// A second build, of orders that the sponsors changed, that somebody will make active.
    pub late_build: bool,
    /// A second build whose files turn up where they do not belong.
    pub stale_build: bool,
}

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
    /// Where a controller is told what to do.
    pub errands: mpsc::UnboundedSender<Errand>,
    /// All groups, in the order that schedules number them.
    pub groups: Vec<GroupId>,
    /// What was minted: that of the first build, and of the late one.
    pub manifests: Vec<Manifest>,
    /// The builds, opened record by record, in the same order.
    pub plans: Vec<Arc<Plan>>,
    /// A build nobody deploys.
    pub stale: Option<Arc<Minted>>,
    /// The cluster's description.
    pub cluster: Cluster,
}

impl Stage {
    /// Sets the stage of a seed; over RocksDB, if there is a directory to work in.
    ///
    /// # Errors
    /// When the event cannot be minted.
    pub fn set(
        seed: u64,
        knobs: &Knobs,
        props: Props,
        scratch: Option<&Arc<Scratch>>,
    ) -> Result<Stage, Failure> {
        let nodes = NODES.map(|node| node.parse::<NodeId>().expect("a node's name"));
        let minted = Arc::new(Minted::mint(seed, knobs, &nodes)?);
        let mut deployed = vec![(FIRST, Arc::clone(&minted))];
        let other = || Minted::mint(!seed, &knobs.with_orders_changed(), &nodes).map(Arc::new);
        if props.late_build {
            deployed.push((LATE, other()?));
        }
        let stale = if props.stale_build { Some(other()?) } else { None };
        let cluster = cluster(knobs, &nodes, &minted);
        cluster.validate().map_err(|wrong| Failure::new(Exit::Usage, wrong))?;
        let board = Board::new();
        let mut sim = simulation(seed, knobs);
        let mut sites = Vec::new();
        for (number, node) in (0..).zip(nodes) {
            let storage = SimStorage::new(knobs.syncs, stream(seed, Purpose::Syncs, number), scratch);
            let secrets = deployed.iter().map(|(_, minted)| Arc::clone(minted)).collect();
            let site = Site::new(node, &cluster, storage, secrets, Arc::clone(&board));
            minted.give_history_key(&site.disk());
            let runs = Arc::clone(&site);
            sim.host(site.name(), move || Arc::clone(&runs).run());
            sites.push(site);
        }
        let disk = SimDisk::new();
        let mut builds = BTreeMap::new();
        for (name, minted) in &deployed {
            minted.give_operator(&disk, name);
            builds.insert(*name, BuildDir::load(Arc::new(disk.mount()), &build_dir(name))?);
        }
        let changed = knobs.with_orders_changed();
        let plan = |(name, build): (&&str, &BuildDir)| {
            let knobs = if *name == LATE { &changed } else { knobs };
            Plan::open(build, &orders(knobs)).map(Arc::new)
        };
        let plans = builds.iter().map(plan).collect::<Result<_, _>>()?;
        listen(&board);
        let manifests = builds.values().map(|build| build.manifest.clone()).collect();
        let (orders, errands) = add_operator(&mut sim, (seed, knobs), &cluster, builds, &board)?;
        sim.client(BANK, bank::run(Arc::clone(&board), stream(seed, Purpose::Bank, 0)));
        if knobs.scenario == Scenario::Event {
            let edges = cluster.nodes.iter().map(|node| node.edge.clone()).collect();
            let (knobs, board) = (knobs.clone(), Arc::clone(&board));
            let session_key = minted.session_key.clone();
            sim.client(CROWD, Town { seed, knobs, edges, session_key, board }.run());
        } else {
            sim.client(CROWD, async { Ok(()) });
        }
        add_apps(&mut sim, seed, knobs, &cluster, &board);
        Ok(Stage {
            sim,
            sites,
            board,
            orders,
            errands,
            groups: groups(knobs),
            manifests,
            plans,
            stale,
            cluster,
        })
    }

    /// The manifest of a build, the first one's if that is none of the run's.
    #[must_use]
    pub fn manifest(&self, build: Option<BuildId>) -> &Manifest {
        let found = self.manifests.iter().find(|manifest| Some(manifest.build) == build);
        found.unwrap_or(&self.manifests[0])
    }
}

/// All groups, in the order that schedules number them.
#[must_use]
pub fn groups(knobs: &Knobs) -> Vec<GroupId> {
    let mut groups = vec![CONTROL_GROUP, SYSTEM_GROUP];
    groups.extend((1..=knobs.data_groups).map(GroupId));
    groups.extend((0..knobs.partitions).map(|partition| GroupId(QUEUE_GROUPS_FROM + partition)));
    groups
}

/// Writes down every record that leaves a node from now on.
fn listen(board: &Arc<Board>) {
    let board = Arc::clone(board);
    tap::listen(move |left| {
        let number = left.number();
        let node = NodeId::from_u16(number.node).expect("a node sealed it");
        let small = |number: u64| u32::try_from(number).expect("it was one");
        let place = RecordPlace {
            slot: u16::try_from(left.slot).expect("it was one"),
            file: small(left.file),
            index: small(left.index),
        };
        let issue = Issue {
            at: board.moment(),
            place,
            node,
            // Known from what the node wrote when it took the epoch: see `evidence`.
            incarnation: String::new(),
            boot: u64::from(number.boot_epoch),
            counter: number.counter,
            user: left.user,
        };
        board.issues.lock().push(issue);
    });
}

fn simulation(seed: u64, knobs: &Knobs) -> turmoil::Sim<'static> {
    turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + Duration::from_millis(EPOCH_MS))
        .simulation_duration(DURATION_MAX)
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(knobs.latency_ms.0))
        .max_message_latency(Duration::from_millis(knobs.latency_ms.1))
        .tcp_capacity(TCP_CAPACITY)
        .enable_random_order()
        .build()
}

fn cluster(knobs: &Knobs, nodes: &[NodeId], minted: &Minted) -> Cluster {
    let node = |id: &NodeId| Node {
        id: *id,
        data_dir: PathBuf::from(DATA_DIR),
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
        queue: QueueShape { partitions: knobs.partitions, high_water_messages: knobs.high_water },
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

type ToOperators = (mpsc::UnboundedSender<Typed>, mpsc::UnboundedSender<Errand>);

fn add_operator(
    sim: &mut turmoil::Sim<'static>,
    (seed, knobs): (u64, &Knobs),
    cluster: &Cluster,
    builds: BTreeMap<&'static str, BuildDir>,
    board: &Arc<Board>,
) -> Result<ToOperators, Failure> {
    let (orders, lines) = mpsc::unbounded_channel();
    let (errands, told) = mpsc::unbounded_channel();
    let net: Arc<dyn Net> = Arc::new(SimNet);
    let nothing = SimDisk::new();
    let watch_net = Arc::clone(&net);
    let connected = Arc::new(Connected::to(cluster.clone(), net, &nothing.mount())?);
    let (knobs, board, cluster) = (knobs.clone(), Arc::clone(board), cluster.clone());
    sim.client(OPERATOR, async move {
        let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
        let near = cluster.nodes[0].id;
        let (kv, queue) = (kv_client(&cluster, near), queue_client(&cluster, near)?);
        tokio::spawn(auditor::watch(clients::kv(&cluster, &watch_net, Some(near)), Arc::clone(&board)));
        tokio::spawn(auditor::keep_accounts(kv_client(&cluster, near), Arc::clone(&board)));
        let tools = Arc::new(Tools { connected, builds, kv, queue, clock, board, knobs, seed });
        tokio::spawn(obey(Arc::clone(&tools), lines));
        tokio::spawn(controller::stand_by(Arc::clone(&tools), told));
        if tools.knobs.scenario == Scenario::Event {
            Box::pin(tools.run()).await?;
        }
        // Later command lines are still carried out.
        std::future::pending().await
    });
    Ok((orders, errands))
}

/// Makes the recording clients.
struct Apps {
    seed: u64,
    knobs: Knobs,
    cluster: Cluster,
    board: Arc<Board>,
}

impl Apps {
    fn near(number: u32) -> NodeId {
        NODES[number as usize % NODES.len()].parse().expect("a node's name")
    }

    /// Some follow leaders; one for each node asks that node and no other.
    fn kv(&self, number: u32) -> Result<KvClient, Failure> {
        let Apps { seed, knobs, cluster, board } = self;
        let asks = number.checked_sub(knobs.kv_clients).map(Apps::near);
        Ok(KvClient {
            number,
            asks,
            keys: knobs.kv_keys,
            think_ms: if asks.is_some() { (100, 700) } else { (10, 250) },
            kv: match asks {
                Some(node) => pinned_client(cluster, node)?,
                None => kv_client(cluster, Apps::near(number)),
            },
            chance: stream(*seed, Purpose::KvClients, u64::from(number) * 1_000),
            luck: board.mischief.apps.luck(stream(*seed, Purpose::Luck, u64::from(number))),
            board: Arc::clone(board),
        })
    }

    fn queue(&self, number: u32) -> Result<QueueClient, Failure> {
        let Apps { seed, cluster, board, .. } = self;
        let queue = queue_client(cluster, Apps::near(number))?;
        let number = 100 + number;
        Ok(QueueClient {
            line: Line { number, queue, board: Arc::clone(board) },
            chance: stream(*seed, Purpose::QueueClients, u64::from(number - 100) * 1_000),
            luck: board.mischief.apps.luck(stream(*seed, Purpose::Luck, u64::from(number))),
        })
    }

    /// Producers that come in bursts, until everybody is sent home.
    async fn bursts(self: Arc<Self>) {
        let mut bursts = self.board.mischief.bursts();
        let mut number = BURST_PRODUCERS_FROM;
        while bursts.changed().await.is_ok() {
            let burst = *bursts.borrow_and_update();
            let times = burst.factor.saturating_sub(1);
            for _ in 0..(self.knobs.queue_clients * times).min(BURST_PRODUCERS_MAX) {
                let Ok(producer) = self.queue(number) else { continue };
                number += 1;
                self.board.happened("burst-producers");
                tokio::spawn(producer.produce(burst.until_ms));
            }
        }
    }

    /// Clients of etcd's API: one a zone, and watchers and holders of leases that go everywhere.
    fn etcd(&self, channels: &[Channel]) -> Vec<JoinHandle<()>> {
        let Apps { seed, knobs, board, .. } = self;
        let chance = |number: u64| stream(*seed, Purpose::Etcd, number);
        let mut clients = Vec::new();
        for (number, node) in (0..).zip(NODES) {
            let client = EtcdClient {
                number: 200 + number,
                node: node.parse().expect("a node's name"),
                channel: channels[number as usize].clone(),
                keys: knobs.etcd_keys,
                chance: chance(u64::from(number)),
                board: Arc::clone(board),
            };
            clients.push(tokio::spawn(client.run()));
        }
        for number in 0..ETCD_WATCHERS {
            board.watchers.lock().push(etcd::watch::unborn(number));
            let chance = chance(100 + number as u64);
            let watcher =
                EtcdWatcher { number, channels: channels.to_vec(), chance, board: Arc::clone(board) };
            clients.push(tokio::spawn(watcher.run()));
        }
        for number in 0..LEASE_HOLDERS {
            let chance = chance(200 + u64::from(number));
            let holder =
                LeaseClientOf { number, channels: channels.to_vec(), chance, board: Arc::clone(board) };
            clients.push(tokio::spawn(holder.run()));
        }
        clients
    }

    async fn run(self: Arc<Self>) -> Result<(), Failure> {
        let net: Arc<dyn Net> = Arc::new(SimNet);
        let mut channels = Vec::new();
        for node in &self.cluster.nodes {
            channels.push(world::net::channel(&net, &node.etcd).context(Exit::Usage, "an address")?);
        }
        let mut clients = self.etcd(&channels);
        let pinned = u32::try_from(NODES.len()).unwrap_or(0);
        for number in 0..self.knobs.kv_clients + pinned {
            clients.push(tokio::spawn(self.kv(number)?.run()));
        }
        for number in 0..INGEST_CLIENTS {
            let client = IngestClient {
                number,
                kv: kv_client(&self.cluster, Apps::near(number)),
                chance: stream(self.seed, Purpose::Ingests, u64::from(number)),
                board: Arc::clone(&self.board),
            };
            clients.push(tokio::spawn(client.run()));
        }
        if self.knobs.scenario == Scenario::Queue {
            for number in 0..2 * self.knobs.queue_clients {
                let client = self.queue(number)?;
                clients.push(match number % 2 {
                    0 => tokio::spawn(client.produce(u64::MAX)),
                    _ => tokio::spawn(client.consume()),
                });
            }
            tokio::spawn(Arc::clone(&self).bursts());
            count(&clients::queue(&self.cluster, &net, Some(Apps::near(0)))?, &self.board).await;
        }
        for client in clients {
            client.await.context(Exit::Error, "a client")?;
        }
        etcd::final_scan(&channels, &self.board).await;
        let kv = kv_client(&self.cluster, Apps::near(0));
        ingest::final_scan(&*kv, &self.board).await;
        final_scan(&*kv, &self.board).await;
        Ok(())
    }
}

fn add_apps(
    sim: &mut turmoil::Sim<'static>,
    seed: u64,
    knobs: &Knobs,
    cluster: &Cluster,
    board: &Arc<Board>,
) {
    let (knobs, cluster, board) = (knobs.clone(), cluster.clone(), Arc::clone(board));
    let apps = Arc::new(Apps { seed, knobs, cluster, board });
    sim.client(APPS, async move { Ok(apps.run().await?) });
}
