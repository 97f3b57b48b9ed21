//! `hongbao bench batch`: many operations in one request to a data group, through our own client.
//!
//! Each operation is a unit of its own: it is decided and answered by itself, and they share one entry of the
//! log. Or they are ingested: one sorted file a request, all of it or nothing, named in the log by its hash.
//! With `--dir` the processor time of the members is told too, which a busy machine does not change.
//!
//! Not here: the control group, which `bench kv` measures.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use kvsvr::api::{DataKey, DataOp, IngestOutcome, Kv, Unit, UnitOutcome};
use serde::Serialize;
use world::rng;

use super::load::{LoadArgs, Measured, closed_loop};
use super::processes::{Processes, own_cpu};
use crate::cli::target::Target;
use crate::clients;
use crate::failure::{Context, Exit, Failure};
use crate::output::{Format, grouped, print};

/// Keys each client writes in turn.
const KEYS_PER_CLIENT: u64 = 100_000;
/// Operations of a request, at most, that is not an ingest.
const OPS_MAX: u32 = 4_096;

/// What each operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Op {
    /// Sets a key whatever it holds.
    Put,
    /// Sets a key that must not exist: it is looked up first. The keys are new in every run.
    Insert,
    /// Sets all keys of a request, none of which may exist with another value, or none of them. They are new
    /// in every run.
    Ingest,
}

/// See the module.
#[derive(Clone, Debug, Args)]
pub struct BatchArgs {
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: Target,
    /// What each operation does
    #[arg(long, value_enum, default_value_t = Op::Put)]
    op: Op,
    /// Operations in each request; more than 4,096 only for ingests
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=40_000))]
    ops: u32,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
struct Batched {
    /// Operations in each request.
    ops_per_request: u32,
    /// Operations answered with success, each second.
    ops_per_second: f64,
    /// Processor time of all members, for one operation.
    members_cpu_us: Option<f64>,
    /// Processor time of this client.
    client_cpu_us: f64,
    /// The requests they came in.
    requests: Measured,
}

impl Batched {
    fn lines(&self) -> String {
        let members = self.members_cpu_us.map_or("?".to_owned(), |us| format!("{us:.1}"));
        format!(
            "{} operations a second, {} a request; processor time each: members {members} us, client {:.1} us\n{}",
            grouped(self.ops_per_second as u64),
            self.ops_per_request,
            self.client_cpu_us,
            self.requests.line()
        )
    }
}

/// Runs the load and prints what it measured.
///
/// # Errors
/// When nothing succeeded, or a member ended meanwhile.
pub async fn run(args: BatchArgs, format: Format) -> Result<(), Failure> {
    if args.ops > OPS_MAX && args.op != Op::Ingest {
        let most = format!("a request has at most {OPS_MAX} operations (--ops), unless they are ingested");
        return Err(Failure::new(Exit::Usage, most));
    }
    let connected = args.target.connect()?;
    let processes = args.target.dir.as_deref().map(Processes::of).transpose()?;
    let members_cpu = || processes.as_ref().map(Processes::cpu).transpose();
    let kv: Arc<dyn Kv> = Arc::new(clients::kv(&connected.cluster, &connected.net, None));
    let (cpu, own) = (members_cpu()?, own_cpu()?);
    let requests = measure(&args, kv).await?;
    let (cpu_after, own_after) = (members_cpu()?, own_cpu()?);
    let ops = requests.ops * u64::from(args.ops);
    let us_each = |took: Duration| took.as_micros() as f64 / ops.max(1) as f64;
    let batched = Batched {
        ops_per_request: args.ops,
        ops_per_second: requests.ops_per_second * f64::from(args.ops),
        members_cpu_us: cpu_after.zip(cpu).map(|(after, before)| us_each(after - before)),
        client_cpu_us: us_each(own_after - own),
        requests,
    };
    print(format, &batched, Batched::lines)?;
    batched.requests.into_result()
}

async fn measure(args: &BatchArgs, kv: Arc<dyn Kv>) -> Result<Measured, Failure> {
    let run = rng::secret_bytes().context(Exit::Error, "drawing the run's id")?;
    let run = match args.op {
        Op::Put => 0,
        Op::Insert | Op::Ingest => u64::from_be_bytes(*run.first_chunk().expect("32 bytes hold eight")),
    };
    let value = Bytes::from(vec![b'x'; args.load.size as usize]);
    let (op, ops) = (args.op, u64::from(args.ops));
    let measured = closed_loop("data batch", &args.load, |client| {
        let (kv, value) = (Arc::clone(&kv), value.clone());
        // All units of a request go to one group; clients are spread over the groups.
        let partition = Bytes::from(format!("bench/{client:05}"));
        move |request| {
            let pairs: Vec<(Bytes, Bytes)> = (0..ops)
                .map(|number| {
                    let number = request * ops + number;
                    let number = if op == Op::Put { number % KEYS_PER_CLIENT } else { number };
                    let key = Bytes::from(format!("bench/{run:016x}/{client:05}/{number:010}"));
                    (key, value.clone())
                })
                .collect();
            let (kv, partition) = (Arc::clone(&kv), partition.clone());
            async move {
                match op {
                    Op::Ingest => ingest(&*kv, &partition, pairs).await,
                    Op::Put | Op::Insert => write(&*kv, &partition, op, pairs).await,
                }
            }
        }
    });
    Ok(measured.await)
}

async fn write(kv: &dyn Kv, partition: &Bytes, op: Op, pairs: Vec<(Bytes, Bytes)>) -> Result<(), String> {
    let unit = |(key, value)| {
        let op = match op {
            Op::Put => DataOp::Put { key, value },
            Op::Insert | Op::Ingest => DataOp::InsertIfAbsent { key, value },
        };
        Unit { partition: partition.clone(), ops: vec![op] }
    };
    for outcome in kv.write(pairs.into_iter().map(unit).collect()).await {
        match outcome.map_err(|error| error.to_string())? {
            UnitOutcome::Done => {}
            UnitOutcome::Conflict { .. } => return Err("the key exists".to_owned()),
        }
    }
    Ok(())
}

async fn ingest(kv: &dyn Kv, partition: &Bytes, pairs: Vec<(Bytes, Bytes)>) -> Result<(), String> {
    let pair = |(key, value)| (DataKey { partition: partition.clone(), key }, value);
    match kv.ingest(pairs.into_iter().map(pair).collect()).await.map_err(|error| error.to_string())? {
        IngestOutcome::Done { .. } => Ok(()),
        IngestOutcome::Conflict { .. } => Err("the key exists".to_owned()),
    }
}
