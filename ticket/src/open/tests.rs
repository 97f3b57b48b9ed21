//! Minting and opening against each other.

use proptest::prelude::*;

use super::*;
use crate::id::{BatchId, SERIAL_MAX};
use crate::limits::{AMOUNT_FEN_MAX, RECORD_LEN};
use crate::mint::MintKeyring;
use crate::record::Kind;

const BUILD: BuildId = BuildId([0x11; 16]);
const KEY_COUNT: u16 = 4;
const SLOT: SlotNo = SlotNo(3);
const FLAGS: Flags = Flags::new(Kind::Picture, true);

fn secret() -> BuildSecret {
    BuildSecret::from_bytes([0x22; 32])
}

fn mint(key: u16) -> Record {
    let sealer = MintKeyring::new(&secret(), BUILD, KEY_COUNT).sealer(KeyId(key));
    sealer.seal(SLOT, BatchId(9), 77, Fen::new(888), FLAGS)
}

fn keyring(list: KeyList) -> OpenKeyring {
    OpenKeyring::new(&secret(), BUILD, KEY_COUNT, list)
}

#[test]
fn what_is_minted_opens() {
    let packet = keyring(KeyList::all(KEY_COUNT)).open(SLOT, &mint(2)).expect("opens");
    let id = PacketId { build_tag: BUILD.tag(), batch: BatchId(9), serial: 77 };
    assert_eq!(packet, Packet { id, amount: Fen::new(888), flags: FLAGS, key: KeyId(2) });
}

#[test]
fn an_empty_whitelist_refuses_every_key() {
    let keyring = keyring(KeyList::none());
    for key in 1..=KEY_COUNT {
        assert_eq!(keyring.open(SLOT, &mint(key)), Err(RecordError::NotWhitelisted(KeyId(key))));
    }
    assert!(keyring.ciphers.iter().all(Option::is_none), "a refused key has no schedule in memory");
}

#[test]
fn the_blacklist_wins_over_the_whitelist_and_over_cryptography() {
    let mut list = KeyList::all(KEY_COUNT);
    list.blacklist.insert(KeyId(2));
    list.whitelist.remove(&KeyId(3));
    list.blacklist.insert(KeyId(99));
    let keyring = keyring(KeyList::all(KEY_COUNT)).with_list(list);
    let garbage = |key: u16| {
        let mut bytes = [0xee; RECORD_LEN];
        bytes[..2].copy_from_slice(&key.to_be_bytes());
        Record(bytes)
    };
    for record in [mint(2), garbage(2)] {
        assert_eq!(keyring.open(SLOT, &record), Err(RecordError::Revoked(KeyId(2))));
    }
    for record in [mint(3), garbage(3)] {
        assert_eq!(keyring.open(SLOT, &record), Err(RecordError::NotWhitelisted(KeyId(3))));
    }
    assert_eq!(keyring.open(SLOT, &garbage(99)), Err(RecordError::Revoked(KeyId(99))));
    for unknown in [0, KEY_COUNT + 1, u16::MAX] {
        let outcome = keyring.open(SLOT, &garbage(unknown));
        assert_eq!(outcome, Err(RecordError::UnknownKey(KeyId(unknown))));
    }
    assert_eq!(keyring.open(SLOT, &garbage(1)), Err(RecordError::BadTag(KeyId(1))));
    assert!(keyring.open(SLOT, &mint(4)).is_ok());
}

#[test]
fn a_record_altered_in_any_bit_does_not_open() {
    let keyring = keyring(KeyList::all(KEY_COUNT));
    let genuine = mint(1);
    for bit in 0..RECORD_LEN * 8 {
        let mut record = genuine;
        record.0[bit / 8] ^= 1 << (bit % 8);
        assert!(keyring.open(SLOT, &record).is_err(), "bit {bit} may be altered");
    }
}

#[test]
fn a_record_of_another_slot_build_or_secret_does_not_open() {
    let bad = Err(RecordError::BadTag(KeyId(1)));
    let all = KeyList::all(KEY_COUNT);
    assert_eq!(keyring(all.clone()).open(SlotNo(4), &mint(1)), bad);
    // Another build with the same tag: the key differs, not only the nonce.
    let mut other = BUILD;
    other.0[15] ^= 1;
    assert_eq!(other.tag(), BUILD.tag());
    assert_eq!(OpenKeyring::new(&secret(), other, KEY_COUNT, all.clone()).open(SLOT, &mint(1)), bad);
    let stolen = BuildSecret::from_bytes([0x23; 32]);
    assert_eq!(OpenKeyring::new(&stolen, BUILD, KEY_COUNT, all).open(SLOT, &mint(1)), bad);
}

#[test]
fn no_key_is_tried_but_the_one_that_is_named() {
    let keyring = keyring(KeyList::all(KEY_COUNT));
    let mut record = mint(1);
    record.0[1] = 2;
    assert_eq!(keyring.open(SLOT, &record), Err(RecordError::BadTag(KeyId(2))));
}

#[test]
fn building_again_reuses_no_keystream() {
    // The same budget minted twice with one serial and two amounts: under one key and nonce the
    // ciphertexts would differ exactly where the amounts do.
    let sealer = |build| MintKeyring::new(&secret(), build, KEY_COUNT).sealer(KeyId(1));
    let mut other = BUILD;
    other.0[15] ^= 1;
    let first = sealer(BUILD).seal(SLOT, BatchId(1), 1, Fen::new(100), FLAGS);
    let second = sealer(other).seal(SLOT, BatchId(1), 1, Fen::new(101), FLAGS);
    let difference: Vec<u8> = (10..14).map(|at| first.0[at] ^ second.0[at]).collect();
    assert_ne!(difference, [0, 0, 100 ^ 101, 0]);
}

#[test]
fn a_genuine_record_without_sense_is_refused() {
    // Sealed past the checks of `RecordSealer`, as a faulty planner would.
    let cipher = RecordCipher::new(&secret(), BUILD, KeyId(1));
    for content in [[0, 0, 0, FLAGS.bits()], [0, 0, 1, 0x03], [0, 0, 1, 0x40]] {
        let mut secret = content;
        let tag = cipher.seal(SLOT, BatchId(9), 77, &mut secret);
        let mut record = mint(1);
        record.0[10..14].copy_from_slice(&secret);
        record.0[14..].copy_from_slice(&tag);
        let outcome = keyring(KeyList::all(KEY_COUNT)).open(SLOT, &record);
        assert_eq!(outcome, Err(RecordError::BadContent(KeyId(1))), "{content:?}");
    }
}

#[test]
#[should_panic(expected = "too much for one packet")]
fn an_amount_wider_than_24_bits_stops_the_build() {
    let sealer = MintKeyring::new(&secret(), BUILD, 1).sealer(KeyId(1));
    let _ = sealer.seal(SLOT, BatchId(1), 1, Fen::new(AMOUNT_FEN_MAX + 1), FLAGS);
}

#[test]
#[should_panic(expected = "a packet of nothing")]
fn an_amount_of_nothing_stops_the_build() {
    let sealer = MintKeyring::new(&secret(), BUILD, 1).sealer(KeyId(1));
    let _ = sealer.seal(SLOT, BatchId(1), 1, Fen::ZERO, FLAGS);
}

#[test]
#[should_panic(expected = "past the build's 4")]
fn a_key_the_build_does_not_have_stops_the_build() {
    let _ = MintKeyring::new(&secret(), BUILD, KEY_COUNT).sealer(KeyId(KEY_COUNT + 1));
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Logo), Just(Kind::Picture), Just(Kind::Video)]
}

proptest! {
    #[test]
    fn every_packet_reads_back(
        key in 1..=KEY_COUNT,
        slot: u16,
        batch: u16,
        serial in 0..=SERIAL_MAX,
        amount in 1..=AMOUNT_FEN_MAX,
        kind in kinds(),
        instant: bool,
    ) {
        let (slot, batch, flags) = (SlotNo(slot), BatchId(batch), Flags::new(kind, instant));
        let sealer = MintKeyring::new(&secret(), BUILD, KEY_COUNT).sealer(KeyId(key));
        let record = sealer.seal(slot, batch, serial, Fen::new(amount), flags);
        prop_assert_eq!((record.key_id(), record.batch(), record.serial()), (KeyId(key), batch, serial));
        let packet = keyring(KeyList::all(KEY_COUNT)).open(slot, &record);
        let id = PacketId { build_tag: BUILD.tag(), batch, serial };
        prop_assert_eq!(packet, Ok(Packet { id, amount: Fen::new(amount), flags, key: KeyId(key) }));
    }

    #[test]
    fn no_guess_opens(bytes: [u8; RECORD_LEN], slot: u16) {
        prop_assert!(keyring(KeyList::all(KEY_COUNT)).open(SlotNo(slot), &Record(bytes)).is_err());
    }
}
