//! Three hosts in one process, each in a runtime of its own over real TCP and real RocksDB, with a
//! network that can be cut. Killing a host drops its runtime with everything in it, and leaves what
//! SIGKILL would: the files as they were, not as closing RocksDB would have completed them.

#![allow(missing_docs)]

pub mod chain;
pub mod cutnet;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use replica::config::ReplicaConfig;
use replica::engine::rocks::{Memory, Mode, RocksEngine};
use replica::engine::{Engine, EngineError, View};
use replica::error::ProposeError;
use replica::group::Group;
use replica::host::{Engines, Host, HostConfig};
use replica::identity::{self, Identity, LOG_DIR, STATE_DIR};
use replica::log::LogWriter;
use replica::member_id::MemberId;
use replica::plant::Plant;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use world::clock::SystemClock;
use world::disk::RealDisk;
use world::net::Net;
use world::{GroupId, NodeId, UnixMs};

use chain::Chain;
use cutnet::{CutNet, Cuts};

/// Who votes from the beginning.
pub const NODES: [&str; 3] = ["a1", "b1", "c1"];
/// A node that belongs to no group until it is added.
pub const SPARE: &str = "d1";

pub fn node(name: &str) -> NodeId {
    name.parse().expect("a node name")
}

/// A group and who leads it first.
#[derive(Clone, Copy)]
pub struct Plan {
    pub group: GroupId,
    pub first: &'static str,
}

pub struct Running {
    pub host: Arc<Host>,
    pub groups: BTreeMap<GroupId, Arc<Group<Chain>>>,
    engines: Engines,
    runtime: Option<Runtime>,
}

impl Drop for Running {
    /// Waits until nothing of it runs: RocksDB must be closed before the process ends.
    fn drop(&mut self) {
        let Some(runtime) = self.runtime.take() else { return };
        // Off this thread: a runtime must not be dropped from within another one.
        let stopping = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)));
        stopping.join().expect("the runtime stops");
        self.engines.log_writer.stop();
    }
}

pub struct Cluster {
    pub cuts: Arc<Cuts>,
    pub replica: ReplicaConfig,
    plans: Vec<Plan>,
    addresses: BTreeMap<NodeId, String>,
    dirs: BTreeMap<NodeId, PathBuf>,
    running: BTreeMap<NodeId, Running>,
    /// Kills so far; each leaves a directory of its own.
    lives: usize,
    home: TempDir,
}

fn everybody() -> impl Iterator<Item = &'static str> {
    NODES.into_iter().chain([SPARE])
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").to_string()
}

/// Opens a data directory as a node does.
pub fn open(dir: &Path, id: NodeId) -> Result<(Engines, Identity), String> {
    let memory = Memory { write_buffer_bytes: 16 << 20, block_cache_bytes: 16 << 20 };
    std::fs::create_dir_all(dir).expect("a directory");
    let engine = |name: &str, mode: Mode| -> Result<Arc<dyn Engine>, String> {
        Ok(RocksEngine::open(&dir.join(name), mode, memory).map_err(|error| error.to_string())?)
    };
    let (log, state) = (engine(LOG_DIR, Mode::Log)?, engine(STATE_DIR, Mode::State)?);
    let identity = identity::settle(&RealDisk, dir, "test", id, &*log, &*state);
    let identity = identity.map_err(|error| error.to_string())?;
    let log_writer = LogWriter::start_thread(Arc::clone(&log)).expect("a thread");
    Ok((Engines { log, log_writer, state }, identity))
}

/// Copies the files of a stopped host, as they are, to `to`.
fn copy_image(from: &Path, to: &Path) {
    // RocksDB may be deleting files that it does not need any more: then another moment is copied.
    for _ in 0..20 {
        match try_copy_image(from, to) {
            Ok(()) => return,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                std::fs::remove_dir_all(to).expect("half a copy goes");
            }
            Err(error) => panic!("not copied: {error}"),
        }
    }
    panic!("{} never stands still", from.display());
}

fn try_copy_image(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from)?.flatten() {
        let target = to.join(file.file_name());
        if file.file_type()?.is_dir() {
            try_copy_image(&file.path(), &target)?;
        } else if file.file_name() != "LOCK" {
            std::fs::copy(file.path(), target)?;
        }
    }
    Ok(())
}

impl Cluster {
    /// Nobody runs yet.
    pub fn new(replica: ReplicaConfig, plans: &[Plan]) -> Cluster {
        let home = tempfile::tempdir().expect("a directory");
        let dirs = everybody().map(|name| (node(name), home.path().join(name))).collect();
        Cluster {
            cuts: Cuts::new(),
            replica,
            plans: plans.to_vec(),
            addresses: everybody().map(|name| (node(name), free_address())).collect(),
            dirs,
            running: BTreeMap::new(),
            lives: 0,
            home,
        }
    }

    /// One group led by `a1`, everybody running, a leader found.
    pub async fn with_one_group() -> Cluster {
        let mut cluster = Cluster::new(ReplicaConfig::default(), &[Plan { group: GroupId(1), first: "a1" }]);
        for name in NODES {
            cluster.start(name).await;
        }
        cluster.leader(GroupId(1)).await;
        cluster
    }

    pub async fn start(&mut self, name: &str) {
        let id = node(name);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let address = self.addresses[&id].clone();
        let net: Arc<dyn Net> = Arc::new(CutNet::new(&address, Arc::clone(&self.cuts)));
        let replica = self.replica.clone();
        let dir = self.dirs[&id].clone();
        let voters = NODES.map(|name| (node(name), self.addresses[&node(name)].clone()));
        let plans = self.plans.clone();
        let started = runtime.spawn(async move {
            let (engines, identity) = open(&dir, id).expect("its own directory");
            let config = HostConfig { identity, replica };
            let clock = Arc::new(SystemClock::new());
            let host = Host::start(config, Arc::clone(&net), clock, engines.clone()).expect("a host");
            let incoming = net.listen(&address).await.expect("to listen");
            let server = world::net::server().add_service(host.peer_service()).serve_with_incoming(incoming);
            tokio::spawn(server);
            let mut groups = BTreeMap::new();
            for plan in plans {
                let group = host.add_group(plan.group, Chain::default(), &voters, node(plan.first)).await;
                groups.insert(plan.group, group.expect("a group"));
            }
            (host, groups, engines)
        });
        let (host, groups, engines) = started.await.expect("the start");
        self.running.insert(id, Running { host, groups, engines, runtime: Some(runtime) });
    }

    /// Stops a host as SIGKILL would: nothing is handed over, nothing is flushed. The next start
    /// finds the files as they were then.
    pub async fn kill(&mut self, name: &str) {
        let id = node(name);
        let mut running = self.running.remove(&id).expect("it runs");
        let runtime = running.runtime.take().expect("a runtime");
        let live = self.dirs[&id].clone();
        self.lives += 1;
        let image = self.home.path().join(format!("{name}.{}", self.lives));
        self.dirs.insert(id, image.clone());
        // Off this thread: a runtime must not be dropped from within another one.
        let stopped = tokio::task::spawn_blocking(move || {
            runtime.shutdown_timeout(Duration::from_secs(5));
            running.engines.log_writer.stop();
            // Before the engines close: closing would write the memtables.
            copy_image(&live, &image);
            drop(running);
        });
        stopped.await.expect("dropped");
    }

    /// Where a host keeps its data.
    pub fn dir(&self, name: &str) -> &Path {
        &self.dirs[&node(name)]
    }

    /// Gives a host that does not run an empty directory: its disk is lost.
    pub fn lose_disk(&mut self, name: &str) {
        self.lives += 1;
        let fresh = self.home.path().join(format!("{name}.{}", self.lives));
        self.dirs.insert(node(name), fresh);
    }

    /// Puts a group on the disks of hosts that do not run yet.
    pub async fn plant(&self, group: GroupId, pairs: &[(Bytes, Bytes)]) -> Result<(), EngineError> {
        let opened = NODES.map(|name| open(self.dir(name), node(name)).expect("an empty directory"));
        let voters: Vec<(MemberId, String)> = opened
            .iter()
            .map(|(_, identity)| (identity.member, self.addresses[&identity.member.node].clone()))
            .collect();
        for (engines, _) in &opened {
            let plant = Plant { group, voters: &voters, pairs, now: UnixMs(5) };
            plant.put(engines, Chain::default()).await?;
            engines.log_writer.stop();
        }
        Ok(())
    }

    /// The node's disk.
    pub fn member(&self, name: &str) -> MemberId {
        self.running[&node(name)].host.identity().member
    }

    /// Pairs of groups in the state of a host that does not run.
    pub fn pairs_on_disk(&self, name: &str) -> usize {
        let dir = self.dirs[&node(name)].join(STATE_DIR);
        let state = RocksEngine::open(&dir, Mode::State, Memory::default()).expect("state engine");
        let mut pairs = 0;
        let mut visit = |_: &[u8], _: &[u8]| {
            pairs += 1;
            std::ops::ControlFlow::Continue(())
        };
        state.scan(&[], &[0xff; 4], false, &mut visit).expect("readable");
        pairs
    }

    pub fn host(&self, name: &str) -> Arc<Host> {
        Arc::clone(&self.running[&node(name)].host)
    }

    pub fn group(&self, name: &str, group: GroupId) -> Arc<Group<Chain>> {
        Arc::clone(&self.running[&node(name)].groups[&group])
    }

    pub fn address(&self, name: &str) -> &str {
        &self.addresses[&node(name)]
    }

    pub fn members(&self, group: GroupId) -> Vec<Arc<Group<Chain>>> {
        self.running.values().map(|running| Arc::clone(&running.groups[&group])).collect()
    }

    /// The member that leads, as soon as one does and says so.
    pub async fn leader(&self, group: GroupId) -> Arc<Group<Chain>> {
        for _ in 0..2_000 {
            if let Some(leader) = self.members(group).into_iter().find(|member| member.is_leader()) {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!(
            "{group} has no leader: {:#?}",
            self.members(group).iter().map(|m| m.status()).collect::<Vec<_>>()
        );
    }

    /// Waits until every running member holds the same, at least `count` commands of it.
    pub async fn wait_equal(&self, group: GroupId, count: u64) -> (u64, Bytes) {
        let members = self.members(group);
        for _ in 0..2_000 {
            let held: Vec<(u64, Bytes)> = members.iter().map(|member| chain::held(member)).collect();
            if held.iter().all(|one| one == &held[0]) && held[0].0 >= count {
                return held[0].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{group} is not equal: {:#?}", members.iter().map(|m| m.status()).collect::<Vec<_>>());
    }

    /// Proposes wherever the leader is until it is acknowledged. Repeats unknown outcomes: the
    /// chain counts how often each command was applied.
    pub async fn put(&self, group: GroupId, command: &str) {
        for _ in 0..400 {
            for member in self.members(group) {
                match member.propose(Bytes::copy_from_slice(command.as_bytes())).await {
                    Ok(_) => return,
                    Err(
                        ProposeError::NotLeader { .. } | ProposeError::Unknown(_) | ProposeError::Refused(_),
                    ) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{command} was never acknowledged");
    }
}
