//! A three-zone cluster on this machine: one process a zone, its own directory and ports.
//!
//! ```text
//!   DIR/cluster.toml       what `serve` reads
//!   DIR/dev.json           process ids, so that a later command finds them
//!   DIR/secrets/           session key, admin token (0600)
//!   DIR/a1 b1 c1/          data and log of each node
//! ```
//! Invariant: `up` may be repeated: it starts what is not running and leaves the rest alone. Only
//! processes this directory started are ever ended.
//!
//! Not here: anything a production cluster would use.

pub mod layout;
pub mod process;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::{Deserialize, Serialize};
use world::NodeId;
use world::disk::Disk;
use world::net::{Net, TcpNet};

use crate::config::Cluster;
use crate::failure::{Context, Exit, Failure};
use crate::http::HttpClient;
use layout::DevDir;

/// How long `up` waits until every node serves.
const SERVING_WITHIN: Duration = Duration::from_secs(60);
/// How long `down` waits before it insists.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// One node as `dev status` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// `a1`.
    pub id: NodeId,
    /// `a`.
    pub zone: world::ZoneId,
    /// Absent when the node is not running.
    pub pid: Option<u32>,
    /// Whether it answers that it serves.
    pub serving: bool,
    /// Shake and open, `host:port`.
    pub edge: String,
    /// Operations, `host:port`.
    pub admin: String,
    /// The etcd API, `host:port`.
    pub etcd: String,
    /// Transport, native KV and queue, `host:port`.
    pub peers: String,
    /// Data and log.
    pub data_dir: String,
}

/// What `dev up|status` print.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DevStatus {
    /// In order of their ids.
    pub nodes: Vec<NodeStatus>,
}

/// Starts what is not running; returns when all three zones serve.
///
/// # Errors
/// When a port is taken, a process ends at once, or the zones do not serve in time.
pub async fn up(dir: &Path, base_port: Option<u16>) -> Result<DevStatus, Failure> {
    let dev = DevDir::create(dir, base_port)?;
    let cluster = dev.cluster()?;
    for node in &cluster.nodes {
        if dev.running(node.id)?.is_none() {
            dev.start(&cluster, node.id)?;
        }
    }
    wait_until_serving(&dev, &cluster).await?;
    status(dir).await
}

/// Starts one node again.
///
/// # Errors
/// As [`up`], for this node; it need not serve yet when this returns.
pub fn start_node(dir: &Path, node: NodeId) -> Result<(), Failure> {
    let dev = DevDir::load(dir)?;
    let cluster = dev.cluster()?;
    match dev.running(node)? {
        Some(_) => Ok(()),
        None => dev.start(&cluster, node),
    }
}

/// Ends one node with SIGKILL, as a power cut would.
///
/// # Errors
/// When it does not run.
pub fn kill_node(dir: &Path, node: NodeId) -> Result<(), Failure> {
    let dev = DevDir::load(dir)?;
    let pid =
        dev.running(node)?.ok_or_else(|| Failure::new(Exit::NotFound, format!("{node} does not run")))?;
    process::signal(pid, rustix::process::Signal::KILL)
}

/// Ends all nodes gently, and not so gently those that do not listen.
///
/// # Errors
/// When the directory holds no dev cluster, or a process survives.
pub async fn down(dir: &Path) -> Result<(), Failure> {
    let dev = DevDir::load(dir)?;
    let running = dev.all_running()?;
    for (_, pid) in &running {
        process::signal(*pid, rustix::process::Signal::TERM)?;
    }
    let mut waited = Duration::ZERO;
    let step = Duration::from_millis(50);
    while waited < STOP_WITHIN && running.iter().any(|(_, pid)| process::lives(*pid)) {
        tokio::time::sleep(step).await;
        waited += step;
    }
    for (node, pid) in running.iter().filter(|(_, pid)| process::lives(*pid)) {
        tracing::warn!(%node, pid, "did not stop by itself");
        process::signal(*pid, rustix::process::Signal::KILL)?;
    }
    dev.forget_processes()
}

/// Who runs where.
///
/// # Errors
/// When the directory holds no dev cluster.
pub async fn status(dir: &Path) -> Result<DevStatus, Failure> {
    let dev = DevDir::load(dir)?;
    let cluster = dev.cluster()?;
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let mut nodes = Vec::new();
    for node in &cluster.nodes {
        let pid = dev.running(node.id)?;
        let serving = pid.is_some() && serves(&net, &node.admin).await;
        nodes.push(NodeStatus {
            id: node.id,
            zone: node.id.zone(),
            pid,
            serving,
            edge: node.edge.clone(),
            admin: node.admin.clone(),
            etcd: node.etcd.clone(),
            peers: node.peers.clone(),
            data_dir: node.data_dir.display().to_string(),
        });
    }
    Ok(DevStatus { nodes })
}

/// Whether the node behind this admin address says that it serves.
pub async fn serves(net: &Arc<dyn Net>, admin: &str) -> bool {
    let mut client = HttpClient::new(Arc::clone(net), admin);
    let answer = client.send(Method::GET, "/v1/health", Bytes::new(), Duration::from_secs(1)).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

async fn wait_until_serving(dev: &DevDir, cluster: &Cluster) -> Result<(), Failure> {
    let net: Arc<dyn Net> = Arc::new(TcpNet);
    let step = Duration::from_millis(50);
    let mut waited = Duration::ZERO;
    for node in &cluster.nodes {
        while !serves(&net, &node.admin).await {
            if dev.running(node.id)?.is_none() {
                let tail = dev.log_tail(node.id);
                return Err(Failure::new(
                    Exit::Error,
                    format!("{} ended while starting; its log ends with:\n{tail}", node.id),
                ));
            }
            if waited >= SERVING_WITHIN {
                let tail = dev.log_tail(node.id);
                return Err(Failure::new(
                    Exit::Unavailable,
                    format!(
                        "{} does not serve after {SERVING_WITHIN:?}; its log ends with:\n{tail}",
                        node.id
                    ),
                ));
            }
            tokio::time::sleep(step).await;
            waited += step;
        }
    }
    Ok(())
}

/// Reads the admin token of a cluster, if it has one.
///
/// # Errors
/// When the file it names cannot be read.
pub fn admin_token(disk: &dyn Disk, cluster: &Cluster) -> Result<Option<String>, Failure> {
    let Some(path) = &cluster.admin_token_file else { return Ok(None) };
    let doing = || format!("reading {}", path.display());
    let text = disk.read(path).context(Exit::Denied, doing())?;
    let text = String::from_utf8(text).context(Exit::Usage, doing())?;
    Ok(Some(text.trim().to_owned()))
}
