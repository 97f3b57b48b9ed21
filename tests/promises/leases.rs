//! Holders of leases: grant, two keys, keep alive for a while, and then look until they are gone.
//!
//! Invariant: of every call it is written down when it left and when it was answered, rounded so that an
//! early end is never excused and a right one never blamed.
//!
//! Not here: judging.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Error, PutOptions};
use rand::RngExt;
use sim::oracle::i8_leases::{Call, LeaseLife, Look};
use tokio::time::timeout;
use world::rng::Stream;

use crate::clients::Way;
use crate::etcd::{self, ANSWER_WITHIN, Etcd};
use crate::record::Record;
use crate::zones::Addresses;

/// Times a lease may have, seconds.
const TTL_S: (i64, i64) = (2, 4);
/// How long a lease is looked after when everybody was sent home: each change of leaders prolongs it.
const LOOK_AT_MOST_MS: u64 = 25_000;

/// One holder.
pub struct Holder {
    number: u32,
    clients: Vec<Client>,
    chance: Stream,
    record: Arc<Record>,
}

impl Holder {
    /// One that asks any zone.
    pub async fn new(number: u32, addresses: &[Addresses], chance: Stream, record: Arc<Record>) -> Holder {
        let mut clients = Vec::new();
        for address in addresses {
            clients.push(etcd::connect(&address.etcd).await);
        }
        Holder { number, clients, chance, record }
    }

    /// One lease after the other, until it is sent home and the last one is gone.
    pub async fn run(mut self) {
        let mut serial = 0;
        while !self.record.going_home() {
            serial += 1;
            if let Some(life) = self.one(serial).await {
                self.record.leases.lock().expect("nobody panicked").push(life);
            }
        }
    }

    fn client(&mut self) -> Client {
        let zone = self.chance.random_range(0..self.clients.len());
        self.clients[zone].clone()
    }

    async fn pause(&mut self, from_ms: u64, to_ms: u64) {
        let pause_ms = self.chance.random_range(from_ms..=to_ms);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
    }

    async fn one(&mut self, serial: u32) -> Option<LeaseLife> {
        let ttl = self.chance.random_range(TTL_S.0..=TTL_S.1);
        let asked_ms = self.record.began_ms();
        let Some(granted) = answered(self.client().lease_grant(ttl, None)).await else {
            self.pause(100, 600).await;
            return None;
        };
        let call = Call { asked_ms, answered_ms: self.record.over_ms() };
        let mut life = LeaseLife::granted(granted.id(), granted.ttl(), call);
        let prefix = format!("l/{}/{serial}/", self.number);
        for key in 0..2 {
            let options = PutOptions::new().with_lease(granted.id());
            let put = self.client();
            let mut put = put.kv_client();
            life.keys +=
                u32::from(answered(put.put(format!("{prefix}{key}"), "x", Some(options))).await.is_some());
        }
        life.put_ms = self.record.over_ms();
        for _ in 0..self.chance.random_range(0..6) {
            self.pause(100, 900).await;
            self.keep_alive(&mut life).await;
        }
        if self.chance.random_ratio(1, 6) {
            life.revoked = true;
            // Whatever comes of it, the lease may be gone from now on.
            answered(self.client().lease_revoke(life.id)).await;
        }
        self.watch_it_go(&prefix, &mut life).await;
        Some(life)
    }

    async fn keep_alive(&mut self, life: &mut LeaseLife) {
        let asked_ms = self.record.began_ms();
        let renewed = timeout(ANSWER_WITHIN, self.client().lease_keep_alive(life.id)).await;
        let call = Call { asked_ms, answered_ms: self.record.over_ms() };
        match renewed {
            Ok(Ok(_)) => life.renewals.push(call),
            // The crate's words for a time to live of nothing.
            Ok(Err(Error::LeaseKeepAliveError(reason))) if reason == "lease not found" => {
                life.denials.push(call);
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }

    /// Looks until the keys are gone, or for too long.
    async fn watch_it_go(&mut self, prefix: &str, life: &mut LeaseLife) {
        let mut home_ms = None;
        loop {
            let asked_ms = self.record.began_ms();
            let mut way = Etcd(self.client());
            if let Some((_, pairs)) = way.scan(prefix).await {
                let there = u32::try_from(pairs.len()).expect("two keys");
                life.looks.push(Look { call: Call { asked_ms, answered_ms: self.record.over_ms() }, there });
                if there == 0 {
                    return;
                }
            }
            let now_ms = self.record.began_ms();
            if self.record.going_home() && *home_ms.get_or_insert(now_ms) + LOOK_AT_MOST_MS < now_ms {
                return;
            }
            self.pause(50, 400).await;
        }
    }
}

async fn answered<T>(call: impl Future<Output = Result<T, Error>>) -> Option<T> {
    timeout(ANSWER_WITHIN, call).await.ok().and_then(Result::ok)
}
