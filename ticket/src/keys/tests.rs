//! Keys as text, key derivation, key lists.

use std::os::unix::fs::PermissionsExt;

use world::disk::RealDisk;

use super::*;

fn node(name: &str) -> NodeId {
    name.parse().expect("a node")
}

#[test]
fn key_files_read_back_and_only_their_owner_can_read_them() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("build.key");
    let secret = BuildSecret::generate().expect("entropy");
    secret.publish(&path).expect("published");
    assert_eq!(BuildSecret::load(&RealDisk, &path).expect("loads").0, secret.0);
    let mode = std::fs::metadata(&path).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let path = dir.path().join("a1.key");
    let key = SealMaster::generate().expect("entropy").node_key(node("a1"));
    key.publish(&path).expect("published");
    let loaded = NodeSealKey::load(&RealDisk, &path).expect("loads");
    assert_eq!((loaded.node(), &loaded.secret), (node("a1"), &key.secret));
}

#[test]
fn a_key_file_of_another_kind_is_refused() {
    let text = SealMaster::from_bytes([1; 32]).to_text();
    let error = BuildSecret::parse(&text).expect_err("another kind");
    assert_eq!(error, KeyTextError::Kind { found: "seal".to_owned(), expected: "build" });
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("x.key");
    std::fs::write(&path, text.as_bytes()).expect("written");
    let error = BuildSecret::load(&RealDisk, &path).expect_err("another kind").to_string();
    assert!(error.contains("x.key") && error.contains("seal key where a build key is needed"), "{error}");
    assert!(matches!(BuildSecret::load(&RealDisk, dir.path()), Err(KeyFileError::Io { .. })));
}

#[test]
fn a_key_text_altered_in_any_character_is_refused_and_never_shown() {
    let secret = BuildSecret::from_bytes([0xc3; 32]);
    let text = secret.to_text();
    for at in 0..text.len() - 1 {
        for other in [b'0', b'x', b' ', b'C'] {
            let mut bytes = text.as_bytes().to_vec();
            if bytes[at] == other {
                continue;
            }
            bytes[at] = other;
            let altered = String::from_utf8(bytes).expect("ASCII");
            let error = BuildSecret::parse(&altered).expect_err("altered").to_string();
            assert!(!error.contains("c3c3"), "{error}");
        }
    }
    for text in ["", "\n", "hongbao-key-1", "hongbao-key-1 build", "hongbao-key-1 build 00 00 00"] {
        assert!(BuildSecret::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?} {:?}", BuildSecret::from_bytes([7; 32]), SealMaster::from_bytes([7; 32]));
    assert_eq!(shown, "BuildSecret(secret) SealMaster(secret)");
    let key = SealMaster::from_bytes([7; 32]).node_key(node("a1"));
    assert_eq!(format!("{key:?}"), "NodeSealKey(a1, secret)");
}

#[test]
fn every_key_build_node_and_event_has_its_own_key() {
    let secret = BuildSecret::from_bytes([1; 32]);
    let (one, two) = (BuildId([1; 16]), BuildId([2; 16]));
    assert_ne!(secret.data_key(one, KeyId(1)), secret.data_key(one, KeyId(2)));
    assert_ne!(secret.data_key(one, KeyId(1)), secret.data_key(two, KeyId(1)));
    assert_ne!(BuildSecret::from_bytes([2; 32]).data_key(one, KeyId(1)), secret.data_key(one, KeyId(1)));
    let master = SealMaster::from_bytes([1; 32]);
    let (a1, b1) = (master.node_key(node("a1")), master.node_key(node("b1")));
    assert_ne!(a1.secret, b1.secret);
    let (spring, autumn) = (EventTag::of("spring"), EventTag::of("autumn"));
    assert_ne!(a1.seal_key(spring, one), a1.seal_key(autumn, one));
    assert_ne!(a1.seal_key(spring, one), a1.seal_key(spring, two));
}

#[test]
fn hkdf_is_the_one_of_rfc_5869() {
    // Appendix A.1 has a shorter output; A.3 has no salt, as node keys. Its first 32 bytes:
    let ikm = [0x0b; 22];
    let mut okm = [0u8; 32];
    Hkdf::<Sha256>::new(Some(&[]), &ikm).expand_multi_info(&[], &mut okm).expect("short");
    let expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d";
    assert_eq!(crate::hex::encode(&okm), expected);
}

#[test]
fn the_blacklist_is_asked_first_and_an_empty_whitelist_allows_nothing() {
    let mut list = KeyList::all(3);
    assert_eq!(list.check(KeyId(3)), Ok(()));
    assert_eq!(list.check(KeyId(4)), Err(KeyRefusal::NotWhitelisted));
    list.blacklist.insert(KeyId(3));
    assert_eq!(list.check(KeyId(3)), Err(KeyRefusal::Revoked));
    for key in [0, 1, u16::MAX] {
        assert_eq!(KeyList::default().check(KeyId(key)), Err(KeyRefusal::NotWhitelisted));
    }
}

#[test]
fn a_key_list_reads_back_and_another_format_is_refused() {
    let list = KeyList { blacklist: [KeyId(2)].into(), ..KeyList::all(2) };
    assert_eq!(list.encode(), br#"{"format":1,"whitelist":[1,2],"blacklist":[2]}"#);
    assert_eq!(KeyList::decode(&list.encode()).expect("reads"), list);
    let other = br#"{"format":2,"whitelist":[],"blacklist":[],"greylist":[]}"#;
    assert!(matches!(KeyList::decode(other), Err(KeyListError::Format(2))));
    for bad in [
        &b"{}"[..],
        b"",
        br#"{"format":1,"whitelist":[1]}"#,
        br#"{"format":1,"whitelist":[],"blacklist":[],"x":0}"#,
    ] {
        assert!(matches!(KeyList::decode(bad), Err(KeyListError::Json(_))));
    }
}
