//! A snapshot on its way: a header, pages, and a last part that says what must have arrived.
//!
//! ```text
//!   sender:   what have you kept? header, page, page, ..., seal    a few pages ahead of the network
//!   receiver: stage page by page, check, install                   a few pages ahead of the disk
//! ```
//! When the stream breaks the receiver keeps what it has staged (`landing`), and the next stream of
//! the same snapshot begins behind it.
//!
//! Invariant: only a snapshot that arrived whole is installed: the seal covers every pair, whichever
//! stream brought it. A stream that breaks off leaves what the member had.
//!
//! Not here: what a page holds and its checksums (`state`).

use futures_util::StreamExt;
use openraft::errors::RPCError;
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use world::GroupId;

use super::link::Link;
use super::service::{Registry, stopped};
use super::session::unreachable;
use crate::codec::{
    CodecError, log_id_to_pb, pb, snapshot_meta_from_pb, snapshot_meta_to_pb, snapshot_seal_from_pb,
    snapshot_seal_to_pb, vote_from_pb, vote_to_pb,
};
use crate::limits::{
    SNAPSHOT_INSTALL_DEADLINE, SNAPSHOT_PAGE_BYTES, SNAPSHOT_PAGE_DEADLINE, SNAPSHOT_PAGES_AHEAD,
};
use crate::state::{OutgoingSnapshot, SnapshotData};
use crate::types::{SnapshotMeta, TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;

/// Sends a snapshot and waits until the peer has installed it.
pub(super) async fn send(
    link: &Link,
    group: GroupId,
    vote: Vote,
    meta: SnapshotMeta,
    data: SnapshotData,
) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
    let SnapshotData::Outgoing(mut snapshot) = data else {
        return Err(unreachable("a snapshot that is still coming in cannot be sent"));
    };
    let from = ask_kept(link, group, &meta, &mut snapshot).await.map_err(|reason| unreachable(&reason))?;
    let (parts, outgoing) = mpsc::channel(SNAPSHOT_PAGES_AHEAD);
    let header = pb::SnapshotHeader {
        group: group.0,
        vote: Some(vote_to_pb(&vote)),
        meta: Some(snapshot_meta_to_pb(&meta)),
        from,
    };
    let mut bulk = link.bulk.clone();
    let sent = bulk.snapshot(ReceiverStream::new(outgoing));
    tokio::pin!(sent);
    let reply = tokio::select! {
        biased;
        // The peer answers early when it refuses.
        reply = &mut sent => reply,
        fed = feed(parts, header, snapshot) => {
            fed.map_err(|reason| unreachable(&reason))?;
            timeout(SNAPSHOT_INSTALL_DEADLINE, sent)
                .await
                .map_err(|_| unreachable("the snapshot was not installed within the deadline"))?
        }
    };
    let reply = reply.map_err(|status| unreachable(&status.to_string()))?.into_inner();
    let vote = reply.vote.ok_or_else(|| unreachable("an answer without a vote"))?;
    Ok(SnapshotResponse::new(vote_from_pb(&vote)))
}

/// Asks what the receiver has kept, and passes over it. `None` when it begins anew.
async fn ask_kept(
    link: &Link,
    group: GroupId,
    meta: &SnapshotMeta,
    snapshot: &mut OutgoingSnapshot,
) -> Result<Option<pb::SnapshotPosition>, String> {
    let mut bulk = link.bulk.clone();
    let last = meta.last_log_id.as_ref().map(log_id_to_pb);
    let answer =
        timeout(SNAPSHOT_PAGE_DEADLINE, bulk.snapshot_kept(pb::SnapshotQuery { group: group.0, last }))
            .await
            .map_err(|_| "no answer to what was kept of the snapshot".to_owned())?;
    link.heard(&answer);
    let kept = answer.map_err(|status| status.to_string())?.into_inner();
    if kept.pairs == 0 || !snapshot.skip(&kept.after, kept.pairs).map_err(|error| error.to_string())? {
        return Ok(None);
    }
    tracing::info!(%group, pairs = kept.pairs, "a snapshot goes on where its stream broke");
    Ok(Some(kept))
}

async fn feed(
    parts: mpsc::Sender<pb::SnapshotPart>,
    header: pb::SnapshotHeader,
    mut snapshot: OutgoingSnapshot,
) -> Result<(), String> {
    let send = async |part: pb::SnapshotPart| -> Result<(), String> {
        match timeout(SNAPSHOT_PAGE_DEADLINE, parts.send(part)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the snapshot stream broke".to_owned()),
            Err(_) => Err("the receiver takes no page".to_owned()),
        }
    };
    send(pb::SnapshotPart { header: Some(header), ..Default::default() }).await?;
    while let Some(page) = snapshot.next_page(SNAPSHOT_PAGE_BYTES).map_err(|error| error.to_string())? {
        send(pb::SnapshotPart { page, ..Default::default() }).await?;
    }
    let seal = snapshot.seal();
    let seal = snapshot_seal_to_pb(&seal);
    send(pb::SnapshotPart { seal: Some(seal), ..Default::default() }).await
}

/// Takes a snapshot in and installs it; answers the member's vote.
pub(super) async fn receive(
    registry: &Registry,
    mut parts: Streaming<pb::SnapshotPart>,
) -> Result<Vote, Status> {
    let header = next(&mut parts).await?.header.ok_or_else(|| malformed(CodecError::Missing("header")))?;
    let vote = vote_from_pb(&header.vote.ok_or_else(|| malformed(CodecError::Missing("vote")))?);
    let meta = header.meta.ok_or_else(|| malformed(CodecError::Missing("meta")))?;
    let meta = snapshot_meta_from_pb(meta).map_err(malformed)?;
    let group = registry.group(header.group)?;
    let from = header.from.map(|from| (from.after, from.pairs));
    let mut landed = registry.landing(header.group).land(&*group, meta.last_log_id, from).await?;
    let seal = loop {
        let part = tokio::select! {
            biased;
            () = landed.interrupted() => return Err(Status::aborted("another stream brings it")),
            part = next(&mut parts) => part?,
        };
        match part.seal {
            Some(seal) => break seal,
            None => landed.write_page(part.page).map_err(|error| stopped(error.to_string()))?,
        }
    };
    let mut staged = landed.take();
    let seal = snapshot_seal_from_pb(&seal).map_err(malformed)?;
    staged.seal(&seal).map_err(|error| Status::data_loss(error.to_string()))?;
    group.install_snapshot(vote, meta, staged).await.map_err(stopped)
}

async fn next(parts: &mut Streaming<pb::SnapshotPart>) -> Result<pb::SnapshotPart, Status> {
    match timeout(SNAPSHOT_PAGE_DEADLINE, parts.next()).await {
        Ok(Some(part)) => part,
        Ok(None) => Err(Status::data_loss("the snapshot broke off")),
        Err(_) => Err(Status::deadline_exceeded("no page within the deadline")),
    }
}

fn malformed(error: CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}
