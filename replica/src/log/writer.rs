//! The one writer of the log engine.
//!
//! ```text
//!   requests --> [queue] --> gather: all that is there --> one batch --> one durable point
//!                                                                            |
//!                callbacks in the order of the queue  <----------------------+
//! ```
//!
//! Two drivers run the same rounds: a thread of its own in production, because fsync blocks; a
//! task in the simulator, where a sync takes as long as the harness says and nothing may block.
//!
//! Invariant: no completion is reported before the round it belongs to is durable; after a failed
//! round every completion is that failure (the engine never recovers from one). Every round has a durable
//! point of its own, and the next begins after it: what a power cut can take apart is the last round alone,
//! and nobody was told of it (`engine::rocks::wal` rests on this).
//!
//! Not here: what the batches hold.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use world::mutant::{Mutant, armed};

use crate::engine::{Batch, Engine, EngineError};
use crate::types::TypeConfig;

/// Bytes gathered into one round at most, so that a backlog does not become one giant batch.
const ROUND_BYTES_MAX: usize = 16 << 20;

/// Bytes that wait for a round somebody waits for; beyond, they make one themselves.
const LAZY_BYTES_MAX: usize = 1 << 20;

/// Waits as long as a sync takes; asked once per durable point by the simulator's driver.
pub type Pause = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Indexes below this are durable. Set by the writer in queue order, so that a truncation lowers
/// it before what is appended after it raises it again.
pub(crate) type DurableNext = Arc<AtomicU64>;

/// How the writer has worked since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriterStats {
    /// Durable points: fsyncs.
    pub syncs: u64,
    /// Requests that waited for one.
    pub requests: u64,
}

/// Whom to tell, and what becomes true, when a request is durable.
pub(super) enum Done {
    /// Nobody waits; the request needs no durable point of its own.
    Lazy,
    /// Entries below the number are durable; openraft is told through its callback.
    Appended(IOFlushed<TypeConfig>, DurableNext, u64),
    /// Somebody waits; entries from the number on, if any, are gone.
    Awaited(oneshot::Sender<io::Result<()>>, Option<(DurableNext, u64)>),
}

enum Message {
    Write(Batch, Done),
    Stop,
}

#[derive(Default)]
struct Counters {
    syncs: AtomicU64,
    requests: AtomicU64,
}

/// Access to the writer; clones share it. It stops when told to, or when the last is dropped.
#[derive(Clone)]
pub struct LogWriter {
    queue: UnboundedSender<Message>,
    counters: Arc<Counters>,
    thread: Arc<Mutex<Option<std::thread::JoinHandle<()>>>>,
}

impl LogWriter {
    /// Starts a writer on a thread of its own.
    ///
    /// # Errors
    /// [`EngineError::Failed`] when the operating system gives no thread.
    pub fn start_thread(engine: Arc<dyn Engine>) -> Result<LogWriter, EngineError> {
        let (writer, mut queue) = LogWriter::unstarted();
        let counters = Arc::clone(&writer.counters);
        let thread = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || {
                let mut round = Round::default();
                loop {
                    let ended = round.gather(queue.blocking_recv(), &mut queue);
                    if round.is_due(ended) {
                        std::mem::take(&mut round).write_blocking(&*engine, &counters);
                    }
                    if ended {
                        return;
                    }
                }
            })
            .map_err(|error| EngineError::Failed(format!("no thread for the log: {error}")))?;
        *writer.thread.lock() = Some(thread);
        Ok(writer)
    }

    /// Starts a writer as a task of the current runtime. `pause` is awaited between a write and
    /// its durable point: what a crash then finds is not durable.
    #[must_use]
    pub fn start_task(engine: Arc<dyn Engine>, pause: Pause) -> LogWriter {
        let (writer, mut queue) = LogWriter::unstarted();
        let counters = Arc::clone(&writer.counters);
        tokio::spawn(async move {
            let mut round = Round::default();
            loop {
                let ended = round.gather(queue.recv().await, &mut queue);
                if round.is_due(ended) {
                    std::mem::take(&mut round).write_pausing(&*engine, &counters, &pause).await;
                }
                if ended {
                    return;
                }
            }
        });
        writer
    }

    /// Finishes what is queued, refuses what comes after, and waits for the thread to end.
    pub fn stop(&self) {
        // The writer may have stopped before: then nobody receives, and that is fine.
        let _ = self.queue.send(Message::Stop);
        if let Some(thread) = self.thread.lock().take() {
            let ended = thread.join();
            assert!(ended.is_ok(), "the log writer panicked");
        }
    }

    /// How the writer has worked so far.
    #[must_use]
    pub fn stats(&self) -> WriterStats {
        WriterStats {
            syncs: self.counters.syncs.load(Ordering::Relaxed),
            requests: self.counters.requests.load(Ordering::Relaxed),
        }
    }

    /// Queues a batch behind everything queued before.
    pub(super) fn submit(&self, batch: Batch, done: Done) -> io::Result<()> {
        self.queue.send(Message::Write(batch, done)).map_err(|_| stopped())
    }

    /// Queues a batch and returns when it is durable.
    pub(super) async fn write(&self, batch: Batch, cut: Option<(DurableNext, u64)>) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        self.submit(batch, Done::Awaited(sender, cut))?;
        receiver.await.map_err(|_| stopped())?
    }

    fn unstarted() -> (LogWriter, UnboundedReceiver<Message>) {
        // Unbounded, and yet bounded: openraft limits what it has in flight per group, and every
        // other operation is awaited.
        let (queue, receiver) = unbounded_channel();
        (LogWriter { queue, counters: Arc::default(), thread: Arc::default() }, receiver)
    }
}

fn stopped() -> io::Error {
    io::Error::other("the log writer has stopped")
}

/// Everything that shares one durable point.
#[derive(Default)]
struct Round {
    batch: Batch,
    dones: Vec<Done>,
    /// Somebody waits for it.
    awaited: bool,
}

impl Round {
    /// Takes `first` and whatever else is queued by now. Answers whether nothing will come any more.
    fn gather(&mut self, first: Option<Message>, queue: &mut UnboundedReceiver<Message>) -> bool {
        let ended = first.is_none();
        let mut next = first;
        while let Some(message) = next {
            match message {
                Message::Write(batch, done) => self.add(batch, done),
                // Whoever sends later learns that nobody receives; what was sent before is still in
                // the queue and is taken below.
                Message::Stop => queue.close(),
            }
            if self.batch.size_bytes() >= ROUND_BYTES_MAX {
                break;
            }
            next = queue.try_recv().ok();
        }
        ended
    }

    fn add(&mut self, batch: Batch, done: Done) {
        self.batch.append(batch);
        self.awaited |= !matches!(done, Done::Lazy);
        self.dones.push(done);
    }

    /// What nobody waits for goes with what somebody waits for.
    fn is_due(&self, ended: bool) -> bool {
        let alone = ended || self.batch.size_bytes() >= LAZY_BYTES_MAX;
        self.awaited || (alone && !self.dones.is_empty())
    }

    fn write_blocking(mut self, engine: &dyn Engine, counters: &Counters) {
        let batch = std::mem::take(&mut self.batch);
        let result = engine.write_durable(batch);
        self.finish(result, counters);
    }

    async fn write_pausing(mut self, engine: &dyn Engine, counters: &Counters, pause: &Pause) {
        let mut result = engine.write(std::mem::take(&mut self.batch));
        if armed(Mutant::AckBeforeFsync) {
            self.finish(result, counters);
            pause().await;
            let _ = engine.flush();
            return;
        }
        if result.is_ok() {
            pause().await;
            result = engine.flush();
        }
        self.finish(result, counters);
    }

    /// Reports the outcome, in the order of the queue.
    fn finish(self, result: Result<(), EngineError>, counters: &Counters) {
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &result {
            tracing::error!(%error, "the log cannot be written; this node must stop");
        }
        for done in self.dones {
            counters.requests.fetch_add(1, Ordering::Relaxed);
            let outcome = result.clone().map_err(io::Error::from);
            match done {
                Done::Lazy => {}
                Done::Appended(callback, durable_next, next) => {
                    if outcome.is_ok() {
                        durable_next.store(next, Ordering::Release);
                    }
                    callback.io_completed(outcome);
                }
                Done::Awaited(sender, cut) => {
                    if let (Ok(()), Some((durable_next, next))) = (&outcome, cut) {
                        durable_next.store(next, Ordering::Release);
                    }
                    // The group may have been shut down meanwhile; the write stands all the same.
                    let _ = sender.send(outcome);
                }
            }
        }
    }
}
