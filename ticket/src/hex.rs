//! Bytes as lower-case hex digits and back; only the canonical text reads back.

/// Two digits per byte.
pub(crate) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0x0f)]));
    }
    text
}

/// Exactly `LEN` bytes; `None` for anything else, capitals included.
pub(crate) fn decode<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    let digits = text.as_bytes();
    if digits.len() != LEN * 2 {
        return None;
    }
    let mut bytes = [0u8; LEN];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value_of(pair[0])? << 4 | value_of(pair[1])?;
    }
    Some(bytes)
}

fn value_of(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_reads_back_and_only_the_canonical_text() {
        assert_eq!(encode(&[0x00, 0x7f, 0xff]), "007fff");
        assert_eq!(decode("007fff"), Some([0x00, 0x7f, 0xff]));
        for text in ["", "007ff", "007fff00", "007fFf", "+07fff", "00 fff", "é07ff"] {
            assert_eq!(decode::<3>(text), None, "{text:?}");
        }
    }
}
