//! Bounds of a plan, and why they fit each other.
//!
//! Invariant: the relations at the end hold at compile time.
//!
//! Not here: bounds that a budget or script sets itself.

use ticket::id::SERIAL_MAX;
pub use ticket::limits::AMOUNT_FEN_MAX;

/// Batches of one event: `batch_id` is 16 bits wide.
pub const BATCH_COUNT_MAX: usize = 1 << 16;
/// Slots of one event.
pub const SLOT_COUNT_MAX: usize = 4096;
/// Packets of one event: each needs its own 48-bit serial.
pub const PACKETS_MAX: u64 = SERIAL_MAX + 1;
/// Money of one event: what every JSON reader still holds exactly.
pub const TOTAL_FEN_MAX: u64 = (1 << 53) - 1;
/// Data keys of one build: key ids are 16 bits wide and begin at 1.
pub const KEY_COUNT_MAX: u64 = u16::MAX as u64;
/// Files of one build.
pub const FILE_COUNT_MAX: u64 = 1 << 20;
/// Records of one ticket file unless the caller says otherwise: its working set (amounts, places,
/// records) then stays in the cache of one core.
pub const FILE_RECORDS_DEFAULT: u32 = 65_536;
/// Records of one ticket file.
pub const FILE_RECORDS_MAX: u32 = 1 << 22;
/// Files a node has per slot at least, so that a lost zone's files go to both other zones.
pub const FILES_PER_NODE_MIN: u64 = 2;
/// How long after its slot a packet may be opened unless the script says otherwise: a day.
pub const OPEN_GRACE_MINUTES: u64 = 24 * 60;
/// How long after its slot a packet may be opened at most: a quarter of a year.
pub const OPEN_GRACE_MINUTES_MAX: u64 = 90 * 24 * 60;
/// Length of names and accounts.
pub const NAME_BYTES_MAX: usize = 200;
/// Length of ids.
pub const ID_BYTES_MAX: usize = 64;
/// Zones that hold every file.
pub const ZONES: u8 = 3;
/// Nodes of one zone.
pub const NODES_PER_ZONE_MAX: u8 = world::place::NODE_NUMBER_MAX;
/// Entries of the instant set that are sorted in memory at once (16 bytes each).
pub const INSTANT_CHUNK_MAX: u64 = 8 << 20;

const _: () = assert!(FILE_RECORDS_DEFAULT <= FILE_RECORDS_MAX);
const _: () = assert!(FILE_RECORDS_MAX <= ticket::limits::FILE_RECORDS_MAX);
const _: () = assert!(AMOUNT_FEN_MAX * (FILE_RECORDS_MAX as u64) <= TOTAL_FEN_MAX);
const _: () = assert!(SLOT_COUNT_MAX * BATCH_COUNT_MAX <= u32::MAX as usize);
const _: () = assert!(SLOT_COUNT_MAX <= u16::MAX as usize);
