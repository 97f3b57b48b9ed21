//! What Raft calls when it wants something from a peer.
//!
//! Invariant: whatever goes wrong between the hosts is `Unreachable`. Raft then pauses before it
//! tries again; its `Network` error would make it try again at once, in a tight loop.
//!
//! Not here: the peer's side ([`super::service`]).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use prost::Message;
use tonic::{Request, Response, Status};
use world::GroupId;

use super::link::{Calls, Link, Links};
use super::session::{self, unreachable};
use super::snapshot;
use super::wire::{append_to_pb, beat_from_pb, transfer_to_pb, vote_request_to_pb, vote_response_from_pb};
use crate::codec::{CodecError, pb};
use crate::member_id::MemberId;
use crate::state::SnapshotData;
use crate::types::{Peer, TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;
type SnapshotOf = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Makes the clients of one group.
pub(crate) struct Factory {
    pub(crate) group: GroupId,
    pub(crate) links: Arc<Links>,
}

/// Which requests a client is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    /// Log entries over the shared stream.
    Log,
    /// Heartbeats over another.
    Beat,
}

/// One group's way to one peer.
pub(crate) struct Client {
    group: GroupId,
    lane: Lane,
    /// The error text when there can be no link: the address is none, or the number.
    link: Result<Arc<Link>, String>,
}

impl Factory {
    fn client(&self, lane: Lane, target: u64, peer: &Peer) -> Client {
        let link = match MemberId::from_raft_id(target) {
            Some(member) => self.links.to(Some(member), &peer.addr).map_err(|error| error.to_string()),
            None => Err(format!("{target:#x} is no member's number")),
        };
        Client { group: self.group, lane, link }
    }
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;

    async fn new_client(&mut self, target: u64, peer: &Peer) -> Client {
        self.client(Lane::Log, target, peer)
    }

    async fn new_heartbeat_client(&mut self, target: u64, peer: &Peer) -> Client {
        self.client(Lane::Beat, target, peer)
    }
}

impl Client {
    fn link(&self) -> Result<&Arc<Link>, RpcError> {
        self.link.as_ref().map_err(|reason| unreachable(reason))
    }
}

/// Makes one call with a deadline on both sides and names every failure unreachable.
async fn call<Q, A, F>(
    link: &Link,
    message: Q,
    deadline: Duration,
    send: impl FnOnce(Calls, Request<Q>) -> F,
) -> Result<A, RpcError>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    let sent = send(link.control.clone(), request);
    let Ok(answer) = tokio::time::timeout(deadline, sent).await else {
        return Err(unreachable("no answer within the deadline"));
    };
    link.heard(&answer);
    answer.map(Response::into_inner).map_err(|status| unreachable(&status.to_string()))
}

fn malformed(error: CodecError) -> RpcError {
    unreachable(&format!("malformed answer: {error}"))
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let message = pb::BeatRequest { group: self.group.0, request: Some(append_to_pb(&request)) };
        let beats = self.link()?.beats();
        let answer = beats.call(message.encode_to_vec().into(), option.hard_ttl()).await;
        let answer = answer.map_err(|error| unreachable(&error.to_string()))?;
        let reply = pb::BeatReply::decode(answer).map_err(|error| unreachable(&error.to_string()))?;
        beat_from_pb(reply).map_err(malformed)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.lane == Lane::Beat {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let seat = self.link()?.open_session().await.map_err(|reason| unreachable(&reason))?;
            Ok(session::run(self.group, seat, input).boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = vote_request_to_pb(self.group.0, &request);
        let reply = call(self.link()?, message, option.soft_ttl(), |mut calls, request| async move {
            calls.vote(request).await
        });
        let reply = reply.await?;
        vote_response_from_pb(reply).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = vote_request_to_pb(self.group.0, &request);
        let reply = call(self.link()?, message, option.soft_ttl(), |mut calls, request| async move {
            calls.pre_vote(request).await
        });
        let reply = reply.await?;
        vote_response_from_pb(reply).map_err(malformed)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = transfer_to_pb(self.group.0, &request);
        let reply = call(self.link()?, message, option.soft_ttl(), |mut calls, request| async move {
            calls.transfer_leader(request).await
        });
        let reply = reply.await?;
        if reply.refused.is_empty() { Ok(Ok(())) } else { Err(unreachable(&reply.refused)) }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let link = Arc::clone(self.link().map_err(StreamingError::from)?);
        let Snapshot { meta, snapshot } = snapshot;
        let send = snapshot::send(&link, self.group, vote, meta, snapshot);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => sent.map_err(StreamingError::from),
        }
    }
}
