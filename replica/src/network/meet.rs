//! Asking who answers at an address.
//!
//! Invariant: only the member's own word says which disk it has; a configuration file names nodes.
//!
//! Not here: what to make of the answers (`formation`, [`crate::host`]).

use std::time::Duration;

use tonic::Request;
use world::GroupId;

use super::link::Links;
use super::service::Acquaintance;
use crate::codec::pb;
use crate::member_id::{MemberId, shown};

/// How long somebody may take to say who they are.
const MEET_DEADLINE: Duration = Duration::from_millis(1_000);

/// Who answered, and what it knows of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Met {
    pub(crate) member: MemberId,
    pub(crate) knows: Acquaintance,
}

/// Asks at `address`; with `found`, also for the promise that the asker may form the group.
///
/// # Errors
/// Why nobody answered, for people.
pub(crate) async fn meet(links: &Links, address: &str, group: GroupId, found: bool) -> Result<Met, String> {
    let link = links.to(None, address).map_err(|error| error.to_string())?;
    let mut calls = link.control.clone();
    let mut request = Request::new(pb::MeetRequest { group: group.0, found });
    request.set_timeout(MEET_DEADLINE);
    let answer = tokio::time::timeout(MEET_DEADLINE, calls.meet(request))
        .await
        .map_err(|_| format!("{address} does not answer"))?;
    link.heard(&answer);
    let reply = answer.map_err(|status| format!("{address}: {}", status.message()))?.into_inner();
    let member = MemberId::from_raft_id(reply.member)
        .ok_or_else(|| format!("{address} calls itself {}", shown(reply.member)))?;
    let promised = (reply.promised != 0).then_some(reply.promised);
    let knows = Acquaintance { formed: reply.formed, named: reply.named, promised };
    Ok(Met { member, knows })
}
