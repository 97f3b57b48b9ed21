//! The mark an engine bears: whose it is, and how often that disk was started.
//!
//! ```text
//!   group ff ff ff ff | "mark"     pb::Mark
//! ```
//!
//! Invariant: the key belongs to no group; [`HOST_GROUP`] is never one.
//!
//! Not here: whether marks fit (`decide`).

use std::ops::ControlFlow;

use bytes::Bytes;
use world::GroupId;

use crate::codec::{self, pb};
use crate::engine::{Batch, Engine, EngineError};
use crate::member_id::MemberId;

/// The range of keys that belong to the host, not to a group.
pub(crate) const HOST_GROUP: GroupId = GroupId(u32::MAX);

const KEY: &[u8] = b"\xff\xff\xff\xffmark";

/// Whose engine it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) cluster: String,
    pub(super) member: MemberId,
    pub(super) starts: u64,
}

/// What an engine says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Marked {
    /// It holds nothing at all.
    Empty,
    /// It holds something and bears no mark.
    Nameless,
    As(Mark),
}

pub(super) fn read(engine: &dyn Engine) -> Result<Marked, EngineError> {
    if let Some(stored) = engine.get(KEY)? {
        let mark: pb::Mark = codec::load(stored)?;
        let member = MemberId::from_raft_id(mark.member)
            .ok_or_else(|| EngineError::Corrupt(format!("the mark names no member: {:#x}", mark.member)))?;
        return Ok(Marked::As(Mark { cluster: mark.cluster, member, starts: mark.starts }));
    }
    let mut found = Marked::Empty;
    engine.scan(&[], &[], false, &mut |_, _| {
        found = Marked::Nameless;
        ControlFlow::Break(())
    })?;
    Ok(found)
}

pub(super) fn put(engine: &dyn Engine, mark: &Mark) -> Result<(), EngineError> {
    let stored =
        pb::Mark { cluster: mark.cluster.clone(), member: mark.member.raft_id(), starts: mark.starts };
    let mut batch = Batch::with_capacity(1);
    batch.put(Bytes::from_static(KEY), codec::store(&stored));
    engine.write_durable(batch)
}
