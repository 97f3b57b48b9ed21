//! Carries a request to where it can be answered.
//!
//! ```text
//!   here --ok / refused--> answer
//!     | not the leader
//!     v
//!   at the leader --ok / refused--> answer
//!     | surely not done: no connection, or it does not lead either
//!     v
//!   pause, begin again, until the deadline
//! ```
//! Invariant: what writes is tried again only when it surely was not done; what was carried once is
//! not carried on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use world::NodeId;

use super::Identity;
use super::forwarder::Forwarder;
use crate::auth::AuthDesk;
use crate::control_port::ControlPort;
use crate::group::read_with;
use crate::limits::{RETRY_PAUSE, SERVE_DEADLINE};
use crate::outcome::{CallError, HOP_KEY, NOT_LEADER, not_done};
use crate::peers::Peers;
use crate::quota::{self, Quota, Room};
use crate::refusal::Refusal;
use crate::wire::etcdserverpb::ResponseHeader;
use crate::wire::native::ControlCommand;
use crate::wire::native::control_command::Command;
use crate::wire::native::control_reply::Reply;

/// The way from this node to the leader of the control group.
#[derive(Clone)]
pub(crate) struct Courier {
    pub(crate) port: ControlPort,
    pub(crate) identity: Identity,
    pub(crate) peers: Arc<Peers>,
    pub(crate) forwarder: Forwarder,
    pub(crate) desk: AuthDesk,
    pub(crate) quota: Quota,
}

impl Courier {
    /// Answers by `here` on the leader; elsewhere by `there`, given the leader's channel and how
    /// long it may take.
    pub(crate) async fn run<A, H, T>(
        &self,
        here: impl Fn() -> H,
        there: impl Fn(Channel, Duration) -> T,
    ) -> Result<A, Status>
    where
        H: Future<Output = Result<A, CallError>>,
        T: Future<Output = Result<A, Status>>,
    {
        self.route(here, |leader, patience| {
            let asked = self.peers.channel(leader).map(|channel| there(channel, patience));
            async {
                match asked {
                    Some(asked) => asked.await,
                    None => Err(CallError::NotLeader { hint: None }.status()),
                }
            }
        })
        .await
    }

    async fn route<A, H, T>(
        &self,
        here: impl Fn() -> H,
        there: impl Fn(NodeId, Duration) -> T,
    ) -> Result<A, Status>
    where
        H: Future<Output = Result<A, CallError>>,
        T: Future<Output = Result<A, Status>>,
    {
        let deadline = Instant::now() + SERVE_DEADLINE;
        loop {
            let hint = match timeout_at(deadline, here()).await {
                Ok(Err(CallError::NotLeader { hint })) => hint,
                Ok(ended) => return ended.map_err(|error| error.status()),
                Err(_) => return Err(CallError::Unknown("the deadline passed".to_owned()).status()),
            };
            let leader = hint.filter(|leader| *leader != self.identity.node);
            if let Some(leader) = leader {
                let patience = deadline.saturating_duration_since(Instant::now());
                match there(leader, patience).await {
                    Err(status) if may_repeat(&status) => {}
                    ended => return ended,
                }
            }
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(CallError::NotLeader { hint: None }.status());
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Has a command carried out, wherever the leader is.
    ///
    /// # Errors
    /// The status etcd would answer.
    pub(crate) async fn propose(&self, command: ControlCommand) -> Result<Reply, Status> {
        self.check_room(&command).await?;
        self.deliver(command).await
    }

    /// Refuses what there is no room for, and sees to it that everybody knows.
    async fn check_room(&self, command: &ControlCommand) -> Result<(), Status> {
        let Some(command) = &command.command else { return Ok(()) };
        let room = read_with(self.port.group(), |view| self.quota.room(view, command));
        match room.map_err(|error| CallError::Storage(error.to_string()).status())? {
            Room::Left => return Ok(()),
            Room::Alarmed => {}
            Room::Exceeded => {
                let alarm = quota::raise(super::member_id(self.identity.node));
                let told = self.deliver(ControlCommand { command: Some(alarm), author: None }).await;
                tracing::warn!(
                    quota_bytes = self.quota.bytes(),
                    told = told.is_ok(),
                    "the keys of etcd's clients take more than their quota: alarm NOSPACE; compact, delete, \
                     then `etcdctl alarm disarm`"
                );
            }
        }
        Err(CallError::Refused(Refusal::NoSpace).status())
    }

    async fn deliver(&self, command: ControlCommand) -> Result<Reply, Status> {
        let reply = self
            .route(
                || self.port.carry_out(command.clone()),
                |leader, patience| self.forwarder.forward(leader, command.clone(), patience),
            )
            .await?;
        match reply {
            Reply::Refused(code) => {
                let refusal = Refusal::try_from(code).unwrap_or(Refusal::Unspecified);
                Err(CallError::Refused(refusal).status())
            }
            reply => Ok(reply),
        }
    }

    /// The same for whoever sent this metadata.
    pub(crate) async fn send(&self, metadata: &MetadataMap, command: Command) -> Result<Reply, Status> {
        let author = Some(self.desk.author(metadata)?);
        self.propose(ControlCommand { command: Some(command), author }).await
    }

    /// A header that tells the newest revision applied here.
    pub(crate) fn header(&self) -> Result<ResponseHeader, Status> {
        let revision = self.port.revision().map_err(|error| error.status())?;
        Ok(self.stamped(Some(ResponseHeader { revision, ..ResponseHeader::default() })))
    }

    /// A header with this node's name on it; the revision stays.
    pub(crate) fn stamped(&self, header: Option<ResponseHeader>) -> ResponseHeader {
        let mut header = header.unwrap_or_default();
        self.identity.fill(&mut header, &self.port);
        header
    }
}

/// A request that is carried once.
pub(crate) fn hop<T>(message: T, patience: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HOP_KEY, MetadataValue::from_static("1"));
    request.set_timeout(patience);
    request
}

// The leader may have moved on, or its node be gone. A refusal by a true leader is final.
fn may_repeat(status: &Status) -> bool {
    let elsewhere = status.code() == Code::FailedPrecondition && status.message() == NOT_LEADER;
    not_done(status) && (status.code() == Code::Unavailable || elsewhere)
}
