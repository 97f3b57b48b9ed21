//! How the pairs of a snapshot travel.
//!
//! ```text
//!   page = (key length u32 be | key | value length u32 be | value) ...    whole pairs, ascending
//!   seal = pairs in all | BLAKE3 of (all pages in order | pairs u64 be | now u64 be) | now
//! ```
//!
//! Where one page ends and the next begins does not matter to the seal.
//!
//! Invariant: a page that is not well formed is an error, never a panic: it comes from the network.
//!
//! Not here: where pages come from and go to.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What the receiver must have got before the snapshot counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotSeal {
    /// Pairs in all pages together.
    pub pairs: u64,
    /// The group's clock at the snapshot, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// BLAKE3 over all of it.
    pub digest: [u8; 32],
}

/// Computes a seal while pages pass by.
#[derive(Clone, Default)]
pub(super) struct Sealer {
    /// Apart, because it is 1.9 KB: every command and message of openraft is as large as the largest one, and
    /// that one holds a snapshot.
    hasher: Box<blake3::Hasher>,
    pairs: u64,
}

impl Sealer {
    /// Counts `pairs` pairs in `page`.
    pub(super) fn add(&mut self, page: &[u8], pairs: u64) {
        self.hasher.update(page);
        self.pairs += pairs;
    }

    /// Pairs added so far.
    pub(super) fn pairs(&self) -> u64 {
        self.pairs
    }

    /// The seal of everything added so far.
    pub(super) fn seal(&self, now_ms: u64) -> SnapshotSeal {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pairs.to_be_bytes());
        hasher.update(&now_ms.to_be_bytes());
        SnapshotSeal { pairs: self.pairs, now_ms, digest: *hasher.finalize().as_bytes() }
    }
}

/// Adds a pair to a page under construction.
pub(super) fn push(page: &mut BytesMut, key: &[u8], value: &[u8]) {
    for part in [key, value] {
        page.put_u32(u32::try_from(part.len()).expect("keys and values are far below 4 GiB"));
        page.put_slice(part);
    }
}

/// The pairs of a page, as slices of it; `None` when it is not well formed.
pub(super) fn parse(mut page: Bytes) -> Option<Vec<(Bytes, Bytes)>> {
    let part = |page: &mut Bytes| -> Option<Bytes> {
        let len = page.try_get_u32().ok()? as usize;
        (len <= page.len()).then(|| page.split_to(len))
    };
    let mut pairs = Vec::new();
    while !page.is_empty() {
        pairs.push((part(&mut page)?, part(&mut page)?));
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bytes_of_a_page_and_a_seal_are_frozen() {
        let mut page = BytesMut::new();
        push(&mut page, b"k", b"vw");
        assert_eq!(page.as_ref(), [0, 0, 0, 1, b'k', 0, 0, 0, 2, b'v', b'w']);
        let mut sealer = Sealer::default();
        sealer.add(&page, 1);
        let sealed = [page.as_ref(), &1u64.to_be_bytes(), &5u64.to_be_bytes()].concat();
        assert_eq!(sealer.seal(5).digest, *blake3::hash(&sealed).as_bytes());
    }

    proptest! {
        #[test]
        fn pairs_come_out_of_a_page_as_they_went_in(
            pairs in prop::collection::vec(
                (prop::collection::vec(any::<u8>(), 0..9), prop::collection::vec(any::<u8>(), 0..9)),
                0..9,
            ),
        ) {
            let mut page = BytesMut::new();
            for (key, value) in &pairs {
                push(&mut page, key, value);
            }
            let parsed = parse(page.freeze()).expect("well formed");
            prop_assert_eq!(parsed, pairs.into_iter().map(|(k, v)| (Bytes::from(k), Bytes::from(v))).collect::<Vec<_>>());
        }

        #[test]
        fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(bytes.into());
        }
    }
}
