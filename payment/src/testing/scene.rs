//! A small event from funding to refund, every process with faults of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvsvr::api::Kv;
use queue::api::{NewMessage, Queue};
use ticket::control::EventState;
use ticket::keys::KeyList;
use ticket::opening::Opening;
use tokio::sync::watch;
use world::UnixMs;
use world::clock::ManualClock;
use world::disk::RealDisk;

use super::audit::{Stored, audit};
use super::build::TestBuild;
use super::faults::Injector;
use super::kv::MemKv;
use super::queue::MemQueue;
use crate::claims::Limits;
use crate::keyspace;
use crate::reconcile::{Report, Sources, reconcile};
use crate::refund::{RefundError, Refunded, refund};
use crate::settle::decide::Rules;
use crate::settle::{Settler, SettlerConfig};

/// The event and its stores.
pub struct Scene {
    pub test: TestBuild,
    pub kv: MemKv,
    pub queue: MemQueue,
}

impl Scene {
    /// Funded and preloaded; 4 files of 8 packets.
    pub async fn new() -> Scene {
        let scene = Scene { test: TestBuild::new(8), kv: MemKv::default(), queue: MemQueue::default() };
        crate::fund::fund(&scene.kv, &scene.test.manifest).await.expect("funded");
        let dir = scene.test.dir.path();
        crate::instant::preload(&scene.kv, &RealDisk, dir, &scene.test.manifest).await.expect("preloaded");
        scene
    }

    /// Reconcile's and crediting's view, through one process's faults.
    pub fn sources(&self, faults: Injector) -> Sources {
        let (kv, queue): (Arc<dyn Kv>, Arc<dyn Queue>) =
            (Arc::new(self.kv.through(faults.clone())), Arc::new(self.queue.through(faults)));
        let clock = Arc::new(ManualClock::at(UnixMs(9_000)));
        Sources { disk: Arc::new(RealDisk), build_dir: self.test.dir.path().to_owned(), kv, queue, clock }
    }

    /// The list that lets every key of the build pass.
    pub fn keys(&self) -> KeyList {
        KeyList::all(self.test.manifest.key_count)
    }

    pub fn settler(&self, faults: Injector) -> Settler {
        let limits = Limits::of(&self.test.manifest);
        let rules = Rules { limits, instant_credit: true };
        let config = SettlerConfig { pause: Duration::from_millis(1), ..SettlerConfig::default() };
        let (kv, queue) = (self.kv.through(faults.clone()), self.queue.through(faults));
        let (_, keys) = watch::channel(self.test.all_keys());
        Settler::new(Arc::new(kv), Arc::new(queue), keys, self.test.build, rules, config)
    }

    pub async fn enqueue(&self, openings: &[Opening]) {
        let message = |opening: &Opening| NewMessage {
            key: keyspace::packet_partition(opening.packet),
            dedup_id: keyspace::packet_partition(opening.packet),
            body: Bytes::copy_from_slice(&opening.encode()),
            delay: Duration::ZERO,
        };
        let outcomes = self.queue.enqueue(openings.iter().map(message).collect()).await;
        assert!(outcomes.iter().all(|outcome| outcome.is_ok()));
    }

    /// Settles until nothing is left.
    pub async fn drain(&self) {
        for _ in 0..64 {
            if self.queue.drained() {
                return;
            }
            self.queue.expire();
            self.settler(Injector::default()).settle_once().await.expect("no faults any more");
        }
        panic!("the queue never drained");
    }

    /// Funded, preloaded, and these (user, packet) opened and settled.
    pub async fn settled(opens: &[(u64, usize)]) -> (Scene, Vec<Opening>) {
        let scene = Scene::new().await;
        let openings: Vec<Opening> =
            opens.iter().map(|(user, packet)| scene.test.opening(*user, *packet)).collect();
        scene.enqueue(&openings).await;
        scene.drain().await;
        (scene, openings)
    }

    pub async fn report(&self) -> Report {
        reconcile(&self.sources(Injector::default()), None).await.expect("no faults here")
    }

    pub async fn refund(&self, faults: Injector, state: EventState) -> Result<Refunded, RefundError> {
        let (kv, queue) = (self.kv.through(faults.clone()), self.queue.through(faults));
        refund(&kv, &queue, &self.test.manifest, &self.test.event(state)).await
    }

    /// The oracle apart from reconcile.
    pub fn audit(&self, acknowledged: &[Opening]) -> Stored {
        assert!(self.queue.drained(), "the audit is of a drained queue");
        audit(&self.test, &self.kv, acknowledged)
    }
}
