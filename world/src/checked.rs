//! Small documents of a node's own, which it believes at its next start: a line of JSON and a check.
//!
//! ```text
//!   {"format":2,"incarnation":"…","boot_epoch":7}
//!   "9f86d081884c7d65a1b2c3d4e5f60718"                first 16 bytes of BLAKE3(context | line), hex
//! ```
//! One flipped bit can leave valid JSON that says something else. Both lines are JSON, so that people and
//! their tools go on reading them.
//!
//! Invariant: what [`open`] answers as checked is what [`seal`] was given.
//!
//! Not here: a document that is older than the rest of its disk (its owners compare it with other parts), and
//! one that somebody changed on purpose: the check holds no secret.

/// Hex digits of a check.
const CHECK_DIGITS: usize = 32;

/// A document that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its check does not fit: bits of it have changed on the disk")]
pub struct CheckError;

/// What stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// As it was written.
    Checked(&'a [u8]),
    /// There is no check beside it: versions before the check wrote none.
    Bare(&'a [u8]),
}

fn check_of(context: &str, line: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(line);
    let mut digits = hasher.finalize().to_hex().to_string();
    digits.truncate(CHECK_DIGITS);
    digits
}

/// The bytes of a file that holds this line. `context` keeps one kind of document from being taken for another.
///
/// # Panics
/// When it is more than one line.
#[must_use]
pub fn seal(context: &str, line: &[u8]) -> Vec<u8> {
    assert!(!line.contains(&b'\n'), "a document is one line");
    let check = check_of(context, line);
    [line, b"\n\"", check.as_bytes(), b"\"\n"].concat()
}

/// Reads what [`seal`] has written.
///
/// # Errors
/// [`CheckError`].
pub fn open<'a>(context: &str, bytes: &'a [u8]) -> Result<Line<'a>, CheckError> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(Line::Bare(bytes)) };
    let (line, rest) = bytes.split_at(end);
    if rest == b"\n" {
        return Ok(Line::Bare(line));
    }
    if bytes == seal(context, line) { Ok(Line::Checked(line)) } else { Err(CheckError) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: &str = "hongbao test 2026";

    #[test]
    fn the_layout_is_frozen() {
        let sealed = seal(CONTEXT, b"{\"a\":1}");
        let text = String::from_utf8(sealed.clone()).expect("text");
        assert_eq!(text, "{\"a\":1}\n\"49d186be0263da83f45b00411f54ed85\"\n");
        assert_eq!(open(CONTEXT, &sealed), Ok(Line::Checked(b"{\"a\":1}")));
    }

    #[test]
    fn no_flipped_bit_and_no_lost_end_is_taken_for_what_was_written() {
        let sealed = seal(CONTEXT, b"{\"starts\":4,\"marked\":4}");
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(open(CONTEXT, &flipped), Ok(Line::Checked(_))), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(!matches!(open(CONTEXT, &sealed[..length]), Ok(Line::Checked(_))), "{length} bytes");
        }
    }

    #[test]
    fn a_document_of_another_kind_and_one_without_a_check_are_told_apart() {
        assert_eq!(open("hongbao other 2026", &seal(CONTEXT, b"{}")), Err(CheckError));
        assert_eq!(open(CONTEXT, b"{}"), Ok(Line::Bare(b"{}")));
        assert_eq!(open(CONTEXT, b"{}\n"), Ok(Line::Bare(b"{}")));
    }
}
