//! Clients of etcd's leases: grant, two keys, keep alive for a while, and then look until they are gone.
//!
//! ```text
//!   grant -> put, put -> keep alive ... -> silence -> look, look ... -> both keys are gone
//!                     '-> revoke (sometimes)
//! ```
//! Invariant: of every call it is written down when it left and when it was answered.
//!
//! Not here: judging (oracle/i8_leases.rs).

use std::sync::Arc;
use std::time::Duration;

use kvsvr::wire::etcdserverpb::kv_client::KvClient;
use kvsvr::wire::etcdserverpb::lease_client::LeaseClient;
use kvsvr::wire::etcdserverpb::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, PutRequest};
use rand::RngExt;
use tonic::Status;
use tonic::transport::Channel;
use world::rng::Stream;

use super::{ANSWER_WITHIN, bytes, scan};
use crate::board::Board;
use crate::fabric::time;
use crate::oracle::i8_leases::{Call, LeaseLife, Look};

/// Below this stand the keys of leases.
const PREFIX: &str = "l/";
/// The shortest time a lease may have, seconds.
const TTL_MIN_S: i64 = 2;
/// How long a lease is looked after when everybody has gone home.
const LOOK_AT_MOST_MS: u64 = 25_000;

/// One client.
pub struct LeaseClientOf {
    /// Its number.
    pub number: u32,
    /// The ways to the zones.
    pub channels: Vec<Channel>,
    /// Its choices.
    pub chance: Stream,
    /// Where it records.
    pub board: Arc<Board>,
}

fn now_ms() -> u64 {
    time::elapsed().map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

impl LeaseClientOf {
    /// One lease after the other, until it is sent home and the last one is gone.
    pub async fn run(mut self) {
        let mut serial = 0;
        while !self.board.going_home() {
            serial += 1;
            if let Some(life) = self.one(serial).await {
                tracing::info!(target: "sim::etcd", client = self.number, ?life, "a lease");
                self.board.leases.lock().push(life);
            }
        }
    }

    fn channel(&mut self) -> Channel {
        self.channels[self.chance.random_range(0..self.channels.len())].clone()
    }

    async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        let pause_ms = self.chance.random_range(from_ms..=to_ms);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }

    async fn one(&mut self, serial: u32) -> Option<LeaseLife> {
        let ttl = self.chance.random_range(TTL_MIN_S..=4);
        let asked_ms = now_ms();
        let request = LeaseGrantRequest { ttl, id: 0 };
        let mut leases = LeaseClient::new(self.channel());
        let granted = answered(leases.lease_grant(request)).await.map(tonic::Response::into_inner);
        let Some(granted) = granted else {
            self.pause(100, 600).await;
            return None;
        };
        let prefix = format!("{PREFIX}{}/{serial}/", self.number);
        let mut life = LeaseLife::granted(granted.id, granted.ttl, Call { asked_ms, answered_ms: now_ms() });
        for key in 0..2 {
            let key = format!("{prefix}{key}");
            let request = PutRequest {
                key: bytes(&key),
                value: bytes("x"),
                lease: granted.id,
                ..PutRequest::default()
            };
            life.keys += u32::from(answered(KvClient::new(self.channel()).put(request)).await.is_some());
        }
        life.put_ms = now_ms();
        for _ in 0..self.chance.random_range(0..6) {
            self.pause(100, 900).await;
            self.keep_alive(&mut life).await;
        }
        if self.chance.random_ratio(1, 6) {
            life.revoked = true;
            let request = LeaseRevokeRequest { id: life.id };
            // Whatever comes of it, the lease may be gone from now on.
            answered(LeaseClient::new(self.channel()).lease_revoke(request)).await;
        }
        self.watch_it_go(&prefix, &mut life).await;
        Some(life)
    }

    async fn keep_alive(&mut self, life: &mut LeaseLife) {
        let asked_ms = now_ms();
        let request = futures_util::stream::iter([LeaseKeepAliveRequest { id: life.id }]);
        let mut leases = LeaseClient::new(self.channel());
        let renewed = async {
            let mut answers = leases.lease_keep_alive(request).await?.into_inner();
            answers.message().await
        };
        if let Some(Some(answer)) = answered(renewed).await {
            let call = Call { asked_ms, answered_ms: now_ms() };
            if answer.ttl > 0 { life.renewals.push(call) } else { life.denials.push(call) }
        }
    }

    /// Looks until the keys are gone, or for too long.
    async fn watch_it_go(&mut self, prefix: &str, life: &mut LeaseLife) {
        let mut healed_ms = None;
        loop {
            let asked_ms = now_ms();
            let channel = self.channel();
            if let Some((_, pairs)) = answered(scan(channel, prefix)).await {
                let there = u32::try_from(pairs.len()).unwrap_or(u32::MAX);
                life.looks.push(Look { call: Call { asked_ms, answered_ms: now_ms() }, there });
                if there == 0 {
                    return;
                }
            }
            if self.board.healed() && *healed_ms.get_or_insert(now_ms()) + LOOK_AT_MOST_MS < now_ms() {
                return;
            }
            self.pause(50, 400).await;
        }
    }
}

async fn answered<T>(call: impl Future<Output = Result<T, Status>>) -> Option<T> {
    tokio::time::timeout(ANSWER_WITHIN, call).await.ok().and_then(Result::ok)
}
