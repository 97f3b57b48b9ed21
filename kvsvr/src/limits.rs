//! Every bound of this crate in one place, with the reason for its size.
//!
//! Invariant: the relations between them are checked when the crate is compiled.

use std::time::Duration;

/// Operations in one list of a control transaction, nested ones counted in; etcd's default.
pub const TXN_OPS_MAX: usize = 128;
/// Encoded size of one control request; etcd's default (1.5 MiB).
pub const CONTROL_REQUEST_BYTES_MAX: usize = 1_536 * 1024;
/// Largest gRPC message taken from a client: a request, and etcd's allowance for its envelope.
pub const MESSAGE_BYTES_MAX: usize = CONTROL_REQUEST_BYTES_MAX + 512 * 1024;
/// Largest gRPC answer our client takes. Bounds nothing on the server: a range is as long as it is.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Units in one native write: what one Raft entry should carry at most.
pub const WRITE_UNITS_MAX: usize = 4_096;
/// Operations in one unit.
pub const UNIT_OPS_MAX: usize = 256;
/// Bytes of one file of an ingest. It is applied at once, and nothing else of its group meanwhile.
pub const INGEST_FILE_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of one message that carries part of it.
pub const INGEST_PIECE_BYTES: usize = 512 * 1024;
/// Length of a data key.
pub const DATA_KEY_BYTES_MAX: usize = 4 * 1024;
/// Length of a data value.
pub const DATA_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Keys in one native batch get.
pub const BATCH_GET_KEYS_MAX: usize = 16_384;
/// Pairs in one page of a scan, whatever was asked for.
pub const SCAN_PAIRS_MAX: usize = 4_096;
/// Bytes after which a page of a scan ends early.
pub const SCAN_PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Events that each control command sweeps while a compaction is owed: enough to catch up with
/// the writes that make events, little enough not to be felt.
pub const SWEEP_EVENTS_PER_COMMAND: usize = 64;
/// Events that one explicit sweep command covers.
pub const SWEEP_EVENTS_PER_SWEEP: usize = 4_096;

/// The longest lease, in seconds; etcd's limit.
pub const LEASE_TTL_MAX_S: i64 = 9_000_000_000;
/// The shortest lease, in seconds; etcd's at its default election timeout. A lease must outlive an
/// election, or nobody could keep it alive.
pub const LEASE_TTL_MIN_S: i64 = 2;
/// How often a leader looks for leases whose time is up. Half of etcd's, so that a lease ends no
/// later after its time than there.
pub const LEASE_TICK: Duration = Duration::from_millis(250);
/// Leases that one look ends at most; etcd's rate of a thousand a second.
pub const LEASE_EXPIRIES_PER_TICK: usize = 250;
/// When the end of a lease is proposed again because nobody knows what became of the proposal.
pub const LEASE_EXPIRY_RETRY: Duration = Duration::from_secs(3);
/// What a new leader adds to every lease: at least the time in which nobody could keep them alive.
pub const LEASE_EXTENSION: Duration = Duration::from_secs(1);

/// Bytes of newest history that a group's member keeps in memory for its watches. A watch that is
/// farther behind reads from the store.
pub const WATCH_RING_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of history a watch is given at once, but for one large revision.
pub const WATCH_PAGE_BYTES: usize = 256 * 1024;
/// Responses that wait for one watch stream's client. When they are that many, the stream waits.
pub const WATCH_RESPONSES_QUEUED_MAX: usize = 16;
/// How often a watch that wishes so is told how far it is when nothing happens; etcd's default.
pub const WATCH_PROGRESS_INTERVAL: Duration = Duration::from_secs(600);

/// How long a client call may take in all, repeats included.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long a server works on one request. Shorter than a client's patience, so that the client
/// hears the outcome rather than its own clock.
pub const SERVE_DEADLINE: Duration = Duration::from_millis(4_500);
/// How long a client waits for a member to open a watch before it asks another.
pub const WATCH_OPEN_PATIENCE: Duration = Duration::from_millis(1_000);
/// Pause before a client asks around again when nobody led the group.
pub const RETRY_PAUSE: Duration = Duration::from_millis(40);

const _: () = assert!(MESSAGE_BYTES_MAX > CONTROL_REQUEST_BYTES_MAX);
const _: () = assert!(DATA_KEY_BYTES_MAX + DATA_VALUE_BYTES_MAX + 8 <= INGEST_FILE_BYTES);
const _: () = assert!(INGEST_PIECE_BYTES < MESSAGE_BYTES_MAX);
const _: () = assert!(world::mux::MESSAGE_BYTES + CONTROL_REQUEST_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(SCAN_PAGE_BYTES_MAX + DATA_VALUE_BYTES_MAX < ANSWER_BYTES_MAX);
const _: () = assert!(DATA_VALUE_BYTES_MAX + DATA_KEY_BYTES_MAX < MESSAGE_BYTES_MAX);
const _: () = assert!(WATCH_PAGE_BYTES * 4 < WATCH_RING_BYTES);
const _: () = assert!(WATCH_PAGE_BYTES * 2 < MESSAGE_BYTES_MAX);
const _: () = assert!(SWEEP_EVENTS_PER_SWEEP >= SWEEP_EVENTS_PER_COMMAND);
const _: () = assert!(SERVE_DEADLINE.as_millis() < CALL_DEADLINE.as_millis());
const _: () = assert!(LEASE_TTL_MIN_S * 1_000 > 4 * LEASE_TICK.as_millis() as i64);
