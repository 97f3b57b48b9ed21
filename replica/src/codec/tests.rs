//! Round trips, golden bytes and refusals of the codec.

use super::*;
use proptest::prelude::*;

fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, node), index)
}

fn membership() -> Membership {
    let members: BTreeMap<u64, Peer> =
        [(1, "a:1"), (2, "b:1"), (9, "l:1")].map(|(id, addr)| (id, Peer { addr: addr.into() })).into();
    Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2])], members).expect("valid")
}

fn check_entry(payload: crate::types::Payload) {
    let entry = Entry { log_id: log_id(3, 258, 77), payload };
    let stored = store(&entry_to_pb(&entry));
    let loaded = entry_from_pb(load(stored).expect("stored")).expect("an entry");
    assert_eq!(loaded, entry);
}

#[test]
fn every_kind_of_entry_reads_back() {
    check_entry(EntryPayload::Blank);
    check_entry(EntryPayload::Normal(Proposal::pack(5, [b"x".as_slice(), b""].into_iter())));
    check_entry(EntryPayload::Membership(membership()));
}

#[test]
fn the_stored_bytes_are_frozen() {
    let entry = Entry {
        log_id: log_id(3, 258, 77),
        payload: EntryPayload::Normal(Proposal::pack(5, [b"x".as_slice()].into_iter())),
    };
    let golden = [
        1, // format
        10, 13, 8, 3, 17, 2, 1, 0, 0, 0, 0, 0, 0, 24, 77, // log id: term, member, index
        26, 9, 8, 5, 18, 5, 0, 0, 0, 1, b'x', // proposal: now, framed commands
    ];
    assert_eq!(store(&entry_to_pb(&entry)).as_ref(), golden);
    let vote = Vote { leader_id: LeaderId::new(3, 258), committed: true };
    assert_eq!(store(&vote_to_pb(&vote)).as_ref(), [1, 8, 3, 17, 2, 1, 0, 0, 0, 0, 0, 0, 24, 1]);
}

#[test]
fn votes_and_snapshot_metas_read_back() {
    for committed in [false, true] {
        let vote = Vote { leader_id: LeaderId::new(u64::MAX, 7), committed };
        assert_eq!(vote_from_pb(&vote_to_pb(&vote)), vote);
    }
    let metas = [
        SnapshotMeta::default(),
        SnapshotMeta {
            last_log_id: Some(log_id(1, 2, 3)),
            last_membership: StoredMembership::new(Some(log_id(1, 2, 1)), membership()),
        },
    ];
    for meta in metas {
        let stored = store(&snapshot_meta_to_pb(&meta));
        let loaded = snapshot_meta_from_pb(load(stored).expect("stored")).expect("a meta");
        assert_eq!(loaded, meta);
    }
}

#[test]
fn what_is_incomplete_is_refused() {
    assert_eq!(load::<pb::Vote>(Bytes::new()), Err(CodecError::Format { found: 0 }));
    assert_eq!(load::<pb::Vote>(Bytes::from_static(&[2, 8, 3])), Err(CodecError::Format { found: 2 }));
    assert_eq!(entry_from_pb(pb::Entry::default()), Err(CodecError::Missing("log_id")));
    let no_payload = pb::Entry { log_id: Some(pb::LogId::default()), payload: None };
    assert_eq!(entry_from_pb(no_payload), Err(CodecError::Missing("payload")));
    let homeless = pb::Membership { configs: vec![pb::Voters { ids: vec![4] }], members: vec![] };
    assert!(matches!(membership_from_pb(homeless), Err(CodecError::Membership(_))));
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut stored = vec![FORMAT];
        stored.extend(bytes);
        if let Ok(entry) = load::<pb::Entry>(stored.into()) {
            let _ = entry_from_pb(entry);
        }
    }
}
