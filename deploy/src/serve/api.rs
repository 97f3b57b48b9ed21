//! What the admin endpoints answer: shared by the server and by the commands.
//!
//! ```text
//!   GET  /v1/health                    200 when the node serves, 503 when not
//!   GET  /v1/status                    NodeReport
//!   GET  /v1/zones                     ZonesReport
//!   POST /v1/zones/{z}/failover        ZoneRequest -> ZoneOutcome
//!   POST /v1/zones/{z}/restore         ZoneRequest -> ZoneOutcome
//!   POST /v1/drain                     DrainRequest -> DrainReport   this node
//!   POST /v1/rebalance                 groups this node leads and another is home of -> [GroupMove]
//!   GET  /v1/members                   MembersReport
//!   POST /v1/members/{node}            MemberRequest -> StepsReport
//!   PUT  /v1/builds/{b}/roster         signed roster   -> BuildReport
//!   PUT  /v1/builds/{b}/files/{n}      a ticket file   -> BuildReport
//!   GET  /v1/builds/{b}                BuildReport
//!   ...  /v1/builds/{b}/keys...         see `keys.rs`
//!   GET  /v1/event                     EventReport
//!   PUT  /v1/event                     EventRecord -> EventReport
//!   POST /v1/event/close               EventReport
//! ```
//! Every refusal is an `ErrorBody`; everything but health and status wants the admin token.

use serde::{Deserialize, Serialize};
use ticket::control::EventRecord;
use ticket::id::{BuildId, FileNo, SlotNo};
use world::{Epoch, NodeId, UnixMs, ZoneId};

/// One Raft group as one node sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its number.
    pub group: u32,
    /// `control`, `data 1`, `queue 0`.
    pub name: String,
    /// Who leads it, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Why this node's member stopped, when it did: its storage failed.
    #[serde(default)]
    pub stopped: Option<String>,
    /// The term it knows.
    pub term: u64,
    /// The last entry it applied.
    pub applied_index: u64,
    /// The last entry in its log.
    pub last_index: u64,
}

/// One file this node claimed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileReport {
    /// The slot it was claimed for.
    pub slot: SlotNo,
    /// The file.
    pub file: FileNo,
    /// Its home.
    pub home: NodeId,
    /// Records in it.
    pub count: u32,
    /// Records sealed to users, or skipped after a crash.
    pub issued: u32,
    /// Whether it will not be continued.
    pub frozen: bool,
}

/// One node as it sees itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeReport {
    /// `a1`.
    pub node: NodeId,
    /// Whether it serves: all its groups have a leader it can reach, and it may seal.
    pub serving: bool,
    /// Why not, when not.
    pub waiting_for: Option<String>,
    /// Whether it hands over what it leads, and settles nothing.
    #[serde(default)]
    pub drained: bool,
    /// How often it started.
    pub boot_epoch: Option<u32>,
    /// Every group.
    pub groups: Vec<GroupReport>,
    /// What keeps it out of its groups, or others from them.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Files it claimed in the active event.
    pub files: Vec<FileReport>,
    /// Files of the active build whose copy it verified.
    pub verified: Vec<FileNo>,
    /// Counters: shakes and opens by outcome, settlements by outcome.
    pub counters: std::collections::BTreeMap<String, u64>,
}

/// One zone for `zone list`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ZoneReport {
    /// Its letter.
    pub zone: ZoneId,
    /// `active` or `failed`.
    pub state: String,
    /// Raised by every operation.
    pub epoch: Epoch,
    /// The first slot the state holds for.
    pub from_slot: SlotNo,
    /// As the operator said.
    pub reason: String,
    /// When.
    pub at_ms: UnixMs,
    /// Whether its nodes serve now.
    pub serving: bool,
    /// Whether its nodes are drained.
    #[serde(default)]
    pub drained: bool,
    /// Its nodes.
    pub nodes: Vec<NodeId>,
}

/// All zones.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ZonesReport {
    /// In order.
    pub zones: Vec<ZoneReport>,
}

/// What an operator asks for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneRequest {
    /// Kept with the zone.
    pub reason: String,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Drawn once for a command, however often it is sent and to however many nodes. Without it a
    /// repetition is answered as one that changed nothing.
    #[serde(default)]
    pub operation: Option<String>,
}

/// What a node shall do with its leaderships.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// Hand them over, or take them again.
    pub drain: bool,
    /// Logged.
    pub reason: String,
    /// Only say what would move.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a node did about it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DrainReport {
    /// The node.
    pub node: NodeId,
    /// How it is now.
    pub drained: bool,
    /// What it handed over.
    pub moved: Vec<GroupMove>,
    /// What it leads still.
    pub left: Vec<String>,
}

/// A group that is led elsewhere now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupMove {
    /// The group's name.
    pub name: String,
    /// Who leads it.
    pub to: NodeId,
}

/// What a zone operation did or would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ZoneOutcome {
    /// The zone.
    pub zone: ZoneId,
    /// Its state afterwards.
    pub state: String,
    /// Its epoch afterwards.
    pub epoch: Epoch,
    /// False when it was so already, or for a dry run.
    pub changed: bool,
    /// The first slot the state holds for, by name.
    pub from_slot: Option<String>,
    /// Files claimed by the zone and not finished: reported, not issued again.
    pub frozen_files: u64,
    /// Records in them that were not issued, as last heard.
    pub frozen_packets: u64,
}

/// One disk in one group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemberReport {
    /// The node.
    pub node: NodeId,
    /// The disk's number: 12 hex digits.
    pub disk: String,
    /// Whether it votes, or only follows.
    pub votes: bool,
    /// Where it is reached.
    pub address: String,
    /// Whether it answers its leader.
    pub alive: bool,
    /// Log entries it lacks, when it is known.
    pub lag: Option<u64>,
}

/// The members of one group as its leader sees them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupMembers {
    /// Its number.
    pub group: u32,
    /// `control`, `data 1`, `queue 0`.
    pub name: String,
    /// Whether a change is under way.
    pub changing: bool,
    /// In order.
    pub members: Vec<MemberReport>,
}

/// One node's disk, and the groups it leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MembersReport {
    /// The node.
    pub node: NodeId,
    /// The number of the disk it runs on.
    pub disk: String,
    /// How often that disk was started.
    pub starts: u64,
    /// Every group of this node, by number.
    pub groups: Vec<u32>,
    /// Those it leads.
    pub leads: Vec<GroupMembers>,
    /// What keeps it out of its groups, or others from them.
    pub problems: Vec<String>,
}

/// What is wanted of a node's disks in every group (`replica::members::Wish`). Disks are written as the node
/// itself names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum MemberWish {
    /// This disk votes, in the place of every other of its node.
    Voter(String),
    /// This disk follows without a vote.
    Learner(String),
    /// No disk of the node votes.
    NoVoter,
    /// No disk of the node follows without a vote.
    NoLearner,
}

/// One step towards a wish, please, in the groups that the asked node leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRequest {
    /// What is wanted.
    pub wish: MemberWish,
    /// Logged.
    pub reason: String,
    /// Only say what would come next.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was done in one group, or comes next with `dry_run`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupStep {
    /// Its number.
    pub group: u32,
    /// `control`, `data 1`, `queue 0`.
    pub name: String,
    /// `add_learner`, `wait`, `set_voters`, `finish_change`, `remove_learners`, `done`, `refused`,
    /// `unknown` (ask again).
    pub step: String,
    /// For people.
    pub detail: String,
}

/// What one node did in the groups that it leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepsReport {
    /// Those groups.
    pub groups: Vec<GroupStep>,
}

/// How far one node holds a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BuildReport {
    /// The build.
    pub build: BuildId,
    /// Files this node has to hold.
    pub expected: Vec<FileNo>,
    /// Those it holds and has verified.
    pub verified: Vec<FileNo>,
}

/// The active event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EventReport {
    /// Absent before the first activation.
    pub event: Option<EventRecord>,
    /// Each claim, slot by slot.
    pub claims: Vec<ClaimReport>,
}

/// One claim.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClaimReport {
    /// The slot.
    pub slot: SlotNo,
    /// The file.
    pub file: FileNo,
    /// Who issues it.
    pub node: NodeId,
    /// Whether its zone was failed over while it ran.
    pub frozen: bool,
    /// How often the claim was written: 1, always.
    pub version: i64,
}
