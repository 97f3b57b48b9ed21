//! `hongbao bench kv`: puts and linearizable gets through the etcd API.
//!
//! With `--against` both sides are measured in turn, round by round, so that whatever else the
//! machine does meets both.
//!
//! Not here: our own channel settings. They ping idle connections more often than etcd's servers
//! allow, and both are to be measured by the same client.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use kvsvr::client::KvStream;
use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::{PutRequest, RangeRequest};
use tonic::transport::{Channel, Endpoint};

use super::compare::Compared;
use super::load::{LoadArgs, Measured, closed_loop};
use crate::cli::target::Target;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, print};

/// How long dialling may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long one operation may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Connections when none are asked for: three to each member.
const CONNECTIONS: u32 = 9;
/// Keys of each client when none are asked for.
const KEYS: u64 = 1_000;

/// What each operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Writes a key.
    Put,
    /// Writes a key, by one of many requests in a message (`kvsvr.proto`, KvStream; not at etcd).
    StreamPut,
    /// Reads a key, linearizably.
    Get,
    /// Reads a key from whatever the asked member has applied.
    SerializableGet,
}

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct KvArgs {
    #[command(flatten)]
    workload: Workload,
    #[command(flatten)]
    target: Target,
    /// Addresses of etcd endpoints, `host:port`, instead of a cluster of ours
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["dir", "cluster"])]
    endpoints: Vec<String>,
    /// Addresses of another cluster's etcd endpoints, measured in turn with the first
    #[arg(long, value_delimiter = ',')]
    against: Vec<String>,
    /// With --against: rounds of each side
    #[arg(long, default_value_t = 3, requires = "against", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

/// What is asked of the endpoints.
#[derive(Clone, Debug, Args)]
pub struct Workload {
    #[command(flatten)]
    pub load: LoadArgs,
    /// What each operation does
    #[arg(long, value_enum, default_value_t = Op::Put)]
    pub op: Op,
    /// Connections, spread over the endpoints
    #[arg(long, default_value_t = CONNECTIONS, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub connections: u32,
    /// Keys each client writes or reads in turn
    #[arg(long, default_value_t = KEYS, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub keys: u64,
}

impl Workload {
    /// Puts by so many clients.
    pub fn puts(load: LoadArgs) -> Workload {
        Workload { load, op: Op::Put, connections: CONNECTIONS, keys: KEYS }
    }

    /// Runs the load.
    ///
    /// # Errors
    /// When an endpoint cannot be reached.
    pub async fn measure(&self, endpoints: &[String]) -> Result<Measured, Failure> {
        let mut channels = Vec::new();
        for number in 0..self.connections as usize {
            channels.push(connect(&endpoints[number % endpoints.len()]).await?);
        }
        let value = Bytes::from(vec![b'x'; self.load.size as usize]);
        let what = match self.op {
            Op::Put => "kv put",
            Op::StreamPut => "kv stream put",
            Op::Get => "kv get",
            Op::SerializableGet => "kv serializable get",
        };
        let streams: Vec<KvStream> =
            channels.iter().map(|channel| KvStream::over(channel.clone(), ANSWER_WITHIN, None)).collect();
        let measured = closed_loop(what, &self.load, |client| {
            let kv = KvClient::new(channels[client as usize % channels.len()].clone());
            let stream = streams[client as usize % streams.len()].clone();
            let (value, op, keys) = (value.clone(), self.op, self.keys);
            move |operation| {
                let (mut kv, stream, value) = (kv.clone(), stream.clone(), value.clone());
                let key = Bytes::from(format!("bench/{client:05}/{:08}", operation % keys));
                async move {
                    let asked = async {
                        match op {
                            Op::Put => {
                                kv.put(PutRequest { key, value, ..PutRequest::default() }).await.map(drop)
                            }
                            Op::StreamPut => {
                                stream.put(PutRequest { key, value, ..PutRequest::default() }).await.map(drop)
                            }
                            Op::Get | Op::SerializableGet => {
                                let serializable = op == Op::SerializableGet;
                                let request = RangeRequest { key, serializable, ..RangeRequest::default() };
                                kv.range(request).await.map(drop)
                            }
                        }
                    };
                    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
                        Ok(answer) => answer.map_err(|status| status.message().to_owned()),
                        Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
                    }
                }
            }
        });
        Ok(measured.await)
    }
}

/// Runs the load at one side, or at two in turn.
///
/// # Errors
/// When no endpoint can be reached, or one side answered nothing.
pub async fn run(args: KvArgs, format: Format) -> Result<(), Failure> {
    let endpoints = match args.endpoints.is_empty() {
        false => args.endpoints.clone(),
        true => args.target.connect()?.cluster.nodes.into_iter().map(|node| node.etcd).collect(),
    };
    if args.against.is_empty() {
        let measured = args.workload.measure(&endpoints).await?;
        print(format, &measured, Measured::line)?;
        return measured.into_result();
    }
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let peer = args.workload.measure(&args.against).await?;
        let ours = args.workload.measure(&endpoints).await?;
        for side in [&peer, &ours] {
            side.clone().into_result()?;
        }
        rounds.push((ours, peer));
    }
    print(format, &Compared::of(rounds), Compared::lines)
}

/// A channel to an endpoint, as this module's head says.
pub(super) async fn connect(address: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .context(Exit::Usage, format!("{address} is not a host:port address"))?;
    let endpoint = endpoint.connect_timeout(CONNECT_WITHIN).tcp_nodelay(true);
    endpoint.connect().await.context(Exit::Unavailable, format!("connecting to {address}"))
}
