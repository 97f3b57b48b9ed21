//! A sorted file of pairs, as it is ingested.
//!
//! ```text
//!   file = (key length u32 be | key | value length u32 be | value) ...    keys strictly ascending
//! ```
//! Invariant: a file that is not well formed is refused as a whole, with the place; it may come from anybody.
//!
//! Not here: what ingesting does (`machine::ingest`).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::limits::{DATA_KEY_BYTES_MAX, DATA_VALUE_BYTES_MAX};

/// Pairs in the order of their keys.
pub type Pairs = Vec<(Bytes, Bytes)>;

/// Sorts pairs and cuts them into files of at most `bytes_max` each, but of at least one pair.
///
/// # Errors
/// When a key comes twice with different values, or a key or value is too long; for people.
pub fn files(mut pairs: Pairs, bytes_max: usize) -> Result<Vec<Bytes>, String> {
    pairs.sort_unstable();
    pairs.dedup();
    let mut files = Vec::new();
    let mut file = BytesMut::new();
    let mut last: Option<&Bytes> = None;
    for (key, value) in &pairs {
        check_pair(key, value)?;
        if last == Some(key) {
            return Err(format!("key {} comes twice, with different values", key.escape_ascii()));
        }
        last = Some(key);
        let more = 8 + key.len() + value.len();
        if !file.is_empty() && file.len() + more > bytes_max {
            files.push(file.split().freeze());
        }
        for part in [key, value] {
            file.put_u32(u32::try_from(part.len()).expect("checked to be short"));
            file.put_slice(part);
        }
    }
    if !file.is_empty() {
        files.push(file.freeze());
    }
    Ok(files)
}

/// The pairs of a file, as slices of it.
///
/// # Errors
/// What is wrong with the file, and where; for people.
pub fn parse(file: &Bytes) -> Result<Pairs, String> {
    if file.is_empty() {
        return Err("a file holds at least one pair".to_owned());
    }
    let mut rest = file.clone();
    let mut pairs = Pairs::new();
    while !rest.is_empty() {
        let at = file.len() - rest.len();
        let pair = part(&mut rest).and_then(|key| Some((key, part(&mut rest)?)));
        let Some((key, value)) = pair else {
            return Err(format!("the file breaks off in the pair at byte {at}"));
        };
        check_pair(&key, &value).map_err(|reason| format!("the pair at byte {at}: {reason}"))?;
        if pairs.last().is_some_and(|(last, _)| *last >= key) {
            return Err(format!("the pair at byte {at} is not behind the one before it"));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn part(rest: &mut Bytes) -> Option<Bytes> {
    let length = rest.try_get_u32().ok()? as usize;
    (length <= rest.len()).then(|| rest.split_to(length))
}

fn check_pair(key: &Bytes, value: &Bytes) -> Result<(), String> {
    if key.is_empty() || key.len() > DATA_KEY_BYTES_MAX {
        return Err(format!("a key is 1 to {DATA_KEY_BYTES_MAX} bytes long, this one {}", key.len()));
    }
    if value.len() > DATA_VALUE_BYTES_MAX {
        let length = value.len();
        return Err(format!("a value is at most {DATA_VALUE_BYTES_MAX} bytes long, this one {length}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Bytes {
        Bytes::copy_from_slice(text.as_bytes())
    }

    fn pairs(text: &[(&str, &str)]) -> Pairs {
        text.iter().map(|(key, value)| (bytes(key), bytes(value))).collect()
    }

    #[test]
    fn the_bytes_of_a_file_are_frozen() {
        let files = files(pairs(&[("b", "2"), ("a", "xy"), ("b", "2")]), 100).expect("well formed");
        let expected = [0, 0, 0, 1, b'a', 0, 0, 0, 2, b'x', b'y', 0, 0, 0, 1, b'b', 0, 0, 0, 1, b'2'];
        assert_eq!(files, [Bytes::copy_from_slice(&expected)]);
    }

    #[test]
    fn what_is_no_file_is_refused_with_its_place() {
        let refused = |file: &[u8]| parse(&Bytes::copy_from_slice(file)).expect_err("refused");
        assert!(refused(&[]).contains("at least one pair"));
        let two = [0, 0, 0, 1, b'b', 0, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 0, 0];
        assert!(refused(&two).contains("at byte 9 is not behind"), "{}", refused(&two));
        assert!(refused(&two[..10]).contains("breaks off in the pair at byte 9"), "{}", refused(&two[..10]));
        assert!(refused(&[0, 0, 0, 0, 0, 0, 0, 0]).contains("a key is 1 to"));
        let differ = files(pairs(&[("a", "1"), ("a", "2")]), 100).expect_err("refused");
        assert!(differ.contains("key a comes twice"), "{differ}");
    }

    proptest! {
        #[test]
        fn files_hold_every_pair_once_in_order_and_no_more_than_was_allowed(
            map in prop::collection::btree_map(
                prop::collection::vec(any::<u8>(), 1..5), prop::collection::vec(any::<u8>(), 0..9), 0..40,
            ),
            bytes_max in 1usize..200,
        ) {
            let given: Pairs = map.iter().rev().map(|(k, v)| (k.clone().into(), v.clone().into())).collect();
            let files = files(given, bytes_max).expect("well formed");
            let mut found = BTreeMap::new();
            for file in &files {
                let pairs = parse(file).expect("well formed");
                prop_assert!(file.len() <= bytes_max || pairs.len() == 1);
                for (key, value) in pairs {
                    prop_assert!(found.last_key_value().is_none_or(|(last, _)| *last < key.to_vec()));
                    found.insert(key.to_vec(), value.to_vec());
                }
            }
            prop_assert_eq!(found, map);
        }

        #[test]
        fn no_bytes_make_parsing_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = parse(&bytes.into());
        }
    }
}
