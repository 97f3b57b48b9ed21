//! `hongbao bench failover`: how long nobody can write when the leader's zone is ended with SIGKILL.
//!
//! ```text
//!   who leads? -> SIGKILL -----> both other zones acknowledged a put -> start it again -> all serve -> again
//!                    |<- measured ->|
//! ```
//! The leader of etcd's group is meant; its zone leads other groups as well, which follow by themselves.
//!
//! Invariant: a put counts only when it was sent after the kill, and both zones that are left must have taken
//! one.
//!
//! Not here: clusters whose processes are elsewhere: only a dev cluster's can be killed.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use futures_util::future::try_join_all;
use kvsvr::wire::etcdserverpb::cluster_client::ClusterClient;
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use kvsvr::wire::etcdserverpb::{MemberListRequest, PutRequest, StatusRequest};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use world::clock::SystemClock;
use world::{Clock, NodeId};

use super::kv::connect;
use super::times::Times;
use crate::config::{Cluster, Node};
use crate::dev::{self, layout::DevDir};
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};

/// A put is given up and sent again after this.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);
/// A cluster that takes no write for so long has not failed over.
const WRITABLE_WITHIN: Duration = Duration::from_secs(30);
/// Quiet between two kills, in which leaders move home.
const QUIET: Duration = Duration::from_millis(1_500);

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct FailoverArgs {
    /// The directory of a dev cluster that runs
    #[arg(long)]
    dir: PathBuf,
    /// How often the leader's zone is ended
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct FailedOver {
    kills: usize,
    /// Until both other zones had acknowledged a put.
    #[serde(flatten)]
    unwritable: Times,
}

impl FailedOver {
    fn line(&self) -> String {
        format!("{} kills of the leader's zone: {}", self.kills, self.unwritable.line())
    }
}

/// Kills and measures.
///
/// # Errors
/// When the cluster does not serve, before or after a kill.
pub async fn run(args: FailoverArgs, format: Format) -> Result<(), Failure> {
    let cluster = DevDir::load(&args.dir)?.cluster()?;
    let mut all_ms = Vec::new();
    for number in 0..args.kills {
        let leader = leader(&cluster).await?;
        let left: Vec<&Node> = cluster.nodes.iter().filter(|node| node.id != leader).collect();
        let clock = SystemClock::new();
        let writing = async {
            let killed = clock.uptime();
            dev::kill_node(&args.dir, leader)?;
            let through = left.iter().map(|node| acknowledged(&node.etcd, number));
            timeout(WRITABLE_WITHIN, try_join_all(through)).await.map_err(|_| never(leader))??;
            Ok::<Duration, Failure>(clock.uptime() - killed)
        };
        let took_ms = u64::try_from(writing.await?.as_millis()).unwrap_or(u64::MAX);
        eprintln!("{leader} ended: {took_ms} ms");
        all_ms.push(took_ms);
        dev::up(&args.dir, None).await?;
        sleep(QUIET).await;
    }
    let failed_over = FailedOver { kills: all_ms.len(), unwritable: Times::of(all_ms) };
    print(format, &failed_over, FailedOver::line)
}

fn never(leader: NodeId) -> Failure {
    let message =
        format!("{leader} was ended, and within {WRITABLE_WITHIN:?} not both other zones took a write");
    Failure::new(Exit::Unavailable, message)
}

/// Puts through one zone until one is acknowledged.
async fn acknowledged(endpoint: &str, number: u32) -> Result<(), Failure> {
    let kv = KvClient::new(connect(endpoint).await?);
    loop {
        let request = PutRequest {
            key: Bytes::from(format!("bench/failover/{endpoint}")),
            value: Bytes::from(number.to_string()),
            ..PutRequest::default()
        };
        let mut kv = kv.clone();
        if let Ok(Ok(_)) = timeout(ANSWER_WITHIN, kv.put(request)).await {
            return Ok(());
        }
        sleep(Duration::from_millis(1)).await;
    }
}

/// The node that leads etcd's group.
pub(super) async fn leader(cluster: &Cluster) -> Result<NodeId, Failure> {
    let node = cluster.nodes.first().ok_or_else(|| Failure::new(Exit::Usage, "no nodes".to_owned()))?;
    let channel = connect(&node.etcd).await?;
    let doing = || format!("asking {} who leads", node.id);
    let status = MaintenanceClient::new(channel.clone()).status(StatusRequest {}).await;
    let leader = status.context(Exit::Unavailable, doing())?.into_inner().leader;
    let members = ClusterClient::new(channel).member_list(MemberListRequest { linearizable: false }).await;
    let members = members.context(Exit::Unavailable, doing())?.into_inner().members;
    let name = members.into_iter().find(|member| member.id == leader).map(|member| member.name);
    let named = name.and_then(|name| name.parse().ok());
    named.ok_or_else(|| Failure::new(Exit::Unavailable, format!("{}: nobody leads", doing())))
}
