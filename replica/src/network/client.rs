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
use tonic::{Request, Response, Status};
use world::GroupId;

use super::link::{Link, Links};
use super::session::{self, unreachable};
use super::snapshot;
use super::wire::{append_to_pb, beat_from_pb, transfer_to_pb, vote_request_to_pb, vote_response_from_pb};
use crate::codec::{CodecError, pb};
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
    /// Heartbeats, one call each.
    Beat,
}

/// One group's way to one peer.
pub(crate) struct Client {
    group: GroupId,
    lane: Lane,
    /// The error text when the peer's address is not an address.
    link: Result<Arc<Link>, String>,
}

impl Factory {
    fn client(&self, lane: Lane, peer: &Peer) -> Client {
        let link = self.links.to(&peer.addr).map_err(|error| error.to_string());
        Client { group: self.group, lane, link }
    }
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;

    async fn new_client(&mut self, _target: u64, peer: &Peer) -> Client {
        self.client(Lane::Log, peer)
    }

    async fn new_heartbeat_client(&mut self, _target: u64, peer: &Peer) -> Client {
        self.client(Lane::Beat, peer)
    }
}

impl Client {
    fn link(&self) -> Result<&Arc<Link>, RpcError> {
        self.link.as_ref().map_err(|reason| unreachable(reason))
    }
}

/// Makes one call with a deadline on both sides and names every failure unreachable.
pub(super) async fn call<Q, A, F>(
    message: Q,
    deadline: Duration,
    send: impl FnOnce(Request<Q>) -> F,
) -> Result<A, RpcError>
where
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    match tokio::time::timeout(deadline, send(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(unreachable(&status.to_string())),
        Err(_) => Err(unreachable("no answer within the deadline")),
    }
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
        let mut control = self.link()?.control.clone();
        let reply =
            call(message, option.hard_ttl(), |request| async move { control.beat(request).await }).await?;
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
        let mut control = self.link()?.control.clone();
        let reply =
            call(message, option.soft_ttl(), |request| async move { control.vote(request).await }).await?;
        vote_response_from_pb(reply).map_err(malformed)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let message = vote_request_to_pb(self.group.0, &request);
        let mut control = self.link()?.control.clone();
        let reply =
            call(message, option.soft_ttl(), |request| async move { control.pre_vote(request).await })
                .await?;
        vote_response_from_pb(reply).map_err(malformed)
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let message = transfer_to_pb(self.group.0, &request);
        let mut control = self.link()?.control.clone();
        let reply =
            call(message, option.soft_ttl(), |request| async move { control.transfer_leader(request).await })
                .await?;
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
