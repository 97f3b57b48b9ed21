//! `hongbao kv snapshot save|status|restore`: the keys of etcd's clients as one file, and a new cluster
//! made of it.
//!
//! ```text
//!   save      a member that has caught up --> file, its digest checked, whole or not at all
//!   restore   file, its digest checked --> DIR/cluster.toml under a new id, DIR/<node> for each voter
//! ```
//! Invariant: nothing is written before all of the file was checked; a directory appears whole or not at all,
//! and never where something is. The new cluster's id and disks are its own, so that none of its nodes
//! is ever taken for one of the cluster the snapshot came from.
//!
//! Not here: what the cluster keeps for itself (system group, data groups, queue). Money has its own way
//! back: plan, rows and journals; putting old rows beside newer tickets would pay twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use kvsvr::machine::control::ControlMachine;
use kvsvr::snapshot;
use kvsvr::wire::etcdserverpb::auth_client::AuthClient;
use kvsvr::wire::etcdserverpb::cluster_client::ClusterClient;
use kvsvr::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use kvsvr::wire::etcdserverpb::{AuthenticateRequest, MemberListRequest, SnapshotRequest};
use replica::host::Engines;
use replica::identity;
use replica::member_id::MemberId;
use replica::plant::Plant;
use serde::Serialize;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use world::clock::SystemClock;
use world::disk::{Disk, PartialDir, RealDisk};
use world::{Clock, rng};

use super::target::Target;
use crate::config::{CONTROL_GROUP, Cluster};
use crate::dev::layout::DevDir;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, grouped, print};
use crate::serve::storage::{RocksStorage, Storage};

/// How long a member may take to show that it has caught up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Write all keys of etcd's clients, their history, leases, users and alarms into a file
    Save(Save),
    /// Check a file and say what it holds
    Status {
        /// The file
        file: PathBuf,
    },
    /// Make the data directories of a new three-zone cluster that begins with what a file holds
    Restore(Restore),
}

/// `hongbao kv snapshot save`
#[derive(Debug, Args)]
pub struct Save {
    /// Where to; a file that is there is replaced
    file: PathBuf,
    #[command(flatten)]
    target: Target,
    /// name:password of a user with role root, when authentication is enabled
    #[arg(long, env = "HONGBAO_KV_USER", hide_env_values = true)]
    user: Option<String>,
}

/// `hongbao kv snapshot restore`
#[derive(Debug, Args)]
pub struct Restore {
    /// What `kv snapshot save` or `etcdctl snapshot save` (of this KV, not of etcd) wrote
    file: PathBuf,
    /// Where to make the cluster; not there yet, or empty
    #[arg(long)]
    dir: PathBuf,
    /// Take nodes, addresses, settings and secrets from this file; without it a dev cluster is made
    #[arg(long, conflicts_with = "base_port")]
    cluster: Option<PathBuf>,
    /// The first of the 30 ports of the dev cluster (7000 if not given)
    #[arg(long)]
    base_port: Option<u16>,
}

/// What a file holds.
#[derive(Serialize)]
struct Contents {
    file: PathBuf,
    bytes: u64,
    revision: i64,
    pairs: u64,
    /// From which node, when it was saved just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
}

#[derive(Serialize)]
struct Restored {
    dir: PathBuf,
    cluster_id: String,
    revision: i64,
    disks: Vec<String>,
}

/// Does what the command says.
///
/// # Errors
/// Exit code 3 when there is no such file, 4 when something is in the directory, 5 when the user may not, 6
/// when nobody answers, 8 when the file was altered or cut off.
pub async fn run(command: SnapshotCommand, format: Format) -> Result<(), Failure> {
    match command {
        SnapshotCommand::Save(args) => print(format, &save(&args).await?, show),
        SnapshotCommand::Status { file } => {
            let bytes = load(&file)?;
            let (revision, pairs) = check(&file, &bytes)?;
            print(format, &contents(&file, &bytes, revision, pairs.len()), show)
        }
        SnapshotCommand::Restore(args) => print(format, &restore(&args).await?, |restored| {
            format!(
                "{} holds cluster {} at revision {}. Its disks: {}.\nStart it as it is with `hongbao dev up`, or bring \
                 each node's directory and cluster.toml to its machine. Secrets, users' keys and addresses of clients \
                 are those of its cluster.toml",
                restored.dir.display(),
                restored.cluster_id,
                restored.revision,
                restored.disks.join(", ")
            )
        }),
    }
}

fn show(contents: &Contents) -> String {
    let Contents { file, bytes, revision, pairs, from } = contents;
    let from = from.as_ref().map(|node| format!(", from {node}")).unwrap_or_default();
    format!(
        "{}: revision {revision}, {} pairs, {} bytes, digest right{from}",
        file.display(),
        grouped(*pairs),
        grouped(*bytes)
    )
}

fn contents(file: &Path, bytes: &[u8], revision: i64, pairs: usize) -> Contents {
    Contents { file: file.to_owned(), bytes: bytes.len() as u64, revision, pairs: pairs as u64, from: None }
}

fn load(file: &Path) -> Result<Vec<u8>, Failure> {
    RealDisk.read(file).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let exit = if missing { Exit::NotFound } else { Exit::Error };
        Failure::new(exit, format!("reading {}: {error}", file.display()))
    })
}

fn check(file: &Path, bytes: &[u8]) -> Result<(i64, Vec<(Bytes, Bytes)>), Failure> {
    snapshot::read(bytes).context(Exit::Unverified, file.display())
}

async fn save(args: &Save) -> Result<Contents, Failure> {
    let connected = args.target.connect()?;
    let mut refusals = Vec::new();
    for (node, _) in connected.cluster.voters() {
        let address = &connected.cluster.node(node)?.etcd;
        let channel = world::net::channel(&connected.net, address).context(Exit::Usage, address)?;
        let bytes = match fetch(channel, args.user.as_deref()).await {
            Ok(bytes) => bytes,
            Err(status)
                if matches!(
                    status.code(),
                    Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
                ) =>
            {
                let cure = "name a user with role root: --user name:password";
                return Err(Failure::new(Exit::Denied, format!("{node}: {}; {cure}", status.message())));
            }
            Err(status) => {
                refusals.push(format!("{node}: {}", status.message()));
                continue;
            }
        };
        // What arrived is checked, not what was sent.
        let (revision, pairs) = check(&args.file, &bytes)?;
        let writing = format!("writing {}", args.file.display());
        RealDisk.publish(&args.file, &bytes).context(Exit::Error, writing)?;
        let contents = contents(&args.file, &bytes, revision, pairs.len());
        return Ok(Contents { from: Some(node.to_string()), ..contents });
    }
    Err(Failure::new(Exit::Unavailable, format!("no member gave a snapshot:\n{}", refusals.join("\n"))))
}

/// A snapshot that holds everything that was acknowledged before this was called.
async fn fetch(channel: Channel, user: Option<&str>) -> Result<Vec<u8>, Status> {
    let token = match user {
        None => None,
        Some(user) => {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            let request = AuthenticateRequest { name: name.to_owned(), password: password.to_owned() };
            Some(AuthClient::new(channel.clone()).authenticate(request).await?.into_inner().token)
        }
    };
    let caught_up = MemberListRequest { linearizable: true };
    let mut cluster = ClusterClient::new(channel.clone());
    let list = tokio::time::timeout(CAUGHT_UP_WITHIN, cluster.member_list(caught_up)).await;
    list.map_err(|_| Status::unavailable("it has not caught up in time"))??;
    let mut request = Request::new(SnapshotRequest {});
    if let Some(token) = token {
        let token = token.parse().map_err(|_| Status::internal("a token that is no text"))?;
        request.metadata_mut().insert("token", token);
    }
    let mut pieces = MaintenanceClient::new(channel).snapshot(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await? {
        bytes.extend_from_slice(&piece.blob);
    }
    Ok(bytes)
}

async fn restore(args: &Restore) -> Result<Restored, Failure> {
    let (revision, pairs) = check(&args.file, &load(&args.file)?)?;
    let making = || format!("making {}", args.dir.display());
    let in_the_way = || {
        let cure = "name a directory that is not there yet";
        Failure::new(Exit::Conflict, format!("{} is not empty: {cure}", args.dir.display()))
    };
    if args.dir.is_dir() {
        // Fails when something is in it.
        fs::remove_dir(&args.dir).map_err(|_| in_the_way())?;
    }
    let partial = PartialDir::create(&args.dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => in_the_way(),
        _ => Failure::new(Exit::Error, format!("{}: {error}", making())),
    })?;
    let cluster = describe(args, partial.path())?;
    let disks = plant(&cluster, &pairs).await?;
    partial.publish().context(Exit::Error, making())?;
    let disks = disks.into_iter().map(|disk| disk.to_string()).collect();
    let cluster_id = cluster.disk_mark().to_owned();
    Ok(Restored { dir: args.dir.clone(), cluster_id, revision, disks })
}

/// Writes `cluster.toml` of a new cluster into `dir`, and reads it.
fn describe(args: &Restore, dir: &Path) -> Result<Cluster, Failure> {
    let Some(file) = &args.cluster else {
        return DevDir::create(dir, args.base_port)?.cluster();
    };
    let mut cluster = Cluster::load(&fs::canonicalize(file).context(Exit::Usage, file.display())?)?;
    let number = rng::secret_bytes().context(Exit::Error, "naming the cluster")?;
    let number: String = number[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    cluster.id = Some(format!("{}-{number}", cluster.name));
    for node in &mut cluster.nodes {
        node.data_dir = PathBuf::from(node.id.to_string());
    }
    let text = toml::to_string(&cluster).context(Exit::Error, "writing cluster.toml")?;
    let path = dir.join("cluster.toml");
    RealDisk.publish(&path, text.as_bytes()).context(Exit::Error, "writing cluster.toml")?;
    Cluster::load(&path)
}

/// Fills the disks of all voters.
async fn plant(cluster: &Cluster, pairs: &[(Bytes, Bytes)]) -> Result<Vec<MemberId>, Failure> {
    let mut disks: Vec<(Engines, MemberId, String)> = Vec::new();
    for (node, address) in cluster.voters() {
        let dir = &cluster.node(node)?.data_dir;
        fs::create_dir_all(dir).context(Exit::Error, format!("making {}", dir.display()))?;
        let engines = RocksStorage.open(dir)?;
        let mark = cluster.disk_mark();
        let identity = identity::settle(&RealDisk, dir, mark, node, &*engines.log, &*engines.state)
            .context(Exit::Error, format!("marking {}", dir.display()))?;
        disks.push((engines, identity.member, address));
    }
    let voters: Vec<(MemberId, String)> =
        disks.iter().map(|(_, member, address)| (*member, address.clone())).collect();
    let now = SystemClock::new().now();
    for (engines, member, _) in &disks {
        let plant = Plant { group: CONTROL_GROUP, voters: &voters, pairs, now };
        plant.put(engines, ControlMachine).await.context(Exit::Error, format!("filling {member}"))?;
        engines.log_writer.stop();
    }
    Ok(voters.into_iter().map(|(member, _)| member).collect())
}
