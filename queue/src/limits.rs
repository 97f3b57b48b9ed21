//! How large things may be. Every bound of this crate stands here, with its reason.
//!
//! Invariant: a full batch fits one Raft entry and one gRPC message, so nothing that passed these
//! checks can be refused further down for its size.
//!
//! Not here: what an operator may tune (`PartitionConfig`, `ClientConfig`).

use crate::api::NewMessage;

/// Longest key, bytes. Keys are order ids, not documents; they are held in memory.
pub const KEY_LEN_MAX: usize = 256;
/// Longest dedup id, bytes. Tombstones keep it for ever.
pub const DEDUP_ID_LEN_MAX: usize = 256;
/// Longest body, bytes. The same as SQS allows.
pub const BODY_LEN_MAX: usize = 256 * 1024;
/// Most messages, or receipts, in one request to one partition.
pub const BATCH_LEN_MAX: usize = 1024;
/// Most bytes of keys, ids and bodies in one request to one partition.
pub const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Longest reason kept with a dead letter, bytes; longer ones are cut.
pub const REASON_LEN_MAX: usize = 512;
/// Largest delay, milliseconds: a year. Longer ones are mistakes.
pub const DELAY_MS_MAX: u64 = 366 * 24 * 3_600_000;
/// Largest gRPC message either side accepts. An enqueue answered as duplicates, and a lease,
/// carry bodies back: both stop once they hold [`BATCH_BYTES_MAX`].
pub const GRPC_BYTES_MAX: usize = 8 * 1024 * 1024;

const _: () = assert!(BODY_LEN_MAX + KEY_LEN_MAX + DEDUP_ID_LEN_MAX < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX * 4 < GRPC_BYTES_MAX);

/// What a message costs, bytes.
#[must_use]
pub fn message_bytes(message: &NewMessage) -> usize {
    message.key.len() + message.dedup_id.len() + message.body.len()
}

/// Says what is wrong with a message, if anything.
///
/// # Errors
/// A sentence for the caller.
pub fn check_message(message: &NewMessage) -> Result<(), String> {
    let delay_ms = message.delay.as_millis();
    if message.key.is_empty() || message.key.len() > KEY_LEN_MAX {
        return Err(format!("the key has {} bytes; 1 to {KEY_LEN_MAX} are allowed", message.key.len()));
    }
    if message.dedup_id.is_empty() || message.dedup_id.len() > DEDUP_ID_LEN_MAX {
        let len = message.dedup_id.len();
        return Err(format!("the dedup id has {len} bytes; 1 to {DEDUP_ID_LEN_MAX} are allowed"));
    }
    if message.body.len() > BODY_LEN_MAX {
        return Err(format!("the body has {} bytes; at most {BODY_LEN_MAX} are allowed", message.body.len()));
    }
    if delay_ms > u128::from(DELAY_MS_MAX) {
        return Err(format!("the delay is {delay_ms} ms; at most {DELAY_MS_MAX} are allowed"));
    }
    Ok(())
}

/// Cuts a reason to [`REASON_LEN_MAX`] at a character boundary.
#[must_use]
pub fn cut_reason(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_LEN_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::time::Duration;

    fn message(key: usize, dedup_id: usize, body: usize) -> NewMessage {
        let fill = |len: usize| Bytes::from(vec![7u8; len]);
        NewMessage { key: fill(key), dedup_id: fill(dedup_id), body: fill(body), delay: Duration::ZERO }
    }

    #[test]
    fn messages_at_their_limits_pass_and_beyond_them_do_not() {
        assert_eq!(check_message(&message(KEY_LEN_MAX, DEDUP_ID_LEN_MAX, BODY_LEN_MAX)), Ok(()));
        assert_eq!(check_message(&message(1, 1, 0)), Ok(()));
        for bad in [
            message(0, 1, 1),
            message(1, 0, 1),
            message(KEY_LEN_MAX + 1, 1, 1),
            message(1, DEDUP_ID_LEN_MAX + 1, 1),
            message(1, 1, BODY_LEN_MAX + 1),
        ] {
            assert!(check_message(&bad).is_err());
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let reason = "包".repeat(REASON_LEN_MAX);
        let cut = cut_reason(&reason);
        assert!(cut.len() <= REASON_LEN_MAX && cut.len() > REASON_LEN_MAX - 3);
        assert_eq!(cut_reason("short"), "short");
    }
}
