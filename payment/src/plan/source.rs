//! An input file with its lines, and the list of what is wrong with it.
//!
//! Bytes that are not UTF-8 become U+FFFD, so that the rest of the file is still read and every
//! other finding is still reported; the bad bytes are findings themselves, so nothing that was
//! replaced can ever reach a build.
//!
//! Invariant: an offset into [`Source::text`] and its line in the file the user sees agree.
//!
//! Not here: what the text means.

use super::error::PlanError;

/// The mark that some editors put before UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One input file, readable as text.
#[derive(Debug)]
pub(crate) struct Source {
    /// The name shown in findings.
    pub name: String,
    /// The content, without a byte order mark.
    pub text: String,
    /// Offsets at which lines begin; the first is 0.
    line_starts: Vec<usize>,
}

/// The list that all checks write to.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub Vec<PlanError>);

impl Findings {
    /// Notes a finding at a line.
    pub fn note(&mut self, file: &str, line: usize, message: impl Into<String>, cure: impl Into<String>) {
        assert!(line > 0, "lines are counted from 1");
        let (message, cure) = (message.into(), cure.into());
        self.0.push(PlanError { file: file.to_owned(), line, message, cure });
    }
}

impl Source {
    /// Reads bytes as text; notes every line that is not UTF-8, and an empty file.
    pub fn new(name: &str, bytes: &[u8], findings: &mut Findings) -> Source {
        let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if std::str::from_utf8(line).is_err() {
                findings.note(name, at + 1, "this line is not UTF-8 text", "save the file as UTF-8");
            }
        }
        let text = String::from_utf8_lossy(bytes).into_owned();
        if text.trim().is_empty() {
            findings.note(name, 1, "the file is empty", "begin from a sample under events/");
        }
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Source { name: name.to_owned(), text, line_starts }
    }

    /// The line, from 1, on which the byte at `offset` stands.
    pub fn line_at(&self, offset: usize) -> usize {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        assert!(line > 0, "the first line begins at 0");
        line
    }

    /// The line of the first byte at or after `offset` that is not an end of line: where a record
    /// begins whose reader stood at the end of the one before.
    pub fn line_of_record(&self, offset: usize) -> usize {
        let bytes = self.text.as_bytes();
        let ends = bytes.iter().skip(offset).take_while(|byte| matches!(**byte, b'\r' | b'\n'));
        self.line_at(offset + ends.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_as_an_editor_counts_them() {
        let mut findings = Findings::default();
        let source = Source::new("f", b"\xef\xbb\xbfone\ntwo\r\n\n\nfive", &mut findings);
        assert_eq!(findings.0, vec![]);
        assert_eq!(source.line_at(0), 1);
        assert_eq!(source.line_at(4), 2);
        assert_eq!(source.line_of_record(9), 5);
        assert_eq!(source.line_at(10_000), 5);
    }

    #[test]
    fn every_line_that_is_not_text_is_named() {
        let mut findings = Findings::default();
        let source = Source::new("f", b"good\n\xff\ngood\n\xc3\n", &mut findings);
        let lines: Vec<usize> = findings.0.iter().map(|finding| finding.line).collect();
        assert_eq!(lines, vec![2, 4]);
        assert!(source.text.contains('\u{fffd}'));
    }
}
