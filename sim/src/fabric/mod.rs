//! The simulated outside: what stands behind the doors that production code is handed.
//!
//! ```text
//!   world::net    -> net.rs      turmoil's TCP, host names as addresses
//!   world::Clock  -> clock.rs    simulated time, each host's own error on top
//!   world::disk   -> disk.rs     files in memory; what was not synced is lost in a crash
//!   Storage       -> storage.rs  engines on platter.rs (memory, or RocksDB: rocks.rs), syncs that take time
//!   libc          -> time.rs     what the interposed clock and entropy calls of the binary answer
//! ```
//! Invariant: nothing here reads a real clock, real entropy or a real network, nor a real disk, except
//! below RocksDB.
//!
//! Not here: when something goes wrong (nemesis.rs).

pub mod clock;
pub mod disk;
pub mod net;
pub mod platter;
pub mod rocks;
pub mod storage;
pub mod time;
