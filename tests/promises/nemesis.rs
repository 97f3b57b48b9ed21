//! What happens to the zones: killed, paused, cut off, one way or both, and sometimes two at once.
//!
//! Kinds of faults come in turn, so that each comes even in a short run; which zone and how long is chance,
//! and the leader of etcd's group is chosen more often than the others.
//!
//! Invariant: after each fault everything is as before: all run, everybody reaches everybody.
//!
//! Not here: the faults themselves (zones.rs, island.rs).

use std::time::Duration;

use etcd_client::Client;
use rand::RngExt;
use tokio::time::{sleep, timeout};
use world::rng::Stream;

use crate::etcd;
use crate::record::Record;
use crate::zones::{NODES, Zones};

/// How long a fault lasts: from, to.
const LASTS_MS: (u64, u64) = (1_000, 3_500);
/// Quiet between two faults: from, to.
const QUIET_MS: (u64, u64) = (800, 2_500);
/// How long it waits for one zone to say who leads.
const LEADER_WITHIN: Duration = Duration::from_millis(300);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A zone is ended, and started again.
    Kill,
    /// A zone stands still.
    Pause,
    /// A zone reaches no other one, nor they it.
    CutOff,
    /// What a zone sends reaches nobody; it hears everybody.
    Mute,
    /// Two zones do not reach each other, and both reach the third.
    Part,
    /// A zone is cut off and another one is ended: nothing can be acknowledged.
    NoQuorum,
    /// All zones are ended at once.
    AllKilled,
}

/// All of them, in turn.
pub const FAULTS: [Fault; 7] =
    [Fault::CutOff, Fault::Kill, Fault::Pause, Fault::Mute, Fault::Part, Fault::NoQuorum, Fault::AllKilled];

/// See the module.
pub struct Nemesis {
    clients: Vec<Client>,
    members: Vec<u64>,
    chance: Stream,
}

impl Nemesis {
    /// One that knows the zones' members.
    pub async fn new(zones: &Zones, chance: Stream) -> Nemesis {
        let (mut clients, mut members) = (Vec::new(), Vec::new());
        for address in &zones.addresses {
            let mut client = etcd::connect(&address.etcd).await;
            let status = client.status().await.expect("it serves");
            members.push(status.header().expect("a header").member_id());
            clients.push(client);
        }
        Nemesis { clients, members, chance }
    }

    /// Does harm in turn for so long. `leader_always`: to the leader each time.
    pub async fn run(
        &mut self,
        zones: &mut Zones,
        record: &Record,
        faults: &[Fault],
        lasts: Duration,
        leader_always: bool,
    ) {
        let until_ms = record.began_ms() + u64::try_from(lasts.as_millis()).expect("a test is short");
        for fault in faults.iter().cycle() {
            self.pause(QUIET_MS).await;
            if record.began_ms() > until_ms {
                return;
            }
            if let Some(fallen) = zones.fallen() {
                panic!("{fallen}");
            }
            let zone = self.victim(leader_always).await;
            println!("{:>6} ms: {fault:?} {}", record.began_ms(), NODES[zone]);
            record.fault(fault.name());
            self.strike(*fault, zone, zones).await;
        }
    }

    async fn pause(&mut self, (from_ms, to_ms): (u64, u64)) {
        sleep(Duration::from_millis(self.chance.random_range(from_ms..=to_ms))).await;
    }

    async fn strike(&mut self, fault: Fault, zone: usize, zones: &mut Zones) {
        let others: Vec<usize> = (0..NODES.len()).filter(|other| *other != zone).collect();
        let other = others[self.chance.random_range(0..others.len())];
        match fault {
            Fault::Kill => {
                zones.kill(zone);
                self.pause(LASTS_MS).await;
                zones.start(zone);
            }
            Fault::Pause => {
                zones.pause(zone);
                self.pause(LASTS_MS).await;
                zones.resume(zone);
            }
            Fault::CutOff | Fault::NoQuorum => {
                others.iter().for_each(|other| zones.island.part(zone, *other));
                self.pause(LASTS_MS).await;
                if fault == Fault::NoQuorum {
                    zones.kill(other);
                    self.pause(LASTS_MS).await;
                    zones.start(other);
                }
                zones.island.heal();
            }
            Fault::Mute => {
                others.iter().for_each(|other| zones.island.cut(zone, *other));
                self.pause(LASTS_MS).await;
                zones.island.heal();
            }
            Fault::Part => {
                zones.island.part(zone, other);
                self.pause(LASTS_MS).await;
                zones.island.heal();
            }
            Fault::AllKilled => {
                (0..NODES.len()).for_each(|zone| zones.kill(zone));
                (0..NODES.len()).for_each(|zone| zones.start(zone));
            }
        }
    }

    async fn victim(&mut self, leader_always: bool) -> usize {
        let chosen = leader_always || self.chance.random_ratio(1, 2);
        match self.leader().await.filter(|_| chosen) {
            Some(leader) => leader,
            None => self.chance.random_range(0..NODES.len()),
        }
    }

    async fn leader(&mut self) -> Option<usize> {
        for client in &mut self.clients {
            let Ok(Ok(status)) = timeout(LEADER_WITHIN, client.status()).await else { continue };
            if let Some(zone) = self.members.iter().position(|member| *member == status.leader()) {
                return Some(zone);
            }
        }
        None
    }
}

impl Fault {
    /// In reports.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Kill => "killed",
            Fault::Pause => "paused",
            Fault::CutOff => "cut off",
            Fault::Mute => "mute",
            Fault::Part => "parted",
            Fault::NoQuorum => "no quorum",
            Fault::AllKilled => "all killed",
        }
    }
}
