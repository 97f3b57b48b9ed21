//! CRC-32C as RocksDB's log uses it, and whether one flipped bit explains that it does not match.
//!
//! A sum that is stored among the bytes it is a sum of is stored masked (rotated and shifted), so that
//! it does not annul itself.
//!
//! Not here: hardware instructions; a log is read once, at the start.

/// The polynomial, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const MASK_DELTA: u32 = 0xa282_ead8;

/// `TABLES[0]` advances a sum by one byte; `TABLES[n]` by that byte and `n` zero bytes more.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ POLYNOMIAL } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut further = 1;
    while further < 8 {
        let mut byte = 0;
        while byte < 256 {
            let sum = tables[further - 1][byte];
            tables[further][byte] = (sum >> 8) ^ tables[0][(sum & 0xff) as usize];
            byte += 1;
        }
        further += 1;
    }
    tables
}

/// The sum of `bytes`.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = !0u32;
    let mut eights = bytes.chunks_exact(8);
    for eight in &mut eights {
        let low = sum ^ u32::from_le_bytes([eight[0], eight[1], eight[2], eight[3]]);
        sum = TABLES[7][(low & 0xff) as usize]
            ^ TABLES[6][(low >> 8 & 0xff) as usize]
            ^ TABLES[5][(low >> 16 & 0xff) as usize]
            ^ TABLES[4][(low >> 24) as usize]
            ^ TABLES[3][eight[4] as usize]
            ^ TABLES[2][eight[5] as usize]
            ^ TABLES[1][eight[6] as usize]
            ^ TABLES[0][eight[7] as usize];
    }
    !eights.remainder().iter().fold(sum, |sum, byte| advance(sum, *byte))
}

fn advance(sum: u32, byte: u8) -> u32 {
    (sum >> 8) ^ TABLES[0][((sum ^ u32::from(byte)) & 0xff) as usize]
}

/// The stored form of a sum.
pub(super) fn mask(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(MASK_DELTA)
}

fn unmask(stored: u32) -> u32 {
    stored.wrapping_sub(MASK_DELTA).rotate_left(15)
}

/// Where one flipped bit makes `bytes` miss the sum that is stored for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flip {
    /// In the stored sum itself.
    InSum,
    /// In this byte.
    InByte(usize),
}

/// The one bit that, flipped back, makes `bytes` fit `stored`; `None` when no single one does.
pub(super) fn one_flipped_bit(bytes: &[u8], stored: u32) -> Option<Flip> {
    let sum = crc32c(bytes);
    if (mask(sum) ^ stored).count_ones() == 1 {
        return Some(Flip::InSum);
    }
    // The sum is linear: a flipped bit changes it by an amount that depends on its place alone.
    let difference = sum ^ unmask(stored);
    let mut of_bits: [u32; 8] = std::array::from_fn(|bit| TABLES[0][1 << bit]);
    for at in (0..bytes.len()).rev() {
        if of_bits.contains(&difference) {
            return Some(Flip::InByte(at));
        }
        of_bits = of_bits.map(|of_bit| advance(of_bit, 0));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&ascending), 0x46dd_794e);
        assert_eq!(crc32c(b""), 0);
        assert_eq!(unmask(mask(0x1234_5678)), 0x1234_5678);
    }

    #[test]
    fn a_flipped_bit_is_found_wherever_it_is_and_two_are_not_one() {
        let bytes: Vec<u8> = (0..5000u32).map(|n| (n * 7 % 251) as u8).collect();
        let stored = mask(crc32c(&bytes));
        for at in [0, 1, 77, 2500, 4999] {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert_eq!(one_flipped_bit(&flipped, stored), Some(Flip::InByte(at)));
                flipped[(at + 100) % 5000] ^= 0x10;
                assert_eq!(one_flipped_bit(&flipped, stored), None);
            }
        }
        assert_eq!(one_flipped_bit(&bytes, stored ^ 0x0400), Some(Flip::InSum));
    }
}
