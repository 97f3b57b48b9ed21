//! Keeps the log short by bytes, as openraft keeps it short by entries.
//!
//! ```text
//!   | purged | kept for who is a little behind | not in a snapshot |
//!            |<---- keep_bytes at most ------->|<- snapshot_every_bytes: take one ->|
//! ```
//!
//! Invariant: nothing is asked to be removed that a flushed snapshot does not cover; the log itself
//! refuses it as well (`log::store`).
//!
//! Not here: the same by number of entries; that is openraft's own policy ([`crate::config`]).

use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;

use crate::config::ReplicaConfig;
use crate::log::LogExtent;
use crate::machine::Machine;
use crate::state::StateStore;
use crate::types::TypeConfig;

/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where a member stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    purged_next: u64,
    snapshot_next: u64,
    applied_next: u64,
}

/// What to ask of openraft.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Wish {
    snapshot: bool,
    purge_upto: Option<u64>,
}

/// Looks at the log until the replica stops.
pub(crate) async fn run<M: Machine>(
    raft: Raft<TypeConfig, StateStore<M>>,
    extent: LogExtent,
    config: ReplicaConfig,
) {
    let mut metrics = raft.metrics();
    let mut asked_at = None;
    while metrics.changed().await.is_ok() {
        let standing = {
            let metrics = metrics.borrow_watched();
            let next = |id: &Option<crate::types::LogId>| id.as_ref().map_or(0, |id| id.index + 1);
            Standing {
                purged_next: next(&metrics.purged),
                snapshot_next: next(&metrics.snapshot),
                applied_next: next(&metrics.last_applied),
            }
        };
        let wish =
            wish(standing, &config, |index| extent.bytes_from(index), |bytes| extent.first_within(bytes));
        // One snapshot at a time: the next one is asked for when the last one is there.
        if wish.snapshot && asked_at != Some(standing.snapshot_next) {
            asked_at = Some(standing.snapshot_next);
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
        if let Some(upto) = wish.purge_upto
            && raft.trigger().purge_log(upto).await.is_err()
        {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn wish(
    standing: Standing,
    config: &ReplicaConfig,
    bytes_from: impl Fn(u64) -> u64,
    first_within: impl Fn(u64) -> u64,
) -> Wish {
    let Standing { purged_next, snapshot_next, applied_next } = standing;
    let snapshot = applied_next > snapshot_next && bytes_from(snapshot_next) >= config.snapshot_every_bytes;
    let keep_from = first_within(config.keep_bytes).min(snapshot_next);
    let purge_upto = (keep_from > purged_next).then(|| keep_from - 1);
    Wish { snapshot, purge_upto }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log whose entries take 10 bytes each, up to index 100.
    fn check(standing: (u64, u64, u64), every: u64, keep: u64, expected: (bool, Option<u64>)) {
        let (purged_next, snapshot_next, applied_next) = standing;
        let config =
            ReplicaConfig { snapshot_every_bytes: every, keep_bytes: keep, ..ReplicaConfig::default() };
        let standing = Standing { purged_next, snapshot_next, applied_next };
        let wish = wish(standing, &config, |index| (100 - index) * 10, |bytes| 100 - bytes / 10);
        assert_eq!((wish.snapshot, wish.purge_upto), expected);
    }

    #[test]
    fn a_log_that_is_long_in_bytes_is_snapshotted_and_shortened() {
        check((0, 0, 90), 500, 100, (true, None));
        check((0, 80, 90), 500, 100, (false, Some(79)));
        check((0, 95, 100), 500, 300, (false, Some(69)));
        check((70, 95, 100), 500, 300, (false, None));
        // Nothing new is applied: another snapshot would cover no more.
        check((0, 20, 20), 500, 100, (false, Some(19)));
    }
}
