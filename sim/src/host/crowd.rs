//! The users' host: the demo's crowd, from the moment the event is active until it is sent home.
//!
//! Invariant: the crowd knows edge addresses and session tokens, nothing else.
//!
//! Not here: how users behave (`deploy::demo::crowd`).

use std::sync::Arc;
use std::time::Duration;

use deploy::demo::crowd::{Crowd, CrowdOptions};
use deploy::demo::probe::Witnesses;
use ticket::id::UserId;
use ticket::sign::SigningKey;
use world::net::Net;
use world::{Clock, UnixMs};

use crate::board::Board;
use crate::fabric::clock::SimClock;
use crate::fabric::net::SimNet;
use crate::fabric::time::EPOCH_MS;
use crate::knobs::Knobs;

/// Users acting at the same time.
const WORKERS: usize = 6;
/// How often the board is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Session tokens last longer than any run.
const TOKEN_FOR: Duration = Duration::from_secs(24 * 3_600);

/// Runs the crowd.
pub async fn run(
    seed: u64,
    knobs: Knobs,
    edges: Vec<String>,
    session_key: SigningKey,
    board: Arc<Board>,
) -> turmoil::Result {
    while board.event.lock().is_none() && !board.going_home() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let expires = UnixMs(EPOCH_MS).plus(TOKEN_FOR);
    let tokens =
        (1..=knobs.users).map(|user| ticket::token::issue(&session_key, UserId(user), expires)).collect();
    let options = CrowdOptions {
        users: knobs.users,
        workers: WORKERS,
        shakes_per_second: knobs.shakes_per_second,
        edges,
        seed,
        partitions: knobs.partitions,
        witnesses: Witnesses::default(),
    };
    let net: Arc<dyn Net> = Arc::new(SimNet);
    let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
    let crowd = Crowd::start(options, tokens, &net, &clock);
    while !board.going_home() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    let memory = crowd.finish().await;
    tracing::info!(target: "sim::crowd", acked = memory.acked.len(), shakes = ?memory.shakes, refused = ?memory.refused, unknown = memory.unknown, "went home");
    *board.memory.lock() = Some(memory);
    Ok(())
}
