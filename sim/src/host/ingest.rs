//! Clients that ingest sorted files into the data groups, some of them again, some that must be refused.
//!
//! Invariant: all pairs of a file share a partition, so that it is one file for the KV too; no two clients
//! share a prefix.
//!
//! Not here: judging (`oracle::ingests`).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvsvr::api::{DataKey, IngestOutcome, Kv, KvError};
use rand::RngExt;
use world::rng::Stream;

use crate::board::Board;
use crate::history::ingest::{IngestContents, IngestFile, Told};

/// What all files' keys begin with.
const PREFIX: &str = "load/";
/// Pause before a final scan that found nobody is repeated.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Pairs of a page of the final scan.
const PAGE_PAIRS: usize = 1_000;

/// One client.
pub struct IngestClient {
    /// Its number.
    pub number: u32,
    /// The KV, through a client of its own.
    pub kv: Arc<dyn Kv>,
    /// Its choices.
    pub chance: Stream,
    /// Where it records.
    pub board: Arc<Board>,
}

impl IngestClient {
    /// Works until it is sent home.
    pub async fn run(mut self) {
        for name in 0.. {
            if self.board.going_home() {
                return;
            }
            let file = self.draw(name);
            let place = {
                let mut files = self.board.ingests.lock();
                files.0.push(file.clone());
                files.0.len() - 1
            };
            let told = self.bring(&file).await;
            self.board.ingests.lock().0[place].told = told;
            if told == Told::Done && self.chance.random_ratio(1, 3) {
                self.contradict(&file).await;
            }
            tokio::time::sleep(Duration::from_millis(self.chance.random_range(200..=1_500))).await;
        }
    }

    /// A file; some are larger than a piece of an attachment, so that they go in more than one.
    fn draw(&mut self, name: u64) -> IngestFile {
        let large = self.chance.random_ratio(1, 30);
        let value_len = if large {
            self.chance.random_range(250_000..=500_000)
        } else {
            self.chance.random_range(0..=900)
        };
        IngestFile {
            prefix: format!("{PREFIX}{}/{name}/", self.number),
            pairs: if large { 3 } else { self.chance.random_range(1..=30) },
            value_len,
            told: Told::Unknown,
        }
    }

    /// Ingests a file, at times more often than needed.
    async fn bring(&mut self, file: &IngestFile) -> Told {
        let mut told = Told::Not;
        for _ in 0..self.chance.random_range(1..=3) {
            let outcome = self.ingest(pairs(file)).await;
            tracing::info!(target: "sim::ingest", client = self.number, file = file.prefix, pairs = file.pairs, ?outcome);
            told = match (outcome, told) {
                (Ok(IngestOutcome::Done { .. }), _) => Told::Done,
                // Nobody else writes these keys.
                (Ok(IngestOutcome::Conflict { .. }), _) => panic!("a conflict with nobody: {}", file.prefix),
                (Err(KvError::Refused(_) | KvError::Unavailable(_)), before) => before,
                (Err(KvError::Unknown(_)), Told::Done) => Told::Done,
                (Err(KvError::Unknown(_)), _) => Told::Unknown,
            };
            if told == Told::Done && self.chance.random_bool(0.5) {
                break;
            }
        }
        told
    }

    /// Ingests a file of which one key is another file's and has another value: nothing of it may be written.
    async fn contradict(&mut self, file: &IngestFile) {
        let prefix = format!("{PREFIX}x{}", &file.prefix[PREFIX.len()..]);
        let against = IngestFile { prefix, told: Told::Not, ..file.clone() };
        let mut all = pairs(&against);
        let (key, _) = file.pair(self.chance.random_range(0..file.pairs));
        // One file for the KV: the partition of the file that it contradicts.
        let partition = partition(file);
        for (key, _) in &mut all {
            key.partition = partition.clone();
        }
        all.push((DataKey { partition, key: key.clone() }, Bytes::from_static(b"another")));
        self.board.ingests.lock().0.push(against);
        let outcome = self.ingest(all).await;
        tracing::info!(target: "sim::ingest", client = self.number, file = file.prefix, contradicted = ?outcome);
        match outcome {
            Ok(IngestOutcome::Conflict { key: named, .. }) => {
                assert!(named == key, "the conflict is at {key:?}, not at {named:?}");
                self.board.happened("ingest-conflict");
            }
            // Judged at the end: nothing of it may be there.
            Ok(IngestOutcome::Done { .. }) | Err(_) => {}
        }
    }

    async fn ingest(&self, pairs: Vec<(DataKey, Bytes)>) -> Result<IngestOutcome, KvError> {
        // Two moments: it counts as an operation.
        self.board.moment();
        let outcome = self.kv.ingest(pairs).await;
        self.board.moment();
        outcome
    }
}

fn partition(file: &IngestFile) -> Bytes {
    Bytes::from(file.prefix.clone())
}

fn pairs(file: &IngestFile) -> Vec<(DataKey, Bytes)> {
    let pair = |number| {
        let (key, value) = file.pair(number);
        (DataKey { partition: partition(file), key }, value)
    };
    (0..file.pairs).map(pair).collect()
}

/// Reads what is there when everybody has gone home. Repeats until somebody answers.
pub async fn final_scan(kv: &dyn Kv, board: &Board) {
    let mut contents = IngestContents::new();
    for group in 0..kv.data_groups() {
        let mut after: Option<Bytes> = None;
        loop {
            match kv.scan(group, PREFIX.as_bytes(), after.as_deref(), PAGE_PAIRS).await {
                Ok(page) => {
                    let Some((last, _)) = page.last() else { break };
                    after = Some(last.clone());
                    contents.extend(page);
                }
                Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            }
        }
    }
    tracing::info!(target: "sim::ingest", pairs = contents.len(), "final scan");
    board.ingests.lock().1 = Some(contents);
}
