//! How the control group lies in its key space. All numbers big-endian.
//!
//! ```text
//!   key                                   value
//!   'm'                                   2 | revision i64 | compacted i64 | swept revision i64 | swept sub u32
//!                                           | bytes u64                     (without in format 1)
//!   'k' key                               2 | create i64 | mod i64 | version i64 | lease i64 | sub u32 | value...
//!                                           (format 1: without sub, and with a 'v' beside it)
//!   'v' escaped key  revision i64 sub u32  1 (put) or 0 (tombstone)
//!   'r' revision i64 sub u32              1 | kind u8 | create i64 | version i64 | lease i64 | key length u32 | key | value...
//! ```
//! `k` is the present: live keys only, so the usual read is one lookup. `r` is the past in order,
//! every write until compaction: what a watch replays. `v` leads from a key to those of its places in
//! `r` that are not in `k`: what a read at an old revision walks. It is written when a pair is replaced or
//! deleted, so that a new key takes two records: a random place costs more than a byte. Escaping (00
//! becomes 00 ff, end is 00 01) makes `v` sort by key first, whatever bytes a key holds.
//!
//! Invariant: what is written reads back; anything else is [`EngineError::Corrupt`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use replica::engine::EngineError;

use crate::wire::mvccpb::KeyValue;

const FORMAT: u8 = 1;
const META_FORMAT: u8 = 2;
const LATEST_FORMAT: u8 = 2;
/// Bytes of a live pair's stored form before the value.
const LATEST_HEAD_BYTES: usize = 37;
/// The same in format 1.
const LATEST_1_HEAD_BYTES: usize = 33;
const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const ESCAPED_END: u8 = 0x01;

/// The key of [`Meta`].
pub const META_KEY: &[u8] = b"m";

/// A place in history: the revision, and the how-manieth write at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The revision.
    pub revision: i64,
    /// From 0 within the revision.
    pub sub: u32,
}

/// Where the store stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The newest revision. 1 is the empty store, as in etcd.
    pub revision: i64,
    /// Reads below this revision are refused. -1 is never compacted, as in etcd.
    pub compacted: i64,
    /// The next place that a sweep will look at.
    pub sweep_next: Place,
    /// What the keys and their history take: the lengths of all keys and values under `k`, `v` and `r`.
    pub bytes: u64,
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The pair after the event; a tombstone holds only key and mod revision.
    pub pair: KeyValue,
    /// Whether the key was deleted.
    pub tombstone: bool,
}

impl Meta {
    /// The empty store.
    pub const EMPTY: Meta =
        Meta { revision: 1, compacted: -1, sweep_next: Place { revision: 1, sub: 0 }, bytes: 0 };

    /// The stored form.
    pub fn encode(&self) -> Bytes {
        assert!(self.compacted <= self.revision, "what is compacted has happened");
        let mut bytes = BytesMut::with_capacity(37);
        bytes.put_u8(META_FORMAT);
        bytes.put_i64(self.revision);
        bytes.put_i64(self.compacted);
        bytes.put_i64(self.sweep_next.revision);
        bytes.put_u32(self.sweep_next.sub);
        bytes.put_u64(self.bytes);
        bytes.freeze()
    }

    /// Reads the stored form back.
    pub fn decode(mut bytes: Bytes) -> Result<Meta, EngineError> {
        let counted = match (bytes.len(), bytes.first()) {
            (29, Some(&FORMAT)) => false,
            (37, Some(&META_FORMAT)) => true,
            _ => {
                return Err(EngineError::Corrupt(
                    "the store's meta record has another size or format".to_owned(),
                ));
            }
        };
        bytes.advance(1);
        Ok(Meta {
            revision: bytes.get_i64(),
            compacted: bytes.get_i64(),
            sweep_next: Place { revision: bytes.get_i64(), sub: bytes.get_u32() },
            // A store that was not counted counts from now on, and never below nothing.
            bytes: if counted { bytes.get_u64() } else { 0 },
        })
    }
}

/// Key of `key` in the present.
pub fn latest_key(key: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(1 + key.len());
    bytes.put_u8(b'k');
    bytes.put_slice(key);
    bytes.freeze()
}

/// The first key behind the present.
pub const LATEST_END: &[u8] = b"l";
/// The first key behind history.
pub const EVENT_END: &[u8] = b"s";
/// The first key behind the version index.
pub const VERSION_END: &[u8] = b"w";

/// A live pair as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Latest {
    /// The pair.
    pub pair: KeyValue,
    /// The how-manieth write at its mod revision; `None` in a record of format 1, whose version has an
    /// index record already.
    pub sub: Option<u32>,
}

impl Latest {
    /// What it takes, with its key.
    pub fn bytes(&self) -> u64 {
        let head = if self.sub.is_some() { LATEST_HEAD_BYTES } else { LATEST_1_HEAD_BYTES };
        (1 + self.pair.key.len() + head + self.pair.value.len()) as u64
    }

    /// Its place, unless `v` knows it.
    pub fn unindexed(&self) -> Option<Place> {
        self.sub.map(|sub| Place { revision: self.pair.mod_revision, sub })
    }
}

/// The stored form of a live pair, the `sub`th write at its revision. Its key is the key it is stored under.
pub fn encode_latest(pair: &KeyValue, sub: u32) -> Bytes {
    assert!(pair.create_revision <= pair.mod_revision, "a key is created before it is written again");
    assert!(pair.version > 0, "a live key has been written");
    let mut bytes = BytesMut::with_capacity(LATEST_HEAD_BYTES + pair.value.len());
    bytes.put_u8(LATEST_FORMAT);
    bytes.put_i64(pair.create_revision);
    bytes.put_i64(pair.mod_revision);
    bytes.put_i64(pair.version);
    bytes.put_i64(pair.lease);
    bytes.put_u32(sub);
    bytes.put_slice(&pair.value);
    bytes.freeze()
}

/// Reads a live pair back from its stored key and value.
pub fn decode_latest(stored_key: &[u8], mut value: Bytes) -> Result<Latest, EngineError> {
    let Some((b'k', key)) = stored_key.split_first() else {
        return Err(EngineError::Corrupt("a present record has another prefix".to_owned()));
    };
    let placed = match value.first() {
        Some(&LATEST_FORMAT) if value.len() >= LATEST_HEAD_BYTES => true,
        Some(&FORMAT) if value.len() >= LATEST_1_HEAD_BYTES => false,
        _ => return Err(EngineError::Corrupt("a present record has another size or format".to_owned())),
    };
    value.advance(1);
    let (create_revision, mod_revision) = (value.get_i64(), value.get_i64());
    let (version, lease) = (value.get_i64(), value.get_i64());
    let sub = placed.then(|| value.get_u32());
    let key = Bytes::copy_from_slice(key);
    Ok(Latest { pair: KeyValue { key, create_revision, mod_revision, version, lease, value }, sub })
}

/// Prefix of all versions of `key`.
pub fn version_prefix(key: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(key.len() + 16);
    bytes.put_u8(b'v');
    for byte in key {
        bytes.put_u8(*byte);
        if *byte == ESCAPE {
            bytes.put_u8(ESCAPED_ZERO);
        }
    }
    bytes.put_u8(ESCAPE);
    bytes.put_u8(ESCAPED_END);
    bytes
}

/// Key of one version of `key`.
pub fn version_key(key: &[u8], place: Place) -> Bytes {
    let mut bytes = version_prefix(key);
    put_place(&mut bytes, place);
    bytes.freeze()
}

/// Reads (key, place) back from a version's key.
pub fn decode_version_key(stored_key: &[u8]) -> Result<(Bytes, Place), EngineError> {
    let corrupt = || EngineError::Corrupt("a version key cannot be read".to_owned());
    let Some((b'v', mut rest)) = stored_key.split_first() else {
        return Err(corrupt());
    };
    let mut key = BytesMut::with_capacity(rest.len());
    loop {
        let (byte, tail) = rest.split_first().ok_or_else(corrupt)?;
        rest = tail;
        if *byte != ESCAPE {
            key.put_u8(*byte);
            continue;
        }
        let (mark, tail) = rest.split_first().ok_or_else(corrupt)?;
        rest = tail;
        match *mark {
            ESCAPED_ZERO => key.put_u8(0),
            ESCAPED_END => break,
            _ => return Err(corrupt()),
        }
    }
    Ok((key.freeze(), decode_place(rest)?))
}

/// The stored form of a version: whether the key lived on.
pub fn encode_version(tombstone: bool) -> Bytes {
    Bytes::from_static(if tombstone { &[0] } else { &[1] })
}

/// Whether a version is a tombstone.
pub fn decode_version(value: &[u8]) -> Result<bool, EngineError> {
    match value {
        [0] => Ok(true),
        [1] => Ok(false),
        _ => Err(EngineError::Corrupt("a version record is neither put nor tombstone".to_owned())),
    }
}

/// Key of the event at `place`.
pub fn event_key(place: Place) -> Bytes {
    let mut bytes = BytesMut::with_capacity(13);
    bytes.put_u8(b'r');
    put_place(&mut bytes, place);
    bytes.freeze()
}

/// Reads the place back from an event's key.
pub fn decode_event_key(stored_key: &[u8]) -> Result<Place, EngineError> {
    match stored_key.split_first() {
        Some((b'r', rest)) => decode_place(rest),
        _ => Err(EngineError::Corrupt("an event key has another prefix".to_owned())),
    }
}

/// The stored form of an event. The mod revision is that of the key it is stored under.
pub fn encode_event(event: &Event) -> Bytes {
    let pair = &event.pair;
    let key_len = u32::try_from(pair.key.len()).expect("a request is smaller than 4 GiB");
    let mut bytes = BytesMut::with_capacity(30 + pair.key.len() + pair.value.len());
    bytes.put_u8(FORMAT);
    bytes.put_u8(u8::from(event.tombstone));
    bytes.put_i64(pair.create_revision);
    bytes.put_i64(pair.version);
    bytes.put_i64(pair.lease);
    bytes.put_u32(key_len);
    bytes.put_slice(&pair.key);
    bytes.put_slice(&pair.value);
    bytes.freeze()
}

/// Reads an event back.
pub fn decode_event(place: Place, mut bytes: Bytes) -> Result<Event, EngineError> {
    let corrupt =
        || EngineError::Corrupt(format!("the event at {}.{} cannot be read", place.revision, place.sub));
    if bytes.len() < 30 || bytes.get_u8() != FORMAT {
        return Err(corrupt());
    }
    let tombstone = match bytes.get_u8() {
        0 => false,
        1 => true,
        _ => return Err(corrupt()),
    };
    let (create_revision, version, lease) = (bytes.get_i64(), bytes.get_i64(), bytes.get_i64());
    let key_len = bytes.get_u32() as usize;
    if bytes.len() < key_len {
        return Err(corrupt());
    }
    let key = bytes.split_to(key_len);
    let mod_revision = place.revision;
    let pair = KeyValue { key, create_revision, mod_revision, version, value: bytes, lease };
    Ok(Event { pair, tombstone })
}

fn put_place(bytes: &mut BytesMut, place: Place) {
    assert!(place.revision >= 0, "revisions count up from 1");
    bytes.put_i64(place.revision);
    bytes.put_u32(place.sub);
}

fn decode_place(mut bytes: &[u8]) -> Result<Place, EngineError> {
    if bytes.len() != 12 {
        return Err(EngineError::Corrupt("a place in history is 12 bytes".to_owned()));
    }
    Ok(Place { revision: bytes.get_i64(), sub: bytes.get_u32() })
}
