//! What stands in the key space of a partition.
//!
//! ```text
//!   key                 value, each beginning with format id 01, big-endian
//!   00                  tally     next seq, counters, last time, paused
//!   01 | seq u64        header    enqueued ms u64, deliver at ms u64, attempts u32, body len u32,
//!                                 key (u16 + bytes), dedup id (u16 + bytes)       a live message
//!   02 | seq u64        body      (no format id: the caller's bytes as they came)
//!   03 | dedup id       index     state u8, seq u64, and unless kept: done ms u64, term u64, node u16, lease u64
//!   04 | seq u64        dead      header fields, dead ms u64, reason (u16 + bytes) a dead letter
//! ```
//! A message has its header under 01 or under 04, its body under 02 and its index entry under 03.
//! An ack or a purge removes all but the index entry, which becomes the tombstone. Headers are
//! apart from bodies so that a restart reads no bodies and a nack rewrites none.
//!
//! Invariant: table numbers, field order and state numbers are frozen; another format id is
//! refused as corrupt rather than guessed at.
//!
//! Not here: when what is written (`machine`).

use bytes::Bytes;
use replica::engine::EngineError;

use crate::codec::{CodecError, Reader, Writer};
use crate::receipt::LeaseId;

const FORMAT: u8 = 1;
const TALLY: u8 = 0;
const HEADER: u8 = 1;
const BODY: u8 = 2;
const INDEX: u8 = 3;
const DEAD: u8 = 4;

/// Counters of a partition. `live + dead + acked + purged = accepted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The next message gets this number; they start at 1.
    pub next_seq: u64,
    /// Messages ever accepted.
    pub accepted: u64,
    /// Ready, delayed or in flight.
    pub live: u64,
    /// Bytes of keys, dedup ids and bodies of live messages.
    pub live_bytes: u64,
    /// Dead letters.
    pub dead: u64,
    /// Done.
    pub acked: u64,
    /// Dead letters given up.
    pub purged: u64,
    /// Offers answered as duplicates.
    pub duplicates: u64,
    /// Time of the last entry by the log's clock, milliseconds since the Unix epoch.
    pub as_of_ms: u64,
    /// Whether leasing is stopped.
    pub paused: bool,
}

/// What is kept of a message beside its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Time of the entry that accepted it, milliseconds since the Unix epoch.
    pub enqueued_ms: u64,
    /// Not delivered before.
    pub deliver_at_ms: u64,
    /// Deliveries known when it was last returned.
    pub attempts: u32,
    /// Length of its body, bytes.
    pub body_len: u32,
    /// Order within it is kept.
    pub key: Bytes,
    /// Known for ever.
    pub dedup_id: Bytes,
}

/// What is known of a dedup id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// The message is live or dead.
    Kept {
        /// Which.
        seq: u64,
    },
    /// It was acked, at this time under this lease.
    Acked {
        /// Which.
        seq: u64,
        /// Milliseconds since the Unix epoch.
        done_ms: u64,
        /// Lets a repeated ack be answered as done.
        lease: LeaseId,
    },
    /// It was purged as a dead letter.
    Purged {
        /// Which.
        seq: u64,
        /// Milliseconds since the Unix epoch.
        done_ms: u64,
    },
}

/// A message that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// As it was.
    pub header: Header,
    /// When, milliseconds since the Unix epoch.
    pub dead_ms: u64,
    /// Why, as the last consumer or the queue said.
    pub reason: String,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            next_seq: 1,
            accepted: 0,
            live: 0,
            live_bytes: 0,
            dead: 0,
            acked: 0,
            purged: 0,
            duplicates: 0,
            as_of_ms: 0,
            paused: false,
        }
    }
}

impl Tally {
    /// What must always hold.
    #[must_use]
    pub fn conserves(&self) -> bool {
        let sum = self.live + self.dead + self.acked + self.purged;
        sum == self.accepted && self.next_seq == self.accepted + 1
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        Writer::default()
            .u8(FORMAT)
            .u64(self.next_seq)
            .u64(self.accepted)
            .u64(self.live)
            .u64(self.live_bytes)
            .u64(self.dead)
            .u64(self.acked)
            .u64(self.purged)
            .u64(self.duplicates)
            .u64(self.as_of_ms)
            .u8(u8::from(self.paused))
            .done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Tally, EngineError> {
        read("the tally of a queue", bytes, |r| {
            Ok(Tally {
                next_seq: r.u64()?,
                accepted: r.u64()?,
                live: r.u64()?,
                live_bytes: r.u64()?,
                dead: r.u64()?,
                acked: r.u64()?,
                purged: r.u64()?,
                duplicates: r.u64()?,
                as_of_ms: r.u64()?,
                paused: r.u8()? != 0,
            })
        })
    }
}

impl Header {
    /// What the message counts towards the high-water mark, bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let names = self.key.len() + self.dedup_id.len();
        u64::from(self.body_len) + u64::try_from(names).expect("two short fields")
    }

    fn write(&self, writer: Writer) -> Writer {
        writer
            .u64(self.enqueued_ms)
            .u64(self.deliver_at_ms)
            .u32(self.attempts)
            .u32(self.body_len)
            .short(&self.key)
            .short(&self.dedup_id)
    }

    fn read(r: &mut Reader<'_>) -> Result<Header, CodecError> {
        let (enqueued_ms, deliver_at_ms) = (r.u64()?, r.u64()?);
        let (attempts, body_len) = (r.u32()?, r.u32()?);
        let key = Bytes::copy_from_slice(r.short()?);
        let dedup_id = r.short()?;
        // Callers often use one id for both: then it is held once.
        let dedup_id = if dedup_id == &key[..] { key.clone() } else { Bytes::copy_from_slice(dedup_id) };
        Ok(Header { enqueued_ms, deliver_at_ms, attempts, body_len, key, dedup_id })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        self.write(Writer::default().u8(FORMAT)).done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Header, EngineError> {
        read("a message header", bytes, Header::read)
    }
}

impl Known {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let head = Writer::default().u8(FORMAT);
        match *self {
            Known::Kept { seq } => head.u8(0).u64(seq),
            Known::Acked { seq, done_ms, lease } => lease.write(head.u8(1).u64(seq).u64(done_ms)),
            Known::Purged { seq, done_ms } => head.u8(2).u64(seq).u64(done_ms),
        }
        .done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Known, EngineError> {
        read("a dedup index entry", bytes, |r| match r.u8()? {
            0 => Ok(Known::Kept { seq: r.u64()? }),
            1 => Ok(Known::Acked { seq: r.u64()?, done_ms: r.u64()?, lease: LeaseId::read(r)? }),
            2 => Ok(Known::Purged { seq: r.u64()?, done_ms: r.u64()? }),
            _ => Err(r.error()),
        })
    }
}

impl Dead {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let writer = self.header.write(Writer::default().u8(FORMAT));
        writer.u64(self.dead_ms).short(self.reason.as_bytes()).done()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Dead, EngineError> {
        read("a dead letter", bytes, |r| {
            let header = Header::read(r)?;
            let dead_ms = r.u64()?;
            let reason = std::str::from_utf8(r.short()?).map_err(|_| r.error())?.to_owned();
            Ok(Dead { header, dead_ms, reason })
        })
    }
}

/// Reads a stored value whole. What the disk gives back wrong is corruption, never a panic.
fn read<T>(
    what: &'static str,
    bytes: &[u8],
    fields: impl FnOnce(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<T, EngineError> {
    let mut reader = Reader::new(what, bytes);
    let value = reader.expect(FORMAT).and_then(|()| fields(&mut reader));
    value
        .and_then(|value| reader.end().map(|()| value))
        .map_err(|error| EngineError::Corrupt(error.to_string()))
}

fn numbered(table: u8, seq: u64) -> Vec<u8> {
    Writer::default().u8(table).u64(seq).done()
}

pub(crate) fn tally_key() -> Vec<u8> {
    vec![TALLY]
}

pub(crate) fn header_key(seq: u64) -> Vec<u8> {
    numbered(HEADER, seq)
}

pub(crate) fn body_key(seq: u64) -> Vec<u8> {
    numbered(BODY, seq)
}

pub(crate) fn dead_key(seq: u64) -> Vec<u8> {
    numbered(DEAD, seq)
}

pub(crate) fn index_key(dedup_id: &[u8]) -> Vec<u8> {
    Writer::default().u8(INDEX).rest(dedup_id).done()
}

/// First key after all headers.
pub(crate) fn header_end() -> Vec<u8> {
    vec![HEADER + 1]
}

/// First key after the whole dedup index.
pub(crate) fn index_end() -> Vec<u8> {
    vec![INDEX + 1]
}

/// The sequence number in a header's or dead letter's key.
pub(crate) fn seq_of(key: &[u8]) -> Result<u64, EngineError> {
    let mut reader = Reader::new("a queue key", key);
    let seq = reader.u8().and_then(|_| reader.u64());
    seq.and_then(|seq| reader.end().map(|()| seq)).map_err(|error| EngineError::Corrupt(error.to_string()))
}

/// The dedup id in an index entry's key.
pub(crate) fn dedup_id_of(key: &[u8]) -> &[u8] {
    assert!(key.first() == Some(&INDEX), "only index keys are scanned in the index");
    &key[1..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::Token;

    fn header() -> Header {
        Header {
            enqueued_ms: 1,
            deliver_at_ms: 2,
            attempts: 3,
            body_len: 4,
            key: Bytes::from_static(b"k"),
            dedup_id: Bytes::from_static(b"id"),
        }
    }

    const HEADER_FIELDS: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 1, b'k', 0, 2, b'i', b'd',
    ];

    #[test]
    fn the_keys_are_frozen() {
        assert_eq!(tally_key(), [0]);
        assert_eq!(header_key(258), [1, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(body_key(258), [2, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(index_key(b"id"), [3, b'i', b'd']);
        assert_eq!(dead_key(258), [4, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(seq_of(&dead_key(258)).expect("seq"), 258);
        assert_eq!(dedup_id_of(&index_key(b"id")), b"id");
        assert!(header_key(u64::MAX) < header_end());
        assert!(index_key(&[255; 256]) < index_end());
    }

    #[test]
    fn the_values_are_frozen() {
        let tally = Tally {
            next_seq: 1,
            accepted: 2,
            live: 3,
            live_bytes: 4,
            dead: 5,
            acked: 6,
            purged: 7,
            duplicates: 8,
            as_of_ms: 9,
            paused: true,
        };
        let mut golden = vec![1];
        for number in 1u64..=9 {
            golden.extend_from_slice(&number.to_be_bytes());
        }
        golden.push(1);
        assert_eq!(tally.encode(), golden);
        assert_eq!(Tally::decode(&golden).expect("tally"), tally);

        let golden = [&[1], HEADER_FIELDS].concat();
        assert_eq!(header().encode(), golden);
        assert_eq!(Header::decode(&golden).expect("header"), header());

        let dead = Dead { header: header(), dead_ms: 9, reason: "no".to_owned() };
        let golden = [&[1], HEADER_FIELDS, &[0, 0, 0, 0, 0, 0, 0, 9, 0, 2], b"no"].concat();
        assert_eq!(dead.encode(), golden);
        assert_eq!(Dead::decode(&golden).expect("dead"), dead);
    }

    #[test]
    fn the_index_is_frozen() {
        let token = Token { term: 7, node: "b2".parse().expect("node") };
        let lease = LeaseId { token, number: 9 };
        let seq = [0, 0, 0, 0, 0, 0, 0, 5];
        let done = [0, 0, 0, 0, 0, 0, 0, 6];
        let lease_bytes = [0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9];
        for (known, golden) in [
            (Known::Kept { seq: 5 }, [&[1, 0][..], &seq].concat()),
            (Known::Acked { seq: 5, done_ms: 6, lease }, [&[1, 1][..], &seq, &done, &lease_bytes].concat()),
            (Known::Purged { seq: 5, done_ms: 6 }, [&[1, 2][..], &seq, &done].concat()),
        ] {
            assert_eq!(known.encode(), golden);
            assert_eq!(Known::decode(&golden).expect("known"), known);
        }
    }

    #[test]
    fn another_format_or_a_wrong_length_is_corrupt() {
        let mut other = header().encode();
        other[0] = 2;
        assert!(matches!(Header::decode(&other), Err(EngineError::Corrupt(_))));
        let mut long = header().encode();
        long.push(0);
        assert!(matches!(Header::decode(&long), Err(EngineError::Corrupt(_))));
        assert!(matches!(Tally::decode(&[1, 2]), Err(EngineError::Corrupt(_))));
    }
}
