//! The keys a watch watches.
//!
//! Invariant: a span holds at least one possible key.

use bytes::Bytes;

/// The keys from `from` on: up to an end, without end, or just the one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Span {
    /// One key.
    One(Bytes),
    /// `[from, to)`.
    Between(Bytes, Bytes),
    /// Every key that is not less.
    From(Bytes),
}

impl Span {
    /// etcd's reading of a watch's key and range end; `None` when the range holds no key.
    #[must_use]
    pub fn of_watch(key: &Bytes, range_end: &Bytes) -> Option<Span> {
        // The empty key is no key; the least one is a zero byte.
        let from = if key.is_empty() { Bytes::from_static(&[0]) } else { key.clone() };
        match range_end.as_ref() {
            [] => Some(Span::One(from)),
            [0] => Some(Span::From(from)),
            _ if range_end <= &from => None,
            _ => Some(Span::Between(from, range_end.clone())),
        }
    }

    /// The prefix that exactly its keys have, when there is one.
    pub(super) fn prefix(&self) -> Option<Bytes> {
        match self {
            Span::One(_) => None,
            // No key is less than a zero byte.
            Span::From(from) => (from.as_ref() == [0]).then(Bytes::new),
            Span::Between(from, to) => {
                let (last, rest) = from.split_last()?;
                let next = last.checked_add(1)?;
                (to.split_last() == Some((&next, rest))).then(|| from.clone())
            }
        }
    }

    /// Whether `key` is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Span::One(one) => one == key,
            Span::Between(from, to) => from.as_ref() <= key && key < to.as_ref(),
            Span::From(from) => from.as_ref() <= key,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_etcd_reads_them() {
        let span = |key: &'static [u8], end: &'static [u8]| {
            Span::of_watch(&Bytes::from_static(key), &Bytes::from_static(end))
        };
        assert!(span(b"a", b"").is_some_and(|span| span.contains(b"a") && !span.contains(b"a\0")));
        assert!(span(b"a", b"c").is_some_and(|span| span.contains(b"b") && !span.contains(b"c")));
        assert!(span(b"b", b"\0").is_some_and(|span| span.contains(b"\xff") && !span.contains(b"a")));
        assert!(span(b"", b"\0").is_some_and(|span| span.contains(b"\0")));
        assert_eq!(span(b"b", b"b"), None);
        assert_eq!(span(b"b", b"a"), None);
    }

    #[test]
    fn a_range_that_is_a_prefix_is_known_as_one() {
        let check = |from: &'static [u8], to: &'static [u8], expected: Option<&'static [u8]>| {
            let span = Span::of_watch(&Bytes::from_static(from), &Bytes::from_static(to)).expect("a range");
            assert_eq!(span.prefix(), expected.map(Bytes::from_static), "{span:?}");
        };
        check(b"a", b"b", Some(b"a"));
        check(b"a/", b"a0", Some(b"a/"));
        check(b"\0", b"\0", Some(b""));
        check(b"", b"\0", Some(b""));
        check(b"a", b"c", None);
        check(b"a", b"b\0", None);
        check(b"a\xff", b"b", None);
        check(b"a", b"\0", None);
        check(b"a", b"", None);
    }
}
