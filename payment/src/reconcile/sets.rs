//! Compares two large sets of (user, packet, amount) without holding either: each element goes
//! into one of [`BUCKETS`] buckets, which keep a count and a sum of hashes.
//!
//! Invariant: equal sets give equal digests; different sets give different ones except with a
//! chance of about 2^-128 (keys are unique within a set, so nothing cancels out by itself).
//!
//! Not here: finding the elements of a bucket that differs (run.rs reads them again).

use ticket::id::{PacketId, UserId};

/// How finely differences are located.
pub const BUCKETS: usize = 4096;

/// One element: whose packet, worth what. Where the amount is not known, 0 on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holding {
    /// Whose.
    pub user: UserId,
    /// Which packet.
    pub packet: PacketId,
    /// Worth what, fen.
    pub fen: u64,
}

impl Holding {
    /// The bucket, by packet and user alone, so that a wrong amount stays in its bucket.
    #[must_use]
    pub fn bucket(&self) -> usize {
        let mixed = (self.packet.serial ^ self.user.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 52) as usize
    }

    fn hash(&self) -> u128 {
        let mut bytes = [0u8; 28];
        bytes[..8].copy_from_slice(&self.user.0.to_be_bytes());
        bytes[8..20].copy_from_slice(&self.packet.to_bytes());
        bytes[20..].copy_from_slice(&self.fen.to_be_bytes());
        let hash = blake3::hash(&bytes);
        u128::from_be_bytes(*hash.as_bytes().first_chunk::<16>().expect("a digest has 32 bytes"))
    }
}

const _: () = assert!(BUCKETS == 1 << (64 - 52), "a bucket is the top bits of a product");

/// A set, digested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetDigest {
    buckets: Vec<(u64, u128)>,
}

impl Default for SetDigest {
    fn default() -> SetDigest {
        SetDigest { buckets: vec![(0, 0); BUCKETS] }
    }
}

impl SetDigest {
    /// Puts an element in; each once.
    pub fn add(&mut self, holding: &Holding) {
        let (count, sum) = &mut self.buckets[holding.bucket()];
        *count += 1;
        *sum = sum.wrapping_add(holding.hash());
    }

    /// How many elements.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(count, _)| count).sum()
    }

    /// The buckets in which two sets differ.
    #[must_use]
    pub fn differs(&self, other: &SetDigest) -> Vec<usize> {
        assert!(self.buckets.len() == other.buckets.len(), "all digests have as many buckets");
        (0..BUCKETS).filter(|bucket| self.buckets[*bucket] != other.buckets[*bucket]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ticket::id::BatchId;

    fn holding(user: u64, serial: u64, fen: u64) -> Holding {
        Holding { user: UserId(user), packet: PacketId { build_tag: [1; 4], batch: BatchId(1), serial }, fen }
    }

    #[test]
    fn order_does_not_matter_and_every_difference_is_seen() {
        let all: Vec<Holding> = (0..1000).map(|serial| holding(serial / 3, serial, serial % 7)).collect();
        let digest = |holdings: &[Holding]| {
            let mut digest = SetDigest::default();
            holdings.iter().for_each(|holding| digest.add(holding));
            digest
        };
        let mut reversed = all.clone();
        reversed.reverse();
        assert!(digest(&all).differs(&digest(&reversed)).is_empty());
        assert_eq!(digest(&all).count(), 1000);
        let mut other = all.clone();
        other[17].fen += 1;
        assert_eq!(digest(&all).differs(&digest(&other)), vec![all[17].bucket()]);
        assert_eq!(digest(&all).differs(&digest(&all[1..])), vec![all[0].bucket()]);
    }
}
