//! Which partition a key belongs to.
//!
//! FNV-1a (64 bits) over the key, finished with the mixer of MurmurHash3 because FNV's high bits
//! are weak for short keys, then scaled to the partition count by multiplication (Lemire), which
//! uses the high bits.
//!
//! Invariant: frozen. A key that moved to another partition would lose its order and its dedup
//! index, so neither this function nor a queue's partition count may ever change while it holds
//! messages or tombstones.

/// The partition of `key`, in `0..partitions`.
///
/// # Panics
/// When `partitions` is 0.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    assert!(partitions > 0, "a queue has at least one partition");
    let scaled = (u128::from(hash(key)) * u128::from(partitions)) >> 64;
    let partition = u32::try_from(scaled).expect("a hash below 2^64 scales to below `partitions`");
    assert!(partition < partitions, "{partition} is not a partition");
    partition
}

fn hash(key: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let fnv = key.iter().fold(OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME));
    let mut mixed = fnv;
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed = (mixed ^ (mixed >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ (mixed >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partitions_of_known_keys_are_frozen() {
        assert_eq!(hash(b""), 0xefd0_1f60_ba99_2926);
        let found: Vec<u32> = [&b""[..], b"a", b"b", b"packet-1", b"packet-2", b"\0\0\0\0"]
            .iter()
            .map(|key| partition_of(key, 16))
            .collect();
        assert_eq!(found, GOLDEN);
        assert_eq!(partition_of(b"anything", 1), 0);
    }
    const GOLDEN: [u32; 6] = [14, 8, 6, 7, 3, 4];

    #[test]
    fn serial_keys_spread_evenly() {
        let mut counts = [0u32; 8];
        for serial in 0u64..80_000 {
            counts[partition_of(&serial.to_be_bytes(), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
