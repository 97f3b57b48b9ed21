//! Every bound of a replica in one place: what may queue, what may be in flight, how long a call
//! may take. A queue without a bound is a place where memory and latency run away.
//!
//! ```text
//!   callers ->[ backlog ]-> proposal ->[ in flight ]-> Raft ->[ append window ]-> peer
//!              commands     commands    proposals              frames, per group
//!              bytes        bytes                              bytes, per group
//! ```
//!
//! Invariant: the limits nest: one command fits into a proposal, one proposal fits into a frame,
//! one frame fits into a message that both sides accept (checked below at compile time).
//!
//! Not here: what an operator may want to set; that is [`crate::config`].

use std::time::Duration;

/// The largest command. A larger one is refused before it is proposed.
pub const COMMAND_BYTES_MAX: usize = 2 << 20;
/// Commands in one proposal (one Raft log entry).
pub const PROPOSAL_COMMANDS_MAX: usize = 2_048;
/// Bytes of commands after which a proposal takes no further one.
pub const PROPOSAL_BYTES_MAX: usize = 1 << 20;
/// Proposals of one group that are appended and not yet applied: while one is on its way, the next is made.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 2;
/// How often other tasks may go first before a proposal is made, when the one before it was shared.
pub const GATHER_YIELDS_MAX: usize = 32;
/// How often in a row they may go first and bring nothing.
pub const GATHER_YIELDS_IN_VAIN_MAX: usize = 4;
/// Commands of one group that wait to be proposed; the next one is refused.
pub const BACKLOG_COMMANDS_MAX: usize = 16_384;
/// Bytes of commands of one group that wait to be proposed.
pub const BACKLOG_BYTES_MAX: usize = 64 << 20;
/// Readers of one group that wait for a barrier; the next one is refused.
pub const READERS_WAITING_MAX: usize = 65_536;

/// The largest attachment. A machine applies it at once, and meanwhile nothing else of its group.
pub const ATTACHMENT_BYTES_MAX: usize = 16 << 20;
/// Bytes of one piece of an attachment, on disk and between members.
pub const ATTACHMENT_PIECE_BYTES: usize = 1 << 20;
/// How long fetching an attachment from another member may take.
pub const ATTACHMENT_FETCH_DEADLINE: Duration = Duration::from_millis(10_000);
/// How long a leader waits for a majority to have an attachment before it refuses the proposal.
pub const ATTACHMENT_SPREAD_DEADLINE: Duration = Duration::from_millis(3_000);

/// Append requests to one peer for one group that are sent and not yet answered. At most 64: the
/// receiving side of openraft pipelines no more.
pub const APPEND_WINDOW_FRAMES: usize = 32;
/// Bytes of append requests to one peer for one group that are sent and not yet answered. One
/// frame may always be in flight, however large.
pub const APPEND_WINDOW_BYTES: usize = 8 << 20;
/// Frames of all groups that wait for one peer's stream.
pub const LINK_FRAMES_MAX: usize = 256;
/// Append sessions one peer may have open on one stream.
pub const LINK_SESSIONS_MAX: usize = 4_096;
/// The largest peer message either side accepts.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// How long opening the append stream to a peer may take.
pub const LINK_OPEN_DEADLINE: Duration = Duration::from_millis(1_000);
/// Between two attempts to open the append stream to a peer.
pub const LINK_RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long the oldest append request may stay unanswered. Far above one heartbeat, because a
/// follower answers after its fsync and disks have tails.
pub const APPEND_ANSWER_DEADLINE: Duration = Duration::from_millis(3_000);
/// How long a snapshot page may wait for the receiver to take it.
pub const SNAPSHOT_PAGE_DEADLINE: Duration = Duration::from_millis(10_000);
/// How long the receiver may take to install a snapshot whose last page it has.
pub const SNAPSHOT_INSTALL_DEADLINE: Duration = Duration::from_secs(120);
/// Bytes of one page of a snapshot, about.
pub const SNAPSHOT_PAGE_BYTES: usize = 256 << 10;
/// Snapshot pages read ahead of the network, on either side.
pub const SNAPSHOT_PAGES_AHEAD: usize = 4;

/// Memory for pairs of the state that were read lately, of all groups of a node.
pub const HOT_BYTES_MAX: u64 = 64 << 20;

const _: () = assert!(COMMAND_BYTES_MAX + PROPOSAL_BYTES_MAX < MESSAGE_BYTES_MAX / 4);
const _: () = assert!(COMMAND_BYTES_MAX < BACKLOG_BYTES_MAX);
const _: () = assert!(APPEND_WINDOW_FRAMES <= 64);
const _: () = assert!(ATTACHMENT_PIECE_BYTES < MESSAGE_BYTES_MAX);
const _: () = assert!(COMMAND_BYTES_MAX < ATTACHMENT_BYTES_MAX);
