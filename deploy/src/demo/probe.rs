//! Writes to every group of the KV and to every partition of the queue all the time, and remembers
//! what was acknowledged when.
//!
//! The KV's probes write keys of their own. The queue's probes put nothing into it that would have
//! to be settled: they enqueue again what a user's open put there before, which takes the same way
//! through the log.
//!
//! Invariant: each probe key is written by one task with rising numbers, so at the end its value must
//! be at least the last acknowledged one; a queue that accepts an acknowledged opening as new has
//! lost it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kvsvr::api::{DataKey, DataOp, Kv, KvError, Unit, UnitOutcome};
use parking_lot::Mutex;
use queue::api::{Enqueued, NewMessage, Queue};
use world::{Clock, UnixMs};

/// Pause between two writes of a probe.
const PAUSE: Duration = Duration::from_millis(5);
/// Pause between two enqueues of a probe: less often, because users' opens wait in the same line.
const QUEUE_PAUSE: Duration = Duration::from_millis(20);
/// Where probes write.
const PREFIX: &str = "probe/demo/";
/// Partition keys tried until every data group has one.
const PARTITIONS_TRIED_MAX: u32 = 10_000;

/// What one probe saw.
#[derive(Clone, Debug)]
pub struct Trace {
    /// `system`, `data N` or `queue N`.
    pub group: String,
    /// Which of the two.
    pub of: Of,
    /// Each acknowledged write: when it left and when the answer came.
    pub acked: Vec<(UnixMs, UnixMs)>,
    /// The last acknowledged number.
    pub last_acked: u64,
    /// The number found at the end; of a queue the last acknowledged one, unless it forgot.
    pub found: Option<u64>,
}

/// What a probe writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A group of the KV.
    Kv,
    /// A partition of the queue.
    Queue,
}

/// For each partition an acknowledged opening's key, once there is one: the crowd fills it in.
pub type Witnesses = Arc<Mutex<BTreeMap<u32, Bytes>>>;

#[derive(Clone)]
enum Target {
    System(String),
    Data(DataKey),
}

/// Probes at work.
pub struct Probes {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Trace>>,
}

impl Probes {
    /// Starts one probe for each group and partition.
    #[must_use]
    pub fn start(
        kv: &Arc<dyn Kv>,
        (queue, partitions): (&Arc<dyn Queue>, u32),
        witnesses: &Witnesses,
        clock: &Arc<dyn Clock>,
    ) -> Probes {
        let stop = Arc::new(AtomicBool::new(false));
        let mut targets = vec![("system".to_owned(), Target::System(format!("{PREFIX}system")))];
        for group in 0..kv.data_groups() {
            let partition = partition_in(group, kv.data_groups());
            let key = Bytes::from(format!("{PREFIX}{group}"));
            targets.push((format!("data {}", group + 1), Target::Data(DataKey { partition, key })));
        }
        let tasks = targets.into_iter().map(|(group, target)| {
            tokio::spawn(run(group, target, Arc::clone(kv), Arc::clone(clock), Arc::clone(&stop)))
        });
        let mut tasks: Vec<_> = tasks.collect();
        for partition in 0..partitions {
            let (queue, witnesses) = (Arc::clone(queue), Arc::clone(witnesses));
            let probe = run_queue(partition, queue, witnesses, Arc::clone(clock), Arc::clone(&stop));
            tasks.push(tokio::spawn(probe));
        }
        Probes { tasks, stop }
    }

    /// Ends the probes and reads back what they wrote.
    pub async fn finish(self) -> Vec<Trace> {
        self.stop.store(true, Ordering::SeqCst);
        let mut traces = Vec::new();
        for task in self.tasks {
            match task.await {
                Ok(trace) => traces.push(trace),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        traces
    }
}

/// The first write that left after `moment` and was acknowledged, in the slowest of all groups of
/// one kind that had acknowledged one before: milliseconds after `moment`. `None` when a group
/// acknowledged nothing any more, or there was none.
#[must_use]
pub fn writable_again_ms(traces: &[Trace], of: Of, moment: UnixMs) -> Option<u64> {
    let mut slowest = None;
    let alive = |trace: &&Trace| trace.of == of && trace.acked.iter().any(|(asked, _)| *asked < moment);
    for trace in traces.iter().filter(alive) {
        let first =
            trace.acked.iter().filter(|(asked, _)| moment <= *asked).map(|(_, acked)| *acked).min()?;
        let after = u64::try_from(first.since(moment).as_millis()).unwrap_or(u64::MAX);
        slowest = slowest.max(Some(after));
    }
    slowest
}

async fn run(
    group: String,
    target: Target,
    kv: Arc<dyn Kv>,
    clock: Arc<dyn Clock>,
    stop: Arc<AtomicBool>,
) -> Trace {
    let mut trace = Trace { group, of: Of::Kv, acked: Vec::new(), last_acked: 0, found: None };
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let asked = clock.now();
        if write(&*kv, &target, number).await.is_ok() {
            trace.acked.push((asked, clock.now()));
            trace.last_acked = number;
        }
        tokio::time::sleep(PAUSE).await;
    }
    trace.found = read(&*kv, &target).await.ok().flatten();
    trace
}

async fn run_queue(
    partition: u32,
    queue: Arc<dyn Queue>,
    witnesses: Witnesses,
    clock: Arc<dyn Clock>,
    stop: Arc<AtomicBool>,
) -> Trace {
    let group = format!("queue {partition}");
    let mut trace = Trace { group, of: Of::Queue, acked: Vec::new(), last_acked: 0, found: Some(0) };
    while !stop.load(Ordering::SeqCst) {
        let witness = witnesses.lock().get(&partition).cloned();
        if let Some(key) = witness {
            let body = Bytes::from_static(b"probe");
            let again = NewMessage { key: key.clone(), dedup_id: key, body, delay: Duration::ZERO };
            let asked = clock.now();
            match queue.enqueue(vec![again]).await.pop() {
                Some(Ok(Enqueued::Duplicate { .. })) => {
                    trace.acked.push((asked, clock.now()));
                    trace.last_acked += 1;
                    trace.found = trace.found.map(|found| found + 1);
                }
                // It was acknowledged before, and is gone.
                Some(Ok(Enqueued::New)) => trace.found = None,
                Some(Err(_)) | None => {}
            }
        }
        tokio::time::sleep(QUEUE_PAUSE).await;
    }
    trace
}

async fn write(kv: &dyn Kv, target: &Target, number: u64) -> Result<(), KvError> {
    let value = Bytes::copy_from_slice(&number.to_be_bytes());
    match target {
        Target::System(key) => kv.put(key.as_bytes(), &value).await.map(|_| ()),
        Target::Data(key) => {
            let ops = vec![DataOp::Put { key: key.key.clone(), value }];
            let unit = Unit { partition: key.partition.clone(), ops };
            match kv.write(vec![unit]).await.pop() {
                Some(Ok(UnitOutcome::Done)) => Ok(()),
                Some(Ok(UnitOutcome::Conflict { .. })) => {
                    Err(KvError::Refused("a put cannot conflict".to_owned()))
                }
                Some(Err(error)) => Err(error),
                None => Err(KvError::Unknown("no answer".to_owned())),
            }
        }
    }
}

async fn read(kv: &dyn Kv, target: &Target) -> Result<Option<u64>, KvError> {
    let value = match target {
        Target::System(key) => kv.get(key.as_bytes()).await?.map(|pair| pair.value),
        Target::Data(key) => kv.read(vec![key.clone()]).await?.pop().flatten(),
    };
    Ok(value.and_then(|value| value.as_ref().try_into().ok().map(u64::from_be_bytes)))
}

/// A partition key that falls into this data group.
fn partition_in(group: u32, groups: u32) -> Bytes {
    for candidate in 0..PARTITIONS_TRIED_MAX {
        let partition = Bytes::copy_from_slice(&candidate.to_be_bytes());
        if kvsvr::route::data_group(&partition, groups) == group {
            return partition;
        }
    }
    unreachable!("{PARTITIONS_TRIED_MAX} keys over {groups} groups miss none")
}
