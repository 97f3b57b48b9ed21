//! The sealed ticket: what a user is given by a shake and brings back to open it.
//!
//! ```text
//!   off len field
//!     0   2  version      u16   1
//!     2   4  event              first four bytes of the event tag, in clear
//!     6  12  nonce              node u16 | boot epoch u32 | counter u48
//!    18  44  ciphertext         record 26 | slot u16 | file u32 | index u32 | issued u64 (ms)
//!    62  16  tag                full 128 bits
//!    78
//!   AAD = domain (10) | bytes 0..6 | user u64 | event tag u64       the nonce is bound by GCM
//!   key = HKDF-SHA256(ikm = node's seal key, salt = build id, info = domain | event tag u64)
//! ```
//! Numbers are big-endian. Only the named user can open it, in the named event and build; an
//! access node that is captured loses its own key only.
//!
//! Invariant: no nonce is used twice under one key. The node number is unique, the boot epoch is
//! raised in the KV at every start, the counter lives in memory and refuses to wrap, and a sealer
//! consumes its key. So neither a restored disk nor a cloned machine can repeat one.
//!
//! Not here: expiry (the opener compares the issue time with the slot), and the record's content,
//! which the access node cannot read.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use world::{NodeId, UnixMs};

use crate::id::{BuildId, EventTag, FileNo, SlotNo, UserId};
use crate::keys::{NodeSealKey, SealMaster};
use crate::limits::{RECORD_LEN, SEAL_COUNTER_MAX};
use crate::record::Record;

pub use crate::limits::SEALED_LEN;

/// The format number.
pub const SEAL_VERSION: u16 = 1;

const HEADER_LEN: usize = 6;
const NONCE_LEN: usize = 12;
const SECRET_LEN: usize = RECORD_LEN + 2 + 4 + 4 + 8;
const TAG_LEN: usize = 16;
const _: () = assert!(HEADER_LEN + NONCE_LEN + SECRET_LEN + TAG_LEN == SEALED_LEN);

const AAD_DOMAIN: &[u8; 10] = b"hb/ticket1";
const AAD_LEN: usize = 32;
const _: () = assert!(AAD_DOMAIN.len() + HEADER_LEN + 8 + 8 == AAD_LEN, "two GHASH blocks");

/// A sealed ticket's bytes.
pub type Sealed = [u8; SEALED_LEN];

/// What stands in clear in a ticket and is never the same twice: the nonce, as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SealNumber {
    /// The node's number.
    pub node: u16,
    /// Its boot epoch.
    pub boot_epoch: u32,
    /// The how manieth seal since then, from 0.
    pub counter: u64,
}

impl SealNumber {
    /// The number of a ticket. What a stranger hands in may hold any.
    #[must_use]
    pub fn of(sealed: &Sealed) -> SealNumber {
        let nonce = &sealed[HEADER_LEN..HEADER_LEN + NONCE_LEN];
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        SealNumber {
            node: u16::from_be_bytes([nonce[0], nonce[1]]),
            boot_epoch: u32::from_be_bytes([nonce[2], nonce[3], nonce[4], nonce[5]]),
            counter: number(&nonce[6..]),
        }
    }
}

/// What is sealed: which record was issued, from where, when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The record as it stood in the file.
    pub record: Record,
    /// The slot it was issued in.
    pub slot: SlotNo,
    /// The file it stood in.
    pub file: FileNo,
    /// Its place in the file, from 0.
    pub index: u32,
    /// When it was issued, by the node's wall clock.
    pub issued_ms: UnixMs,
}

/// Why a ticket was not sealed, or not unsealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The node has used every nonce of this boot epoch.
    #[error("this node has sealed 2^48 tickets since it started: restart it")]
    Exhausted,
    /// Not as long as a sealed ticket.
    #[error("a sealed ticket has {SEALED_LEN} bytes, this has {0}")]
    Length(usize),
    /// Of a version this program does not know.
    #[error("the sealed ticket has version {0}, this program reads {SEAL_VERSION}")]
    Version(u16),
    /// Sealed in another event.
    #[error("the sealed ticket is of another event")]
    OtherEvent,
    /// The nonce names a node that cannot exist.
    #[error("the sealed ticket names no node")]
    UnknownNode,
    /// Altered, forged, or sealed to another user or by another build.
    #[error("the sealed ticket is not genuine for this user")]
    BadTag,
}

fn header(event: EventTag) -> [u8; HEADER_LEN] {
    let [v0, v1] = SEAL_VERSION.to_be_bytes();
    let [e0, e1, e2, e3, ..] = event.to_bytes();
    [v0, v1, e0, e1, e2, e3]
}

fn aad(header: [u8; HEADER_LEN], user: UserId, event: EventTag) -> [u8; AAD_LEN] {
    let mut aad = [0u8; AAD_LEN];
    aad[..10].copy_from_slice(AAD_DOMAIN);
    aad[10..16].copy_from_slice(&header);
    aad[16..24].copy_from_slice(&user.0.to_be_bytes());
    aad[24..].copy_from_slice(&event.to_bytes());
    aad
}

fn cipher(key: &NodeSealKey, event: EventTag, build: BuildId) -> Aes256Gcm {
    let key = key.seal_key(event, build);
    Aes256Gcm::new((&*key).into())
}

/// Seals tickets on one node. Shared by all its threads.
pub struct NodeSealer {
    cipher: Aes256Gcm,
    node: NodeId,
    boot_epoch: u32,
    event: EventTag,
    counter: AtomicU64,
}

impl NodeSealer {
    /// A sealer for `node`, which started for the `boot_epoch`th time. Make exactly one per key
    /// and boot epoch.
    ///
    /// # Panics
    /// When `key` is another node's.
    #[must_use]
    pub fn new(key: NodeSealKey, node: NodeId, boot_epoch: u32, event: &str, build: BuildId) -> NodeSealer {
        assert!(key.node() == node, "node {node} was given the seal key of {}", key.node());
        let event = EventTag::of(event);
        NodeSealer { cipher: cipher(&key, event, build), node, boot_epoch, event, counter: AtomicU64::new(0) }
    }

    /// Seals `issue` to `user`.
    ///
    /// # Errors
    /// [`SealError::Exhausted`] after 2^48 seals.
    pub fn seal(&self, user: UserId, issue: &Issue) -> Result<Sealed, SealError> {
        // Relaxed: only uniqueness of the number matters. It could wrap only after 2^64 calls.
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        if counter > SEAL_COUNTER_MAX {
            return Err(SealError::Exhausted);
        }
        let header = header(self.event);
        let mut nonce = [0u8; NONCE_LEN];
        nonce[..2].copy_from_slice(&self.node.as_u16().to_be_bytes());
        nonce[2..6].copy_from_slice(&self.boot_epoch.to_be_bytes());
        nonce[6..].copy_from_slice(&counter.to_be_bytes()[2..]);

        let mut secret = encode_issue(issue);
        let tag = self
            .cipher
            .encrypt_inout_detached(
                (&nonce).into(),
                &aad(header, user, self.event),
                secret.as_mut_slice().into(),
            )
            .expect("44 bytes are within AES-GCM's limits");

        let mut sealed = [0u8; SEALED_LEN];
        sealed[..6].copy_from_slice(&header);
        sealed[6..18].copy_from_slice(&nonce);
        sealed[18..62].copy_from_slice(&secret);
        sealed[62..].copy_from_slice(&tag);
        Ok(sealed)
    }
}

/// Opens tickets sealed by any node. Shared by all threads.
pub struct Unsealer {
    master: SealMaster,
    event: EventTag,
    build: BuildId,
    // Index is the node's number; made when first met. At most one per possible node, so forged
    // node numbers cannot grow it without bound.
    ciphers: Box<[OnceLock<Box<Aes256Gcm>>]>,
}

impl Unsealer {
    /// An unsealer for one event and build.
    #[must_use]
    pub fn new(master: SealMaster, event: &str, build: BuildId) -> Unsealer {
        // 26 zones of 256 numbers: every value `NodeId::from_u16` accepts.
        let ciphers = (0..26 << 8).map(|_| OnceLock::new()).collect();
        Unsealer { master, event: EventTag::of(event), build, ciphers }
    }

    fn cipher_of(&self, node: NodeId) -> &Aes256Gcm {
        let place = &self.ciphers[usize::from(node.as_u16())];
        place.get_or_init(|| Box::new(cipher(&self.master.node_key(node), self.event, self.build)))
    }

    /// Opens a ticket that `user` brought; tells also which node sealed it.
    ///
    /// # Errors
    /// [`SealError`]; nothing of the ticket may then be believed.
    pub fn open(&self, user: UserId, sealed: &[u8]) -> Result<(Issue, NodeId), SealError> {
        let sealed: &Sealed = sealed.try_into().map_err(|_| SealError::Length(sealed.len()))?;
        let version = u16::from_be_bytes([sealed[0], sealed[1]]);
        if version != SEAL_VERSION {
            return Err(SealError::Version(version));
        }
        let header = header(self.event);
        if sealed[..HEADER_LEN] != header {
            return Err(SealError::OtherEvent);
        }
        let node =
            NodeId::from_u16(u16::from_be_bytes([sealed[6], sealed[7]])).ok_or(SealError::UnknownNode)?;
        let nonce: [u8; NONCE_LEN] = sealed[6..18].try_into().expect("twelve bytes");
        let mut secret: [u8; SECRET_LEN] = sealed[18..62].try_into().expect("44 bytes");
        let tag: [u8; TAG_LEN] = sealed[62..].try_into().expect("sixteen bytes");
        let aad = aad(header, user, self.event);
        self.cipher_of(node)
            .decrypt_inout_detached((&nonce).into(), &aad, secret.as_mut_slice().into(), (&tag).into())
            .map_err(|_| SealError::BadTag)?;
        Ok((decode_issue(&secret), node))
    }
}

fn encode_issue(issue: &Issue) -> [u8; SECRET_LEN] {
    let mut bytes = [0u8; SECRET_LEN];
    bytes[..26].copy_from_slice(issue.record.as_bytes());
    bytes[26..28].copy_from_slice(&issue.slot.0.to_be_bytes());
    bytes[28..32].copy_from_slice(&issue.file.0.to_be_bytes());
    bytes[32..36].copy_from_slice(&issue.index.to_be_bytes());
    bytes[36..].copy_from_slice(&issue.issued_ms.0.to_be_bytes());
    bytes
}

fn decode_issue(bytes: &[u8; SECRET_LEN]) -> Issue {
    Issue {
        record: Record(bytes[..26].try_into().expect("26 bytes")),
        slot: SlotNo(u16::from_be_bytes([bytes[26], bytes[27]])),
        file: FileNo(u32::from_be_bytes(bytes[28..32].try_into().expect("four bytes"))),
        index: u32::from_be_bytes(bytes[32..36].try_into().expect("four bytes")),
        issued_ms: UnixMs(u64::from_be_bytes(bytes[36..].try_into().expect("eight bytes"))),
    }
}

#[cfg(test)]
mod tests;
