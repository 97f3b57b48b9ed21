//! The generated messages, and the one place where they meet our own types and errors.
//!
//! Invariant: an error survives the way through a gRPC status in both directions; a status that
//! did not come from the queue's own code reads as an unknown outcome, whatever its code says.
//!
//! Not here: the calls (`service`, `client`).

use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use world::NodeId;

use crate::api::{Delivery, Enqueued, NewMessage, QueueError, Stats};

/// What the proto compiler made.
#[allow(missing_docs, clippy::pedantic, clippy::all)] // Generated.
pub mod pb {
    tonic::include_proto!("hongbao.queue.v1");
}

const ERROR: &str = "queue-error";
const LEADER: &str = "queue-leader";
const RETRY_AFTER_MS: &str = "queue-retry-after-ms";

/// Why a partition did not serve a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// Another member leads. Nothing was done.
    #[error("this member does not lead the partition")]
    NotLeader {
        /// Who does, as far as this one knows.
        hint: Option<NodeId>,
    },
    /// As every caller of the queue hears it.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Milliseconds, as many as fit.
#[must_use]
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An error on its way out.
#[must_use]
pub fn status_of(error: &PartitionError) -> Status {
    let (name, code) = match error {
        PartitionError::NotLeader { .. } => ("not-leader", Code::FailedPrecondition),
        PartitionError::Queue(QueueError::Refused(_)) => ("refused", Code::InvalidArgument),
        PartitionError::Queue(QueueError::Unavailable { .. }) => ("unavailable", Code::Unavailable),
        PartitionError::Queue(QueueError::Unknown(_)) => ("unknown", Code::Unknown),
    };
    let mut metadata = MetadataMap::new();
    metadata.insert(ERROR, name.parse().expect("a lower case word"));
    let mut message = error.to_string();
    match error {
        PartitionError::NotLeader { hint } => {
            if let Some(leader) = hint {
                metadata.insert(LEADER, leader.to_string().parse().expect("a letter and digits"));
            }
        }
        PartitionError::Queue(QueueError::Unavailable { reason, retry_after }) => {
            metadata.insert(RETRY_AFTER_MS, ms(*retry_after).into());
            message.clone_from(reason);
        }
        PartitionError::Queue(QueueError::Refused(reason) | QueueError::Unknown(reason)) => {
            message.clone_from(reason)
        }
    }
    Status::with_metadata(code, message, metadata)
}

/// An error as it came in.
#[must_use]
pub fn error_of(status: &Status) -> PartitionError {
    let text = |name: &str| status.metadata().get(name).and_then(|value| value.to_str().ok());
    let reason = status.message().to_owned();
    match text(ERROR) {
        Some("not-leader") => {
            PartitionError::NotLeader { hint: text(LEADER).and_then(|leader| leader.parse().ok()) }
        }
        Some("refused") => QueueError::Refused(reason).into(),
        Some("unavailable") => {
            let retry_after_ms = text(RETRY_AFTER_MS).and_then(|text| text.parse().ok()).unwrap_or(0);
            QueueError::Unavailable { reason, retry_after: Duration::from_millis(retry_after_ms) }.into()
        }
        Some("unknown") => QueueError::Unknown(reason).into(),
        _ => QueueError::Unknown(format!("{}: {reason}", status.code())).into(),
    }
}

impl From<QueueError> for pb::Failure {
    fn from(error: QueueError) -> pb::Failure {
        let (kind, reason, retry_after) = match error {
            QueueError::Refused(reason) => (pb::failure::Kind::Refused, reason, Duration::ZERO),
            QueueError::Unavailable { reason, retry_after } => {
                (pb::failure::Kind::Unavailable, reason, retry_after)
            }
            QueueError::Unknown(reason) => (pb::failure::Kind::Unknown, reason, Duration::ZERO),
        };
        pb::Failure { kind: kind.into(), reason, retry_after_ms: ms(retry_after) }
    }
}

impl From<pb::Failure> for QueueError {
    fn from(failure: pb::Failure) -> QueueError {
        let retry_after = Duration::from_millis(failure.retry_after_ms);
        match failure.kind() {
            pb::failure::Kind::Refused => QueueError::Refused(failure.reason),
            pb::failure::Kind::Unavailable => QueueError::Unavailable { reason: failure.reason, retry_after },
            pb::failure::Kind::Unknown => QueueError::Unknown(failure.reason),
        }
    }
}

impl From<NewMessage> for pb::Message {
    fn from(message: NewMessage) -> pb::Message {
        let NewMessage { key, dedup_id, body, delay } = message;
        pb::Message { key, dedup_id, body, delay_ms: ms(delay) }
    }
}

impl From<pb::Message> for NewMessage {
    fn from(message: pb::Message) -> NewMessage {
        let pb::Message { key, dedup_id, body, delay_ms } = message;
        NewMessage { key, dedup_id, body, delay: Duration::from_millis(delay_ms) }
    }
}

impl From<Result<Enqueued, QueueError>> for pb::EnqueueResult {
    fn from(result: Result<Enqueued, QueueError>) -> pb::EnqueueResult {
        use pb::enqueue_result::Outcome;
        let outcome = match result {
            Ok(Enqueued::New) => Outcome::Accepted(pb::Accepted {}),
            Ok(Enqueued::Duplicate { body }) => Outcome::Duplicate(pb::Duplicate { body }),
            Err(error) => Outcome::Failure(error.into()),
        };
        pb::EnqueueResult { outcome: Some(outcome) }
    }
}

impl From<pb::EnqueueResult> for Result<Enqueued, QueueError> {
    fn from(result: pb::EnqueueResult) -> Result<Enqueued, QueueError> {
        use pb::enqueue_result::Outcome;
        match result.outcome {
            Some(Outcome::Accepted(_)) => Ok(Enqueued::New),
            Some(Outcome::Duplicate(duplicate)) => Ok(Enqueued::Duplicate { body: duplicate.body }),
            Some(Outcome::Failure(failure)) => Err(failure.into()),
            None => Err(QueueError::Unknown("the server answered nothing".to_owned())),
        }
    }
}

impl From<Delivery> for pb::Delivery {
    fn from(delivery: Delivery) -> pb::Delivery {
        let Delivery { receipt, key, dedup_id, body, attempts, enqueued_ms } = delivery;
        pb::Delivery { receipt, key, dedup_id, body, attempts, enqueued_ms }
    }
}

impl From<pb::Delivery> for Delivery {
    fn from(delivery: pb::Delivery) -> Delivery {
        let pb::Delivery { receipt, key, dedup_id, body, attempts, enqueued_ms } = delivery;
        Delivery { receipt, key, dedup_id, body, attempts, enqueued_ms }
    }
}

impl From<Stats> for pb::StatsReply {
    fn from(stats: Stats) -> pb::StatsReply {
        let Stats { ready, in_flight, delayed, dead, acked, purged, accepted, duplicates, oldest_age_ms } =
            stats;
        pb::StatsReply { ready, in_flight, delayed, dead, acked, purged, accepted, duplicates, oldest_age_ms }
    }
}

impl From<pb::StatsReply> for Stats {
    fn from(reply: pb::StatsReply) -> Stats {
        let pb::StatsReply {
            ready,
            in_flight,
            delayed,
            dead,
            acked,
            purged,
            accepted,
            duplicates,
            oldest_age_ms,
        } = reply;
        Stats { ready, in_flight, delayed, dead, acked, purged, accepted, duplicates, oldest_age_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_survive_the_way_through_a_status() {
        let retry_after = Duration::from_millis(250);
        for error in [
            PartitionError::NotLeader { hint: None },
            PartitionError::NotLeader { hint: "b1".parse().ok() },
            QueueError::Refused("no".to_owned()).into(),
            QueueError::Unavailable { reason: "full".to_owned(), retry_after }.into(),
            QueueError::Unknown("lost".to_owned()).into(),
        ] {
            assert_eq!(error_of(&status_of(&error)), error);
        }
    }

    #[test]
    fn a_status_from_below_is_an_unknown_outcome() {
        for code in [Code::Unavailable, Code::DeadlineExceeded, Code::Cancelled, Code::InvalidArgument] {
            let error = error_of(&Status::new(code, "broken pipe"));
            assert!(matches!(error, PartitionError::Queue(QueueError::Unknown(_))), "{error:?}");
        }
    }
}
