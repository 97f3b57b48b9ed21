//! Persisted formats, byte for byte. A test that fails here means that files, tickets or messages
//! already out in the world can no longer be read: raise the format number, do not mend the test.
//!
//! The bytes were computed from the drawings by another program, in another language, with other
//! implementations of AES-GCM, HKDF, BLAKE3 and Ed25519: they say that the drawings are true.

use ticket::control;
use ticket::digest::Digest;
use ticket::file::{TicketFileHeader, write_to};
use ticket::id::{BatchId, BuildId, EventTag, FileNo, KeyId, SlotNo, UserId};
use ticket::keys::{BuildSecret, KeyList, NodeSealKey, SealMaster};
use ticket::mint::{MintKeyring, RecordSealer};
use ticket::money::Fen;
use ticket::open::OpenKeyring;
use ticket::opening::Opening;
use ticket::record::{Flags, Kind, Record};
use ticket::seal::{Issue, NodeSealer, Unsealer};
use ticket::sign::SigningKey;
use ticket::token;
use world::{Epoch, NodeId, UnixMs};

const BUILD: BuildId =
    BuildId([0x0a, 0x1b, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71, 0x82, 0x93, 0xa4, 0xb5, 0xc6, 0xd7, 0xe8, 0xf9]);
const SLOT: SlotNo = SlotNo(3);

fn check(what: &str, bytes: &[u8], expected: &str) {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let expected: String = expected.split_whitespace().collect();
    assert_eq!(hex, expected, "the bytes of {what} have changed");
}

fn secret() -> BuildSecret {
    BuildSecret::from_bytes(std::array::from_fn(|n| n as u8))
}

fn master() -> SealMaster {
    SealMaster::from_bytes(std::array::from_fn(|n| 0x80 + n as u8))
}

fn node() -> NodeId {
    "b2".parse().expect("a node")
}

fn sealer() -> RecordSealer {
    MintKeyring::new(&secret(), BUILD, 300).sealer(KeyId(258))
}

fn record() -> Record {
    sealer().seal(SLOT, BatchId(12), 0x0102_0304_0506, Fen::new(8_888), Flags::new(Kind::Video, true))
}

fn issue() -> Issue {
    let issued_ms = UnixMs(1_454_855_400_123);
    Issue { record: record(), slot: SLOT, file: FileNo(17), index: 70_000, issued_ms }
}

#[test]
fn record_bytes() {
    check("a record", record().as_bytes(), "0102 000c 010203040506 23084c44 889ef89d31a564191717a916");
    let packet = OpenKeyring::new(&secret(), BUILD, 300, KeyList::all(300)).open(SLOT, &record());
    assert_eq!(packet.expect("opens").amount, Fen::new(8_888));
}

#[test]
fn sealed_ticket_bytes() {
    let sealer = NodeSealer::new(master().node_key(node()), node(), 9, "spring-2016", BUILD);
    sealer.seal(UserId(1), &issue()).expect("the counter is part of the bytes");
    let sealed = sealer.seal(UserId(1_000_001), &issue()).expect("sealed");
    check(
        "a sealed ticket",
        &sealed,
        "0001 87edf5e0 0102 00000009 000000000001 \
         85d4db1e1b6418fa43adbd739c5008d1599cb2f2792290dfc5e09ba2625789538519f155d5e347d2a1ec201d \
         f3c4193ca741c790d280860d9b2c9ced",
    );
    let opened = Unsealer::new(master(), "spring-2016", BUILD).open(UserId(1_000_001), &sealed);
    assert_eq!(opened, Ok((issue(), node())));
}

#[test]
fn ticket_file_bytes() {
    let event = EventTag::of("spring-2016");
    check("an event tag", &event.to_bytes(), "87edf5e056295d54");
    let header = TicketFileHeader { event, build: BUILD, slot: SLOT, home: node(), no: FileNo(17), count: 2 };
    check(
        "a file header",
        &header.encode(),
        "48425449434b4554 0001 001a 00001000 87edf5e056295d54 0a1b2c3d4e5f60718293a4b5c6d7e8f9 0003 \
         0102 00000011 00000002 000000000000000000000000",
    );
    let other = sealer().seal(SLOT, BatchId(12), 7, Fen::new(1), Flags::new(Kind::Logo, false));
    let mut bytes = Vec::new();
    let written = write_to(&mut bytes, &header, [record(), other]).expect("memory");
    check(
        "a ticket file",
        &bytes,
        "48425449434b45540001001a0000100087edf5e056295d540a1b2c3d4e5f60718293a4b5c6d7e8f9000301020000 \
         001100000002000000000000000000000000 0102000c01020304050623084c44889ef89d31a564191717a916 \
         0102000c0000000000070f11303f5f1fee65fb51a88511826ef0 \
         ebf98d416de40b94bdca08dbbfde60af8a55d9e6319a004af99bf6b78bc05ae0 \
         4093a687470961d9079a1789eac07840571a38883111f76f2afa119ce4e83a43",
    );
    assert_eq!((written.size_bytes, written.digest), (bytes.len() as u64, Digest::of(&bytes)));
}

#[test]
fn opening_bytes() {
    let opening = Opening {
        packet: record().packet_id(BUILD),
        user: UserId(1_000_001),
        amount: Fen::new(8_888),
        slot: SLOT,
        file: FileNo(17),
        index: 70_000,
        key: KeyId(258),
        record: record(),
        issued_ms: UnixMs(1_454_855_400_123),
        opened_ms: UnixMs(1_454_855_401_456),
        node: node(),
    };
    check(
        "an opening",
        &opening.encode(),
        "0001 0a1b2c3d000c010203040506 00000000000f4241 00000000000022b8 0003 00000011 00011170 0102 \
         0102000c01020304050623084c44889ef89d31a564191717a916 00000152bc23aabb 00000152bc23aff0 0102",
    );
}

#[test]
fn session_token_text() {
    let key = SigningKey::from_bytes([0x21; 32]);
    let text = token::issue(&key, UserId(1_000_001), UnixMs(1_454_900_000_000));
    assert_eq!(
        text,
        "AQAAAAAAD0JBAAABUr7MNQAculZdTYJp4PDE1ZGVxO-J56amJIUb0KbvxItyaaDZg_AoseYauIc54a1MhGh-02jIYWMMlA_jz5p2JBQKVTQG"
    );
    let session = token::read(&key.verifying_key(), &text).expect("genuine");
    assert_eq!((session.user, session.expires), (UserId(1_000_001), UnixMs(1_454_900_000_000)));
}

#[test]
fn key_file_texts() {
    let signing = SigningKey::from_bytes([0x21; 32]);
    assert_eq!(
        *secret().to_text(),
        "hongbao-key-1 build 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f c40b6f11\n"
    );
    assert_eq!(
        *master().to_text(),
        "hongbao-key-1 seal 808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f 60a02024\n"
    );
    let node_key: NodeSealKey = master().node_key(node());
    assert_eq!(
        *node_key.to_text(),
        "hongbao-key-1 node-seal 010256dad21583dd05e8e9e2b9af6a70032b6cb584e13d892f849b5c421f35a75621 6b4abbb8\n"
    );
    assert_eq!(
        *signing.to_text(),
        "hongbao-key-1 sign 2121212121212121212121212121212121212121212121212121212121212121 dd98607d\n"
    );
    assert_eq!(
        signing.verifying_key().to_text(),
        "hongbao-key-1 verify 884b8857f4eaa1613c61504db34d4beaf346517a0e31de3cddd4d9b4201d9d0b 3fee421c\n"
    );
}

#[test]
fn signature_text() {
    let signature = SigningKey::from_bytes([0x21; 32]).sign("hongbao/roster", b"{}");
    assert_eq!(
        signature.to_string(),
        "506078ccb2cbffb5a830bd3219b515714440a9604b8e6f2319e3d248bd09734120dc1899ab3a8e3f48e247baa6b61582af4825c24653726a31d18b992cdac508"
    );
}

#[test]
fn control_record_texts() {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("JSON");
    let claim = control::ClaimRecord {
        format: control::FORMAT,
        node: node(),
        incarnation: "00ff".to_owned(),
        zone_epoch: Epoch(4),
        at_ms: UnixMs(5),
    };
    let expected = r#"{"format":1,"node":"b2","incarnation":"00ff","zone_epoch":4,"at_ms":5}"#;
    assert_eq!(text(control::encode(&claim)), expected);
    let boot = control::BootRecord { format: control::FORMAT, boot_epoch: 9, incarnation: "00ff".to_owned() };
    assert_eq!(text(control::encode(&boot)), r#"{"format":1,"boot_epoch":9,"incarnation":"00ff"}"#);
    let list = text(KeyList::all(2).encode());
    assert_eq!(list, r#"{"format":1,"whitelist":[1,2],"blacklist":[]}"#);
}
