//! What the log of a partition carries, and what the machine answers.
//!
//! ```text
//!   command   fmt 01 | kind | fields, big-endian
//!     1 enqueue   n * (key, dedup id, body, delay ms)
//!     2 ack       n * settle
//!     3 return    n * (settle, attempts, fate: 0 again + delay ms | 1 bury, reason)
//!     4 redrive   from seq, to seq, most          5 purge dead  the same
//!     6 forget    from dedup id, most, done before ms
//!     7 pause     0 | 1
//!   settle    seq, lease (term, node, number), dedup id
//! ```
//! Times are delays, added to the entry's own time when it is applied; what a machine decides by
//! configuration (attempts, retention) is decided by the leader and stands in the command, so
//! that replicas with different settings still agree.
//!
//! Invariant: command bytes are persisted in the log and therefore frozen; replies only travel
//! from the machine to the proposer on the same host and are not.

use bytes::Bytes;

use crate::codec::{CodecError, Reader, Writer};
use crate::receipt::LeaseId;

const FORMAT: u8 = 1;

/// A change of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Accept messages.
    Enqueue(Vec<Offer>),
    /// Leased messages are done.
    Ack(Vec<Settle>),
    /// Leased messages go back, or become dead letters.
    Return(Vec<Return>),
    /// Dead letters become messages again.
    Redrive(Span),
    /// Dead letters are given up; their dedup ids stay known.
    PurgeDead(Span),
    /// Old tombstones are removed: their dedup ids become new again.
    Forget(Forget),
    /// Leasing stops or goes on. Enqueueing is not touched.
    Pause(bool),
}

/// A message on its way in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Order within it is kept.
    pub key: Bytes,
    /// Known for ever.
    pub dedup_id: Bytes,
    /// Opaque.
    pub body: Bytes,
    /// After the entry's time.
    pub delay_ms: u64,
}

/// Which message, under which lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The message.
    pub seq: u64,
    /// The lease it was handled under. Its token must be the entry's own.
    pub lease: LeaseId,
    /// The message's dedup id; leads to the tombstone.
    pub dedup_id: Bytes,
}

/// A message that was not handled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// Which, and under which lease.
    pub settle: Settle,
    /// Deliveries so far.
    pub attempts: u32,
    /// What becomes of it.
    pub fate: Fate,
    /// Why; kept with a dead letter.
    pub reason: String,
}

/// What becomes of a returned message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Deliverable again after this, milliseconds after the entry's time.
    Again {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// A dead letter.
    Bury,
}

/// Dead letters with `from <= seq < to`, at most `most` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First sequence number.
    pub from: u64,
    /// End of the range, not included.
    pub to: u64,
    /// Bounds the entry.
    pub most: u32,
}

/// Looks at up to `most` dedup ids from `from` on and removes the tombstones that are older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Where to begin; empty for the first.
    pub from: Bytes,
    /// Bounds the entry.
    pub most: u32,
    /// Tombstones of messages done before this, milliseconds since the Unix epoch.
    pub done_before_ms: u64,
}

/// What the machine answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// One for each offer.
    Enqueued(Vec<Accepted>),
    /// One for each settle or return.
    Settled(Vec<Settled>),
    /// How many dead letters moved, and where to go on if there may be more.
    Moved {
        /// Redriven or purged.
        count: u32,
        /// The next `from`.
        next: Option<u64>,
    },
    /// How many tombstones were removed, and where to go on if there may be more.
    Forgotten {
        /// Removed.
        count: u32,
        /// The next `from`.
        next: Option<Bytes>,
    },
    /// Done.
    Paused,
    /// The command cannot be read or breaks a limit. Nothing was written.
    Refused(String),
}

/// What became of an offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A message now.
    New,
    /// Its dedup id was known. The proposer reads the body, if it is wanted: bodies stay out of
    /// replies so that a reply is small whatever was asked.
    Duplicate,
}

/// What became of a settle or return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// Done now, or done before under the very same lease.
    Done,
    /// The message is not there any more, or never was.
    Gone,
    /// The lease was given by another leadership than the one that proposed this.
    Fenced,
}

impl Command {
    /// The persisted form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let head = Writer::default().u8(FORMAT);
        let whole = match self {
            Command::Enqueue(offers) => head.u8(1).list(offers, |w, offer| {
                w.short(&offer.key).short(&offer.dedup_id).long(&offer.body).u64(offer.delay_ms)
            }),
            Command::Ack(settles) => head.u8(2).list(settles, write_settle),
            Command::Return(returns) => head.u8(3).list(returns, |w, back| {
                let w = write_settle(w, &back.settle).u32(back.attempts);
                match back.fate {
                    Fate::Again { delay_ms } => w.u8(0).u64(delay_ms),
                    Fate::Bury => w.u8(1),
                }
                .short(back.reason.as_bytes())
            }),
            Command::Redrive(span) => head.u8(4).u64(span.from).u64(span.to).u32(span.most),
            Command::PurgeDead(span) => head.u8(5).u64(span.from).u64(span.to).u32(span.most),
            Command::Forget(forget) => {
                head.u8(6).short(&forget.from).u32(forget.most).u64(forget.done_before_ms)
            }
            Command::Pause(paused) => head.u8(7).u8(u8::from(*paused)),
        };
        whole.done().into()
    }

    /// Reads the persisted form.
    ///
    /// # Errors
    /// [`CodecError`] for bytes that are no command of this program.
    pub fn decode(bytes: &[u8]) -> Result<Command, CodecError> {
        let mut reader = Reader::new("a queue command", bytes);
        reader.expect(FORMAT)?;
        let command = match reader.u8()? {
            1 => Command::Enqueue(reader.list(read_offer)?),
            2 => Command::Ack(reader.list(read_settle)?),
            3 => Command::Return(reader.list(read_return)?),
            4 => Command::Redrive(read_span(&mut reader)?),
            5 => Command::PurgeDead(read_span(&mut reader)?),
            6 => Command::Forget(Forget {
                from: Bytes::copy_from_slice(reader.short()?),
                most: reader.u32()?,
                done_before_ms: reader.u64()?,
            }),
            7 => Command::Pause(read_bool(&mut reader)?),
            _ => return Err(reader.error()),
        };
        reader.end()?;
        Ok(command)
    }
}

fn write_settle(writer: Writer, settle: &Settle) -> Writer {
    settle.lease.write(writer.u64(settle.seq)).short(&settle.dedup_id)
}

fn read_settle(reader: &mut Reader<'_>) -> Result<Settle, CodecError> {
    let seq = reader.u64()?;
    let lease = LeaseId::read(reader)?;
    Ok(Settle { seq, lease, dedup_id: Bytes::copy_from_slice(reader.short()?) })
}

fn read_offer(reader: &mut Reader<'_>) -> Result<Offer, CodecError> {
    Ok(Offer {
        key: Bytes::copy_from_slice(reader.short()?),
        dedup_id: Bytes::copy_from_slice(reader.short()?),
        body: Bytes::copy_from_slice(reader.long()?),
        delay_ms: reader.u64()?,
    })
}

fn read_return(reader: &mut Reader<'_>) -> Result<Return, CodecError> {
    let settle = read_settle(reader)?;
    let attempts = reader.u32()?;
    let fate = match reader.u8()? {
        0 => Fate::Again { delay_ms: reader.u64()? },
        1 => Fate::Bury,
        _ => return Err(reader.error()),
    };
    let reason = std::str::from_utf8(reader.short()?).map_err(|_| reader.error())?;
    Ok(Return { settle, attempts, fate, reason: reason.to_owned() })
}

fn read_span(reader: &mut Reader<'_>) -> Result<Span, CodecError> {
    Ok(Span { from: reader.u64()?, to: reader.u64()?, most: reader.u32()? })
}

fn read_bool(reader: &mut Reader<'_>) -> Result<bool, CodecError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.error()),
    }
}

impl Reply {
    /// For the way from the machine to the proposer.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let head = Writer::default();
        let whole = match self {
            Reply::Enqueued(all) => head.u8(1).list(all, |w, one| {
                w.u8(match one {
                    Accepted::New => 0,
                    Accepted::Duplicate => 1,
                })
            }),
            Reply::Settled(all) => head.u8(2).list(all, |w, one| {
                w.u8(match one {
                    Settled::Done => 0,
                    Settled::Gone => 1,
                    Settled::Fenced => 2,
                })
            }),
            Reply::Moved { count, next: None } => head.u8(3).u32(*count),
            Reply::Moved { count, next: Some(next) } => head.u8(4).u32(*count).u64(*next),
            Reply::Forgotten { count, next: None } => head.u8(5).u32(*count),
            Reply::Forgotten { count, next: Some(next) } => head.u8(6).u32(*count).rest(next),
            Reply::Paused => head.u8(7),
            Reply::Refused(why) => head.u8(8).rest(why.as_bytes()),
        };
        whole.done().into()
    }

    /// Reads what the machine answered.
    ///
    /// # Errors
    /// [`CodecError`] for bytes that are no reply of this program.
    pub fn decode(bytes: &[u8]) -> Result<Reply, CodecError> {
        let mut reader = Reader::new("a queue machine's reply", bytes);
        let reply = match reader.u8()? {
            1 => Reply::Enqueued(reader.list(read_accepted)?),
            2 => Reply::Settled(reader.list(read_settled)?),
            3 => Reply::Moved { count: reader.u32()?, next: None },
            4 => Reply::Moved { count: reader.u32()?, next: Some(reader.u64()?) },
            5 => Reply::Forgotten { count: reader.u32()?, next: None },
            6 => Reply::Forgotten { count: reader.u32()?, next: Some(Bytes::copy_from_slice(reader.rest())) },
            7 => Reply::Paused,
            8 => Reply::Refused(String::from_utf8_lossy(reader.rest()).into_owned()),
            _ => return Err(reader.error()),
        };
        reader.end()?;
        Ok(reply)
    }
}

fn read_accepted(reader: &mut Reader<'_>) -> Result<Accepted, CodecError> {
    match reader.u8()? {
        0 => Ok(Accepted::New),
        1 => Ok(Accepted::Duplicate),
        _ => Err(reader.error()),
    }
}

fn read_settled(reader: &mut Reader<'_>) -> Result<Settled, CodecError> {
    match reader.u8()? {
        0 => Ok(Settled::Done),
        1 => Ok(Settled::Gone),
        2 => Ok(Settled::Fenced),
        _ => Err(reader.error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::Token;
    use proptest::prelude::*;

    fn settle() -> Settle {
        let token = Token { term: 7, node: "b2".parse().expect("node") };
        Settle { seq: 5, lease: LeaseId { token, number: 9 }, dedup_id: Bytes::from_static(b"id") }
    }

    fn back(fate: Fate) -> Return {
        Return { settle: settle(), attempts: 3, fate, reason: "no".to_owned() }
    }

    /// The bytes of `settle()`.
    const SETTLE: &[u8] =
        &[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, b'i', b'd'];

    #[track_caller]
    fn check(command: &Command, golden: &[&[u8]]) {
        let bytes = golden.concat();
        assert_eq!(&command.encode()[..], &bytes[..], "{command:?}");
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(command));
        for cut in 0..bytes.len() {
            assert!(Command::decode(&bytes[..cut]).is_err(), "{cut} bytes of {command:?} were taken");
        }
    }

    #[test]
    fn the_bytes_of_commands_are_frozen() {
        let offer = Offer {
            key: Bytes::from_static(b"k"),
            dedup_id: Bytes::from_static(b"id"),
            body: Bytes::from_static(b"body"),
            delay_ms: 258,
        };
        let span = Span { from: 1, to: 2, most: 3 };
        let forget = Forget { from: Bytes::from_static(b"f"), most: 2, done_before_ms: 4 };
        check(
            &Command::Enqueue(vec![offer]),
            &[
                &[1, 1, 0, 0, 0, 1, 0, 1],
                b"k",
                &[0, 2],
                b"id",
                &[0, 0, 0, 4],
                b"body",
                &[0, 0, 0, 0, 0, 0, 1, 2],
            ],
        );
        check(&Command::Ack(vec![settle()]), &[&[1, 2, 0, 0, 0, 1], SETTLE]);
        check(
            &Command::Return(vec![back(Fate::Again { delay_ms: 6 })]),
            &[&[1, 3, 0, 0, 0, 1], SETTLE, &[0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 2], b"no"],
        );
        check(
            &Command::Return(vec![back(Fate::Bury)]),
            &[&[1, 3, 0, 0, 0, 1], SETTLE, &[0, 0, 0, 3, 1, 0, 2], b"no"],
        );
        let span_bytes: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3];
        check(&Command::Redrive(span), &[&[1, 4], span_bytes]);
        check(&Command::PurgeDead(span), &[&[1, 5], span_bytes]);
        check(&Command::Forget(forget), &[&[1, 6, 0, 1], b"f", &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4]]);
        check(&Command::Pause(true), &[&[1, 7, 1]]);
    }

    #[test]
    fn replies_read_back() {
        let from = Bytes::from_static(b"id");
        for reply in [
            Reply::Enqueued(vec![Accepted::New, Accepted::Duplicate]),
            Reply::Settled(vec![Settled::Done, Settled::Gone, Settled::Fenced]),
            Reply::Moved { count: 2, next: None },
            Reply::Moved { count: 2, next: Some(9) },
            Reply::Forgotten { count: 1, next: None },
            Reply::Forgotten { count: 1, next: Some(from) },
            Reply::Paused,
            Reply::Refused("why".to_owned()),
        ] {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = Reply::decode(&bytes);
            if let Ok(command) = Command::decode(&bytes) {
                prop_assert_eq!(&command.encode()[..], &bytes[..]);
            }
        }
    }
}
