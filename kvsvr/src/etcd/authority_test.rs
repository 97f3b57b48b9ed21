//! What etcdctl 3.4 sends, in whatever pieces it arrives, and what leaves it alone.

use axum::http::uri::Authority;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{HEADERS, PREFACE, with_schemes};
use world::net::Connection;

/// The fields of `etcdctl --endpoints=http://127.0.0.1:23790 endpoint status`, as they were on the wire.
const FIELDS: &str = "8386459760a924882d9dcb6571afa066a925a87510ac6e48d36a3f41909d29aee30c044eae05c0b86e09975f07\
5f8b1d75d0620d263d4c4d65647a8b9acac8b4c7602bb2caecff40027465864d833505b11f40899acac8b24d494f6a7f860befb4d89fb7\
408d25062d495875996ee5b1063d5f03332e34";
/// Where the authority's bytes are in them, and how they are to leave: `httpx--127.0.0.1:23790`.
const VALUE: std::ops::Range<usize> = 29..45;
const MENDED: [u8; 16] =
    [0x9d, 0x29, 0xaf, 0xca, 0xcb, 0x04, 0x4e, 0xae, 0x05, 0xc0, 0xb8, 0x6e, 0x09, 0x97, 0x5f, 0x07];

fn fields() -> Vec<u8> {
    let digits: Vec<u32> = FIELDS.chars().map(|digit| digit.to_digit(16).expect("a digit")).collect();
    digits.chunks(2).map(|two| u8::try_from(two[0] << 4 | two[1]).expect("a byte")).collect()
}

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// A literal with indexing, its name and value not in Huffman's code.
fn plain(name: u8, value: &str) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("short");
    [&[0x40 | name, length], value.as_bytes()].concat()
}

/// What a server reads of `sent`, which arrives in pieces of these lengths, over and over.
fn read(sent: &[u8], pieces: &[usize]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(*pieces.iter().max().expect("a piece"));
        let incoming = futures_util::stream::iter([Ok(Connection::new(server, None))]);
        let mut incoming = with_schemes(Box::pin(incoming));
        let mut server = futures_util::StreamExt::next(&mut incoming).await.expect("one").expect("accepted");
        let write = async {
            let (mut rest, mut turn) = (sent, 0);
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(pieces[turn % pieces.len()].min(rest.len()));
                client.write_all(piece).await.expect("read");
                tokio::task::yield_now().await;
                (rest, turn) = (behind, turn + 1);
            }
            client.shutdown().await.expect("the end");
        };
        let mut got = Vec::new();
        let (read, ()) = tokio::join!(server.read_to_end(&mut got), write);
        read.expect("no error");
        got
    })
}

/// A connection with some frames before the call's fields, which are one HEADERS frame, and some after them.
fn connection(fields: &[u8]) -> Vec<u8> {
    [
        PREFACE,
        &frame(4, 0, &[]),
        &frame(4, 1, &[]),
        &frame(HEADERS, 4, fields),
        &frame(0, 1, b"\0\0\0\0\0"),
        &frame(HEADERS, 5, &[0x83, 0x86, 0xbe]),
        &frame(HEADERS, 5, fields),
    ]
    .concat()
}

fn mended() -> Vec<u8> {
    let mut fields = fields();
    fields[VALUE].copy_from_slice(&MENDED);
    fields
}

proptest! {
    #[test]
    fn etcdctls_scheme_is_mended_whatever_the_pieces(
        pieces in prop::collection::vec(1_usize..200, 1..6),
    ) {
        prop_assert_eq!(read(&connection(&fields()), &pieces), connection(&mended()));
    }

    #[test]
    fn whatever_else_comes_passes_byte_for_byte(
        start in 0..=PREFACE.len(),
        tail in prop::collection::vec(any::<u8>(), 0..200),
        pieces in prop::collection::vec(1_usize..100, 1..6),
    ) {
        let sent = [&PREFACE[..start], &tail].concat();
        prop_assert_eq!(read(&sent, &pieces), sent);
    }

    #[test]
    fn no_fields_are_too_odd(fields in prop::collection::vec(any::<u8>(), 0..60), flags in any::<u8>()) {
        let sent = [PREFACE, &frame(HEADERS, flags, &fields), b"and more"].concat();
        prop_assert_eq!(read(&sent, &[7]).len(), sent.len());
    }
}

#[test]
fn a_first_call_without_a_scheme_ends_the_search() {
    let with = plain(1, "http://a1:1");
    let sent = |first: &[u8]| [PREFACE, &frame(HEADERS, 4, first), &frame(HEADERS, 4, &with)].concat();
    for first in ["127.0.0.1:2379", "http:2379", "https", "ftp://a1:1", ""] {
        let sent = sent(&plain(1, first));
        assert_eq!(read(&sent, &[50]), sent, "{first}");
    }
    // As the value of another field it is nobody's business.
    let sent = sent(&plain(4, "http://a1:1"));
    assert_eq!(read(&sent, &[50]), sent);
}

#[test]
#[expect(clippy::unusual_byte_groupings, reason = "a group is a character's code")]
fn plain_and_padded_fields_and_https_are_understood() {
    let mended = [PREFACE, &frame(HEADERS, 4, &plain(1, "httpsx--a1:1"))].concat();
    let sent = [PREFACE, &frame(HEADERS, 4, &plain(1, "https://a1:1"))].concat();
    assert_eq!(read(&sent, &[3]), mended);
    let padded = |fields: Vec<u8>| {
        let payload = [&[2], &[0; 5][..], &fields, &[0, 0]].concat();
        [PREFACE, &frame(HEADERS, 0x2c, &payload)].concat()
    };
    assert_eq!(read(&padded(plain(1, "http://a1:1")), &[3]), padded(plain(1, "httpx--a1:1")));
    // "https://" in Huffman's code, and a number of two bytes before it.
    let long = [&[0x04, 0x7f, 0x49][..], &[b'v'; 200]].concat();
    let huffman = |code: u64| [&long[..], &[0x41, 0x88], &code.to_be_bytes()].concat();
    let scheme = 0b100111_01001_01001_101011_01000_1011100_011000_011000;
    let instead = 0b100111_01001_01001_101011_01000_1111001_010110_010110;
    let whole = |code: u64| [PREFACE, &frame(HEADERS, 4, &huffman(code << 18 | 0x3ffff))].concat();
    assert_eq!(read(&whole(scheme), &[90]), whole(instead));
}

#[test]
fn what_is_put_in_its_place_is_an_authority() {
    for (sent, left) in [("http://127.0.0.1:2379", "httpx--127.0.0.1:2379"), ("https://a:1", "httpsx--a:1")] {
        assert!(sent.parse::<Authority>().is_err(), "{sent}");
        assert!(left.parse::<Authority>().is_ok(), "{left}");
    }
}
