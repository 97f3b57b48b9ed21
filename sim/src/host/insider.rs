//! An insider who has the build's keys: makes packets up that are sealed as they should be, and puts
//! them into the queue as if a user had opened them.
//!
//! Only the plan knows that they are nobody's: every signature and tag is right.
//!
//! Invariant: what is made up is written down before it is sent.
//!
//! Not here: what must come of it, which is nothing (oracle/i6_only_the_plan.rs).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy::distribute::BuildDir;
use deploy::failure::{Context, Exit, Failure};
use queue::api::{NewMessage, Queue};
use rand::RngExt;
use ticket::id::{KeyId, UserId};
use ticket::keys::BuildSecret;
use ticket::mint::MintKeyring;
use ticket::money::Fen;
use ticket::opening::Opening;
use ticket::record::Flags;
use world::Clock;
use world::rng::Stream;

use crate::board::Board;

/// The first of the accomplices: no user has such a number.
const USERS_FROM: u64 = 1_000_000;
/// Serials that no planner deals.
const SERIALS_FROM: u64 = 1 << 40;
/// Pause before something is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Tries to put one packet into the queue.
const TRIES: u32 = 60;

/// The insider.
pub struct Insider {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// A watch.
    pub clock: Arc<dyn Clock>,
    /// Choices.
    pub chance: Stream,
    /// What is common to the run.
    pub board: Arc<Board>,
}

impl Insider {
    /// Makes so many packets up, one after the other, while the event runs.
    ///
    /// # Errors
    /// When the build's key cannot be read.
    pub async fn run(mut self, build: &BuildDir, packets: u32) -> Result<(), Failure> {
        for number in 0..packets {
            let pause_ms = self.chance.random_range(500..4_000);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            let opening = self.make_up(build, number)?;
            self.board.made_up.lock().insert(opening.packet);
            let id = Bytes::copy_from_slice(&opening.packet.to_bytes());
            let body = Bytes::copy_from_slice(&opening.encode());
            let message = NewMessage { key: id.clone(), dedup_id: id, body, delay: Duration::ZERO };
            for _ in 0..TRIES {
                let answers = self.queue.enqueue(vec![message.clone()]).await;
                if answers.into_iter().all(|answer| answer.is_ok()) {
                    tracing::info!(target: "sim::insider", packet = %opening.packet, "made up");
                    self.board.happened("packets-made-up");
                    break;
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
        Ok(())
    }

    fn make_up(&mut self, build: &BuildDir, number: u32) -> Result<Opening, Failure> {
        let manifest = &build.manifest;
        let secret = BuildSecret::load(&*build.disk, &build.path.join("keys").join("build.key"));
        let secret = secret.context(Exit::Error, "reading the build's key")?;
        let file = &manifest.files[self.chance.random_range(0..manifest.files.len())].entry;
        let batch = &manifest.batches[self.chance.random_range(0..manifest.batches.len())];
        let key = KeyId(self.chance.random_range(1..=manifest.key_count));
        let amount = Fen::new(self.chance.random_range(1..=500));
        let sealer = MintKeyring::new(&secret, manifest.build, manifest.key_count).sealer(key);
        let serial = SERIALS_FROM + u64::from(number);
        let flags = Flags::new(batch.kind, false);
        let record = sealer.seal(file.slot, batch.batch, serial, amount, flags);
        Ok(Opening {
            packet: record.packet_id(manifest.build),
            user: UserId(USERS_FROM + u64::from(number)),
            amount,
            slot: file.slot,
            file: file.no,
            // At a place that another record has, or past the end.
            index: self.chance.random_range(0..file.count * 2),
            key,
            record,
            issued_ms: self.clock.now(),
            opened_ms: self.clock.now(),
            node: file.home,
        })
    }
}
