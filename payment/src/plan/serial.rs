//! Serials: a secret one-to-one map of 48-bit numbers.
//!
//! Packets are numbered densely, file after file. A serial stands in the clear in every record and
//! packet id, so the dense number would tell how many packets there are and where each lies. A
//! Feistel network of six rounds over two halves of 24 bits hides it; SipHash-1-3 with a key of
//! the build is the round function.
//! ```text
//!   dense number = left 24 | right 24
//!   round r:  left, right = right, left ^ (SipHash-1-3(key, r << 32 | right) & 0xffffff)
//! ```
//! Invariant: [`SerialMap::number`] undoes [`SerialMap::serial`]. So serials of one build are
//! unique by construction, and whoever holds the build's secret can tell from a serial alone which
//! place it belongs to: a duplicate in a file is found without looking at any other file.
//!
//! Not here: authenticity. A serial is bound to its record by the record's tag.

use ticket::id::SERIAL_MAX;

const HALF_BITS: u32 = 24;
const HALF_MASK: u64 = (1 << HALF_BITS) - 1;
const ROUNDS: u64 = 6;
/// What the key is derived for.
const CONTEXT: &str = "hongbao 2026 serial map v1";

/// The map of one build.
#[derive(Clone, Copy)]
pub(crate) struct SerialMap {
    key: [u64; 2],
}

impl SerialMap {
    /// The map of the build with this secret text and id.
    pub fn new(secret: &[u8], build: ticket::id::BuildId) -> SerialMap {
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hasher.update(&build.0).update(secret);
        let derived = *hasher.finalize().as_bytes();
        let word = |at: usize| {
            let bytes: [u8; 8] = derived[at..at + 8].try_into().expect("eight of 32 bytes");
            u64::from_le_bytes(bytes)
        };
        SerialMap { key: [word(0), word(8)] }
    }

    /// The serial of a dense number.
    #[inline]
    pub fn serial(self, number: u64) -> u64 {
        assert!(number <= SERIAL_MAX, "{number} is wider than 48 bits");
        let (mut left, mut right) = (number >> HALF_BITS, number & HALF_MASK);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.mix(round, right));
        }
        left << HALF_BITS | right
    }

    /// The dense number of a serial.
    #[inline]
    pub fn number(self, serial: u64) -> u64 {
        assert!(serial <= SERIAL_MAX, "{serial} is wider than 48 bits");
        let (mut left, mut right) = (serial >> HALF_BITS, serial & HALF_MASK);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.mix(round, left), left);
        }
        left << HALF_BITS | right
    }

    /// The round function: 24 bits of SipHash-1-3 over one word.
    #[inline]
    fn mix(self, round: u64, half: u64) -> u64 {
        let [k0, k1] = self.key;
        let message = round << 32 | half;
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        // The message is one word; the second holds its length, eight, as SipHash demands.
        for word in [message, 8 << 56] {
            v[3] ^= word;
            sip_round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        for _ in 0..3 {
            sip_round(&mut v);
        }
        (v[0] ^ v[1] ^ v[2] ^ v[3]) & HALF_MASK
    }
}

/// One round of SipHash (Aumasson and Bernstein 2012).
#[inline]
fn sip_round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use ticket::id::BuildId;

    fn map() -> SerialMap {
        SerialMap::new(b"secret", BuildId([7; 16]))
    }

    #[test]
    fn neighbours_get_unlike_serials_and_none_twice() {
        let serials: BTreeSet<u64> = (0..100_000).map(|number| map().serial(number)).collect();
        assert_eq!(serials.len(), 100_000);
        // The top bits are as good as any: each sixteenth of the range gets its share.
        let mut seen = [0f64; 16];
        for serial in &serials {
            seen[(serial >> 44) as usize] += 1.0;
        }
        let chi_square: f64 = seen.iter().map(|n| (n - 6250.0).powi(2) / 6250.0).sum();
        assert!(chi_square < 37.7, "15 degrees of freedom, 0.1 %: {chi_square}");
    }

    #[test]
    fn another_build_has_another_map() {
        let other = SerialMap::new(b"secret", BuildId([8; 16]));
        assert_ne!(map().serial(1), other.serial(1));
    }

    proptest! {
        #[test]
        fn a_number_comes_back_from_its_serial(number in 0..=SERIAL_MAX) {
            let serial = map().serial(number);
            prop_assert!(serial <= SERIAL_MAX);
            prop_assert_eq!(map().number(serial), number);
            prop_assert_eq!(map().serial(map().number(number)), number);
        }
    }
}
