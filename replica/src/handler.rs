//! A group as its peers and its host see it, whatever its machine.
//!
//! Invariant: requests of peers go to Raft as they came, once what their entries name is here. Nothing
//! here decides anything.
//!
//! Not here: which host asks for what ([`crate::host`], `network::service`).

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use openraft::storage::Snapshot;
use world::{GroupId, NodeId};

use crate::change::ChangeError;
use crate::group::Group;
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::members::{Step, Wish, best_successor};
use crate::network::service::{Acquaintance, PeerHandler};
use crate::state::{SnapshotData, StagedSnapshot};
use crate::status::GroupStatus;
use crate::transfer::TransferError;
use crate::types::{Attachment, SnapshotMeta, TypeConfig, Vote};

/// A group as its host sees it.
#[async_trait]
pub(crate) trait HostedGroup: Send + Sync {
    fn group_id(&self) -> GroupId;
    fn preferred_leader(&self) -> NodeId;
    fn report(&self) -> GroupStatus;
    /// The voter that could lead next, when this member leads.
    fn successor(&self) -> Option<NodeId>;
    async fn move_leader(&self, to: NodeId) -> Result<(), TransferError>;
    async fn towards(&self, wish: Wish, address: &str, look: bool) -> Result<Step, ChangeError>;
    /// Stands for election now.
    async fn stand(&self);
    /// Takes a snapshot now.
    async fn snapshot_now(&self);
    async fn halt(&self);
}

#[async_trait]
impl<M: Machine> HostedGroup for Group<M> {
    fn group_id(&self) -> GroupId {
        self.id
    }

    fn preferred_leader(&self) -> NodeId {
        self.preferred
    }

    fn report(&self) -> GroupStatus {
        self.status()
    }

    fn successor(&self) -> Option<NodeId> {
        let leads = self.is_leader();
        leads.then(|| best_successor(&self.members(), self.own)).flatten().map(|member| member.node)
    }

    async fn move_leader(&self, to: NodeId) -> Result<(), TransferError> {
        self.transfer_leader(to).await
    }

    async fn towards(&self, wish: Wish, address: &str, look: bool) -> Result<Step, ChangeError> {
        Group::towards(self, wish, address, look).await
    }

    async fn stand(&self) {
        // Refused by a replica that has stopped: then there is nobody to stand.
        let _ = self.raft.trigger().elect(false).await;
    }

    async fn snapshot_now(&self) {
        // As above.
        let _ = self.snapshot().await;
    }

    async fn halt(&self) {
        self.stop().await;
    }
}

#[async_trait]
impl<M: Machine> PeerHandler for Group<M> {
    fn append_stream(
        &self,
        requests: BoxStream<'static, AppendEntriesRequest<TypeConfig>>,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, String>> {
        self.fetcher.clone().append_stream(requests)
    }

    async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<AppendEntriesResponse<TypeConfig>, String> {
        let (request, _) = self.fetcher.prepare(request).await;
        self.raft.append_entries(request).await.map_err(|error| error.to_string())
    }

    async fn vote(&self, request: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, String> {
        self.raft.vote(request).await.map_err(|error| error.to_string())
    }

    async fn pre_vote(&self, request: VoteRequest<TypeConfig>) -> Result<VoteResponse<TypeConfig>, String> {
        self.raft.pre_vote(request).await.map_err(|error| error.to_string())
    }

    async fn transfer(&self, request: TransferLeaderRequest<TypeConfig>) -> Result<Option<String>, String> {
        let answer = self.raft.handle_transfer_leader(request).await.map_err(|fatal| fatal.to_string())?;
        Ok(answer.err().map(|refused| refused.to_string()))
    }

    async fn elect(&self) -> Result<(), String> {
        // With a pre-vote round: where a leader is alive, asking for an election changes nothing.
        self.raft.trigger().elect(true).await.map_err(|fatal| fatal.to_string())
    }

    async fn meet(&self, asker: MemberId, found: bool) -> Result<Acquaintance, String> {
        self.acquaintance(asker, found).await
    }

    async fn read_index(&self) -> Result<u64, String> {
        self.read_barrier().await.map_err(|error| error.to_string())?;
        Ok(*self.applied().borrow())
    }

    fn attachment(&self, attachment: &Attachment) -> Result<Option<Bytes>, String> {
        let attachments = &self.fetcher.attachments;
        let content = attachments.has(attachment).then(|| attachments.content(attachment)).transpose();
        content.map_err(|error| error.to_string())
    }

    async fn take_attachment(&self, from: MemberId, attachment: &Attachment) -> Result<(), String> {
        self.fetcher.take(from, attachment).await
    }

    fn stage_snapshot(&self) -> StagedSnapshot {
        self.state.stage_snapshot()
    }

    async fn install_snapshot(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        staged: StagedSnapshot,
    ) -> Result<Vote, String> {
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Incoming(staged) };
        let answer =
            self.raft.install_full_snapshot(vote, snapshot).await.map_err(|fatal| fatal.to_string())?;
        Ok(answer.vote)
    }
}
