//! Sealing and unsealing against each other, and what must not unseal.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const EVENT: &str = "spring-2016";
const BUILD: BuildId = BuildId([0x33; 16]);
const USER: UserId = UserId(1_000_001);

fn master() -> SealMaster {
    SealMaster::from_bytes([0x44; 32])
}

fn node(name: &str) -> NodeId {
    name.parse().expect("a node")
}

fn sealer(name: &str) -> NodeSealer {
    NodeSealer::new(master().node_key(node(name)), node(name), 7, EVENT, BUILD)
}

fn unsealer() -> Unsealer {
    Unsealer::new(master(), EVENT, BUILD)
}

fn issue() -> Issue {
    Issue {
        record: Record([0x5a; RECORD_LEN]),
        slot: SlotNo(2),
        file: FileNo(17),
        index: 4_095,
        issued_ms: UnixMs(1_454_850_000_123),
    }
}

#[test]
fn what_a_node_seals_its_user_opens() {
    for name in ["a1", "b2", "z255"] {
        let sealed = sealer(name).seal(USER, &issue()).expect("sealed");
        assert_eq!(unsealer().open(USER, &sealed), Ok((issue(), node(name))));
    }
}

#[test]
fn a_ticket_altered_in_any_bit_does_not_open() {
    let sealed = sealer("b2").seal(USER, &issue()).expect("sealed");
    let unsealer = unsealer();
    assert!(unsealer.open(USER, &sealed).is_ok());
    for bit in 0..SEALED_LEN * 8 {
        let mut altered = sealed;
        altered[bit / 8] ^= 1 << (bit % 8);
        let error = unsealer.open(USER, &altered).expect_err("altered");
        let expected = match bit / 8 {
            0..2 => matches!(error, SealError::Version(_)),
            2..6 => error == SealError::OtherEvent,
            6..8 => matches!(error, SealError::UnknownNode | SealError::BadTag),
            _ => error == SealError::BadTag,
        };
        assert!(expected, "bit {bit}: {error}");
    }
}

#[test]
fn another_user_cannot_open_it() {
    let sealed = sealer("a1").seal(USER, &issue()).expect("sealed");
    for other in [0, USER.0 - 1, USER.0 + 1, USER.0 << 8, u64::MAX] {
        assert_eq!(unsealer().open(UserId(other), &sealed), Err(SealError::BadTag), "user {other}");
    }
}

#[test]
fn it_does_not_open_in_another_event_build_or_under_another_master() {
    let sealed = sealer("a1").seal(USER, &issue()).expect("sealed");
    let other_event = Unsealer::new(master(), "spring-2017", BUILD);
    assert_eq!(other_event.open(USER, &sealed), Err(SealError::OtherEvent));
    // Even with the clear tag forged, the key and the associated data are the event's.
    let mut forged = sealed;
    forged[2..6].copy_from_slice(&EventTag::of("spring-2017").to_bytes()[..4]);
    assert_eq!(other_event.open(USER, &forged), Err(SealError::BadTag));

    let other_build = Unsealer::new(master(), EVENT, BuildId([0x34; 16]));
    assert_eq!(other_build.open(USER, &sealed), Err(SealError::BadTag));
    let other_master = Unsealer::new(SealMaster::from_bytes([0x45; 32]), EVENT, BUILD);
    assert_eq!(other_master.open(USER, &sealed), Err(SealError::BadTag));
}

#[test]
fn a_captured_node_cannot_seal_as_another() {
    let mut sealed = sealer("a1").seal(USER, &issue()).expect("sealed");
    sealed[6..8].copy_from_slice(&node("b1").as_u16().to_be_bytes());
    assert_eq!(unsealer().open(USER, &sealed), Err(SealError::BadTag));
}

#[test]
fn what_is_no_sealed_ticket_is_refused() {
    let sealed = sealer("a1").seal(USER, &issue()).expect("sealed");
    for len in (0..SEALED_LEN).chain(SEALED_LEN + 1..SEALED_LEN + 3) {
        let mut bytes = sealed.to_vec();
        bytes.resize(len, 0);
        assert_eq!(unsealer().open(USER, &bytes), Err(SealError::Length(len)));
    }
    let mut version = sealed;
    version[..2].copy_from_slice(&2u16.to_be_bytes());
    assert_eq!(unsealer().open(USER, &version), Err(SealError::Version(2)));
    let mut nobody = sealed;
    nobody[6..8].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(unsealer().open(USER, &nobody), Err(SealError::UnknownNode));
    nobody[6..8].copy_from_slice(&[0, 0]);
    assert_eq!(unsealer().open(USER, &nobody), Err(SealError::UnknownNode));
}

#[test]
fn no_nonce_comes_twice_from_any_thread() {
    let sealer = sealer("a1");
    let nonces = |_| {
        let seal = || sealer.seal(USER, &issue()).expect("sealed")[6..18].to_vec();
        (0..500).map(|_| seal()).collect::<Vec<_>>()
    };
    let all: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || nonces(n))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("joined")).collect()
    });
    let distinct: BTreeSet<&Vec<u8>> = all.iter().collect();
    assert_eq!(distinct.len(), 2_000);
}

#[test]
fn another_boot_gives_other_nonces() {
    let boot = |epoch| {
        let sealer = NodeSealer::new(master().node_key(node("a1")), node("a1"), epoch, EVENT, BUILD);
        sealer.seal(USER, &issue()).expect("sealed")
    };
    assert_ne!(boot(1)[6..18], boot(2)[6..18]);
    assert!(unsealer().open(USER, &boot(u32::MAX)).is_ok());
}

#[test]
fn the_counter_refuses_to_wrap() {
    let sealer = sealer("a1");
    sealer.counter.store(SEAL_COUNTER_MAX, Ordering::Relaxed);
    let last = sealer.seal(USER, &issue()).expect("the last nonce");
    assert_eq!(last[12..18], [0xff; 6]);
    for _ in 0..3 {
        assert_eq!(sealer.seal(USER, &issue()), Err(SealError::Exhausted));
    }
}

#[test]
#[should_panic(expected = "was given the seal key of b1")]
fn a_node_cannot_start_with_another_nodes_key() {
    let _ = NodeSealer::new(master().node_key(node("b1")), node("a1"), 1, EVENT, BUILD);
}

proptest! {
    #[test]
    fn every_issue_reads_back(
        user: u64, record: [u8; RECORD_LEN], slot: u16, file: u32, index: u32, issued: u64,
    ) {
        let issue = Issue {
            record: Record(record),
            slot: SlotNo(slot),
            file: FileNo(file),
            index,
            issued_ms: UnixMs(issued),
        };
        let sealed = sealer("c3").seal(UserId(user), &issue).expect("sealed");
        prop_assert_eq!(unsealer().open(UserId(user), &sealed), Ok((issue, node("c3"))));
    }

    #[test]
    fn no_guess_opens(bytes in proptest::collection::vec(any::<u8>(), 0..100), user: u64) {
        prop_assert!(unsealer().open(UserId(user), &bytes).is_err());
    }
}
