//! Everything about a run that is not a fault, derived from its seed: sizes, times, load.
//!
//! Invariant: the same seed gives the same knobs; each is drawn from its own range whatever the
//! others are, so that adding one changes no other (it is drawn last).
//!
//! Not here: faults (schedule.rs).

use std::time::Duration;

use rand::RngExt;
use serde::Serialize;
use world::rng::{Seed, Stream};

use crate::drill::Setting;
use crate::drill::when::Slots;
use crate::fabric::platter::EngineKind;
use crate::fabric::storage::SyncTimes;

/// Names of the seed's streams. A number is never given to another purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The knobs themselves.
    Knobs = 1,
    /// When faults happen.
    Schedule = 2,
    /// What a fault leaves open: which byte, how much of a tail.
    Faults = 3,
    /// Clients of the KV.
    KvClients = 4,
    /// Clients of the queue.
    QueueClients = 5,
    /// Secrets of the cluster.
    Secrets = 6,
    /// Clients of etcd's API.
    Etcd = 200,
    /// What an insider makes up.
    Insider = 8,
    /// What the bank does when it is in a mood.
    Bank = 7,
    /// Clients that ingest files.
    Ingests = 1 << 49,
    /// Whose device fails.
    Luck = 1 << 48,
    /// How long syncs take; the node's number is added.
    Syncs = 100,
}

/// The stream of a purpose.
#[must_use]
pub fn stream(seed: u64, purpose: Purpose, number: u64) -> Stream {
    Seed::from_number(seed).stream(purpose as u64 + number)
}

/// Users of a drill, at most: all of them act on one simulated host.
const DRILL_USERS_MAX: u64 = 60;

/// How long after the faults the last slot ends: nodes claim for it in peace, and users shake.
pub const LAST_SLOT_ENDS_AFTER_MS: u64 = 5_500;
/// When the first slot starts, if that is set: the event has been activated by then.
const SET_SLOTS_FROM_MS: u64 = 4_500;
/// Between two of these slots.
const SET_SLOTS_GAP_MS: u64 = 600;
/// One seed in so many runs over RocksDB.
const ROCKS_ONE_IN: u32 = 8;

/// Packets one user of a drill may be credited: enough that there are packets in every slot.
const DRILL_CLAIMS: u32 = 50;

/// What the run is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// A whole event: mint, deploy, shake, open, settle, reconcile, refund.
    Event,
    /// No event: producers and consumers of the queue, which settlers would disturb.
    Queue,
}

/// See the module.
#[derive(Clone, Debug, Serialize)]
pub struct Knobs {
    /// What the run is about.
    pub scenario: Scenario,
    /// Data groups of the KV.
    pub data_groups: u32,
    /// Partitions of the queue.
    pub partitions: u32,
    /// Raft: heartbeat, and election from, to.
    pub raft_ms: (u64, u64, u64),
    /// Entries between snapshots.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot.
    pub keep_entries: u64,
    /// One way, between any two hosts: from, to.
    pub latency_ms: (u64, u64),
    /// How long syncs take.
    #[serde(skip)]
    pub syncs: SyncTimes,
    /// Messages in the queue beyond which producers are told to come back.
    pub high_water: u64,
    /// Slots of the event.
    pub slots: u32,
    /// Packets of each of the three batches.
    pub packets: [u32; 3],
    /// Packets one user may be credited.
    pub claims_per_user: u32,
    /// Records reserved with one sync.
    pub reserve_records: u32,
    /// Users.
    pub users: u64,
    /// Shakes a second, all together.
    pub shakes_per_second: u32,
    /// Clients of the control group.
    pub kv_clients: u32,
    /// Keys they share.
    pub kv_keys: u32,
    /// Producers and consumers of the queue, each.
    pub queue_clients: u32,
    /// When the faults end.
    pub safety_ms: u64,
    /// Keys that the clients of etcd's API share.
    pub etcd_keys: u32,
    /// Whether a data key is revoked before the event begins.
    pub revoked_key: bool,
    /// Packets that an insider with the build's keys makes up and puts into the queue.
    pub made_up_packets: u32,
    /// One user in so many forgets what they were given and goes round the zones; 0 means nobody.
    pub greedy_one_in: u64,
    /// What the nodes keep their logs and states in.
    pub engine: EngineKind,
    /// When slots run; from activation to the end of the faults, if this is not given.
    pub slots_at: Option<Slots>,
}

impl Knobs {
    /// The knobs of a seed.
    #[must_use]
    pub fn derive(seed: u64) -> Knobs {
        let chance = &mut stream(seed, Purpose::Knobs, 0);
        let heartbeat = chance.random_range(30..=60);
        let election = chance.random_range(4..=6) * heartbeat;
        let latency_min = chance.random_range(0..=2);
        let sync_min = chance.random_range(0..=2);
        Knobs {
            scenario: if chance.random_ratio(1, 4) { Scenario::Queue } else { Scenario::Event },
            data_groups: chance.random_range(1..=2),
            partitions: chance.random_range(1..=2),
            raft_ms: (heartbeat, election, election * 2),
            snapshot_every: pick(chance, &[30, 100, 400, 5_000]),
            keep_entries: pick(chance, &[5, 20, 100]),
            latency_ms: (latency_min, latency_min + chance.random_range(1..=12)),
            syncs: SyncTimes {
                min_ms: sync_min,
                max_ms: sync_min + chance.random_range(1..=20),
                stall_one_in: chance.random_range(50..=400),
                stall_ms: chance.random_range(20..=300),
            },
            slots: chance.random_range(3..=5),
            packets: [(); 3].map(|()| chance.random_range(60..=250)),
            claims_per_user: pick(chance, &[3, 10, 50]),
            reserve_records: pick(chance, &[2, 4, 16]),
            users: chance.random_range(12..=60),
            shakes_per_second: chance.random_range(60..=120),
            kv_clients: chance.random_range(3..=5),
            kv_keys: chance.random_range(2..=5),
            queue_clients: chance.random_range(3..=5),
            safety_ms: chance.random_range(14_000..=24_000),
            high_water: pick(chance, &[10_000_000, 10_000_000, 400, 60]),
            etcd_keys: chance.random_range(1..=4),
            revoked_key: chance.random_ratio(1, 3),
            made_up_packets: pick(chance, &[0, 0, 1, 3]),
            greedy_one_in: pick(chance, &[0, 0, 5, 1]),
            engine: if chance.random_ratio(1, ROCKS_ONE_IN) { EngineKind::Rocks } else { EngineKind::Memory },
            slots_at: None,
        }
        .with_slots_set(chance.random_ratio(1, 3))
    }

    /// In some seeds it is known beforehand when slots run, so that faults come when files are claimed.
    fn with_slots_set(mut self, set: bool) -> Knobs {
        self.slots_at = (set && self.scenario == Scenario::Event).then(|| self.slots_to_the_end());
        self
    }

    /// Slots that end when [`Knobs::slots_at`] leaves them to the moment of activation, and begin at a set time.
    #[must_use]
    pub fn slots_to_the_end(&self) -> Slots {
        let end_ms = self.safety_ms + LAST_SLOT_ENDS_AFTER_MS;
        let length_ms = (end_ms - SET_SLOTS_FROM_MS) / u64::from(self.slots) - SET_SLOTS_GAP_MS;
        let count = u16::try_from(self.slots).expect("slots are few");
        Slots { first_ms: SET_SLOTS_FROM_MS, length_ms, gap_ms: SET_SLOTS_GAP_MS, count }
    }

    /// The knobs of a seed, on the setting of a drill: an event of the drill's size and slots.
    #[must_use]
    pub fn of_drill(seed: u64, setting: &Setting) -> Knobs {
        let slots = setting.slots;
        Knobs {
            scenario: Scenario::Event,
            // Enough packets for slots that are longer than those of a seed.
            packets: [200, 150, 100],
            claims_per_user: DRILL_CLAIMS,
            slots: u32::from(slots.count),
            users: u64::from(setting.users).clamp(1, DRILL_USERS_MAX),
            safety_ms: slots.end_ms() + setting.heal_ms,
            slots_at: Some(slots),
            revoked_key: false,
            made_up_packets: 0,
            greedy_one_in: 0,
            engine: EngineKind::Memory,
            ..Knobs::derive(seed)
        }
    }

    /// The same, after a sponsor has taken back some of the packets.
    #[must_use]
    pub fn with_orders_changed(&self) -> Knobs {
        let [video, picture, logo] = self.packets;
        Knobs { packets: [video, picture.div_ceil(2), logo], ..self.clone() }
    }

    /// How long the faults go on.
    #[must_use]
    pub fn safety(&self) -> Duration {
        Duration::from_millis(self.safety_ms)
    }
}

fn pick<T: Copy>(chance: &mut Stream, from: &[T]) -> T {
    from[chance.random_range(0..from.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_knobs_that_a_cluster_accepts() {
        for seed in 0..2_000 {
            let knobs = Knobs::derive(seed);
            let (heartbeat, from, to) = knobs.raft_ms;
            assert!(2 * heartbeat < from && from < to, "{knobs:?}");
            assert!(knobs.latency_ms.0 < knobs.latency_ms.1, "{knobs:?}");
            assert!(u64::from(knobs.partitions) <= knobs.high_water, "{knobs:?}");
            assert!(knobs.syncs.min_ms <= knobs.syncs.max_ms, "{knobs:?}");
            let slots = knobs.slots_to_the_end();
            assert!(2_000 <= slots.length_ms && slots.end_ms() <= knobs.safety_ms + LAST_SLOT_ENDS_AFTER_MS);
            assert!(knobs.safety_ms + 2_000 < slots.end_ms(), "nobody could shake in peace: {slots:?}");
        }
    }
}
