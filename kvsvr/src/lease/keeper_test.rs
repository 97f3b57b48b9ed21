//! Leases over a group whose leader changes: kept, ended in time, never ended early.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use world::clock::ManualClock;
use world::{Clock, NodeId, UnixMs};

use super::LeaseKeeper;
use crate::control_port::ControlPort;
use crate::machine::control::lease;
use crate::machine::encode_command;
use crate::testing::trio::{Shared, nodes};
use crate::wire::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest};
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::Reply;
use crate::wire::native::{ControlCommand, ControlReply, LeaseExpire};

struct Bench {
    shared: Arc<Shared>,
    clock: Arc<ManualClock>,
    keepers: Vec<Arc<LeaseKeeper>>,
}

impl Bench {
    fn new() -> Bench {
        let shared = Shared::led_by(nodes()[0]);
        let clock = Arc::new(ManualClock::at(UnixMs(1)));
        let keeper = |node: NodeId| {
            let port = ControlPort::new(shared.member(node));
            LeaseKeeper::new(port, node, Arc::clone(&clock) as Arc<dyn Clock>)
        };
        let keepers = nodes().into_iter().map(keeper).collect();
        Bench { shared, clock, keepers }
    }

    fn apply(&self, leader: NodeId, term: u64, command: Command) -> Reply {
        let command = encode_command(&ControlCommand { command: Some(command), author: None });
        let reply = self.shared.apply_from(leader, term, &command);
        ControlReply::decode(reply).expect("a reply").reply.expect("a reply of some kind")
    }

    fn grant(&self, id: i64, ttl: i64) {
        let reply = self.apply(nodes()[0], 1, Command::LeaseGrant(LeaseGrantRequest { id, ttl }));
        assert!(matches!(reply, Reply::LeaseGrant(_)), "{reply:?}");
    }

    fn in_force(&self, id: i64) -> bool {
        lease::get(&self.shared.state(), id).expect("memory does not fail").is_some()
    }

    async fn tick(&self) {
        for keeper in &self.keepers {
            keeper.tick().await.expect("the group answers");
        }
    }

    async fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.tick().await;
    }
}

#[tokio::test]
async fn a_lease_nobody_keeps_alive_ends_and_its_keys_with_it_at_one_revision() {
    let bench = Bench::new();
    bench.tick().await;
    bench.grant(7, 5);
    for key in ["x", "y"] {
        let put = PutRequest { key: Bytes::from(key), lease: 7, ..PutRequest::default() };
        bench.apply(nodes()[0], 1, Command::Put(put));
    }
    bench.tick().await;
    bench.pass(4).await;
    assert!(bench.in_force(7), "its time is not up");
    bench.pass(1).await;
    assert!(!bench.in_force(7), "its time is up");
    let state = bench.shared.state();
    assert_eq!(crate::machine::control::revision(&state), Ok(4), "two puts and one revision for both keys");
    assert_eq!(lease::keys(&state, 7), Ok(Vec::new()));
    assert_eq!(bench.keepers[0].counts().expired, 1);
    assert_eq!(bench.keepers[0].counts().kept, 0);
}

#[tokio::test]
async fn a_kept_alive_lease_stays_and_only_the_leader_can_keep_it() {
    let bench = Bench::new();
    bench.grant(7, 5);
    for _ in 0..5 {
        bench.pass(4).await;
        assert_eq!(bench.keepers[0].renew(7).await, Ok(5));
        assert!(bench.keepers[1].renew(7).await.is_err(), "b1 does not lead");
    }
    assert!(bench.in_force(7));
    assert_eq!(bench.keepers[0].renew(8).await, Ok(0), "there is no such lease");
    bench.pass(5).await;
    assert!(!bench.in_force(7));
}

#[tokio::test]
async fn no_lease_ends_early_through_a_change_of_leaders() {
    let bench = Bench::new();
    bench.grant(7, 5);
    bench.tick().await;
    bench.pass(4).await;
    bench.shared.elect(Some(nodes()[1]));
    bench.pass(0).await;
    bench.pass(5).await;
    assert!(bench.in_force(7), "the new leader gives it its whole time and a second");
    bench.pass(1).await;
    assert!(!bench.in_force(7));
}

#[tokio::test]
async fn an_end_that_was_decided_in_another_term_is_void() {
    let bench = Bench::new();
    bench.grant(7, 5);
    let late = |term| LeaseExpire { id: 7, grant: 1, term, leader: u32::from(nodes()[0].as_u16()) };
    let told = bench.apply(nodes()[0], 3, Command::LeaseExpire(late(1)));
    assert!(matches!(told, Reply::LeaseExpired(reply) if !reply.gone), "a1 led in between, not any more");
    let told = bench.apply(nodes()[1], 1, Command::LeaseExpire(late(1)));
    assert!(matches!(told, Reply::LeaseExpired(reply) if !reply.gone), "another leader decided it");
    assert!(bench.in_force(7));
    let told = bench.apply(nodes()[0], 1, Command::LeaseExpire(LeaseExpire { grant: 9, ..late(1) }));
    assert!(matches!(told, Reply::LeaseExpired(reply) if reply.gone), "that grant is not in force");
    assert!(bench.in_force(7));
    bench.apply(nodes()[0], 1, Command::LeaseExpire(late(1)));
    assert!(!bench.in_force(7));
}

#[tokio::test]
async fn the_time_left_is_told_in_whole_seconds_with_the_keys_that_hang_on_it() {
    let bench = Bench::new();
    bench.tick().await;
    bench.grant(7, 5);
    let put = PutRequest { key: Bytes::from("k"), lease: 7, ..PutRequest::default() };
    bench.apply(nodes()[0], 1, Command::Put(put));
    bench.tick().await;
    bench.clock.advance(Duration::from_millis(1_500));
    let ask = |id| LeaseTimeToLiveRequest { id, keys: true };
    let told = bench.keepers[0].time_to_live(&ask(7)).await.expect("the leader answers");
    assert_eq!((told.ttl, told.granted_ttl, told.keys), (3, 5, vec![Bytes::from("k")]));
    let told = bench.keepers[0].time_to_live(&ask(8)).await.expect("the leader answers");
    assert_eq!((told.ttl, told.granted_ttl), (-1, 0));
}

#[tokio::test]
async fn a_revoked_lease_is_forgotten_and_another_of_its_id_is_not() {
    let bench = Bench::new();
    bench.tick().await;
    bench.grant(7, 500);
    bench.tick().await;
    bench.apply(nodes()[0], 1, Command::LeaseRevoke(LeaseRevokeRequest { id: 7 }));
    bench.keepers[0].revoked(7);
    assert_eq!(bench.keepers[0].counts().kept, 0);
    bench.grant(7, 5);
    bench.tick().await;
    bench.keepers[0].revoked(7);
    assert_eq!(bench.keepers[0].counts().kept, 1);
    bench.pass(5).await;
    assert!(!bench.in_force(7), "the second one ends in its time");
}

#[tokio::test]
async fn leases_are_listed_in_the_order_in_which_they_end() {
    let bench = Bench::new();
    bench.tick().await;
    for (id, ttl) in [(1, 50), (2, 5), (3, 20)] {
        bench.grant(id, ttl);
    }
    bench.tick().await;
    let listed = bench.keepers[0].leases().await.expect("the leader answers").leases;
    assert_eq!(listed.iter().map(|lease| lease.id).collect::<Vec<_>>(), [2, 3, 1]);
}
