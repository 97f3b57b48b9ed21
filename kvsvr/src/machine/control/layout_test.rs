//! The stored bytes of the control group, frozen; and that every key and place reads back in order.

use bytes::Bytes;
use proptest::prelude::*;

use super::layout::*;
use crate::wire::mvccpb::KeyValue;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pair() -> KeyValue {
    KeyValue {
        key: Bytes::from_static(b"a\0b"),
        create_revision: 2,
        mod_revision: 7,
        version: 3,
        value: Bytes::from_static(b"v"),
        lease: 9,
    }
}

#[test]
fn the_stored_bytes_are_frozen() {
    let place = Place { revision: 7, sub: 1 };
    let meta = Meta { revision: 7, compacted: -1, sweep_next: place, bytes: 300 };
    let stored = "020000000000000007ffffffffffffffff000000000000000700000001000000000000012c";
    assert_eq!(hex(&meta.encode()), stored);
    assert_eq!(hex(&latest_key(b"a\0b")), "6b610062");
    let latest = "0200000000000000020000000000000007000000000000000300000000000000090000000176";
    assert_eq!(hex(&encode_latest(&pair(), 1)), latest);
    assert_eq!(hex(&version_key(b"a\0b", place)), "766100ff620001000000000000000700000001");
    assert_eq!(hex(&encode_version(false)), "01");
    assert_eq!(hex(&encode_version(true)), "00");
    assert_eq!(hex(&event_key(place)), "72000000000000000700000001");
    let event = "01000000000000000002000000000000000300000000000000090000000361006276";
    assert_eq!(hex(&encode_event(&Event { pair: pair(), tombstone: false })), event);
}

#[test]
fn a_meta_record_of_format_1_is_read_as_one_that_counted_nothing() {
    let mut stored = vec![1];
    stored.extend(7i64.to_be_bytes());
    stored.extend((-1i64).to_be_bytes());
    stored.extend(7i64.to_be_bytes());
    stored.extend(1u32.to_be_bytes());
    let meta = Meta { revision: 7, compacted: -1, sweep_next: Place { revision: 7, sub: 1 }, bytes: 0 };
    assert_eq!(Meta::decode(stored.into()).expect("format 1"), meta);
}

#[test]
fn a_live_pair_of_format_1_is_read_as_one_whose_version_is_indexed() {
    let mut stored = vec![1];
    for number in [2i64, 7, 3, 9] {
        stored.extend(number.to_be_bytes());
    }
    stored.push(b'v');
    let bytes = 4 + stored.len() as u64;
    let latest = decode_latest(&latest_key(b"a\0b"), stored.into()).expect("format 1");
    assert_eq!((latest.unindexed(), latest.bytes()), (None, bytes));
    assert_eq!(latest, Latest { pair: pair(), sub: None });
}

#[test]
fn what_is_stored_reads_back() {
    let place = Place { revision: 7, sub: 1 };
    let event = Event { pair: pair(), tombstone: false };
    assert_eq!(decode_event(place, encode_event(&event)).expect("an event"), event);
    let latest = decode_latest(&latest_key(b"a\0b"), encode_latest(&pair(), 1)).expect("a pair");
    assert_eq!(latest, Latest { pair: pair(), sub: Some(1) });
    assert_eq!(latest.bytes(), 4 + encode_latest(&pair(), 1).len() as u64);
    assert_eq!(Meta::decode(Meta::EMPTY.encode()).expect("a meta record"), Meta::EMPTY);
    assert_eq!(decode_event_key(&event_key(place)).expect("a place"), place);
}

#[test]
fn torn_bytes_are_reported() {
    let place = Place { revision: 7, sub: 1 };
    let event = encode_event(&Event { pair: pair(), tombstone: false });
    assert!(decode_event(place, event.slice(..31)).is_err());
    assert!(decode_latest(&latest_key(b"a"), encode_latest(&pair(), 1).slice(..36)).is_err());
    assert!(Meta::decode(Meta::EMPTY.encode().slice(1..)).is_err());
    let version = version_key(b"a", place);
    assert!(decode_version_key(&version[..version.len() - 1]).is_err());
    assert!(decode_version(&[2]).is_err());
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 0..6)
}

proptest! {
    #[test]
    fn versions_sort_by_key_then_place(a in key(), b in key(), r in 0i64..4, s in 0i64..4, i in 0u32..3, j in 0u32..3) {
        let (first, second) = (Place { revision: r, sub: i }, Place { revision: s, sub: j });
        let stored = version_key(&a, first).cmp(&version_key(&b, second));
        prop_assert_eq!(stored, (&a, first).cmp(&(&b, second)));
        let (read_key, read_place) = decode_version_key(&version_key(&a, first)).expect("a version key");
        prop_assert_eq!(read_key.as_ref(), a.as_slice());
        prop_assert_eq!(read_place, first);
    }
}
