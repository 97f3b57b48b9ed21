//! A group that begins with state: put on the new disks of all its voters before any of them starts.
//!
//! ```text
//!   each disk:   state   the pairs, applied at entry 0, with the membership      durable
//!                log     nothing; purged up to entry 0, a vote for the term      durable
//! ```
//! Every disk is as if the group had been formed, had come by the pairs, and had cut its log short; the first
//! start elects a leader as after any restart. No founder, no promise: whoever plants names all disks at
//! once.
//!
//! Invariant: a group is planted on disks that know nothing of it, or not at all.
//!
//! Not here: where the pairs come from, and what they mean.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use openraft::storage::RaftLogStorage;
use openraft::vote::RaftLeaderId;
use world::{GroupId, UnixMs};

use crate::engine::EngineError;
use crate::host::Engines;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::state::StateStore;
use crate::types::{LeaderId, LogId, Membership, Peer, SnapshotMeta, StoredMembership, Vote};

/// The term in which the group is thought to have been formed.
const TERM: u64 = 1;

/// A group as it begins.
#[derive(Clone, Copy, Debug)]
pub struct Plant<'p> {
    /// Its number.
    pub group: GroupId,
    /// All voters and their addresses: the same on every disk.
    pub voters: &'p [(MemberId, String)],
    /// What the machine wrote, in ascending order of keys.
    pub pairs: &'p [(Bytes, Bytes)],
    /// The group's clock then.
    pub now: UnixMs,
}

impl Plant<'_> {
    /// Puts the group on one disk, durably.
    ///
    /// # Errors
    /// When the disk knows the group already, the pairs do not ascend or are none of the machine's, or the
    /// disk says no.
    ///
    /// # Panics
    /// When there are no voters.
    pub async fn put<M: Machine>(&self, engines: &Engines, machine: M) -> Result<(), EngineError> {
        let mut log = LogStore::open(self.group, Arc::clone(&engines.log), engines.log_writer.clone())?;
        let mut state = StateStore::open(self.group, Arc::clone(&engines.state), machine)?;
        if log.ends() != (None, None) || state.handle().applied().is_some() {
            return Err(EngineError::Failed(format!("this disk knows {} already", self.group)));
        }
        let (founder, _) = self.voters.first().expect("a group has voters");
        let leader = LeaderId::new(TERM, founder.raft_id());
        let meta = self.meta(LogId::new(leader, 0))?;
        state.plant(&meta, self.pairs, self.now).await?;
        log.save_vote(&Vote { leader_id: leader, committed: false }).await.map_err(failed)?;
        log.purge(LogId::new(leader, 0)).await.map_err(failed)
    }

    fn meta(&self, id: LogId) -> Result<SnapshotMeta, EngineError> {
        let ids: BTreeSet<u64> = self.voters.iter().map(|(member, _)| member.raft_id()).collect();
        let peers: BTreeMap<u64, Peer> = self
            .voters
            .iter()
            .map(|(member, addr)| (member.raft_id(), Peer { addr: addr.clone() }))
            .collect();
        let membership = Membership::new(vec![ids], peers)
            .map_err(|error| EngineError::Failed(format!("these voters make no group: {error}")))?;
        Ok(SnapshotMeta {
            last_log_id: Some(id),
            last_membership: StoredMembership::new(Some(id), membership),
        })
    }
}

fn failed(error: std::io::Error) -> EngineError {
    EngineError::Failed(error.to_string())
}
