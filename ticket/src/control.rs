//! What stands in the control group of the KV: who may issue what, and when.
//!
//! ```text
//!   hongbao/event                      EventRecord   the active build, its slots in wall time, open or closed
//!   hongbao/keylist/<build>            KeyList       data keys that may be used, and those that were revoked
//!   hongbao/zone/<z>                   ZoneRecord    active or failed, and the epoch that fences it
//!   hongbao/boot/<node>                BootRecord    starts of a node, ever: part of every seal nonce
//!   hongbao/claim/<slot>/<file>        ClaimRecord   who may issue the file; written once, never moved
//!   hongbao/freeze/<slot>/<file>       FreezeRecord  a claim whose zone was failed over; not reissued
//! ```
//! Values are JSON objects with a `format` field, so that a person can read them with `hongbao kv get`.
//!
//! Invariant: every writer goes through one compare-and-write transaction that names the epoch it
//! acted under.
//!
//! Not here: the transactions themselves (access claims, deploy fails over).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use world::{Epoch, NodeId, UnixMs, ZoneId};

use crate::id::{BuildId, FileNo, SlotNo};

/// The format number of every record here.
pub const FORMAT: u32 = 1;
/// Key of the [`EventRecord`].
pub const EVENT_KEY: &str = "hongbao/event";
/// Prefix of all zone records.
pub const ZONE_PREFIX: &str = "hongbao/zone/";
/// Prefix of all claims.
pub const CLAIM_PREFIX: &str = "hongbao/claim/";
/// Prefix of all freezes.
pub const FREEZE_PREFIX: &str = "hongbao/freeze/";

/// Key of a build's [`KeyList`](crate::keys::KeyList).
#[must_use]
pub fn key_list_key(build: BuildId) -> String {
    format!("hongbao/keylist/{build}")
}

/// Key of a zone's [`ZoneRecord`].
#[must_use]
pub fn zone_key(zone: ZoneId) -> String {
    format!("{ZONE_PREFIX}{zone}")
}

/// Key of a node's [`BootRecord`].
#[must_use]
pub fn boot_key(node: NodeId) -> String {
    format!("hongbao/boot/{node}")
}

/// Key of the claim of (slot, file).
#[must_use]
pub fn claim_key(slot: SlotNo, file: FileNo) -> String {
    format!("{CLAIM_PREFIX}{:05}/{:010}", slot.0, file.0)
}

/// Prefix of all claims of a slot.
#[must_use]
pub fn claim_slot_prefix(slot: SlotNo) -> String {
    format!("{CLAIM_PREFIX}{:05}/", slot.0)
}

/// Key of the freeze of (slot, file).
#[must_use]
pub fn freeze_key(slot: SlotNo, file: FileNo) -> String {
    format!("{FREEZE_PREFIX}{:05}/{:010}", slot.0, file.0)
}

/// Reads (slot, file) back from a claim's or freeze's key; `None` for any text but the canonical one.
#[must_use]
pub fn parse_file_key(key: &str) -> Option<(SlotNo, FileNo)> {
    let rest = key.strip_prefix(CLAIM_PREFIX).or_else(|| key.strip_prefix(FREEZE_PREFIX))?;
    let (slot, file) = rest.split_once('/')?;
    let (slot, file) = (SlotNo(slot.parse().ok()?), FileNo(file.parse().ok()?));
    let canonical = [claim_key(slot, file), freeze_key(slot, file)].iter().any(|own| own == key);
    canonical.then_some((slot, file))
}

/// Whether packets may still be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// Slots run and packets may be opened.
    Open,
    /// Nothing is issued or opened any more; what is left will be refunded.
    Closed,
}

/// A slot in wall time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotWindow {
    /// Its place in the script.
    pub slot: SlotNo,
    /// Its name in the script.
    pub id: String,
    /// Issuing starts.
    pub start_ms: UnixMs,
    /// Issuing ends.
    pub end_ms: UnixMs,
}

/// The active event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The event's id in the script.
    pub event: String,
    /// The build whose files are issued.
    pub build: BuildId,
    /// The scheme it was built from.
    pub scheme: String,
    /// Open or closed.
    pub state: EventState,
    /// The slots in order, not overlapping.
    pub slots: Vec<SlotWindow>,
    /// A sealed ticket may be opened until this long after its slot ended.
    pub open_grace_ms: u64,
}

/// Whether a zone may claim files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneState {
    /// Its nodes claim their own files, from `from_slot` on.
    Active,
    /// Its nodes claim nothing; the other zones claim its files at the slot's start.
    Failed,
}

/// One zone as the operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Active or failed.
    pub state: ZoneState,
    /// Raised by every operation on the zone. A claim names the epoch it was made under.
    pub epoch: Epoch,
    /// The first slot this state holds for.
    pub from_slot: SlotNo,
    /// Why, as the operator said.
    pub reason: String,
    /// When, by the operator's wall clock.
    pub at_ms: UnixMs,
    /// The names of the last commands that were carried out, as they named themselves, the one that wrote this
    /// record last. A command that arrives again, by whichever node and however late, finds itself here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
}

/// How often a node started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Raised at every start, before anything is sealed.
    pub boot_epoch: u32,
    /// The incarnation of the disk that started: 32 hex digits.
    pub incarnation: String,
}

/// The right to issue one file in one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// Who issues it.
    pub node: NodeId,
    /// The incarnation of that node's disk: 32 hex digits. Another disk may not go on.
    pub incarnation: String,
    /// The epoch of the node's zone when it claimed.
    pub zone_epoch: Epoch,
    /// When, by the node's wall clock.
    pub at_ms: UnixMs,
}

/// A claimed file that its zone will not finish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeRecord {
    /// [`FORMAT`].
    pub format: u32,
    /// The zone that was failed over.
    pub zone: ZoneId,
    /// The zone's epoch after the failover.
    pub zone_epoch: Epoch,
    /// Who held the claim.
    pub node: NodeId,
    /// When, by the operator's wall clock.
    pub at_ms: UnixMs,
}

/// A value in the control group that is not what its key promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value of {key} cannot be read: {reason}")]
pub struct ControlError {
    key: String,
    reason: String,
}

/// Bytes of a record for the KV.
///
/// # Panics
/// Never: the records hold nothing JSON cannot express.
#[must_use]
pub fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("a control record is always valid JSON")
}

/// Reads a record back; refuses another format number.
///
/// # Errors
/// [`ControlError`] naming the key.
pub fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, ControlError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let error = |reason: String| ControlError { key: key.to_owned(), reason };
    let head: Head = serde_json::from_slice(bytes).map_err(|e| error(e.to_string()))?;
    if head.format != FORMAT {
        return Err(error(format!("its format is {}, this program reads {FORMAT}", head.format)));
    }
    serde_json::from_slice(bytes).map_err(|e| error(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_sort_by_slot_and_file_and_read_back() {
        let key = claim_key(SlotNo(3), FileNo(17));
        assert_eq!(key, "hongbao/claim/00003/0000000017");
        assert_eq!(parse_file_key(&key), Some((SlotNo(3), FileNo(17))));
        assert!(claim_key(SlotNo(9), FileNo(9)) < claim_key(SlotNo(10), FileNo(0)));
        assert!(key.starts_with(&claim_slot_prefix(SlotNo(3))));
    }

    #[test]
    fn another_format_is_refused() {
        let record = BootRecord { format: 2, boot_epoch: 1, incarnation: String::new() };
        let error = decode::<BootRecord>("k", &encode(&record)).expect_err("format 2");
        assert!(error.to_string().contains("format is 2"), "{error}");
    }

    #[test]
    fn what_is_no_json_is_refused_with_the_key() {
        for bytes in [&b""[..], b"{}", b"[]", b"\xff", br#"{"format":1}"#] {
            let error = decode::<BootRecord>("hongbao/boot/a1", bytes).expect_err("no record");
            assert!(error.to_string().contains("hongbao/boot/a1"), "{error}");
        }
    }

    #[test]
    fn a_key_that_is_not_canonical_names_no_file() {
        for key in [
            "hongbao/claim/3/17",
            "hongbao/claim/+0003/0000000017",
            "hongbao/claim/00003/+000000017",
            "hongbao/claim/00003/0000000017/",
            "hongbao/claim/70000/0000000017",
            "hongbao/zone/a",
            "",
        ] {
            assert_eq!(parse_file_key(key), None, "{key:?}");
        }
    }

    proptest! {
        #[test]
        fn every_file_key_reads_back_and_sorts(slot: u16, file: u32, other: u32) {
            let (slot, file, other) = (SlotNo(slot), FileNo(file), FileNo(other));
            prop_assert_eq!(parse_file_key(&claim_key(slot, file)), Some((slot, file)));
            prop_assert_eq!(parse_file_key(&freeze_key(slot, file)), Some((slot, file)));
            prop_assert_eq!(claim_key(slot, file).cmp(&claim_key(slot, other)), file.cmp(&other));
            prop_assert_ne!(claim_key(slot, file), freeze_key(slot, file));
        }
    }
}
