//! What goes wrong, when, and what people do about it: a list of steps in simulated time.
//!
//! ```text
//!   seed   --derive-->  Schedule  <--resolve--  a drill file an operator wrote
//!                          |
//!                     validate: the victims exist, two zones' disks survive, everything ends
//!                          |
//!                       (played by the simulator)  --fails-->  shrink: the least that still fails
//! ```
//! Invariant: a schedule holds no chance. Whatever an action leaves open (which byte rots, how much
//! of an unsynced tail survives) the player draws from the run's own seed and the step's number.
//!
//! Not here: playing it.

use serde::{Deserialize, Serialize};
use world::{NodeId, ZoneId};

use crate::target::Target;

pub mod class;
pub mod derive;
mod episode;
mod say;
mod shrink;
mod validate;

pub use class::Class;
pub use say::{list, span};
pub use shrink::{Shrunk, shrink};
pub use validate::{Problem, validate};

/// What a schedule is played on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scene {
    /// All nodes of the cluster.
    pub nodes: Vec<NodeId>,
    /// Groups of the consensus, numbered from 0.
    pub groups: u32,
    /// Nothing may happen after this; `heal-all` happens at this moment or before.
    pub ends_ms: u64,
    /// When each slot starts: the moments worth spoiling.
    pub slots_ms: Vec<u64>,
}

impl Scene {
    /// The zones, in order.
    #[must_use]
    pub fn zones(&self) -> Vec<ZoneId> {
        let zones: std::collections::BTreeSet<ZoneId> = self.nodes.iter().map(|node| node.zone()).collect();
        zones.into_iter().collect()
    }

    /// The nodes of a zone.
    #[must_use]
    pub fn nodes_of(&self, zone: ZoneId) -> Vec<NodeId> {
        self.nodes.iter().copied().filter(|node| node.zone() == zone).collect()
    }
}

/// One thing that happens at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Simulated milliseconds since the start of the run.
    pub at_ms: u64,
    /// What happens.
    #[serde(flatten)]
    pub action: Action,
}

/// Steps in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// In order of `at_ms`; those of one moment happen in the order written.
    pub steps: Vec<Step>,
}

impl Schedule {
    /// The classes of faults in it: whoever plays it must be able to play them all.
    #[must_use]
    pub fn classes(&self) -> std::collections::BTreeSet<Class> {
        let caused = self.steps.iter().filter(|step| !step.action.mends());
        caused.filter_map(|step| step.action.class()).collect()
    }
}

/// How much of what was not synced survives a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// Nothing that was not synced.
    #[default]
    Lost,
    /// The first so many unsynced writes, however many.
    Prefix,
    /// A prefix, and part of the write after it.
    Torn,
}

/// One of the stores on a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// The consensus log.
    Log,
    /// The state machines.
    State,
    /// Ticket files, cursors, keys.
    Files,
}

/// What became of a file of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// It is not there any more.
    Missing,
    /// Its end is cut off.
    Truncated,
    /// It is as it was some time ago.
    RolledBack,
}

/// What is wrong with a ticket file on an access node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TicketDamage {
    /// It is not there.
    Missing,
    /// Its end is cut off.
    Truncated,
    /// A bit of it was changed.
    Altered,
    /// Another file stands under its number: those records would be issued twice.
    Exchanged,
    /// It is of another build, under other keys.
    StaleBuild,
}

/// How the payment back end misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BankFault {
    /// It pays and does not answer.
    TimeoutButPaid,
    /// It does not pay and does not answer.
    TimeoutNotPaid,
    /// It reports each payment to two workers, who both go on with it.
    DoubleCallback,
    /// It pays, and knows of it only long after.
    LateCallback,
    /// It refuses, for good.
    Refused,
    /// It pays and answers so late that some have given up.
    Slow,
}

/// What a command an operator typed must come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Expect {
    /// Either way.
    #[default]
    Any,
    /// It is carried out.
    Done,
    /// A guard, the parser or a check turns it down, and nothing changes.
    Refused,
}

/// What an old controller tries to carry out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneVerb {
    /// Let the others issue the zone's files.
    Failover,
    /// Give them back.
    Restore,
}

/// Something that happens. Durations and delays are simulated milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(missing_docs, reason = "each variant's sentence says what its fields are")]
pub enum Action {
    /// The processes end at once; what they had written but not synced is kept by the machine.
    Crash { nodes: Vec<NodeId> },
    /// The machines stop silently: no connection is closed, what was not synced is at risk.
    PowerCut {
        nodes: Vec<NodeId>,
        #[serde(default)]
        tail: Tail,
    },
    /// Nodes that are down start again, on the disks they have; one that runs all the same is ended
    /// first.
    Restart { nodes: Vec<NodeId> },
    /// The processes do nothing for a while, and then go on as if nothing had been.
    Pause { nodes: Vec<NodeId>, for_ms: u64 },
    /// A whole zone loses power, and the network with it.
    ZoneDown {
        zone: ZoneId,
        #[serde(default)]
        tail: Tail,
    },
    /// The zone has power again, and every node of it starts.
    ZoneUp { zone: ZoneId },

    /// The zone is cut off from the other zones, both ways; from the crowd too if `crowd`.
    Island {
        zone: ZoneId,
        #[serde(default)]
        crowd: bool,
    },
    /// Nothing passes between the two sides.
    Partition { between: Vec<Target>, and: Vec<Target> },
    /// Nothing passes in this direction; the other still works.
    OneWay { from: Vec<Target>, to: Vec<Target> },
    /// Every link of these places works again, without delay; all links if none is named.
    Heal {
        #[serde(default)]
        places: Vec<Target>,
    },
    /// The link goes down and up again, so many times.
    Flap { between: Vec<Target>, and: Vec<Target>, down_ms: u64, up_ms: u64, times: u32 },
    /// What is sent is kept back.
    Hold { between: Vec<Target>, and: Vec<Target> },
    /// What was kept back arrives, all at once.
    Release { between: Vec<Target>, and: Vec<Target> },
    /// Each message takes this long.
    Latency { between: Vec<Target>, and: Vec<Target>, min_ms: u64, max_ms: u64 },
    /// Every tenth of a second, with this chance, what is on the way never arrives.
    LoseMessages { between: Vec<Target>, and: Vec<Target>, percent: u8, for_ms: u64 },
    /// Some requests of users, and of producers, arrive twice at the same time.
    RepeatMessages { percent: u8, for_ms: u64 },

    /// Each sync takes this long.
    SlowDisk { nodes: Vec<NodeId>, min_ms: u64, max_ms: u64 },
    /// Writes are refused: no space.
    FullDisk { nodes: Vec<NodeId> },
    /// The next sync fails. The node must stop, and not sync again: it counts as down from now on.
    FailSync { nodes: Vec<NodeId> },
    /// Bits of what is stored change.
    BitRot { nodes: Vec<NodeId>, store: Store, bits: u32 },
    /// The next write lands somewhere else.
    MisdirectWrite { nodes: Vec<NodeId>, store: Store },
    /// A file of a store is damaged while the node is down.
    DamageFile { node: NodeId, store: Store, damage: Damage },
    /// The disk is empty from now on.
    LoseDisk { nodes: Vec<NodeId> },
    /// Two nodes that are down get each other's disk.
    SwapDisks { one: NodeId, other: NodeId },
    /// Disks are fast and have space again. What is damaged or lost stays so.
    MendDisk { nodes: Vec<NodeId> },

    /// The wall clock is off by this much.
    ClockOffset { nodes: Vec<NodeId>, by_ms: i64 },
    /// The wall clock goes wrong by so many parts in a million.
    ClockDrift { nodes: Vec<NodeId>, ppm: i64 },
    /// The wall clock leaps, forwards or back.
    ClockJump { nodes: Vec<NodeId>, by_ms: i64 },
    /// The wall clocks are right again.
    MendClock { nodes: Vec<NodeId> },

    /// The node stands for election, in one group or in all.
    Elect { node: NodeId, group: Option<u32> },
    /// The group's leader hands over.
    TransferLeader { group: u32, to: NodeId },
    /// A snapshot is taken of every group, and the log before it is dropped.
    Snapshot { nodes: Vec<NodeId> },
    /// A node whose disk is lost or damaged is given an empty one, and somebody types what puts that
    /// disk in the place of the lost one.
    ReplaceNode { node: NodeId },

    /// So many times as many users at once.
    Burst { factor: u32, for_ms: u64 },
    /// Users' devices fail in the middle of what they do, and begin anew without what they knew.
    CrashCrowd { percent: u8 },
    /// Nothing is consumed from the queue.
    StopSettlers { nodes: Vec<NodeId>, for_ms: u64 },
    /// The payment back end misbehaves, for this share of calls.
    BankFault { fault: BankFault, percent: u8, for_ms: u64 },
    /// A ticket file is not what it should be.
    DamageTicketFile { node: NodeId, damage: TicketDamage },

    /// Somebody types a command, once or more often.
    Operator {
        /// The command line, without the name of the program.
        types: String,
        #[serde(default = "once")]
        times: u32,
        #[serde(default)]
        expect: Expect,
    },
    /// A controller that decided this long ago carries it out.
    OldController { zone: ZoneId, verb: ZoneVerb, behind_ms: u64 },

    /// Everything ends: links and clocks work, nothing is held or paused, disks are fast, have space
    /// and are back in their own machines; those that were lost or damaged are replaced, and every
    /// node runs. What was on them stays lost.
    HealAll,
}

fn once() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_reads_back_from_json_and_toml() {
        for seed in 0..100 {
            let scene = Scene {
                nodes: ["a1", "b1", "c1"].map(|node| node.parse().expect("a node")).to_vec(),
                groups: 3,
                ends_ms: 30_000,
                slots_ms: vec![5_000],
            };
            let schedule = derive::derive(seed, &scene, 1_000, &Class::ALL).schedule;
            let json = serde_json::to_string(&schedule).expect("plain data");
            assert_eq!(
                serde_json::from_str::<Schedule>(&json).expect("what was written"),
                schedule,
                "{json}"
            );
            let toml = toml::to_string(&schedule).expect("plain data");
            assert_eq!(toml::from_str::<Schedule>(&toml).expect("what was written"), schedule, "{toml}");
        }
    }

    #[test]
    fn a_step_is_written_as_a_person_would() {
        let step: Step = serde_json::from_str(
            r#"{"at_ms": 5, "action": "partition", "between": ["a"], "and": ["b1", "crowd"]}"#,
        )
        .expect("a step");
        assert_eq!(step.action.to_string(), "nothing passes between a and b1 and crowd");
    }

    #[test]
    fn a_field_that_an_action_does_not_have_is_refused() {
        let text = r#"{"at_ms": 5, "action": "island", "zone": "a", "crowds": true}"#;
        let error = serde_json::from_str::<Step>(text).expect_err("a misspelt field").to_string();
        assert!(error.contains("crowds"), "{error}");
    }
}
