//! The directory of a dev cluster: made once, then only read, but for the list of processes.
//!
//! Invariant: secrets are readable by their owner only; the files appear whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ticket::sign::SigningKey;
use world::disk::{Disk, RealDisk, publish_secret};
use world::{NodeId, rng};

use super::process;
use crate::config::{Access, Cluster, Kv, Node, Queue, Raft};
use crate::failure::{Context, Exit, Failure};

/// How long a killed process may take to let go of its files.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// The first port when none is asked for.
const BASE_PORT: u16 = 7000;
/// Ports between the nodes.
const PORTS_PER_NODE: u16 = 10;
/// The nodes of a dev cluster.
const NODES: [&str; 3] = ["a1", "b1", "c1"];

/// How many worker threads tokio gives a process.
const WORKERS: &str = "TOKIO_WORKER_THREADS";

/// See the module.
#[derive(Debug)]
pub struct DevDir {
    dir: PathBuf,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Processes {
    pids: BTreeMap<NodeId, u32>,
}

impl DevDir {
    /// Makes the directory, or takes the one that is there.
    ///
    /// # Errors
    /// When a port is taken, when `base_port` differs from what the directory was made with, or
    /// when the disk refuses.
    pub fn create(dir: &Path, base_port: Option<u16>) -> Result<DevDir, Failure> {
        fs::create_dir_all(dir).context(Exit::Error, format!("making {}", dir.display()))?;
        let dir = fs::canonicalize(dir).context(Exit::Error, format!("finding {}", dir.display()))?;
        let dev = DevDir { dir };
        if dev.cluster_file().exists() {
            dev.check_base_port(base_port)?;
            return Ok(dev);
        }
        let cluster = dev.fresh_cluster(base_port.unwrap_or(BASE_PORT))?;
        for node in &cluster.nodes {
            for address in [&node.peers, &node.edge, &node.admin, &node.etcd] {
                TcpListener::bind(address).map_err(|error| {
                    let cure = "choose another --base-port";
                    Failure::new(Exit::Conflict, format!("{address} cannot be used ({error}); {cure}"))
                })?;
            }
        }
        dev.write_secrets()?;
        let cluster = Cluster { session_public_key: dev.session_public_key()?, ..cluster };
        let text = toml::to_string(&cluster).context(Exit::Error, "writing cluster.toml")?;
        RealDisk
            .publish(&dev.cluster_file(), text.as_bytes())
            .context(Exit::Error, "writing cluster.toml")?;
        Ok(dev)
    }

    /// Takes the directory of a dev cluster that was made before.
    ///
    /// # Errors
    /// Exit code 3 when it holds none.
    pub fn load(dir: &Path) -> Result<DevDir, Failure> {
        let missing = || {
            let cure = "start one with `hongbao dev up --dir DIR`";
            Failure::new(Exit::NotFound, format!("{} holds no dev cluster; {cure}", dir.display()))
        };
        let dir = fs::canonicalize(dir).map_err(|_| missing())?;
        let dev = DevDir { dir };
        if dev.cluster_file().exists() { Ok(dev) } else { Err(missing()) }
    }

    /// Where `serve` finds everything.
    #[must_use]
    pub fn cluster_file(&self) -> PathBuf {
        self.dir.join("cluster.toml")
    }

    /// The key that signs session tokens.
    #[must_use]
    pub fn session_key_file(&self) -> PathBuf {
        self.dir.join("secrets/session.key")
    }

    /// Reads the cluster file.
    ///
    /// # Errors
    /// As [`Cluster::load`].
    pub fn cluster(&self) -> Result<Cluster, Failure> {
        Cluster::load(&self.cluster_file())
    }

    /// The process of a node, if it runs.
    ///
    /// # Errors
    /// When the list of processes cannot be read.
    pub fn running(&self, node: NodeId) -> Result<Option<u32>, Failure> {
        let pid = self.processes()?.pids.get(&node).copied();
        Ok(pid.filter(|pid| process::is_node(*pid, &self.cluster_file(), node)))
    }

    /// All nodes that run.
    ///
    /// # Errors
    /// When the list of processes cannot be read.
    pub fn all_running(&self) -> Result<Vec<(NodeId, u32)>, Failure> {
        let processes = self.processes()?;
        let is_ours = |(node, pid): &(NodeId, u32)| process::is_node(*pid, &self.cluster_file(), *node);
        Ok(processes.pids.into_iter().filter(is_ours).collect())
    }

    /// Starts a node; its output goes to `DIR/<node>/log`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&self, cluster: &Cluster, node: NodeId) -> Result<(), Failure> {
        if let Some(before) = self.processes()?.pids.get(&node) {
            process::await_end(*before, ENDED_WITHIN);
        }
        let data_dir = &cluster.node(node)?.data_dir;
        fs::create_dir_all(data_dir).context(Exit::Error, format!("making {}", data_dir.display()))?;
        let log = OpenOptions::new().create(true).append(true).open(data_dir.join("log"));
        let log = log.context(Exit::Error, format!("opening the log of {node}"))?;
        let errors = log.try_clone().context(Exit::Error, "sharing the log")?;
        let program = std::env::current_exe().context(Exit::Error, "finding this program")?;
        let child = Command::new(program)
            .arg("serve")
            .arg("--cluster")
            .arg(self.cluster_file())
            .args(["--node", &node.to_string()])
            .env(WORKERS, workers(cluster.nodes.len()).to_string())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0) // An interrupt at the terminal ends the command, not the cluster.
            .spawn()
            .context(Exit::Error, format!("starting {node}"))?;
        let mut processes = self.processes()?;
        processes.pids.insert(node, child.id());
        self.write_processes(&processes)
    }

    /// Forgets all processes, after they were ended.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget_processes(&self) -> Result<(), Failure> {
        self.write_processes(&Processes::default())
    }

    /// The last lines of a node's log, for error messages.
    #[must_use]
    pub fn log_tail(&self, node: NodeId) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(self.dir.join(node.to_string()).join("log"))?;
            let len = file.metadata()?.len();
            file.seek(SeekFrom::Start(len.saturating_sub(2_000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"))
    }

    fn processes(&self) -> Result<Processes, Failure> {
        match fs::read(self.dir.join("dev.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).context(Exit::Error, "reading dev.json"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Processes::default()),
            Err(error) => Err(Failure::new(Exit::Error, format!("reading dev.json: {error}"))),
        }
    }

    fn write_processes(&self, processes: &Processes) -> Result<(), Failure> {
        let bytes = serde_json::to_vec_pretty(processes).context(Exit::Error, "writing dev.json")?;
        RealDisk.publish(&self.dir.join("dev.json"), &bytes).context(Exit::Error, "writing dev.json")
    }

    fn check_base_port(&self, asked: Option<u16>) -> Result<(), Failure> {
        let Some(asked) = asked else { return Ok(()) };
        let made_with = self.cluster()?.nodes.first().map(|node| node.peers.clone()).unwrap_or_default();
        if made_with.ends_with(&format!(":{asked}")) {
            return Ok(());
        }
        let message = format!("{} was made with {made_with}; leave --base-port out", self.dir.display());
        Err(Failure::new(Exit::Conflict, message))
    }

    fn fresh_cluster(&self, base_port: u16) -> Result<Cluster, Failure> {
        let mut nodes = Vec::new();
        for (at, name) in NODES.iter().enumerate() {
            let at = u16::try_from(at).expect("three nodes");
            let first =
                base_port.checked_add(at * PORTS_PER_NODE).filter(|p| *p <= u16::MAX - PORTS_PER_NODE);
            let first = first
                .ok_or_else(|| Failure::new(Exit::Usage, format!("--base-port {base_port} is too high")))?;
            nodes.push(Node {
                id: name.parse().expect("a node name"),
                data_dir: PathBuf::from(name),
                peers: format!("127.0.0.1:{first}"),
                edge: format!("127.0.0.1:{}", first + 1),
                admin: format!("127.0.0.1:{}", first + 3),
                etcd: format!("127.0.0.1:{}", first + 4),
            });
        }
        Ok(Cluster {
            name: "dev".to_owned(),
            id: Some(format!(
                "dev-{}",
                hex(&rng::secret_bytes().context(Exit::Error, "naming the cluster")?[..8])
            )),
            session_public_key: String::new(),
            admin_token_file: Some(PathBuf::from("secrets/admin.token")),
            history_key_file: Some(PathBuf::from("secrets/history.key")),
            kv: Kv::default(),
            queue: Queue::default(),
            raft: Raft::default(),
            access: Access { claim_grace_ms: 1_500, ..Access::default() },
            nodes,
        })
    }

    fn write_secrets(&self) -> Result<(), Failure> {
        let folder = self.dir.join("secrets");
        fs::create_dir_all(&folder).context(Exit::Error, "making the secrets folder")?;
        let session = SigningKey::generate().context(Exit::Error, "making the session key")?;
        session.publish(&self.session_key_file()).context(Exit::Error, "writing the session key")?;
        let admin = rng::secret_bytes().context(Exit::Error, "making the admin token")?;
        let history = rng::secret_bytes().context(Exit::Error, "making the history key")?;
        publish_secret(&folder.join("history.key"), hex(&history).as_bytes())
            .context(Exit::Error, "writing the history key")?;
        publish_secret(&folder.join("admin.token"), hex(&admin).as_bytes())
            .context(Exit::Error, "writing the admin token")
    }

    fn session_public_key(&self) -> Result<String, Failure> {
        let key = SigningKey::load(&RealDisk, &self.session_key_file());
        let key = key.context(Exit::Error, "reading the session key")?;
        Ok(key.verifying_key().to_text())
    }
}

/// Worker threads for each of so many nodes that share this machine, unless its user has decided. More than their
/// share of the processors only wake each other.
fn workers(nodes: usize) -> usize {
    let chosen = std::env::var(WORKERS).ok().and_then(|text| text.parse().ok());
    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    chosen.unwrap_or_else(|| processors().div_ceil(nodes.max(1)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
