//! The control group's whole state as one file.
//!
//! ```text
//!   "hongbaoK" | format u8 = 1 | revision i64 | pair* | end | zeros up to a multiple of 512 | SHA-256
//!   pair   1 | key length u32 | value length u32 | key | value
//!   end    0 | pairs u64
//! ```
//! etcdctl insists on the last two: it takes a file whose length is 32 more than a multiple of 512
//! for one that ends with a digest of what is before it.
//!
//! Invariant: a file that reads back without an error is whole: its digest, its end and its number
//! of pairs agree.
//!
//! Not here: etcd's own format (a bbolt database), so `etcdctl snapshot restore` does not read it.

use std::io;
use std::ops::ControlFlow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use replica::engine::{EngineError, View};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"hongbaoK";
const FORMAT: u8 = 1;
const BLOCK_BYTES: usize = 512;
const DIGEST_BYTES: usize = 32;
/// Bytes of a piece of the file on its way.
const PIECE_BYTES: usize = 64 * 1024;

/// Where pieces of a file go; `false` when nobody takes them any more.
pub type Sink<'s> = &'s mut (dyn FnMut(Bytes) -> bool + 's);

struct Writer<'s> {
    buffer: BytesMut,
    digest: Sha256,
    written: usize,
    wanted: bool,
    sink: Sink<'s>,
}

impl Writer<'_> {
    fn send(&mut self) {
        let piece = self.buffer.split().freeze();
        self.digest.update(&piece);
        self.written += piece.len();
        self.wanted = self.wanted && (self.sink)(piece);
    }
}

/// Writes the file, piece by piece.
///
/// # Errors
/// [`EngineError`] when the state cannot be read.
pub fn write(view: &dyn View, revision: i64, sink: Sink<'_>) -> Result<(), EngineError> {
    let mut writer =
        Writer { buffer: BytesMut::new(), digest: Sha256::new(), written: 0, wanted: true, sink };
    writer.buffer.put_slice(MAGIC);
    writer.buffer.put_u8(FORMAT);
    writer.buffer.put_i64(revision);
    let mut pairs = 0u64;
    view.scan(&[], &[], false, &mut |key, value| {
        pairs += 1;
        writer.buffer.put_u8(1);
        writer.buffer.put_u32(u32::try_from(key.len()).expect("keys are smaller than 4 GiB"));
        writer.buffer.put_u32(u32::try_from(value.len()).expect("values are smaller than 4 GiB"));
        writer.buffer.put_slice(key);
        writer.buffer.put_slice(value);
        if writer.buffer.len() >= PIECE_BYTES {
            writer.send();
        }
        if writer.wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if !writer.wanted {
        return Ok(());
    }
    writer.buffer.put_u8(0);
    writer.buffer.put_u64(pairs);
    let length = writer.written + writer.buffer.len();
    writer.buffer.put_bytes(0, length.next_multiple_of(BLOCK_BYTES) - length);
    writer.send();
    let digest = writer.digest.clone().finalize();
    (writer.sink)(Bytes::copy_from_slice(&digest));
    Ok(())
}

/// Reads a whole file back: its revision and its pairs.
///
/// # Errors
/// What is wrong with it, with the place.
pub fn read(file: &[u8]) -> io::Result<(i64, Vec<(Bytes, Bytes)>)> {
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let Some(length) = file.len().checked_sub(DIGEST_BYTES).filter(|length| length % BLOCK_BYTES == 0) else {
        return Err(wrong(format!("a snapshot of {} bytes is cut off", file.len())));
    };
    let (body, digest) = file.split_at(length);
    if Sha256::digest(body)[..] != *digest {
        return Err(wrong("the snapshot's digest does not match: it was altered".to_owned()));
    }
    let cut = || wrong("the snapshot ends within a record".to_owned());
    let mut rest = body.strip_prefix(MAGIC).ok_or_else(|| wrong("this is no snapshot of a KV".to_owned()))?;
    let format = rest.try_get_u8().map_err(|_| cut())?;
    if format != FORMAT {
        return Err(wrong(format!("a snapshot of format {format}; this program reads {FORMAT}")));
    }
    let revision = rest.try_get_i64().map_err(|_| cut())?;
    let mut pairs = Vec::new();
    while rest.try_get_u8().map_err(|_| cut())? == 1 {
        let key_len = rest.try_get_u32().map_err(|_| cut())? as usize;
        let value_len = rest.try_get_u32().map_err(|_| cut())? as usize;
        let (key, after) = rest.split_at_checked(key_len).ok_or_else(cut)?;
        let (value, after) = after.split_at_checked(value_len).ok_or_else(cut)?;
        pairs.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        rest = after;
    }
    let count = rest.try_get_u64().map_err(|_| cut())?;
    if count != pairs.len() as u64 {
        return Err(wrong(format!("the snapshot holds {} pairs and says {count}", pairs.len())));
    }
    Ok((revision, pairs))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::testing::MemoryView;

    fn file_of(pairs: &[(&'static str, Vec<u8>)]) -> Vec<u8> {
        let mut view = MemoryView::default();
        let writes: BTreeMap<Bytes, Option<Bytes>> =
            pairs.iter().map(|(key, value)| (Bytes::from(*key), Some(Bytes::from(value.clone())))).collect();
        view.commit(writes);
        let mut file = Vec::new();
        let taken = write(&view, 7, &mut |piece| {
            file.extend_from_slice(&piece);
            true
        });
        taken.expect("memory does not fail");
        file
    }

    #[test]
    fn a_snapshot_reads_back_as_what_was_written_and_has_the_length_etcdctl_wants() {
        for len in [0, 1, 479, 480, 481, 100_000] {
            let file = file_of(&[("a", vec![1; len]), ("b", vec![2; 3])]);
            assert_eq!(file.len() % 512, 32, "with a value of {len} bytes");
            let (revision, pairs) = read(&file).expect("a whole file");
            assert_eq!(revision, 7);
            let expected: Vec<(Bytes, Bytes)> =
                vec![("a".into(), vec![1; len].into()), ("b".into(), vec![2; 3].into())];
            assert_eq!(pairs, expected);
        }
    }

    #[test]
    fn a_snapshot_that_is_cut_or_altered_is_refused() {
        let file = file_of(&[("a", vec![1; 2_000])]);
        for place in [0, 8, 20, 600, file.len() - 1] {
            let mut altered = file.clone();
            altered[place] ^= 1;
            assert!(read(&altered).is_err(), "byte {place} may not change");
        }
        assert!(read(&file[..file.len() - 512]).is_err());
        assert!(read(&file[..100]).is_err());
        assert!(read(&[]).is_err());
    }
}
