//! Raft's requests and answers as messages, and back.
//!
//! Invariant: a message that lacks a part is an error, never a guess.
//!
//! Not here: the values they are made of (log ids, votes, entries); those are [`crate::codec`]'s.

use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, VoteRequest, VoteResponse,
};

use crate::codec::{
    CodecError, entry_from_pb, entry_to_pb, log_id_from_pb, log_id_to_pb, pb, vote_from_pb, vote_to_pb,
};
use crate::types::TypeConfig;

type Append = AppendEntriesRequest<TypeConfig>;

/// Commands are shared with the log's cache, not copied.
pub(super) fn append_to_pb(request: &Append) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(vote_to_pb(&request.vote)),
        prev: request.prev_log_id.as_ref().map(log_id_to_pb),
        entries: request.entries.iter().map(entry_to_pb).collect(),
        commit: request.leader_commit.as_ref().map(log_id_to_pb),
    }
}

pub(super) fn append_from_pb(request: pb::AppendRequest) -> Result<Append, CodecError> {
    Ok(AppendEntriesRequest {
        vote: vote_from_pb(&request.vote.ok_or(CodecError::Missing("vote"))?),
        prev_log_id: request.prev.as_ref().map(log_id_from_pb),
        entries: request.entries.into_iter().map(entry_from_pb).collect::<Result<_, _>>()?,
        leader_commit: request.commit.as_ref().map(log_id_from_pb),
    })
}

/// The answer to a frame. `Err` carries why the session ends.
pub(super) fn outcome_to_pb(
    result: Result<StreamAppendResult<TypeConfig>, String>,
) -> pb::append_reply::Outcome {
    use pb::append_reply::Outcome;
    match result {
        Ok(Ok(last)) => Outcome::Matched(pb::Matched { last: last.as_ref().map(log_id_to_pb) }),
        Ok(Err(StreamAppendError::Conflict(at))) => Outcome::Conflict(log_id_to_pb(&at)),
        Ok(Err(StreamAppendError::HigherVote(vote))) => Outcome::Higher(vote_to_pb(&vote)),
        Err(reason) => Outcome::Ended(reason),
    }
}

pub(super) fn outcome_from_pb(
    outcome: Option<pb::append_reply::Outcome>,
) -> Result<StreamAppendResult<TypeConfig>, String> {
    use pb::append_reply::Outcome;
    match outcome {
        Some(Outcome::Matched(matched)) => Ok(Ok(matched.last.as_ref().map(log_id_from_pb))),
        Some(Outcome::Conflict(at)) => Ok(Err(StreamAppendError::Conflict(log_id_from_pb(&at)))),
        Some(Outcome::Higher(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_from_pb(&vote)))),
        Some(Outcome::Ended(reason)) => Err(reason),
        None => Err("an answer without an outcome".to_owned()),
    }
}

pub(super) fn beat_to_pb(response: AppendEntriesResponse<TypeConfig>) -> pb::BeatReply {
    use pb::beat_reply::Outcome;
    let outcome = match response {
        AppendEntriesResponse::Success => Outcome::Success(pb::Blank {}),
        AppendEntriesResponse::PartialSuccess(last) => {
            Outcome::Partial(pb::Matched { last: last.as_ref().map(log_id_to_pb) })
        }
        AppendEntriesResponse::Conflict => Outcome::Conflict(pb::Blank {}),
        AppendEntriesResponse::HigherVote(vote) => Outcome::Higher(vote_to_pb(&vote)),
    };
    pb::BeatReply { outcome: Some(outcome) }
}

pub(super) fn beat_from_pb(reply: pb::BeatReply) -> Result<AppendEntriesResponse<TypeConfig>, CodecError> {
    use pb::beat_reply::Outcome;
    Ok(match reply.outcome.ok_or(CodecError::Missing("outcome"))? {
        Outcome::Success(pb::Blank {}) => AppendEntriesResponse::Success,
        Outcome::Partial(matched) => {
            AppendEntriesResponse::PartialSuccess(matched.last.as_ref().map(log_id_from_pb))
        }
        Outcome::Conflict(pb::Blank {}) => AppendEntriesResponse::Conflict,
        Outcome::Higher(vote) => AppendEntriesResponse::HigherVote(vote_from_pb(&vote)),
    })
}

pub(super) fn vote_request_to_pb(group: u32, request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        group,
        vote: Some(vote_to_pb(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_to_pb),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_pb(request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, CodecError> {
    Ok(VoteRequest {
        vote: vote_from_pb(&request.vote.ok_or(CodecError::Missing("vote"))?),
        last_log_id: request.last.as_ref().map(log_id_from_pb),
        leadership_transfer: request.leadership_transfer,
    })
}

pub(super) fn vote_response_to_pb(response: &VoteResponse<TypeConfig>) -> pb::VoteReply {
    pb::VoteReply {
        vote: Some(vote_to_pb(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_to_pb),
    }
}

pub(super) fn vote_response_from_pb(reply: pb::VoteReply) -> Result<VoteResponse<TypeConfig>, CodecError> {
    Ok(VoteResponse {
        vote: vote_from_pb(&reply.vote.ok_or(CodecError::Missing("vote"))?),
        vote_granted: reply.granted,
        last_log_id: reply.last.as_ref().map(log_id_from_pb),
    })
}

pub(super) fn transfer_to_pb(group: u32, request: &TransferLeaderRequest<TypeConfig>) -> pb::TransferRequest {
    pb::TransferRequest {
        group,
        from_leader: Some(vote_to_pb(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(log_id_to_pb),
    }
}

pub(super) fn transfer_from_pb(
    request: pb::TransferRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, CodecError> {
    let from = vote_from_pb(&request.from_leader.ok_or(CodecError::Missing("from_leader"))?);
    Ok(TransferLeaderRequest::new(from, request.to, request.last.as_ref().map(log_id_from_pb)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Entry, LeaderId, LogId, Proposal, Vote};
    use openraft::EntryPayload;
    use openraft::vote::RaftLeaderId;

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId::new(3, 258), index)
    }

    #[test]
    fn an_append_request_reads_back() {
        let proposal = Proposal::pack(5, [b"x".as_slice()].into_iter());
        let request = AppendEntriesRequest {
            vote: Vote { leader_id: LeaderId::new(3, 258), committed: true },
            prev_log_id: Some(log_id(6)),
            entries: vec![Entry { log_id: log_id(7), payload: EntryPayload::Normal(proposal) }],
            leader_commit: Some(log_id(5)),
        };
        let back = append_from_pb(append_to_pb(&request)).expect("complete");
        assert_eq!(format!("{back:?}"), format!("{request:?}"));
        assert!(append_from_pb(pb::AppendRequest::default()).is_err(), "a vote is required");
    }

    #[test]
    fn every_outcome_of_a_frame_reads_back() {
        let vote = Vote { leader_id: LeaderId::new(9, 1), committed: false };
        let outcomes = [
            Ok(Ok(None)),
            Ok(Ok(Some(log_id(4)))),
            Ok(Err(StreamAppendError::Conflict(log_id(2)))),
            Ok(Err(StreamAppendError::HigherVote(vote))),
            Err("gone".to_owned()),
        ];
        for outcome in outcomes {
            assert_eq!(outcome_from_pb(Some(outcome_to_pb(outcome.clone()))), outcome);
        }
        assert!(outcome_from_pb(None).is_err());
    }

    #[test]
    fn every_answer_to_a_heartbeat_reads_back() {
        let vote = Vote { leader_id: LeaderId::new(9, 1), committed: true };
        let answers = [
            AppendEntriesResponse::Success,
            AppendEntriesResponse::PartialSuccess(Some(log_id(1))),
            AppendEntriesResponse::Conflict,
            AppendEntriesResponse::HigherVote(vote),
        ];
        for answer in answers {
            assert_eq!(beat_from_pb(beat_to_pb(answer.clone())), Ok(answer));
        }
    }
}
