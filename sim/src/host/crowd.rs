//! The users' host: the demo's crowd, from the moment the event is active until it is sent home; and
//! those who come in a burst and leave again.
//!
//! Invariant: the crowd knows edge addresses and session tokens, nothing else.
//!
//! Not here: how users behave (`deploy::demo::crowd`).

use std::sync::Arc;
use std::time::Duration;

use deploy::demo::crowd::{Crowd, CrowdOptions, Memory};
use deploy::demo::probe::Witnesses;
use ticket::id::UserId;
use ticket::sign::SigningKey;
use tokio::task::JoinHandle;
use world::net::Net;
use world::{Clock, UnixMs};

use crate::board::Board;
use crate::fabric::clock::SimClock;
use crate::fabric::net::SimNet;
use crate::fabric::time::{self, EPOCH_MS};
use crate::knobs::Knobs;
use crate::mischief::Burst;

/// Users acting at the same time.
const WORKERS: usize = 6;
/// How often the board is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Session tokens last longer than any run.
const TOKEN_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Bounds of a burst, so that a run of one costs what a run may cost.
const BURST_USERS_MAX: u64 = 400;
const BURST_SHAKES_PER_SECOND_MAX: u32 = 300;
const BURST_WORKERS_MAX: usize = 24;

/// What a crowd is made of.
pub struct Town {
    /// Of the run.
    pub seed: u64,
    /// Its sizes.
    pub knobs: Knobs,
    /// Edge addresses, one for each node.
    pub edges: Vec<String>,
    /// Signs session tokens.
    pub session_key: SigningKey,
    /// What is common to the run.
    pub board: Arc<Board>,
}

/// Those who came in a burst.
struct Extra {
    crowd: Crowd,
    until_ms: u64,
}

impl Town {
    fn start(&self, first_user: u64, users: u64, workers: usize, shakes_per_second: u32, seed: u64) -> Crowd {
        let expires = UnixMs(EPOCH_MS).plus(TOKEN_FOR);
        let token = |user| ticket::token::issue(&self.session_key, UserId(user), expires);
        let options = CrowdOptions {
            first_user,
            users,
            greedy_one_in: self.knobs.greedy_one_in,
            workers,
            shakes_per_second,
            edges: self.edges.clone(),
            seed,
            partitions: self.knobs.partitions,
            witnesses: Witnesses::default(),
            trouble: Arc::clone(&self.board.mischief.devices),
        };
        let net: Arc<dyn Net> = Arc::new(SimNet);
        let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
        Crowd::start(options, (first_user..first_user + users).map(token).collect(), &net, &clock)
    }

    /// Those who come in a burst, beside those who are there.
    fn burst(&self, burst: Burst, number: u64) -> Extra {
        let times = burst.factor.saturating_sub(1).max(1);
        let knobs = &self.knobs;
        let users = (knobs.users * u64::from(times)).min(BURST_USERS_MAX);
        let workers = (WORKERS * times as usize).min(BURST_WORKERS_MAX);
        let rate = (knobs.shakes_per_second * times).min(BURST_SHAKES_PER_SECOND_MAX);
        tracing::info!(target: "sim::crowd", users, rate, "a burst of users");
        let crowd = self.start(knobs.users + 1, users, workers, rate, self.seed ^ (number << 32));
        Extra { crowd, until_ms: burst.until_ms }
    }

    /// Runs the crowd.
    ///
    /// # Errors
    /// Never; it is a host of turmoil's.
    pub async fn run(self) -> turmoil::Result {
        let board = Arc::clone(&self.board);
        while board.event.lock().is_none() && !board.going_home() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let crowd = self.start(1, self.knobs.users, WORKERS, self.knobs.shakes_per_second, self.seed);
        let mut bursts = board.mischief.bursts();
        let (mut extra, mut number): (Option<Extra>, u64) = (None, 0);
        let mut leaving: Vec<JoinHandle<Memory>> = Vec::new();
        while !board.going_home() {
            let now_ms = time::elapsed_ms();
            let changed = bursts.has_changed().unwrap_or(false);
            let over = |extra: &mut Extra| changed || extra.until_ms <= now_ms;
            if let Some(gone) = extra.take_if(over) {
                leaving.push(tokio::spawn(gone.crowd.finish()));
            }
            if changed {
                let burst = *bursts.borrow_and_update();
                if now_ms < burst.until_ms {
                    number += 1;
                    extra = Some(self.burst(burst, number));
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        leaving.extend(extra.map(|extra| tokio::spawn(extra.crowd.finish())));
        let mut memory = crowd.finish().await;
        for extra in leaving {
            let extra = extra.await?;
            board.count("burst-shakes", extra.shakes.values().sum());
            board.count("burst-opens", extra.acked.len() as u64);
            memory.merge(extra);
        }
        board.count("devices-failed", memory.crashed);
        board.count("requests-arrived-twice", memory.sent_twice);
        tracing::info!(target: "sim::crowd", acked = memory.acked.len(), shakes = ?memory.shakes, refused = ?memory.refused, unknown = memory.unknown, "went home");
        *board.memory.lock() = Some(memory);
        Ok(())
    }
}
