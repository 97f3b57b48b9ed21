//! Attachments of one group between its members: an entry reaches a log only behind what it names.
//!
//! ```text
//!   leader    put here, durable -> offered to all voters -> a majority has it -> proposed
//!   follower  offered ............................... fetches from the leader
//!             append names one that is not there .... fetches from the leader, then appends
//! ```
//! Offering is for speed: an append that has to wait for megabytes makes the whole group wait.
//!
//! Invariant: no entry is handed to Raft whose attachment is not durable here. So a committed entry is on a
//! majority of disks together with its attachment.
//!
//! Not here: the disk (`log::attachments`), the way between members (`network::attachment`).

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{BoxStream, FuturesUnordered};
use futures_util::{Stream, StreamExt, stream};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::entry::RaftEntry;
use openraft::impls::ProgressResponder;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use openraft::{EntryPayload, Raft};
use parking_lot::Mutex;
use world::GroupId;

use crate::batcher;
use crate::error::ProposeError;
use crate::group::Group;
use crate::limits::{ATTACHMENT_BYTES_MAX, COMMAND_BYTES_MAX};
use crate::log::Attachments;
use crate::machine::Machine;
use crate::member_id::MemberId;
use crate::network::attachment::{fetch, offer};
use crate::network::link::Links;
use crate::state::StateStore;
use crate::types::{Attachment, Entry, Proposal, TypeConfig};

/// Gets what entries name.
pub(crate) struct Fetcher<M: Machine> {
    pub(crate) group: GroupId,
    pub(crate) attachments: Arc<Attachments>,
    pub(crate) links: Arc<Links>,
    pub(crate) raft: Raft<TypeConfig, StateStore<M>>,
}

impl<M: Machine> Clone for Fetcher<M> {
    fn clone(&self) -> Fetcher<M> {
        Fetcher {
            group: self.group,
            attachments: Arc::clone(&self.attachments),
            links: Arc::clone(&self.links),
            raft: self.raft.clone(),
        }
    }
}

impl<M: Machine> Fetcher<M> {
    /// Returns when everything is there that the entries of `request` name. When something is not to be had,
    /// the entries from there on are taken out of the request, and why is answered, for people. What is left
    /// is Raft's to answer: where the logs differ it is right to send something else.
    pub(crate) async fn prepare(
        &self,
        mut request: AppendEntriesRequest<TypeConfig>,
    ) -> (AppendEntriesRequest<TypeConfig>, Option<String>) {
        for place in 0..request.entries.len() {
            if let Err(reason) = self.prepare_entry(&request, place).await {
                request.entries.truncate(place);
                return (request, Some(reason));
            }
        }
        (request, None)
    }

    async fn prepare_entry(
        &self,
        request: &AppendEntriesRequest<TypeConfig>,
        place: usize,
    ) -> Result<(), String> {
        let entry = &request.entries[place];
        let Some(attachment) = Attachment::named_by(entry) else { return Ok(()) };
        if self.attachments.named(&attachment, entry.index()) {
            return Ok(());
        }
        let leader = MemberId::from_raft_id(request.vote.leader_id.node_id)
            .ok_or_else(|| "a request of no member".to_owned())?;
        let address = self.address(leader).or_else(|| address_among(&request.entries[..place], leader));
        self.fetch(leader, address, &attachment, entry.index()).await
    }

    /// Fetches what `from` offers, which will be named soon.
    ///
    /// # Errors
    /// Why it did not come, for people.
    pub(crate) async fn take(&self, from: MemberId, attachment: &Attachment) -> Result<(), String> {
        if self.expect(attachment) {
            return Ok(());
        }
        self.fetch(from, self.address(from), attachment, self.next_index()).await
    }

    /// Keeps an attachment that an entry will name which is not here yet; answers whether it is there.
    fn expect(&self, attachment: &Attachment) -> bool {
        self.attachments.named(attachment, self.next_index())
    }

    /// Nothing is purged that is not in the log.
    fn next_index(&self) -> u64 {
        self.raft.metrics().borrow_watched().last_log_index.map_or(0, |last| last + 1)
    }

    async fn fetch(
        &self,
        from: MemberId,
        address: Option<String>,
        attachment: &Attachment,
        index: u64,
    ) -> Result<(), String> {
        let address = address.ok_or_else(|| format!("{from} has no address known here"))?;
        let link = self.links.to(Some(from), &address).map_err(|error| error.to_string())?;
        let content = fetch(&link, self.group, attachment).await?;
        let held = self.attachments.put(&content).await.map_err(|error| error.to_string())?;
        let there = self.attachments.named(attachment, index);
        drop(held);
        assert!(there, "{attachment} was put and is not there");
        tracing::info!(group = %self.group, %attachment, %from, "fetched");
        Ok(())
    }

    /// How `member` is reached, when it is one.
    pub(crate) fn address(&self, member: MemberId) -> Option<String> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let peer = metrics.membership_config.membership().get_node(&member.raft_id());
        peer.map(|peer| peer.addr.clone())
    }

    /// Hands `requests` to Raft, each when it is prepared; ends behind the first that could not be as a whole.
    pub(crate) fn append_stream(
        self,
        requests: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, String>> {
        let failed: Arc<Mutex<Option<String>>> = Arc::default();
        let raft = self.raft.clone();
        let start = (Box::pin(requests), self, Arc::clone(&failed));
        let prepared = stream::unfold(start, |(mut requests, fetcher, failed)| async move {
            if failed.lock().is_some() {
                return None;
            }
            let (request, failure) = fetcher.prepare(requests.next().await?).await;
            *failed.lock() = failure;
            Some((request, (requests, fetcher, failed)))
        });
        let answers =
            raft.stream_append(prepared).map(|answer| answer.map_err(|fatal| fatal.to_string())).boxed();
        let end = stream::once(async move { failed.lock().take() });
        answers.chain(end.filter_map(|reason| async move { reason.map(Err) })).boxed()
    }
}

/// Where a member is, by a membership that came with the request itself: a new member knows no other.
fn address_among(entries: &[Entry], member: MemberId) -> Option<String> {
    let memberships = entries.iter().filter_map(|entry| match &entry.payload {
        EntryPayload::Membership(membership) => Some(membership),
        _ => None,
    });
    memberships.last()?.get_node(&member.raft_id()).map(|peer| peer.addr.clone())
}

impl<M: Machine> Group<M> {
    /// Has `command` replicated and applied together with `content`, which may be much larger than a
    /// command; answers the machine's reply.
    ///
    /// # Errors
    /// As [`Group::propose`].
    pub async fn propose_attached(&self, command: Bytes, content: Bytes) -> Result<Bytes, ProposeError> {
        let refused = |reason: String| Err(ProposeError::Refused(reason));
        if command.len() > COMMAND_BYTES_MAX || content.is_empty() || content.len() > ATTACHMENT_BYTES_MAX {
            let (command, content) = (command.len(), content.len());
            return refused(format!(
                "a command of {command} bytes with {content} attached; the limits are {COMMAND_BYTES_MAX} and \
                 {ATTACHMENT_BYTES_MAX}, and nothing attached is none"
            ));
        }
        self.check_may_write().await?;
        let attachment = Attachment::of(&content);
        let held = match self.fetcher.attachments.put(&content).await {
            Ok(held) => held,
            Err(error) => return refused(format!("{attachment} was not stored: {error}")),
        };
        if !self.spread(&attachment).await {
            return refused(format!("no majority has {attachment}"));
        }
        // Whoever asks may go away or lose patience; the entry is appended all the same, and finds it.
        self.fetcher.expect(&attachment);
        drop(held);
        let proposal = Proposal {
            attachment: Some(attachment),
            ..Proposal::pack(self.now().0, std::iter::once(command.as_ref()))
        };
        let (responder, result) = ProgressResponder::complete_only();
        if let Err(fatal) = self.raft.client_write_ff(proposal, Some(responder)).await {
            return refused(format!("the replica stopped: {fatal}"));
        }
        let answered = tokio::time::timeout(self.config.propose_deadline, result).await;
        let Ok(result) = answered else {
            return Err(ProposeError::Unknown("no reply within the deadline".to_owned()));
        };
        let replies = batcher::replies_of(result.ok())?;
        assert!(replies.len() == 1, "one command has one reply");
        Ok(replies.into_iter().next().expect("just counted"))
    }

    /// Bytes of all attachments on this disk.
    #[must_use]
    pub fn attached_bytes(&self) -> u64 {
        self.fetcher.attachments.bytes()
    }

    /// Offers an attachment to all voters; answers whether a majority has it.
    async fn spread(&self, attachment: &Attachment) -> bool {
        let voters = self.members().voters;
        let majority = voters.len() / 2 + 1;
        let mut offers: FuturesUnordered<_> = voters
            .iter()
            .filter(|voter| **voter != self.own)
            .map(|voter| self.offer_to(*voter, attachment))
            .collect();
        let mut have = 1;
        while have < majority
            && let Some(took) = offers.next().await
        {
            have += usize::from(took);
        }
        have >= majority
    }

    async fn offer_to(&self, member: MemberId, attachment: &Attachment) -> bool {
        let link = self.address(member).map(|address| self.links.to(Some(member), &address));
        let Some(Ok(link)) = link else { return false };
        let offered = offer(&link, self.id, attachment).await;
        if let Err(reason) = &offered {
            tracing::warn!(group = %self.id, %attachment, %member, %reason, "offered and not taken");
        }
        offered.is_ok()
    }
}
