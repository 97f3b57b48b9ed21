//! The peer's side: what other members ask of the groups on this host.
//!
//! ```text
//!   append stream -> demux -> session 7 -> group 1's Raft -> answers --+
//!                         \-> session 9 -> group 3's Raft -> answers --+-> one reply stream
//! ```
//!
//! Invariant: only what is meant for this member is taken (`envelope`). One slow group delays no
//! other. A session's queue holds its whole window, so the
//! demultiplexer never waits for a group; a peer that sends beyond its window loses the session.
//!
//! Not here: what Raft makes of a request.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use world::GroupId;
use world::mux::{self, AnswerStream, Calls};

use super::attachment::{Pieces, pieces};
use super::envelope::{admit, admit_anybody};
use super::landing::Landing;
use super::snapshot;
use super::wire::{
    append_from_pb, beat_to_pb, outcome_to_pb, transfer_from_pb, vote_request_from_pb, vote_response_to_pb,
};
use crate::codec::pb::peer_server::{Peer, PeerServer};
use crate::codec::{CodecError, attachment_from_pb, log_id_from_pb, pb, vote_to_pb};
use crate::identity::Identity;
use crate::limits::{APPEND_WINDOW_FRAMES, LINK_FRAMES_MAX, LINK_SESSIONS_MAX, MESSAGE_BYTES_MAX};
use crate::member_id::MemberId;
use crate::state::StagedSnapshot;
use crate::types::{Attachment, SnapshotMeta, TypeConfig, Vote};

type Appends = BoxStream<'static, AppendEntriesRequest<TypeConfig>>;
type Answers = BoxStream<'static, Result<StreamAppendResult<TypeConfig>, String>>;

/// A group as its peers see it, whatever its machine. Errors are for people: the replica stopped.
#[async_trait]
pub(crate) trait PeerHandler: Send + Sync {
    fn append_stream(&self, requests: Appends) -> Answers;
    async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, String>;
    async fn vote(&self, request: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, String>;
    async fn pre_vote(&self, request: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, String>;
    /// `Ok(Some)` is why the transfer is refused.
    async fn transfer(&self, request: TransferLeaderRequest<TypeConfig>) -> Result<Option<String>, String>;
    async fn elect(&self) -> Result<(), String>;
    /// What this member knows of the group, for `asker`; gives it the promise when it asks for it.
    async fn meet(&self, asker: MemberId, found: bool) -> Result<Acquaintance, String>;
    async fn read_index(&self) -> Result<u64, String>;
    /// The content of an attachment, when it is here.
    fn attachment(&self, attachment: &Attachment) -> Result<Option<Bytes>, String>;
    /// Fetches an attachment from `from`; returns when it is durable here.
    async fn take_attachment(&self, from: MemberId, attachment: &Attachment) -> Result<(), String>;
    fn stage_snapshot(&self) -> StagedSnapshot;
    async fn install_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        staged: StagedSnapshot,
    ) -> Result<Vote, String>;
}

/// What a member answers to whoever asks who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acquaintance {
    /// Whether the group has been formed, as far as it knows.
    pub(crate) formed: bool,
    /// Whether the asker is one of the group's members, as far as it knows.
    pub(crate) named: bool,
    /// To whom it has promised that it may form the group, as a Raft id.
    pub(crate) promised: Option<u64>,
}

/// The groups on this host, for the service.
pub(crate) struct Registry {
    groups: RwLock<BTreeMap<GroupId, Arc<dyn PeerHandler>>>,
    landings: Mutex<BTreeMap<GroupId, Arc<Landing>>>,
    /// Turns true once, when the host stops; long streams end then.
    stopping: watch::Sender<bool>,
}

impl Registry {
    pub(crate) fn new() -> Arc<Registry> {
        Arc::new(Registry {
            groups: RwLock::new(BTreeMap::new()),
            landings: Mutex::new(BTreeMap::new()),
            stopping: watch::channel(false).0,
        })
    }

    pub(crate) fn insert(&self, group: GroupId, handler: Arc<dyn PeerHandler>) {
        let replaced = self.groups.write().insert(group, handler);
        assert!(replaced.is_none(), "{group} is added once");
    }

    /// Ends all streams and forgets all groups.
    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
        self.groups.write().clear();
        self.landings.lock().clear();
    }

    pub(super) fn group(&self, group: u32) -> Result<Arc<dyn PeerHandler>, Status> {
        let group = GroupId(group);
        let found = self.groups.read().get(&group).map(Arc::clone);
        found.ok_or_else(|| Status::unavailable(format!("{group} is not served here")))
    }
}

impl Registry {
    /// Where snapshots of a group arrive.
    pub(super) fn landing(&self, group: u32) -> Arc<Landing> {
        Arc::clone(self.landings.lock().entry(GroupId(group)).or_default())
    }
}

/// The gRPC service behind the peers port.
#[derive(Clone)]
pub struct PeerService {
    own: Arc<Identity>,
    registry: Arc<Registry>,
}

impl PeerService {
    pub(crate) fn server(own: Identity, registry: Arc<Registry>) -> PeerServer<PeerService> {
        PeerServer::new(PeerService { own: Arc::new(own), registry })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl PeerService {
    fn attachment_asked(
        &self,
        query: pb::AttachmentQuery,
    ) -> Result<(Arc<dyn PeerHandler>, Attachment), Status> {
        let named = query.attachment.ok_or_else(|| malformed(CodecError::Missing("attachment")))?;
        let attachment = attachment_from_pb(&named).map_err(malformed)?;
        Ok((self.registry.group(query.group)?, attachment))
    }
}

fn malformed(error: CodecError) -> Status {
    Status::invalid_argument(error.to_string())
}

pub(super) fn stopped(reason: String) -> Status {
    Status::unavailable(reason)
}

#[async_trait]
impl Peer for PeerService {
    type AppendStream = ReceiverStream<Result<pb::AppendReply, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendFrame>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        admit(&self.own, request.metadata())?;
        let (replies, outgoing) = mpsc::channel(LINK_FRAMES_MAX);
        let demux = Demux { registry: Arc::clone(&self.registry), sessions: BTreeMap::new(), replies };
        tokio::spawn(demux.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }

    type BeatsStream = AnswerStream;

    async fn beats(&self, request: Request<Streaming<Calls>>) -> Result<Response<AnswerStream>, Status> {
        admit(&self.own, request.metadata())?;
        let registry = Arc::clone(&self.registry);
        let answers = mux::serve(request.into_inner(), registry.stopping.subscribe(), move |body| {
            let registry = Arc::clone(&registry);
            async move {
                let answer = beat(&registry, body).await;
                answer.map(|reply| reply.encode_to_vec().into()).map_err(|status| refusal(&status))
            }
        });
        Ok(Response::new(answers))
    }

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        admit(&self.own, request.metadata())?;
        let request = request.into_inner();
        let group = self.registry.group(request.group)?;
        let answer = group.vote(vote_request_from_pb(request).map_err(malformed)?).await.map_err(stopped)?;
        Ok(Response::new(vote_response_to_pb(&answer)))
    }

    async fn pre_vote(&self, request: Request<pb::VoteRequest>) -> Result<Response<pb::VoteReply>, Status> {
        admit(&self.own, request.metadata())?;
        let request = request.into_inner();
        let group = self.registry.group(request.group)?;
        let answer =
            group.pre_vote(vote_request_from_pb(request).map_err(malformed)?).await.map_err(stopped)?;
        Ok(Response::new(vote_response_to_pb(&answer)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferRequest>,
    ) -> Result<Response<pb::TransferReply>, Status> {
        admit(&self.own, request.metadata())?;
        let request = request.into_inner();
        let group = self.registry.group(request.group)?;
        let refused = group.transfer(transfer_from_pb(request).map_err(malformed)?).await.map_err(stopped)?;
        Ok(Response::new(pb::TransferReply { refused: refused.unwrap_or_default() }))
    }

    async fn elect(&self, request: Request<pb::ElectRequest>) -> Result<Response<pb::ElectReply>, Status> {
        admit(&self.own, request.metadata())?;
        let group = self.registry.group(request.into_inner().group)?;
        group.elect().await.map_err(stopped)?;
        Ok(Response::new(pb::ElectReply {}))
    }

    async fn meet(&self, request: Request<pb::MeetRequest>) -> Result<Response<pb::MeetReply>, Status> {
        let asker = admit_anybody(&self.own, request.metadata())?;
        let pb::MeetRequest { group, found } = request.into_inner();
        let group = self.registry.group(group)?;
        let Acquaintance { formed, named, promised } = group.meet(asker, found).await.map_err(stopped)?;
        let (member, promised) = (self.own.member.raft_id(), promised.unwrap_or(0));
        Ok(Response::new(pb::MeetReply { member, formed, named, promised }))
    }

    async fn snapshot_kept(
        &self,
        request: Request<pb::SnapshotQuery>,
    ) -> Result<Response<pb::SnapshotPosition>, Status> {
        admit(&self.own, request.metadata())?;
        let pb::SnapshotQuery { group, last } = request.into_inner();
        self.registry.group(group)?;
        let last = last.as_ref().map(log_id_from_pb);
        let kept = self.registry.landing(group).kept(last).await?;
        let position = kept.map(|(after, pairs)| pb::SnapshotPosition { after, pairs });
        Ok(Response::new(position.unwrap_or_default()))
    }

    type AttachmentStream = Pieces;

    async fn attachment(&self, request: Request<pb::AttachmentQuery>) -> Result<Response<Pieces>, Status> {
        admit(&self.own, request.metadata())?;
        let (group, attachment) = self.attachment_asked(request.into_inner())?;
        let content = group.attachment(&attachment).map_err(stopped)?;
        let content = content.ok_or_else(|| Status::not_found(format!("{attachment} is not here")))?;
        Ok(Response::new(pieces(content)))
    }

    async fn attach(
        &self,
        request: Request<pb::AttachmentQuery>,
    ) -> Result<Response<pb::AttachReply>, Status> {
        let from = admit(&self.own, request.metadata())?;
        let (group, attachment) = self.attachment_asked(request.into_inner())?;
        group.take_attachment(from, &attachment).await.map_err(stopped)?;
        Ok(Response::new(pb::AttachReply {}))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexReply>, Status> {
        admit(&self.own, request.metadata())?;
        let group = self.registry.group(request.into_inner().group)?;
        let applied = group.read_index().await.map_err(stopped)?;
        Ok(Response::new(pb::ReadIndexReply { applied }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPart>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        admit(&self.own, request.metadata())?;
        let mut stopping = self.registry.stopping.subscribe();
        let vote = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => return Err(stopped("shutting down".to_owned())),
            vote = snapshot::receive(&self.registry, request.into_inner()) => vote?,
        };
        Ok(Response::new(pb::SnapshotReply { vote: Some(vote_to_pb(&vote)) }))
    }
}

async fn beat(registry: &Registry, body: Bytes) -> Result<pb::BeatReply, Status> {
    let pb::BeatRequest { group, request } =
        pb::BeatRequest::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let group = registry.group(group)?;
    let request =
        request.ok_or(CodecError::Missing("request")).and_then(append_from_pb).map_err(malformed)?;
    group.append(request).await.map(beat_to_pb).map_err(stopped)
}

fn refusal(status: &Status) -> mux::Refusal {
    mux::Refusal { code: status.code() as i32, message: status.message().to_owned(), not_done: false }
}

/// Deals the frames of one peer's stream out to sessions.
struct Demux {
    registry: Arc<Registry>,
    sessions: BTreeMap<u64, mpsc::Sender<AppendEntriesRequest<TypeConfig>>>,
    replies: mpsc::Sender<Result<pb::AppendReply, Status>>,
}

impl Demux {
    async fn run(mut self, mut frames: Streaming<pb::AppendFrame>) {
        let mut stopping = self.registry.stopping.subscribe();
        loop {
            let frame = tokio::select! {
                biased;
                _ = stopping.wait_for(|stopping| *stopping) => {
                    let _ = self.replies.try_send(Err(stopped("shutting down".to_owned())));
                    return;
                }
                // The peer may be gone while its requests wait for a slow disk.
                () = self.replies.closed() => return,
                frame = frames.message() => frame,
            };
            let Ok(Some(frame)) = frame else { return };
            for session in &frame.closed {
                self.sessions.remove(session);
            }
            let (session, sequence) = (frame.session, frame.sequence);
            if let Err(reason) = self.deliver(frame) {
                self.sessions.remove(&session);
                let outcome = Some(outcome_to_pb(Err(reason)));
                let reply = pb::AppendReply { session, sequence, outcome };
                if self.replies.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Hands a frame to its session; a session begins with its first frame.
    fn deliver(&mut self, frame: pb::AppendFrame) -> Result<(), String> {
        let Some(request) = frame.request else { return Ok(()) };
        let request = append_from_pb(request).map_err(|error| error.to_string())?;
        if frame.sequence == 1 {
            if self.sessions.len() >= LINK_SESSIONS_MAX {
                return Err("too many append sessions".to_owned());
            }
            let group = self.registry.group(frame.group).map_err(|status| status.message().to_owned())?;
            let (requests, queue) = mpsc::channel(APPEND_WINDOW_FRAMES);
            let answers = group.append_stream(ReceiverStream::new(queue).boxed());
            tokio::spawn(forward(frame.session, answers, self.replies.clone()));
            self.sessions.insert(frame.session, requests);
        }
        // A session that is over has said so in its last answer; what was sent before the peer
        // read that answer is passed over.
        let Some(session) = self.sessions.get(&frame.session) else { return Ok(()) };
        match session.try_send(request) {
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
            Err(TrySendError::Full(_)) => Err("more frames than the window holds".to_owned()),
        }
    }
}

/// Numbers one session's answers and puts them on the reply stream.
async fn forward(session: u64, mut answers: Answers, replies: mpsc::Sender<Result<pb::AppendReply, Status>>) {
    let mut sequence = 0;
    while let Some(answer) = answers.next().await {
        sequence += 1;
        let reply = pb::AppendReply { session, sequence, outcome: Some(outcome_to_pb(answer)) };
        if replies.send(Ok(reply)).await.is_err() {
            return;
        }
    }
}
