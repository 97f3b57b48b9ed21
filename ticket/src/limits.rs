//! Sizes of everything this crate writes, and how they relate.
//!
//! Invariant: the relations hold at compile time. A number that changes here changes a persisted
//! format, so the golden-bytes tests fail with it.

use crate::id::{PACKET_ID_LEN, SERIAL_MAX};

/// Bytes of a record in a ticket file.
pub const RECORD_LEN: usize = 26;
/// Bytes of a record that are in clear: key id, batch, serial.
pub const RECORD_CLEAR_LEN: usize = 10;
/// Bytes of a record that are encrypted: amount and flags.
pub const RECORD_SECRET_LEN: usize = 4;
/// Bytes of a record's authentication tag.
pub const RECORD_TAG_LEN: usize = 12;
/// The largest amount of one packet: 24 bits of fen, 167,772.15 yuan.
pub const AMOUNT_FEN_MAX: u64 = (1 << 24) - 1;

/// Records per chunk of a ticket file; each chunk has its own digest.
pub const CHUNK_RECORDS: u32 = 4_096;
/// Bytes of a full chunk.
pub const CHUNK_LEN: usize = CHUNK_RECORDS as usize * RECORD_LEN;
/// Records one ticket file may hold: bounds what a node loads into memory at once.
pub const FILE_RECORDS_MAX: u32 = 16 << 20;
/// Bytes of a ticket file's header.
pub const FILE_HEADER_LEN: usize = 64;
/// Bytes of a BLAKE3 digest.
pub const DIGEST_LEN: usize = 32;
/// Nodes that may hold one ticket file: its home and takers-over.
pub const FILE_HOLDERS_MAX: usize = 8;

/// Bytes of a ticket sealed to a user; 104 characters as base64.
pub const SEALED_LEN: usize = 78;
/// Seals one node may make in one boot epoch: the counter of the nonce is 48 bits wide.
pub const SEAL_COUNTER_MAX: u64 = (1 << 48) - 1;

/// Bytes of an opening as it travels in the queue.
pub const OPENING_LEN: usize = 86;
/// Characters of a session token.
pub const TOKEN_LEN: usize = 108;

const _: () = assert!(RECORD_CLEAR_LEN + RECORD_SECRET_LEN + RECORD_TAG_LEN == RECORD_LEN);
const _: () = assert!(RECORD_SECRET_LEN + RECORD_TAG_LEN == 16, "the encrypted ticket is 16 bytes");
const _: () = assert!(PACKET_ID_LEN == 12, "a packet id is the nonce of its record: 96 bits");
const _: () = assert!(SERIAL_MAX == SEAL_COUNTER_MAX, "serials and seal counters are 48 bits wide");
const _: () = assert!(SEALED_LEN <= 80, "a sealed ticket fits a short QR code and a cookie");
const _: () = assert!(SEALED_LEN.is_multiple_of(3), "its base64 form needs no padding");
const _: () = assert!(FILE_RECORDS_MAX.is_multiple_of(CHUNK_RECORDS));
const _: () = assert!(FILE_RECORDS_MAX as u64 * RECORD_LEN as u64 <= 512 << 20, "a file fits in memory");
const _: () =
    assert!(AMOUNT_FEN_MAX * FILE_RECORDS_MAX as u64 <= u64::MAX >> 8, "a file's sum cannot overflow");
