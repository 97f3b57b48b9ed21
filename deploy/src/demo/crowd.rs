//! The crowd: users who shake and open over HTTP, from outside the servers, and remember what they
//! were promised.
//!
//! ```text
//!   shake -> nothing | page | throttled        go on with the next user
//!         -> packet  -> open -> opened         remembered: user, packet, amount
//!                            -> 503 or silence unknown: the same ticket again, at another zone too
//!                            -> refused        counted by code
//! ```
//! A few of them are thieves: they alter a byte of a ticket, or open one that is somebody else's.
//! Devices may fail ([`Trouble`]): what they were doing and what they knew is gone, and they begin anew.
//!
//! Invariant: what is remembered as acknowledged was acknowledged: status 200 and a whole body.
//!
//! Not here: any knowledge of the servers but their edge addresses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::Method;
use rand::RngExt;
use serde::Deserialize;
use ticket::id::PacketId;
use world::Clock;
use world::net::Net;
use world::rng::{Seed, Stream};

use super::probe::Witnesses;
use super::trouble::{Luck, Trouble};
use crate::http::{Answer, ErrorBody, HttpClient, HttpError};

/// How long a user waits for one answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How long a user keeps trying to open one packet.
const OPEN_WITHIN: Duration = Duration::from_secs(20);
/// Pause before an open is repeated.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// One open in so many is preceded by a theft.
const THEFT_ONE_IN: u32 = 200;
/// The longest a worker sleeps before it looks again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// Where the streams begin that decide whose device fails and which request arrives twice.
const FATES: u64 = 1 << 32;

/// How the crowd behaves.
#[derive(Clone, Debug)]
pub struct CrowdOptions {
    /// The number of the first user.
    pub first_user: u64,
    /// Users, numbered from there.
    pub users: u64,
    /// One user in so many forgets what they were given and goes round the zones for more; 0 means
    /// nobody.
    pub greedy_one_in: u64,
    /// Users acting at the same time.
    pub workers: usize,
    /// Shakes a second, all together; the crowd slows down when the servers do.
    pub shakes_per_second: u32,
    /// Edge addresses, one for each node.
    pub edges: Vec<String>,
    /// Where the users' behaviour comes from.
    pub seed: u64,
    /// Partitions of the queue.
    pub partitions: u32,
    /// Where the first acknowledged open of each partition is told.
    pub witnesses: Witnesses,
    /// What their devices suffer.
    pub trouble: Arc<Trouble>,
}

/// An open that was acknowledged.
#[derive(Clone, Debug)]
pub struct Acked {
    /// Who opened.
    pub user: u64,
    /// Which packet.
    pub packet_id: String,
    /// What they were promised, in fen.
    pub amount_fen: u64,
}

/// What the crowd lived through.
#[derive(Debug)]
pub struct Memory {
    /// Every acknowledged open.
    pub acked: Vec<Acked>,
    /// Shakes by outcome, `unanswered` among them.
    pub shakes: BTreeMap<String, u64>,
    /// Opens refused for good, by code.
    pub refused: BTreeMap<String, u64>,
    /// Opens whose outcome stayed unknown.
    pub unknown: u64,
    /// Thefts tried.
    pub thefts: u64,
    /// Thefts that succeeded. Must be none.
    pub thefts_succeeded: u64,
    /// What thieves were told is theirs.
    pub loot: Vec<Acked>,
    /// Users who shook at least once.
    pub users_active: u64,
    /// Devices that failed in the middle of something.
    pub crashed: u64,
    /// Requests that were sent twice.
    pub sent_twice: u64,
    /// Opens sent twice that were told of two packets or two amounts. Must be none.
    pub told_otherwise: u64,
    /// Latency of answered shakes, microseconds.
    pub shake_us: Histogram<u64>,
    /// Latency of acknowledged opens, microseconds, retries included.
    pub open_us: Histogram<u64>,
}

/// Counters that a progress bar reads while the crowd is at work.
#[derive(Debug, Default)]
pub struct Progress {
    /// Shakes answered.
    pub shakes: AtomicU64,
    /// Opens acknowledged.
    pub opens: AtomicU64,
}

/// A crowd at work.
pub struct Crowd {
    /// Read at any time.
    pub progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    workers: Vec<tokio::task::JoinHandle<Memory>>,
}

struct Worker {
    options: Arc<CrowdOptions>,
    net: Arc<dyn Net>,
    clients: Vec<HttpClient>,
    clock: Arc<dyn Clock>,
    chance: Stream,
    fate: Stream,
    tokens: Arc<Vec<String>>,
    histories: BTreeMap<u64, String>,
    progress: Arc<Progress>,
    stop: Arc<AtomicBool>,
    memory: Memory,
}

#[derive(Deserialize)]
struct ShakeAnswer {
    outcome: String,
    ticket: Option<String>,
    #[serde(default)]
    history: Option<String>,
}

#[derive(Deserialize)]
struct OpenAnswer {
    status: String,
    packet_id: String,
    amount_fen: u64,
}

/// The packet and the amount that an answer to an open tells of; `None` of every other answer.
fn told(answer: &Result<Answer, HttpError>) -> Option<(String, u64)> {
    let answer = answer.as_ref().ok().filter(|answer| answer.status.is_success())?;
    let opened: OpenAnswer = serde_json::from_slice(&answer.body).ok()?;
    Some((opened.packet_id, opened.amount_fen))
}

enum OpenOutcome {
    Opened(OpenAnswer),
    Refused(String),
    Again,
}

impl Memory {
    fn new() -> Memory {
        let histogram = || Histogram::new_with_bounds(1, 120_000_000, 3).expect("valid bounds");
        Memory {
            acked: Vec::new(),
            shakes: BTreeMap::new(),
            refused: BTreeMap::new(),
            unknown: 0,
            thefts: 0,
            thefts_succeeded: 0,
            loot: Vec::new(),
            users_active: 0,
            crashed: 0,
            sent_twice: 0,
            told_otherwise: 0,
            shake_us: histogram(),
            open_us: histogram(),
        }
    }

    /// Adds what others lived through.
    pub fn merge(&mut self, other: Memory) {
        self.acked.extend(other.acked);
        for (outcome, count) in other.shakes {
            *self.shakes.entry(outcome).or_default() += count;
        }
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        self.unknown += other.unknown;
        self.thefts += other.thefts;
        self.thefts_succeeded += other.thefts_succeeded;
        self.loot.extend(other.loot);
        self.users_active += other.users_active;
        self.crashed += other.crashed;
        self.sent_twice += other.sent_twice;
        self.told_otherwise += other.told_otherwise;
        self.shake_us.add(&other.shake_us).expect("the same bounds");
        self.open_us.add(&other.open_us).expect("the same bounds");
    }
}

impl Crowd {
    /// Sets the crowd to work. `tokens[0]` is the session token of the first user.
    #[must_use]
    pub fn start(
        options: CrowdOptions,
        tokens: Vec<String>,
        net: &Arc<dyn Net>,
        clock: &Arc<dyn Clock>,
    ) -> Crowd {
        assert!(
            !options.edges.is_empty() && options.workers > 0,
            "a crowd needs somebody and somewhere to go"
        );
        assert_eq!(tokens.len() as u64, options.users, "every user needs a token");
        let options = Arc::new(options);
        let tokens = Arc::new(tokens);
        let progress = Arc::new(Progress::default());
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Vec::new();
        for number in 0..options.workers {
            let worker = Worker {
                options: Arc::clone(&options),
                net: Arc::clone(net),
                clients: clients(net, &options.edges),
                clock: Arc::clone(clock),
                chance: Seed::from_number(options.seed).stream(number as u64),
                fate: Seed::from_number(options.seed).stream(FATES + number as u64),
                tokens: Arc::clone(&tokens),
                histories: BTreeMap::new(),
                progress: Arc::clone(&progress),
                stop: Arc::clone(&stop),
                memory: Memory::new(),
            };
            workers.push(tokio::spawn(worker.run(number as u64)));
        }
        Crowd { progress, stop, workers }
    }

    /// Sends everybody home; answers what they remember. Opens under way are finished first.
    pub async fn finish(self) -> Memory {
        self.stop.store(true, Ordering::SeqCst);
        let mut memory = Memory::new();
        for worker in self.workers {
            match worker.await {
                Ok(part) => memory.merge(part),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        memory
    }
}

fn clients(net: &Arc<dyn Net>, edges: &[String]) -> Vec<HttpClient> {
    edges.iter().map(|edge| HttpClient::new(Arc::clone(net), edge)).collect()
}

impl Worker {
    async fn run(mut self, number: u64) -> Memory {
        let workers = self.options.workers as u64;
        let CrowdOptions { first_user, users, .. } = *self.options;
        let users: Vec<u64> =
            (first_user..first_user + users).filter(|user| user % workers == number).collect();
        let chance = Seed::from_number(self.options.seed).stream(FATES * 2 + number);
        let mut luck = self.options.trouble.luck(chance);
        let pause = Duration::from_secs(workers) / self.options.shakes_per_second.max(1);
        let mut next = tokio::time::Instant::now();
        let mut first_round = true;
        while !users.is_empty() {
            for user in &users {
                if self.stop.load(Ordering::SeqCst) {
                    return self.memory;
                }
                next = (next + pause).max(tokio::time::Instant::now() - pause);
                tokio::time::sleep_until(next).await;
                self.memory.users_active += u64::from(first_round);
                self.act(*user, &mut luck).await;
            }
            first_round = false;
        }
        self.memory
    }

    /// Lets a user shake, unless the device fails in the middle of it: whatever was under way is
    /// dropped, and all that the device knew is gone.
    async fn act(&mut self, user: u64, luck: &mut Luck) {
        let crashed = tokio::select! {
            biased;
            () = luck.runs_out() => true,
            () = self.shake(user) => false,
        };
        if crashed {
            tracing::debug!(user, "the device failed");
            self.memory.crashed += 1;
            self.histories.clear();
            self.clients = clients(&self.net, &self.options.edges);
        }
    }

    /// The node a user is connected to: their own zone, or another when that fails.
    fn edge_of(&self, user: u64, attempt: usize) -> usize {
        let home = usize::try_from(user % self.clients.len() as u64).expect("fewer nodes than usize");
        (home + attempt) % self.clients.len()
    }

    async fn send(
        &mut self,
        user: u64,
        attempt: usize,
        path: &str,
        body: Bytes,
    ) -> Result<Answer, HttpError> {
        let edge = self.edge_of(user, attempt);
        let number = usize::try_from(user - self.options.first_user).expect("users fit");
        let token = self.tokens[number].clone();
        let twice = self.options.trouble.is_sent_twice(&mut self.fate);
        let client = &mut self.clients[edge];
        client.set_bearer(Some(token.clone()));
        if !twice {
            return client.send(Method::POST, path, body, ANSWER_WITHIN).await;
        }
        let mut other = HttpClient::new(Arc::clone(&self.net), &self.options.edges[edge]);
        other.set_bearer(Some(token));
        let (one, other) = tokio::join!(
            client.send(Method::POST, path, body.clone(), ANSWER_WITHIN),
            other.send(Method::POST, path, body, ANSWER_WITHIN),
        );
        self.memory.sent_twice += 1;
        if let (Some(one), Some(other)) = (told(&one), told(&other))
            && one != other
        {
            self.memory.told_otherwise += 1;
        }
        one.or(other)
    }

    async fn shake(&mut self, user: u64) {
        let greedy = user.checked_rem(self.options.greedy_one_in) == Some(0);
        // Somewhere else each time: no node remembers how much they have already.
        let there = if greedy { self.chance.random_range(0..self.clients.len()) } else { 0 };
        let body = match self.histories.get(&user).filter(|_| !greedy) {
            Some(history) => serde_json::json!({ "history": history }).to_string(),
            None => "{}".to_owned(),
        };
        let started = self.clock.uptime();
        let mut answer = self.send(user, there, "/v1/shake", Bytes::from(body.clone())).await;
        if matches!(answer, Err(HttpError::Unreachable { .. })) {
            answer = self.send(user, there + 1, "/v1/shake", Bytes::from(body)).await;
        }
        let parsed = answer.ok().filter(|answer| answer.status.is_success());
        let parsed = parsed.and_then(|answer| serde_json::from_slice::<ShakeAnswer>(&answer.body).ok());
        let Some(shaken) = parsed else {
            *self.memory.shakes.entry("unanswered".to_owned()).or_default() += 1;
            return;
        };
        let took_us = u64::try_from((self.clock.uptime() - started).as_micros()).unwrap_or(u64::MAX);
        self.memory.shake_us.saturating_record(took_us);
        self.progress.shakes.fetch_add(1, Ordering::Relaxed);
        *self.memory.shakes.entry(shaken.outcome.clone()).or_default() += 1;
        tracing::debug!(user, outcome = %shaken.outcome, "shake");
        if let Some(history) = shaken.history {
            self.histories.insert(user, history);
        }
        match (shaken.outcome.as_str(), shaken.ticket) {
            ("packet", Some(ticket)) => self.open(user, &ticket).await,
            ("closed", _) => tokio::time::sleep(LOOK_AGAIN_AFTER).await,
            _ => {}
        }
    }

    async fn open(&mut self, user: u64, ticket: &str) {
        if self.chance.random_ratio(1, THEFT_ONE_IN) {
            self.steal(user, ticket).await;
        }
        let started = self.clock.uptime();
        let body = Bytes::from(serde_json::json!({ "ticket": ticket }).to_string());
        let mut attempt = 0;
        loop {
            match self.try_open(user, attempt, body.clone()).await {
                OpenOutcome::Opened(opened) => {
                    let took = self.clock.uptime() - started;
                    self.memory
                        .open_us
                        .saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                    self.progress.opens.fetch_add(1, Ordering::Relaxed);
                    self.tell(&opened.packet_id);
                    tracing::debug!(user, packet = %opened.packet_id, amount_fen = opened.amount_fen, attempt, "opened");
                    self.memory.acked.push(Acked {
                        user,
                        packet_id: opened.packet_id,
                        amount_fen: opened.amount_fen,
                    });
                    return;
                }
                OpenOutcome::Refused(code) => {
                    tracing::debug!(user, %code, attempt, "open refused");
                    *self.memory.refused.entry(code).or_default() += 1;
                    return;
                }
                OpenOutcome::Again if self.clock.uptime() - started > OPEN_WITHIN => {
                    self.memory.unknown += 1;
                    return;
                }
                OpenOutcome::Again => {
                    attempt += 1;
                    tokio::time::sleep(OPEN_AGAIN_AFTER).await;
                }
            }
        }
    }

    /// Makes an acknowledged open known to whoever checks that it stays.
    fn tell(&self, packet_id: &str) {
        let Ok(packet) = packet_id.parse::<PacketId>() else { return };
        let key = Bytes::copy_from_slice(&packet.to_bytes());
        let partition = queue::partitioner::partition_of(&key, self.options.partitions);
        self.options.witnesses.lock().entry(partition).or_insert(key);
    }

    async fn try_open(&mut self, user: u64, attempt: usize, body: Bytes) -> OpenOutcome {
        let Ok(answer) = self.send(user, attempt, "/v1/open", body).await else { return OpenOutcome::Again };
        if answer.status.is_success() {
            return match serde_json::from_slice::<OpenAnswer>(&answer.body) {
                Ok(opened) if opened.status == "opened" => OpenOutcome::Opened(opened),
                _ => OpenOutcome::Refused("not_understood".to_owned()),
            };
        }
        match serde_json::from_slice::<ErrorBody>(&answer.body) {
            Ok(body) if !body.error.retryable => OpenOutcome::Refused(body.error.code),
            _ => OpenOutcome::Again,
        }
    }

    /// Tries what a thief would: the ticket with one character changed, and as another user.
    async fn steal(&mut self, user: u64, ticket: &str) {
        let mut altered = ticket.to_owned().into_bytes();
        let at = self.chance.random_range(0..altered.len());
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(altered).expect("base64 stays ASCII");
        let CrowdOptions { first_user, users, .. } = *self.options;
        let other = first_user + (user - first_user + 1) % users;
        for (who, what) in [(user, altered.as_str()), (other, ticket)] {
            let body = Bytes::from(serde_json::json!({ "ticket": what }).to_string());
            self.memory.thefts += 1;
            if let OpenOutcome::Opened(opened) = self.try_open(who, 0, body).await {
                self.memory.thefts_succeeded += 1;
                self.memory.loot.push(Acked {
                    user: who,
                    packet_id: opened.packet_id,
                    amount_fen: opened.amount_fen,
                });
            }
        }
    }
}
