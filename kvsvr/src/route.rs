//! Which data group holds a partition key.
//!
//! FNV-1a, 64 bit, over the partition key, then a multiply-shift mix, modulo the number of groups.
//! The mix is there because FNV's low bits alone are weak for short keys.
//!
//! Invariant: the function is frozen; data lies where it once pointed. So the number of data
//! groups of a cluster is fixed for its life.

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
const MIX: u64 = 0xff51_afd7_ed55_8ccd;

/// The data group of `partition`: 0-based, less than `data_groups`.
///
/// # Panics
/// When `data_groups` is 0: a cluster without data groups takes no data.
#[must_use]
pub fn data_group(partition: &[u8], data_groups: u32) -> u32 {
    assert!(data_groups > 0, "a cluster without data groups takes no data");
    let mut hash = FNV_OFFSET;
    for byte in partition {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(MIX);
    hash ^= hash >> 33;
    (hash % u64::from(data_groups)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_known_keys_are_frozen() {
        let groups: Vec<u32> = [&b""[..], b"a", b"b", b"user-1", b"\0\0\0\0\0\0\0\x01"]
            .map(|key| data_group(key, 1_000_003))
            .to_vec();
        assert_eq!(groups, [364_673, 308_153, 438_287, 396_935, 691_807]);
    }

    #[test]
    fn counting_keys_spread_evenly() {
        let mut counts = [0u32; 7];
        for number in 0u64..70_000 {
            counts[data_group(&number.to_be_bytes(), 7) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
