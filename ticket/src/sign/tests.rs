//! Signatures: what verifies and what must not.

use world::disk::RealDisk;

use super::*;

fn key() -> SigningKey {
    SigningKey::from_bytes([3; 32])
}

#[test]
fn a_signature_stands_for_its_domain_bytes_and_key_only() {
    let signature = key().sign("manifest", b"bytes");
    let public = key().verifying_key();
    assert_eq!(public.verify("manifest", b"bytes", &signature), Ok(()));
    assert_eq!(public.verify("roster", b"bytes", &signature), Err(BadSignature));
    assert_eq!(public.verify("manifest", b"byteS", &signature), Err(BadSignature));
    let other = SigningKey::from_bytes([4; 32]).verifying_key();
    assert_eq!(other.verify("manifest", b"bytes", &signature), Err(BadSignature));
    for bit in 0..SIGNATURE_LEN * 8 {
        let mut altered = *signature.as_bytes();
        altered[bit / 8] ^= 1 << (bit % 8);
        let altered = Signature::from_bytes(altered);
        assert_eq!(public.verify("manifest", b"bytes", &altered), Err(BadSignature), "bit {bit}");
    }
}

#[test]
fn domain_and_bytes_cannot_be_shifted_into_each_other() {
    let signature = key().sign("ab", b"c");
    assert_eq!(key().verifying_key().verify("a", b"bc", &signature), Err(BadSignature));
}

#[test]
fn the_empty_message_signs_as_in_rfc_8032() {
    // Test 1 of section 7.1, through the library this wraps.
    let secret = crate::hex::decode("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let key = SigningKey::from_bytes(secret.expect("hex"));
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    assert_eq!(key.verifying_key().to_string(), public);
    let signature = crate::hex::encode(&key.0.sign(b"").to_bytes());
    assert!(signature.starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"));
}

#[test]
fn keys_and_signatures_read_back_as_text_and_as_files() {
    let public = key().verifying_key();
    assert_eq!(public.to_string().parse(), Ok(public));
    let signature = key().sign("d", b"b");
    assert_eq!(signature.to_string().parse(), Ok(signature));
    let json = serde_json::to_string(&public).expect("json");
    assert_eq!(serde_json::from_str::<VerifyingKey>(&json).expect("reads"), public);

    let dir = tempfile::tempdir().expect("tempdir");
    let (secret_path, public_path) = (dir.path().join("sign.key"), dir.path().join("sign.pub"));
    key().publish(&secret_path).expect("published");
    public.publish(&RealDisk, &public_path).expect("published");
    let loaded = SigningKey::load(&RealDisk, &secret_path).expect("loads");
    assert_eq!(loaded.verifying_key(), public);
    assert_eq!(VerifyingKey::load(&RealDisk, &public_path).expect("loads"), public);
    assert!(
        VerifyingKey::load(&RealDisk, &secret_path).is_err(),
        "a secret is not taken for its public half"
    );
    assert!(SigningKey::load(&RealDisk, &public_path).is_err());
}

#[test]
fn what_is_no_key_or_signature_is_refused() {
    for text in ["", "00", &"zz".repeat(32), &"AA".repeat(32)] {
        assert!(text.parse::<VerifyingKey>().is_err(), "{text:?}");
        assert!(text.parse::<Signature>().is_err(), "{text:?}");
    }
    // y = 2 is not on the curve.
    let off_curve = format!("02{}", "00".repeat(31));
    assert!(off_curve.parse::<VerifyingKey>().is_err());
}

#[test]
fn a_weak_key_verifies_nothing() {
    // The neutral point: with it, some signature verifies every message unless checked strictly.
    let weak: VerifyingKey = format!("01{}", "00".repeat(31)).parse().expect("on the curve");
    let mut forged = [0u8; SIGNATURE_LEN];
    forged[0] = 1;
    assert_eq!(weak.verify("d", b"b", &Signature::from_bytes(forged)), Err(BadSignature));
}

#[test]
fn a_signing_key_shows_its_public_half_only() {
    let shown = format!("{:?}", key());
    assert_eq!(shown, format!("SigningKey(public {})", key().verifying_key()));
}
