//! Where a task may wait for the disk without holding up its neighbours.
//!
//! On a runtime with several workers the others take over this one's tasks meanwhile; on a
//! single-threaded one (the simulator) the work is simply done in place, so its order is fixed.
//!
//! Not here: a pool of threads. What is done here is short: one sync, or reading one file.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Does `work`, which waits for the disk.
pub fn off_the_path<R>(work: impl FnOnce() -> R) -> R {
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
