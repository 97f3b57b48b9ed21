//! `hongbao bench churn`: rounds of writing, overwriting and compacting, and what the members hold after each.
//!
//! ```text
//!   round:  every key written, then overwritten --> compaction at the newest revision --> memory, disk
//! ```
//! Disk must not grow from round to round: history is compacted, logs are purged behind snapshots.
//! One round without overwriting fills a store.
//!
//! Invariant: a figure is taken after the round's compaction was acknowledged and a moment for its work. A
//! transaction whose outcome is not known is made again: it puts the same values to the same keys.
//!
//! Not here: speed (`bench kv`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::request_op::Request;
use kvsvr::wire::etcdserverpb::{CompactionRequest, PutRequest, RequestOp, TxnRequest};
use serde::Serialize;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};
use world::clock::SystemClock;
use world::{Clock, NodeId};

use super::kv::connect;
use super::processes::{Holds, Processes};
use crate::dev::layout::DevDir;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, grouped, print, right, table};

/// Puts in one transaction.
const PUTS_PER_TXN: u64 = 100;
/// How often a transaction is made again while nobody leads, and the pause before.
const TRIES_MAX: u32 = 60;
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct ChurnArgs {
    /// The directory of a dev cluster that runs
    #[arg(long)]
    dir: PathBuf,
    /// Keys
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Bytes of each value
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    size: u32,
    /// How often each key is written in a round
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    writes: u32,
    /// Rounds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rounds: u32,
    /// Transactions under way
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    clients: u32,
    /// Keep all history
    #[arg(long)]
    no_compact: bool,
    /// How long the members may work on a compaction before they are looked at
    #[arg(long, default_value_t = 5)]
    settle: u64,
}

/// What the members held after a round.
#[derive(Clone, Debug, Serialize)]
struct Round {
    round: u32,
    /// Puts acknowledged so far.
    puts: u64,
    /// Time the round's writing took.
    seconds: f64,
    members: Vec<Holds>,
}

/// Does what the module says.
///
/// # Errors
/// When a write or compaction fails, or a member ends.
pub async fn run(args: ChurnArgs, format: Format) -> Result<(), Failure> {
    let cluster = DevDir::load(&args.dir)?.cluster()?;
    let processes = Processes::of(&args.dir)?;
    let mut channels = Vec::new();
    for node in &cluster.nodes {
        channels.push(connect(&node.etcd).await?);
    }
    let clock = SystemClock::new();
    let (mut rounds, mut puts) = (Vec::new(), 0);
    for round in 1..=args.rounds {
        let began = clock.uptime();
        let mut revision = 0;
        for pass in 0..args.writes {
            revision = write_all(&args, &channels, round, pass).await?;
            puts += args.keys;
        }
        let seconds = (clock.uptime() - began).as_secs_f64();
        if !args.no_compact {
            let compacted = compact(&channels, revision).await;
            compacted.context(Exit::Unavailable, format!("compacting at revision {revision}"))?;
        }
        tokio::time::sleep(Duration::from_secs(args.settle)).await;
        let members = processes.hold()?;
        let most = |of: fn(&Holds) -> u64| grouped(members.iter().map(of).max().unwrap_or(0) >> 20);
        eprintln!(
            "round {round}: {} puts so far; at most {} MiB of memory, {} MiB of log, {} MiB of state",
            grouped(puts),
            most(|holds| holds.rss_bytes),
            most(|holds| holds.log_bytes),
            most(|holds| holds.state_bytes)
        );
        rounds.push(Round { round, puts, seconds, members });
    }
    print(format, &rounds, |rounds| show(rounds))
}

/// Writes every key once; answers the newest revision.
async fn write_all(args: &ChurnArgs, channels: &[Channel], round: u32, pass: u32) -> Result<i64, Failure> {
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for client in 0..args.clients as usize {
        let (next, channel) = (Arc::clone(&next), channels[client % channels.len()].clone());
        let (keys, size) = (args.keys, args.size as usize);
        clients.spawn(async move {
            let mut kv = KvClient::new(channel);
            let mut newest = 0;
            loop {
                let first = next.fetch_add(PUTS_PER_TXN, Ordering::Relaxed);
                if keys <= first {
                    return Ok(newest);
                }
                let keys = first..(first + PUTS_PER_TXN).min(keys);
                newest = newest.max(write(&mut kv, &puts(keys, size, round, pass)).await?);
            }
        });
    }
    let mut newest = 0;
    while let Some(client) = clients.join_next().await {
        let done: Result<i64, Status> =
            client.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        newest = newest.max(done.context(Exit::Unavailable, "writing")?);
    }
    Ok(newest)
}

/// Makes a transaction, and again while it may not have been made; answers its revision.
async fn write(kv: &mut KvClient<Channel>, txn: &TxnRequest) -> Result<i64, Status> {
    let mut tries = 0;
    loop {
        tries += 1;
        match kv.txn(txn.clone()).await {
            Ok(answer) => return Ok(answer.into_inner().header.map_or(0, |header| header.revision)),
            Err(status) if tries < TRIES_MAX && again(status.code()) => {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(status) => return Err(status),
        }
    }
}

/// Compacts, and again while it may not have been done: what is compacted already cannot be compacted twice.
async fn compact(channels: &[Channel], revision: i64) -> Result<(), Status> {
    let mut tries = 0;
    loop {
        let channel = channels[tries as usize % channels.len()].clone();
        let request = CompactionRequest { revision, physical: true };
        match KvClient::new(channel).compact(request).await {
            Ok(_) => return Ok(()),
            Err(status) if 0 < tries && status.code() == Code::OutOfRange => return Ok(()),
            Err(status) if tries + 1 < TRIES_MAX && again(status.code()) => {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            Err(status) => return Err(status),
        }
        tries += 1;
    }
}

fn again(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded)
}

fn puts(keys: std::ops::Range<u64>, size: usize, round: u32, pass: u32) -> TxnRequest {
    let put = |key: u64| {
        let mut value = format!("{round}.{pass}.{key}.").into_bytes();
        value.resize(size, b'x');
        let (key, value) = (Bytes::from(format!("bench/churn/{key:010}")), Bytes::from(value));
        let request = Request::RequestPut(PutRequest { key, value, ..PutRequest::default() });
        RequestOp { request: Some(request) }
    };
    TxnRequest { success: keys.map(put).collect(), ..TxnRequest::default() }
}

fn show(rounds: &[Round]) -> String {
    let mut rows = table(&["round", "puts", "puts/s", "node", "memory MiB", "most", "log MiB", "state MiB"]);
    let mut before = 0;
    for Round { round, puts, seconds, members } in rounds {
        for Holds { node, rss_bytes, rss_max_bytes, log_bytes, state_bytes } in members {
            let figures =
                [*rss_bytes, *rss_max_bytes, *log_bytes, *state_bytes].map(|bytes| grouped(bytes >> 20));
            let node: &NodeId = node;
            let rate = (puts - before) as f64 / seconds;
            let mut cells =
                vec![right(round), right(grouped(*puts)), right(grouped(rate as u64)), right(node)];
            cells.extend(figures.map(right));
            rows.add_row(cells);
        }
        before = *puts;
    }
    rows.to_string()
}
