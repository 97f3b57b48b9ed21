//! What is done to whoever stands outside of consensus: users, producers, consumers, settlers, the bank.
//!
//! Invariant: as in `nemesis`.
//!
//! Not here: what they make of it (`mischief`, `host`).

use world::NodeId;

use super::{Later, Nemesis};
use crate::host::bank::Mood;
use crate::host::node::Push;
use crate::schedule::Action;

impl Nemesis {
    /// Answers whether it happened.
    pub(super) fn act_outside(&mut self, now_ms: u64, action: &Action) -> bool {
        let mischief = &self.board.mischief;
        match *action {
            Action::Burst { factor, for_ms } => {
                mischief.burst(factor, now_ms + for_ms);
                true
            }
            Action::CrashCrowd { percent } => {
                mischief.devices.crash(percent.into());
                mischief.apps.crash(percent.into());
                true
            }
            Action::RepeatMessages { percent, for_ms } => {
                self.send_twice(percent.into());
                self.plan(now_ms + for_ms, Later::SendOnce);
                true
            }
            Action::StopSettlers { ref nodes, for_ms } => {
                mischief.stop_consumers(now_ms + for_ms);
                self.pause_settling(nodes, true);
                self.plan(now_ms + for_ms, Later::Settle(nodes.clone()));
                true
            }
            Action::BankFault { fault, percent, for_ms } => {
                let mood = Mood { fault, percent: percent.into(), until_ms: now_ms + for_ms };
                mischief.bank.set_mood(Some(mood));
                self.event
            }
            _ => false,
        }
    }

    pub(super) fn send_twice(&self, percent: u32) {
        self.board.mischief.devices.send_twice(percent);
        self.board.mischief.apps.send_twice(percent);
    }

    pub(super) fn pause_settling(&self, nodes: &[NodeId], paused: bool) {
        for node in nodes {
            // A node that is down has nothing to pause; when it starts, it settles.
            let _ = self.push(*node, Push::PauseSettling(paused));
        }
    }
}
