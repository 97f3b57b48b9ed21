//! Clients whose `:authority` begins with a scheme, on their way to an HTTP/2 server that refuses it.
//!
//! etcdctl 3.4 dials the endpoint as it is written for `endpoint status`, `endpoint hashkv` and `defrag`, so
//! that with `http://host:port` the header says `http://host:port`. RFC 9113 §8.3.1 allows no scheme there
//! and our server ends such a stream before any service sees it; etcd answers.
//!
//! ```text
//!   preface, frames until the first HEADERS --> no scheme in it: every byte after it passes unseen
//!                                           `-> a scheme: `://` becomes `x--` there and in later HEADERS
//! ```
//! Nobody reads the authority of a call. What stands for the scheme's end has as many bytes, and as many bits
//! in HPACK's Huffman code (RFC 7541, appendix B): no length changes, and both ends' tables stay equal.
//!
//! Invariant: a connection whose first HEADERS names no scheme passes byte for byte, and so does everything
//! but that one header of the others.
//!
//! Not here: an authority in a CONTINUATION frame or under a literal name, which no client of etcd sends.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use world::net::{Connection, Incoming};

#[cfg(test)]
#[path = "authority_test.rs"]
mod tests;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// The largest frame that we, who announce no other size, accept.
const FRAME_BYTES_MAX: usize = 16_384;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;

/// The same connections; those whose authority begins with a scheme are understood too.
#[must_use]
pub fn with_schemes(incoming: Incoming) -> Incoming {
    Box::pin(incoming.map(|connection| {
        connection.map(|connection| {
            let peer = connection.connect_info();
            Connection::new(
                Mended { inner: connection, held: Vec::new(), free: 0, walk: Walk::Preface },
                peer,
            )
        })
    }))
}

/// A connection whose incoming bytes are looked at.
struct Mended {
    inner: Connection,
    /// What was read and not yet handed on.
    held: Vec<u8>,
    /// How many of them, from the first, may be handed on.
    free: usize,
    walk: Walk,
}

impl AsyncRead for Mended {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.free == 0 {
            if this.held.is_empty() && matches!(this.walk, Walk::Over) {
                return Pin::new(&mut this.inner).poll_read(context, out);
            }
            let mut chunk = [0; 4_096];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                // The end, in the middle of a frame or not.
                this.walk = Walk::Over;
            }
            this.held.extend_from_slice(read.filled());
            this.free = this.walk.pass(&mut this.held);
        }
        let handed = this.free.min(out.remaining());
        out.put_slice(&this.held[..handed]);
        this.held.drain(..handed);
        this.free -= handed;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Mended {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Where in a connection's bytes the first one is that was not passed.
#[derive(Clone, Copy, Debug)]
enum Walk {
    /// In the preface, or in HTTP/1.
    Preface,
    /// Before a frame; a scheme was found in an earlier one.
    Frame { found: bool },
    /// In a frame that is not looked at, with this many bytes of it to come.
    Inside { left: usize, found: bool },
    /// Nothing is looked at any more.
    Over,
}

impl Walk {
    /// Looks at what was not passed so far, mends it, and answers how much of it may pass. What may not is
    /// to be shown again with what comes after it.
    fn pass(&mut self, held: &mut [u8]) -> usize {
        let mut passed = 0;
        loop {
            let rest = &mut held[passed..];
            match *self {
                Walk::Over => return held.len(),
                Walk::Preface => {
                    let seen = rest.len().min(PREFACE.len());
                    if rest[..seen] != PREFACE[..seen] {
                        *self = Walk::Over;
                    } else if seen < PREFACE.len() {
                        return passed;
                    } else {
                        passed += seen;
                        *self = Walk::Frame { found: false };
                    }
                }
                Walk::Inside { left, found } => {
                    let seen = left.min(rest.len());
                    passed += seen;
                    if seen < left {
                        *self = Walk::Inside { left: left - seen, found };
                        return passed;
                    }
                    *self = Walk::Frame { found };
                }
                Walk::Frame { found } => {
                    let Some(frame) = Frame::at(rest) else { return passed };
                    if frame.kind != HEADERS {
                        *self = Walk::Inside { left: frame.bytes, found };
                    } else if frame.bytes > FRAME_HEAD_BYTES + FRAME_BYTES_MAX {
                        *self = Walk::Over;
                    } else if rest.len() < frame.bytes {
                        return passed;
                    } else {
                        let mended = mend(frame.flags, &mut rest[FRAME_HEAD_BYTES..frame.bytes]);
                        *self = if found || mended {
                            Walk::Inside { left: frame.bytes, found: true }
                        } else {
                            Walk::Over
                        };
                    }
                }
            }
        }
    }
}

/// The head of a frame.
struct Frame {
    /// With its head.
    bytes: usize,
    kind: u8,
    flags: u8,
}

impl Frame {
    fn at(bytes: &[u8]) -> Option<Frame> {
        let head: &[u8; FRAME_HEAD_BYTES] = bytes.first_chunk()?;
        let payload = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        Some(Frame { bytes: FRAME_HEAD_BYTES + payload, kind: head[3], flags: head[4] })
    }
}

/// Mends the authority in the payload of a HEADERS frame, if it has one that begins with a scheme.
fn mend(flags: u8, payload: &mut [u8]) -> bool {
    let mut fields = Fields { bytes: payload, at: 0 };
    let padded = usize::from(flags & PADDED != 0);
    fields.at = padded + if flags & PRIORITY != 0 { 5 } else { 0 };
    fields.authority().is_some_and(
        |(huffman, value)| {
            if huffman { mend_huffman(value) } else { mend_plain(value) }
        },
    )
}

/// A block of header fields as HPACK writes them (RFC 7541 §6).
struct Fields<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Fields<'_> {
    /// The authority, if it is written out: whether in Huffman's code, and its bytes. Padding at the end may
    /// be read as fields; it is zeros, which are none of that name.
    fn authority(&mut self) -> Option<(bool, &mut [u8])> {
        loop {
            let first = *self.bytes.get(self.at)?;
            let name = match first {
                // A field of the table, and a new size for it.
                0x80.. => {
                    self.number(7)?;
                    continue;
                }
                0x20..0x40 => {
                    self.number(5)?;
                    continue;
                }
                0x40..0x80 => self.number(6)?,
                0x00..0x20 => self.number(4)?,
            };
            if name == 0 {
                self.string()?;
            }
            let (huffman, value) = self.string()?;
            if name == AUTHORITY {
                return self.bytes.get_mut(value).map(|value| (huffman, value));
            }
        }
    }

    fn string(&mut self) -> Option<(bool, std::ops::Range<usize>)> {
        let huffman = *self.bytes.get(self.at)? & 0x80 != 0;
        let bytes = self.number(7)?;
        let start = self.at;
        self.at = start.checked_add(bytes)?;
        Some((huffman, start..self.at))
    }

    /// A number whose first byte has this many bits for it (RFC 7541 §5.1).
    fn number(&mut self, bits: u32) -> Option<usize> {
        let most = (1 << bits) - 1;
        let mut number = usize::from(*self.bytes.get(self.at)?) & most;
        self.at += 1;
        if number < most {
            return Some(number);
        }
        // Three more bytes are enough for whatever fits into a frame.
        for shift in [0, 7, 14] {
            let byte = usize::from(*self.bytes.get(self.at)?);
            self.at += 1;
            number += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

fn mend_plain(value: &mut [u8]) -> bool {
    let Some(scheme) = [&b"http"[..], b"https"]
        .into_iter()
        .find(|scheme| value.strip_prefix(*scheme).is_some_and(|behind| behind.starts_with(b"://")))
    else {
        return false;
    };
    value[scheme.len()..scheme.len() + 3].copy_from_slice(b"x--");
    true
}

/// Schemes with `://` in Huffman's code, in the highest bits: what to look for, how many bits that are, and
/// what takes its place.
#[expect(clippy::unusual_byte_groupings, reason = "a group is a character's code")]
const HUFFMAN: [(u64, u32, u64); 2] = [
    (
        0b100111_01001_01001_101011_1011100_011000_011000 << 23,
        41,
        0b100111_01001_01001_101011_1111001_010110_010110 << 23,
    ),
    (
        0b100111_01001_01001_101011_01000_1011100_011000_011000 << 18,
        46,
        0b100111_01001_01001_101011_01000_1111001_010110_010110 << 18,
    ),
];

fn mend_huffman(value: &mut [u8]) -> bool {
    let Some(first) = value.first_chunk_mut::<8>() else { return false };
    let bits = u64::from_be_bytes(*first);
    let found = HUFFMAN.into_iter().find(|(scheme, count, _)| (bits ^ scheme) >> (u64::BITS - count) == 0);
    let Some((scheme, _, instead)) = found else { return false };
    *first = (bits ^ scheme ^ instead).to_be_bytes();
    true
}
