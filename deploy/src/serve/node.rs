//! A node's roles, assembled: replica host, KV, queue, access, payment roles, listeners.
//!
//! Invariant: what a role needs of the outside world it gets from [`Doors`]; the simulator hands in
//! others.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use access::edge::{Edge, EdgeConfig};
use access::node::{AccessNode, NodeConfig};
use futures_util::future::BoxFuture;
use kvsvr::etcd::{Identity, MemberInfo};
use kvsvr::group::KvGroup;
use kvsvr::machine::control::ControlMachine;
use kvsvr::machine::data::DataMachine;
use kvsvr::quota::Quota;
use kvsvr::server::{KvGroups, KvServer};
use queue::machine::QueueMachine;
use queue::partition::{Partition, PartitionConfig};
use replica::config::ReplicaConfig;
use replica::host::{Host, HostConfig};
use replica::identity;
use replica::log::LogWriter;
use ticket::control::{self, FORMAT, ZoneRecord, ZoneState};
use ticket::id::SlotNo;
use ticket::sign::VerifyingKey;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use world::disk::Disk;
use world::net::{Incoming, Net};
use world::{Clock, Epoch, GroupId, NodeId};

use super::admin::{self, Admin};
use super::drain;
use super::observer::Observer;
use super::payments::Payments;
use super::readiness::Readiness;
use super::storage::Storage;
use crate::cli::target::Connected;
use crate::clients;
use crate::config::{CONTROL_GROUP, Cluster, Node, QUEUE_GROUPS_FROM, SYSTEM_GROUP};
use crate::dev::admin_token;
use crate::failure::{Context, Exit, Failure};
use crate::membership::EtcdMembers;
use crate::store::TicketStore;
use kvsvr::api::{Compare, ControlOp, Kv};

/// How long a stopping node tries to hand its leaderships over.
const HANDOVER_WITHIN: Duration = Duration::from_secs(3);
/// How long it waits for what is under way.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether the members still run.
const LOOK_AT_STORAGE_EVERY: Duration = Duration::from_millis(500);
/// Pause before something that needs a quorum is tried again at the start.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The doors to the outside, together.
#[derive(Clone)]
pub struct Doors {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Network.
    pub net: Arc<dyn Net>,
    /// Disk.
    pub disk: Arc<dyn Disk>,
    /// Engines of logs and state.
    pub storage: Arc<dyn Storage>,
}

/// A running node.
pub struct Running {
    host: Arc<Host>,
    access: Arc<AccessNode>,
    payments: Arc<Payments>,
    kv: KvServer,
    writer: LogWriter,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    failures: mpsc::Receiver<Failure>,
}

struct Groups {
    kv: KvServer,
    partitions: Vec<Arc<Partition>>,
}

type Stopped = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Running {
    /// Starts everything; the node serves once its groups have leaders.
    ///
    /// # Errors
    /// When storage refuses, an address is taken or a secret is missing.
    pub fn start(cluster: Cluster, id: NodeId, doors: Doors) -> BoxFuture<'static, Result<Running, Failure>> {
        // Boxed here, so that whoever starts nodes does not compile all of a node again.
        Box::pin(Running::assemble(cluster, id, doors))
    }

    async fn assemble(cluster: Cluster, id: NodeId, doors: Doors) -> Result<Running, Failure> {
        let node = cluster.node(id)?.clone();
        let (host, writer) = start_host(&cluster, &node, &doors)?;
        let groups = add_groups(&cluster, id, &doors, &host).await?;

        let kv: Arc<dyn Kv> = Arc::new(clients::kv(&cluster, &doors.net, Some(id)));
        let queue = Arc::new(clients::queue(&cluster, &doors.net, Some(id))?);
        let store = Arc::new(TicketStore::new(Arc::clone(&doors.disk), &node.data_dir, id));
        let payments = Payments::new(
            Arc::clone(&kv),
            queue,
            Arc::clone(&doors.disk),
            Arc::clone(&doors.clock),
            Arc::clone(&store),
        );
        let access = start_access(&cluster, &node, &doors, &kv)?;
        let session_key =
            VerifyingKey::parse(&cluster.session_public_key).context(Exit::Usage, "session_public_key")?;
        let mut edge_config = EdgeConfig::new(session_key);
        edge_config.opens_max = cluster.access.opens_in_flight_max;
        let opener = Arc::clone(&payments) as Arc<dyn access::opener::Opener>;
        let edge = Edge::new(edge_config, Arc::clone(&access), opener, Arc::clone(&doors.clock));

        let (drained, is_drained) = watch::channel(false);
        let observer = Arc::new(Observer::default());
        let token = admin_token(&*doors.disk, &cluster)?;
        let readiness = Readiness {
            node: id,
            host: Arc::clone(&host),
            access: Arc::clone(&access),
            payments: Arc::clone(&payments),
            store: Arc::clone(&store),
            drained: is_drained.clone(),
        };
        let admin = Arc::new(Admin {
            node: id,
            cluster: cluster.clone(),
            net: Arc::clone(&doors.net),
            clock: Arc::clone(&doors.clock),
            kv: Arc::clone(&kv),
            store,
            observer: Arc::clone(&observer),
            token: token.clone(),
            host: Arc::clone(&host),
            drained,
            report: Box::new(move || readiness.report()),
        });

        let (stop, stopped) = watch::channel(false);
        let (fail, failures) = mpsc::channel(8);
        let fail_storage = fail.clone();
        let mut tasks =
            Tasks { net: Arc::clone(&doors.net), stopped: stopped.clone(), fail, tasks: Vec::new() };
        tasks.serve_peers(&node.peers, &host, &groups).await?;
        tasks.serve_etcd(&node.etcd, &groups.kv).await?;
        tasks.serve_http(&node.edge, access::edge::router(edge)).await?;
        tasks.serve_http(&node.admin, admin::router(admin)).await?;
        let mut tasks = tasks.tasks;
        tasks.push(tokio::spawn(until(stopped.clone(), watch_storage(Arc::clone(&host), fail_storage))));
        tasks.push(tokio::spawn(Arc::clone(&payments).run(stopped.clone(), is_drained.clone())));
        let keeping = drain::keep_drained(Arc::clone(&host), is_drained);
        tasks.push(tokio::spawn(until(stopped.clone(), keeping)));
        let register = register_zone(Arc::clone(&kv), id, Arc::clone(&doors.clock));
        tasks.push(tokio::spawn(until(stopped.clone(), register)));
        for other in cluster.nodes.iter().filter(|other| other.id != id) {
            let watching = Arc::clone(&observer).watch(Arc::clone(&doors.net), other.clone(), token.clone());
            tasks.push(tokio::spawn(until(stopped.clone(), watching)));
        }
        Ok(Running { host, access, payments, kv: groups.kv, writer, stop, tasks, failures })
    }

    /// The groups on this node; what an operator's tools, and a simulator, look at and push.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Opening and settling on this node.
    #[must_use]
    pub fn payments(&self) -> &Arc<Payments> {
        &self.payments
    }

    /// Resolves when something has failed that the node cannot go on without.
    pub async fn failed(&mut self) -> Failure {
        match self.failures.recv().await {
            Some(failure) => failure,
            None => std::future::pending().await,
        }
    }

    /// Leaves in good order: nothing more goes out, leaderships are handed over, storage is flushed.
    ///
    /// # Errors
    /// When storage could not be flushed; nothing acknowledged is lost then either.
    pub fn stop(self) -> BoxFuture<'static, Result<(), Failure>> {
        Box::pin(self.leave())
    }

    async fn leave(self) -> Result<(), Failure> {
        self.access.stop().await;
        let handed_over = self.host.drain();
        if tokio::time::timeout(HANDOVER_WITHIN, handed_over).await.is_err() {
            tracing::warn!("some groups were not handed over in time");
        }
        self.kv.end_streams();
        // Nobody listening means that everything has ended already.
        let _ = self.stop.send(true);
        let ended = futures_util::future::join_all(self.tasks);
        if tokio::time::timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        let flushed = self.host.shutdown(Duration::ZERO).await;
        self.writer.stop();
        flushed.context(Exit::Error, "flushing the state")
    }
}

/// Opens the node's storage, makes sure that it is this node's, and starts a host over it.
fn start_host(cluster: &Cluster, node: &Node, doors: &Doors) -> Result<(Arc<Host>, LogWriter), Failure> {
    let (id, data_dir) = (node.id, &node.data_dir);
    doors.disk.create_dir_all(data_dir).context(Exit::Error, format!("making {}", data_dir.display()))?;
    let engines = doors.storage.open(data_dir)?;
    let writer = engines.log_writer.clone();
    let replica = ReplicaConfig {
        heartbeat_ms: cluster.raft.heartbeat_ms,
        election_min_ms: cluster.raft.election_min_ms,
        election_max_ms: cluster.raft.election_max_ms,
        snapshot_every_entries: cluster.raft.snapshot_every_entries,
        keep_entries: cluster.raft.keep_entries,
        ..ReplicaConfig::default()
    };
    let (log, state) = (&*engines.log, &*engines.state);
    let identity = identity::settle(&*doors.disk, data_dir, cluster.disk_mark(), id, log, state)
        .context(Exit::Refused, "this node does not start on its data directory")?;
    let config = HostConfig { identity, replica };
    let host = Host::start(config, Arc::clone(&doors.net), Arc::clone(&doors.clock), engines)
        .context(Exit::Error, "starting the host")?;
    Ok((host, writer))
}

/// Joins every group. Leaders are spread: group n is first led by voter n modulo their number.
async fn add_groups(
    cluster: &Cluster,
    id: NodeId,
    doors: &Doors,
    host: &Arc<Host>,
) -> Result<Groups, Failure> {
    let voters = cluster.voters();
    let first_leader = |number: u32| voters[number as usize % voters.len()].0;
    let system = host.add_group(SYSTEM_GROUP, ControlMachine, &voters, first_leader(2)).await;
    let system = system.context(Exit::Error, "joining the system group")?;
    let control = host.add_group(CONTROL_GROUP, ControlMachine, &voters, first_leader(0)).await;
    let control = control.context(Exit::Error, "joining the control group")?;
    let mut data: Vec<Arc<dyn KvGroup>> = Vec::new();
    for number in 1..=cluster.kv.data_groups {
        let group = host.add_group(GroupId(number), DataMachine, &voters, first_leader(number)).await;
        data.push(group.context(Exit::Error, format!("joining data group {number}"))?);
    }
    let mut partitions = Vec::new();
    for number in 0..cluster.queue.partitions {
        let id = GroupId(QUEUE_GROUPS_FROM + number);
        let group = host.add_group(id, QueueMachine::new(), &voters, first_leader(number + 1)).await;
        let group = group.context(Exit::Error, format!("joining queue partition {number}"))?;
        let config = PartitionConfig {
            high_water_messages: cluster.queue.high_water_messages / u64::from(cluster.queue.partitions),
            ..PartitionConfig::default()
        };
        partitions.push(Arc::new(Partition::new(number, group, Arc::clone(&doors.clock), config)));
    }
    let member = |node: &Node| MemberInfo {
        node: node.id,
        peer_address: node.peers.clone(),
        etcd_address: node.etcd.clone(),
    };
    let members =
        cluster.nodes.iter().filter(|node| voters.iter().any(|(voter, _)| *voter == node.id)).map(member);
    // The id tells a restored cluster from the one it came from, which may share its keys.
    let mut digest = blake3::Hasher::new();
    digest.update(cluster.disk_mark().as_bytes()).update(&[0]).update(cluster.session_public_key.as_bytes());
    let digest = digest.finalize();
    let cluster_id = u64::from_be_bytes(digest.as_bytes()[..8].try_into().expect("eight bytes"));
    let identity = Identity { cluster_id, node: id };
    let (storage, data_dir) = (Arc::clone(&doors.storage), cluster.node(id)?.data_dir.clone());
    let connected = Connected::to(cluster.clone(), Arc::clone(&doors.net), &*doors.disk)?;
    let changes = Arc::new(EtcdMembers(Arc::new(connected)));
    let kv = KvServer::new(
        identity,
        members.collect(),
        Arc::clone(&doors.net),
        Arc::clone(&doors.clock),
        KvGroups { system, control, data, changes },
        Arc::new(move || storage.state_bytes(&data_dir)),
        Quota::new(cluster.kv.quota_bytes),
    );
    Ok(Groups { kv, partitions })
}

fn start_access(
    cluster: &Cluster,
    node: &Node,
    doors: &Doors,
    kv: &Arc<dyn Kv>,
) -> Result<Arc<AccessNode>, Failure> {
    let history_key = clients::history_key(&*doors.disk, cluster)?;
    let mut config = NodeConfig::new(node.id, node.data_dir.clone(), history_key);
    config.block = cluster.access.reserve_records;
    config.timing.grace_ms = cluster.access.claim_grace_ms;
    config.timing.early_ms = cluster.access.claim_lead_ms;
    config.rules.quota_per_s = cluster.access.quota_per_second;
    config.rules.user_interval_ms = cluster.access.user_interval_ms;
    AccessNode::start(config, Arc::clone(kv), Arc::clone(&doors.disk), Arc::clone(&doors.clock))
        .context(Exit::Error, "starting the access role")
}

/// Writes the record of the node's zone when there is none yet: active, from the first slot on.
async fn register_zone(kv: Arc<dyn Kv>, id: NodeId, clock: Arc<dyn Clock>) {
    let key = control::zone_key(id.zone());
    loop {
        let record = ZoneRecord {
            format: FORMAT,
            state: ZoneState::Active,
            epoch: Epoch(1),
            from_slot: SlotNo(0),
            reason: "first start".to_owned(),
            at_ms: clock.now(),
            operations: Vec::new(),
        };
        let put = ControlOp::Put(key.clone().into(), control::encode(&record).into());
        match kv.txn(vec![Compare::Absent(key.clone().into())], vec![put]).await {
            Ok(_) => return,
            Err(error) => tracing::info!(%error, "the zone is not registered yet"),
        }
        tokio::time::sleep(TRY_AGAIN_AFTER).await;
    }
}

/// Ends the node when one of its members has stopped: its storage failed, and what that holds is no
/// longer known. Nothing is acknowledged any more by then; a start reads everything again.
async fn watch_storage(host: Arc<Host>, fail: mpsc::Sender<Failure>) {
    loop {
        tokio::time::sleep(LOOK_AT_STORAGE_EVERY).await;
        let stopped = host.status().into_iter().find_map(|group| Some((group.group, group.stopped?)));
        if let Some((group, reason)) = stopped {
            let message = format!("{} stopped: {reason}", group_name(group));
            // Nobody listening means that the node is stopping.
            let _ = fail.send(Failure::new(Exit::Error, message)).await;
            return;
        }
    }
}

/// Runs `work` until it is done or the node stops.
async fn until(mut stopped: watch::Receiver<bool>, work: impl Future<Output = ()>) {
    tokio::select! {
        biased;
        // An error means that the sender is gone, which is a stop too.
        _ = stopped.wait_for(|stop| *stop) => {}
        () = work => {}
    }
}

/// Listeners as they are started.
struct Tasks {
    net: Arc<dyn Net>,
    stopped: watch::Receiver<bool>,
    fail: mpsc::Sender<Failure>,
    tasks: Vec<JoinHandle<()>>,
}

impl Tasks {
    async fn listen(&self, address: &str) -> Result<Incoming, Failure> {
        self.net.listen(address).await.context(Exit::Conflict, format!("listening at {address}"))
    }

    fn stopped(&self) -> Stopped {
        let mut stopped = self.stopped.clone();
        Box::pin(async move {
            // An error means that the sender is gone, which is a stop too.
            let _ = stopped.wait_for(|stop| *stop).await;
        })
    }

    async fn serve_peers(&mut self, address: &str, host: &Host, groups: &Groups) -> Result<(), Failure> {
        let routes = tonic::service::Routes::new(host.peer_service());
        let routes = groups.kv.peer_routes(routes);
        let routes = routes.add_service(queue::service::Service::server(groups.partitions.clone()));
        let incoming = self.listen(address).await?;
        self.serve_grpc(address, world::net::server(), routes.prepare(), incoming);
        Ok(())
    }

    async fn serve_etcd(&mut self, address: &str, kv: &KvServer) -> Result<(), Failure> {
        self.tasks.push(tokio::spawn(until(self.stopped.clone(), kv.clone().run())));
        // Probes and Prometheus speak HTTP/1.
        let server = world::net::server().accept_http1(true);
        let incoming = kvsvr::etcd::with_schemes(self.listen(address).await?);
        self.serve_grpc(address, server, kv.etcd_port(), incoming);
        Ok(())
    }

    fn serve_grpc<S>(
        &mut self,
        address: &str,
        server: tonic::transport::Server,
        service: S,
        incoming: Incoming,
    ) where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
    {
        let (stopped, fail, address) = (self.stopped(), self.fail.clone(), address.to_owned());
        self.tasks.push(tokio::spawn(async move {
            if let Err(error) = server.serve_with_incoming_shutdown(service, incoming, stopped).await {
                let failure = Failure::new(Exit::Error, format!("the server at {address} ended: {error}"));
                // Nobody listening means that the node is stopping.
                let _ = fail.send(failure).await;
            }
        }));
    }

    async fn serve_http(&mut self, address: &str, router: axum::Router) -> Result<(), Failure> {
        let incoming = self.listen(address).await?;
        self.tasks.push(tokio::spawn(access::edge::serve(incoming, router, self.stopped())));
        Ok(())
    }
}

/// Who leads what, for messages.
#[must_use]
pub fn group_name(group: GroupId) -> String {
    match group.0 {
        0 => "control".to_owned(),
        number if number == SYSTEM_GROUP.0 => "system".to_owned(),
        number if number >= QUEUE_GROUPS_FROM => format!("queue {}", number - QUEUE_GROUPS_FROM),
        number => format!("data {number}"),
    }
}

/// Counters by name.
pub type Counters = BTreeMap<String, u64>;
