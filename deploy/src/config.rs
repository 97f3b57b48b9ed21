//! `cluster.toml`: one file that describes all zones and nodes of a cluster.
//!
//! Invariant: unknown keys are errors, and a value that cannot work is refused with the line's key,
//! the value and the cure before anything starts. Secrets are never here, only paths to them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kvsvr::quota::QUOTA_BYTES_DEFAULT;
use serde::{Deserialize, Serialize};
use world::{GroupId, NodeId, ZoneId};

use crate::failure::{Context, Exit, Failure};

/// The control group belongs to the clients of the etcd API. Data groups follow it.
pub const CONTROL_GROUP: GroupId = GroupId(0);
/// The cluster's own records: zones, claims, the event.
pub const SYSTEM_GROUP: GroupId = GroupId(99);
/// The queue's partitions begin here.
pub const QUEUE_GROUPS_FROM: u32 = 100;
/// Data groups there may be.
pub const DATA_GROUPS_MAX: u32 = 64;
/// Queue partitions there may be.
pub const PARTITIONS_MAX: u32 = 64;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Shown by `status`.
    pub name: String,
    /// What the disks of this cluster are marked with, so that no node starts on another cluster's.
    /// Without it the name is. Cannot change once the cluster holds data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Checks session tokens.
    pub session_public_key: String,
    /// What operators must present, in a file; without it the admin endpoints are open to whoever
    /// reaches them.
    #[serde(default)]
    pub admin_token_file: Option<PathBuf>,
    /// Authenticates the claim histories users carry, in a file: the same on every node.
    #[serde(default)]
    pub history_key_file: Option<PathBuf>,
    /// The KV.
    #[serde(default)]
    pub kv: Kv,
    /// The queue.
    #[serde(default)]
    pub queue: Queue,
    /// Consensus.
    #[serde(default)]
    pub raft: Raft,
    /// Access nodes.
    #[serde(default)]
    pub access: Access,
    /// Every node, one for each zone at least.
    #[serde(rename = "node")]
    pub nodes: Vec<Node>,
}

/// The KV.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kv {
    /// Raft groups for data, beside the control group. Cannot change once the cluster holds data.
    pub data_groups: u32,
    /// Bytes that the keys of etcd's clients and their history may take, before alarm NOSPACE is raised; 0
    /// for no bound. The same on every node.
    pub quota_bytes: u64,
}

/// The queue's shape. Cannot change once the cluster holds data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Raft groups that messages are spread over.
    pub partitions: u32,
    /// Messages not yet acked beyond which producers are told to retry later.
    pub high_water_messages: u64,
}

/// Timing and log of consensus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raft {
    /// A leader shows that it lives this often.
    pub heartbeat_ms: u64,
    /// A follower waits at least this long, after the lease, before it stands for election.
    pub election_min_ms: u64,
    /// The lease, and the longest such wait.
    pub election_max_ms: u64,
    /// A snapshot is taken after this many log entries.
    pub snapshot_every_entries: u64,
    /// Log entries kept although a snapshot covers them, for members that are a little behind.
    pub keep_entries: u64,
}

/// How access nodes issue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// Records reserved with one fsync; at most so many are skipped after a crash.
    pub reserve_records: u32,
    /// How long after a slot's start the next holder waits for the home node's claim.
    pub claim_grace_ms: u64,
    /// How long before a slot's start files may be claimed.
    pub claim_lead_ms: u64,
    /// Packets a node may issue in one second.
    pub quota_per_second: u32,
    /// A user who shakes faster than this is throttled.
    pub user_interval_ms: u64,
    /// Opens a node handles at once; more are shed.
    pub opens_in_flight_max: usize,
}

/// One machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Zone letter and number: `a1`.
    pub id: NodeId,
    /// Everything the node keeps. Relative paths start at the file's folder.
    pub data_dir: PathBuf,
    /// Consensus, native KV and queue: for the other nodes.
    pub peers: String,
    /// Shake and open: for users.
    pub edge: String,
    /// Status and operations: for operators.
    pub admin: String,
    /// The etcd v3 API: for programs.
    pub etcd: String,
}

impl Default for Kv {
    fn default() -> Kv {
        Kv { data_groups: 2, quota_bytes: QUOTA_BYTES_DEFAULT }
    }
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { partitions: 2, high_water_messages: 10_000_000 }
    }
}

impl Default for Raft {
    fn default() -> Raft {
        Raft {
            heartbeat_ms: 50,
            election_min_ms: 150,
            election_max_ms: 300,
            snapshot_every_entries: 20_000,
            keep_entries: 5_000,
        }
    }
}

impl Default for Access {
    fn default() -> Access {
        Access {
            reserve_records: 256,
            claim_grace_ms: 2_000,
            claim_lead_ms: 1_000,
            quota_per_second: 50_000,
            user_interval_ms: 100,
            opens_in_flight_max: 1_024,
        }
    }
}

impl Cluster {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Exit code 2, naming the file, the key and the cure.
    pub fn load(path: &Path) -> Result<Cluster, Failure> {
        let text =
            std::fs::read_to_string(path).context(Exit::Usage, format!("reading {}", path.display()))?;
        let mut cluster: Cluster = toml::from_str(&text).context(Exit::Usage, path.display())?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for node in &mut cluster.nodes {
            node.data_dir = folder.join(&node.data_dir);
        }
        cluster.admin_token_file = cluster.admin_token_file.map(|file| folder.join(file));
        cluster.history_key_file = cluster.history_key_file.map(|file| folder.join(file));
        cluster
            .validate()
            .map_err(|wrong| Failure::new(Exit::Usage, format!("{}: {wrong}", path.display())))?;
        Ok(cluster)
    }

    /// Checks every value; [`Cluster::load`] does so by itself.
    ///
    /// # Errors
    /// A sentence that names the key, the value and the cure.
    pub fn validate(&self) -> Result<(), String> {
        let within = |what: &str, value: u64, least: u64, most: u64| {
            let fits = least <= value && value <= most;
            fits.then_some(()).ok_or_else(|| format!("{what} = {value}: set it between {least} and {most}"))
        };
        within("kv.data_groups", u64::from(self.kv.data_groups), 1, u64::from(DATA_GROUPS_MAX))?;
        within("kv.quota_bytes", self.kv.quota_bytes, 0, 1 << 40)?;
        within("queue.partitions", u64::from(self.queue.partitions), 1, u64::from(PARTITIONS_MAX))?;
        within("raft.heartbeat_ms", self.raft.heartbeat_ms, 10, 10_000)?;
        within("raft.election_min_ms", self.raft.election_min_ms, 2 * self.raft.heartbeat_ms, 60_000)?;
        within("raft.election_max_ms", self.raft.election_max_ms, self.raft.election_min_ms + 1, 120_000)?;
        within("raft.snapshot_every_entries", self.raft.snapshot_every_entries, 1, 10_000_000)?;
        within("raft.keep_entries", self.raft.keep_entries, 0, 10_000_000)?;
        within("access.reserve_records", u64::from(self.access.reserve_records), 2, 65_536)?;
        within("access.opens_in_flight_max", self.access.opens_in_flight_max as u64, 1, 1_000_000)?;
        if ticket::sign::VerifyingKey::parse(&self.session_public_key).is_err() {
            return Err("session_public_key: expected the public half of the session key, as text".to_owned());
        }
        if self.disk_mark().is_empty() || self.disk_mark().len() > 128 {
            return Err("id and name: give the cluster one of 1 to 128 bytes".to_owned());
        }
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for node in &self.nodes {
            if !ids.insert(node.id) {
                return Err(format!("node {}: listed twice; give each machine its own id", node.id));
            }
            for address in [&node.peers, &node.edge, &node.admin, &node.etcd] {
                if address
                    .rsplit_once(':')
                    .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
                {
                    return Err(format!("node {}: {address:?} is not a host:port address", node.id));
                }
                if !addresses.insert(address.clone()) {
                    return Err(format!("node {}: {address} is used twice", node.id));
                }
            }
        }
        if self.zones().len() != 3 {
            return Err(format!(
                "the nodes stand in {} zones: a data centre has exactly 3",
                self.zones().len()
            ));
        }
        Ok(())
    }

    /// What the disks of this cluster are marked with.
    #[must_use]
    pub fn disk_mark(&self) -> &str {
        self.id.as_deref().unwrap_or(&self.name)
    }

    /// The zones that have nodes, in order.
    #[must_use]
    pub fn zones(&self) -> BTreeSet<ZoneId> {
        self.nodes.iter().map(|node| node.id.zone()).collect()
    }

    /// Whether this zone is one of the cluster's. Asked before anything is sent about it.
    ///
    /// # Errors
    /// Exit code 3, naming the zones there are.
    pub fn check_zone(&self, zone: ZoneId) -> Result<(), Failure> {
        let zones = self.zones();
        if zones.contains(&zone) {
            return Ok(());
        }
        let known: Vec<String> = zones.iter().map(ToString::to_string).collect();
        let message = format!("no zone {zone} in cluster.toml; there are {}", known.join(", "));
        Err(Failure::new(Exit::NotFound, message))
    }

    /// The node with this id.
    ///
    /// # Errors
    /// Exit code 3, naming the nodes there are.
    pub fn node(&self, id: NodeId) -> Result<&Node, Failure> {
        self.nodes.iter().find(|node| node.id == id).ok_or_else(|| {
            let known: Vec<String> = self.nodes.iter().map(|node| node.id.to_string()).collect();
            Failure::new(
                Exit::NotFound,
                format!("no node {id} in cluster.toml; there are {}", known.join(", ")),
            )
        })
    }

    /// Every Raft group of the cluster.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupId> {
        let data = (1..=self.kv.data_groups).map(GroupId);
        let partitions = (0..self.queue.partitions).map(|number| GroupId(QUEUE_GROUPS_FROM + number));
        [SYSTEM_GROUP, CONTROL_GROUP].into_iter().chain(data).chain(partitions).collect()
    }

    /// The nodes that hold a copy of every group: the first of each zone, one voter a zone.
    #[must_use]
    pub fn voters(&self) -> Vec<(NodeId, String)> {
        let mut voters: Vec<(NodeId, String)> = Vec::new();
        let mut nodes: Vec<&Node> = self.nodes.iter().collect();
        nodes.sort_by_key(|node| node.id);
        for node in nodes {
            if voters.iter().all(|(voter, _)| voter.zone() != node.id.zone()) {
                voters.push((node.id, node.peers.clone()));
            }
        }
        voters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(extra: &str) -> String {
        let key = ticket::sign::SigningKey::from_bytes([7; 32]).verifying_key().to_text();
        // A key file ends with a line break; a TOML string must not.
        let mut text = format!("name = \"t\"\nsession_public_key = \"{}\"\n{extra}\n", key.trim_end());
        for (at, id) in ["a1", "b1", "c1"].iter().enumerate() {
            text.push_str(&format!(
                "[[node]]\nid = \"{id}\"\ndata_dir = \"{id}\"\npeers = \"h:{p}0\"\nedge = \"h:{p}1\"\nadmin = \"h:{p}3\"\netcd = \"h:{p}4\"\n",
                p = 700 + at
            ));
        }
        text
    }

    fn check(extra: &str, expected: &str) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("cluster.toml");
        std::fs::write(&path, text(extra)).expect("write");
        match Cluster::load(&path) {
            Ok(_) => assert_eq!(expected, "", "{extra:?} was accepted"),
            Err(failure) => {
                assert_eq!(failure.exit, Exit::Usage);
                assert!(!expected.is_empty() && failure.message.contains(expected), "{failure}");
            }
        }
    }

    #[test]
    fn a_plain_file_is_accepted_and_what_cannot_work_is_not() {
        check("", "");
        check("nmae = 1", "unknown field");
        check("[raft]\nelection_min_ms = 20", "raft.election_min_ms = 20");
        check("[kv]\ndata_groups = 0", "kv.data_groups = 0");
        check("[access]\nreserve_records = 1", "access.reserve_records = 1");
        check(
            "[[node]]\nid = \"a1\"\ndata_dir = \"x\"\npeers=\"h:1\"\nedge=\"h:2\"\nadmin=\"h:3\"\netcd=\"h:4\"",
            "listed twice",
        );
        check(
            "[[node]]\nid = \"d1\"\ndata_dir = \"x\"\npeers=\"h:1\"\nedge=\"h:2\"\nadmin=\"h:3\"\netcd=\"h:4\"",
            "exactly 3",
        );
        check(
            "[[node]]\nid = \"a2\"\ndata_dir = \"x\"\npeers=\"h\"\nedge=\"h:2\"\nadmin=\"h:3\"\netcd=\"h:4\"",
            "host:port",
        );
    }
}
