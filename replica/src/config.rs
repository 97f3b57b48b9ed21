//! What an operator may set about replication, and the Raft configuration made from it.
//!
//! Invariant: the options that keep acknowledged writes are not among the settings. Pre-vote is
//! on; a restarted leader never leads again without an election (with log entries that were not
//! yet durable it would write other entries under ids that followers already hold); a follower
//! whose log went backwards is an error, never accepted.
//!
//! Not here: bounds of queues and messages; those are [`crate::limits`].

use std::sync::Arc;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};
use world::mutant::{Mutant, armed};

/// The times and distances a replica works with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// A leader says at least this often that it is there.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing stands for election after `election_max_ms` plus a random
    /// time between the two. At least ten round trips between zones.
    pub election_min_ms: u64,
    /// See `election_min_ms`; also how long a leader's lease lasts.
    pub election_max_ms: u64,
    /// A snapshot (a flush of the state) is taken after this many log entries.
    pub snapshot_every_entries: u64,
    /// A snapshot is also taken after this many bytes of log: a few huge entries fill a disk as
    /// well as many small ones.
    pub snapshot_every_bytes: u64,
    /// Log entries kept although a snapshot covers them, for followers that are a little behind.
    pub keep_entries: u64,
    /// Bytes of such entries at most.
    pub keep_bytes: u64,
    /// How long a proposal may take before its outcome is given as unknown.
    pub propose_deadline: Duration,
    /// How long a read barrier may take.
    pub read_deadline: Duration,
    /// How long a leader transfer may take, the rescue of a failed one included.
    pub transfer_deadline: Duration,
    /// A leader transfer is refused when the target lacks more log entries than this.
    pub transfer_lag_entries_max: u64,
}

impl Default for ReplicaConfig {
    fn default() -> ReplicaConfig {
        ReplicaConfig {
            heartbeat_ms: 50,
            election_min_ms: 150,
            election_max_ms: 300,
            snapshot_every_entries: 20_000,
            snapshot_every_bytes: 64 << 20,
            keep_entries: 5_000,
            keep_bytes: 32 << 20,
            propose_deadline: Duration::from_secs(5),
            read_deadline: Duration::from_secs(2),
            transfer_deadline: Duration::from_secs(5),
            transfer_lag_entries_max: 1_000,
        }
    }
}

/// Settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Raft's inequality of times does not hold.
    #[error("heartbeat {heartbeat_ms} ms, election {min_ms} to {max_ms} ms: needs 2 * heartbeat < min < max")]
    Times {
        /// As given.
        heartbeat_ms: u64,
        /// As given.
        min_ms: u64,
        /// As given.
        max_ms: u64,
    },
    /// A distance that is zero.
    #[error("{name} must not be 0")]
    Zero {
        /// The setting.
        name: &'static str,
    },
    /// What openraft itself found.
    #[error("raft configuration: {0}")]
    Raft(String),
}

impl ReplicaConfig {
    /// Checks the settings and makes openraft's configuration of them.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn raft(&self) -> Result<Arc<Config>, ConfigError> {
        let times = self.heartbeat_ms > 0
            && self.heartbeat_ms.saturating_mul(2) < self.election_min_ms
            && self.election_min_ms < self.election_max_ms
            && self.election_max_ms < 3_600_000;
        if !times {
            return Err(ConfigError::Times {
                heartbeat_ms: self.heartbeat_ms,
                min_ms: self.election_min_ms,
                max_ms: self.election_max_ms,
            });
        }
        if self.snapshot_every_entries == 0 {
            return Err(ConfigError::Zero { name: "snapshot_every_entries" });
        }
        if self.snapshot_every_bytes == 0 {
            return Err(ConfigError::Zero { name: "snapshot_every_bytes" });
        }
        let config = Config {
            cluster_name: "hongbao".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            // An append that was acknowledged within this time is as good as a heartbeat. The
            // quarter leaves room for a late tick before a follower's patience ends.
            heartbeat_min_interval: Some(self.heartbeat_ms / 4),
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(armed(Mutant::LeaderRestored)),
            allow_log_reversion: Some(false),
            quorum_loss_probe_interval: Some(self.election_max_ms * 2),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            // A range deletion costs the same for one entry as for a thousand.
            purge_batch_size: (self.keep_entries / 4).clamp(1, 1_024),
            // Entries that are still there are cheaper than a snapshot of everything.
            replication_lag_threshold: self.snapshot_every_entries.saturating_mul(4).max(100_000),
            install_snapshot_timeout: 10_000,
            backoff: "50ms 100ms 200ms ..200ms".to_owned(),
            ..Config::default()
        };
        config.validate().map(Arc::new).map_err(|error| ConfigError::Raft(error.to_string()))
    }

    /// How long a group may be without a leader before somebody should help.
    #[must_use]
    pub fn election_patience(&self) -> Duration {
        Duration::from_millis(self.election_max_ms.saturating_mul(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_a_valid_configuration_with_the_safe_options() {
        let config = ReplicaConfig::default().raft().expect("the default is valid");
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.allow_log_reversion, Some(false));
        assert!(config.quorum_loss_probe_interval.is_some());
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let check = |heartbeat_ms, election_min_ms, election_max_ms| {
            let config =
                ReplicaConfig { heartbeat_ms, election_min_ms, election_max_ms, ..ReplicaConfig::default() };
            assert!(
                config.raft().is_err(),
                "{heartbeat_ms} {election_min_ms} {election_max_ms} was accepted"
            );
        };
        check(0, 150, 300);
        check(100, 150, 300);
        check(50, 300, 300);
        check(50, 400, 300);
        check(u64::MAX, u64::MAX, u64::MAX);
    }
}
