//! Volume keys, their digests and the rules they keep.

mod common;

use common::{digest_of, secret, volume_key};
use luksmith_crypto::{CryptoError, Hash, KdfCaps, KeyDigest, SecretBytes, VerifyError, VolumeKey};

#[test]
fn a_digest_accepts_its_key_only() {
    let bytes: Vec<u8> = (0..64).collect();
    let digest = digest_of(&bytes);
    assert!(digest.matches(&secret(&bytes)).expect("a check"));
    for changed in [0, 31, 63] {
        let mut other = bytes.clone();
        other[changed] ^= 0x80;
        let refusal = VolumeKey::verified(secret(&other), &digest).err();
        assert!(
            matches!(refusal, Some(VerifyError::DoesNotMatch)),
            "{refusal:?}"
        );
    }
}

/// HMAC fills a short key up with zeroes, so key and key || 0 have the same digest.
#[test]
fn a_key_with_zeroes_behind_it_is_not_the_key() {
    let short: Vec<u8> = (1..=32).collect();
    let mut long = short.clone();
    long.resize(64, 0);
    let digest = digest_of(&short);
    let blind = KeyDigest::from_parts(
        digest.hash(),
        digest.salt().to_vec(),
        digest.iterations(),
        digest.digest().to_vec(),
        None,
        &KdfCaps::default(),
    )
    .expect("a digest");
    assert!(
        blind.matches(&secret(&long)).expect("a check"),
        "HMAC alone cannot tell"
    );
    assert!(!digest.matches(&secret(&long)).expect("a check"));
}

#[test]
fn equal_xts_halves_are_refused_although_the_digest_matches() {
    for half in [16, 32] {
        let bytes: Vec<u8> = (0..half).chain(0..half).collect();
        let refusal = VolumeKey::verified(secret(&bytes), &digest_of(&bytes)).err();
        assert!(
            matches!(refusal, Some(VerifyError::Crypto(CryptoError::WeakKey))),
            "{refusal:?}"
        );
    }
}

#[test]
fn computed_digests_are_those_of_openssl() {
    for hash in Hash::ALL.into_iter().filter(|hash| hash.allowed_for_new()) {
        let key = volume_key(&(0..64).collect::<Vec<u8>>());
        let digest = KeyDigest::compute(&key, hash, &[3; 32], 1000).expect("a digest");
        let mut expected = vec![0; hash.len()];
        let md = openssl::hash::MessageDigest::from_name(hash.name()).expect("a hash");
        openssl::pkcs5::pbkdf2_hmac(key.expose(), &[3; 32], 1000, md, &mut expected)
            .expect("OpenSSL derives");
        assert_eq!(digest.digest(), expected);
        assert_eq!((digest.iterations(), digest.key_len()), (1000, Some(64)));
        assert!(digest.matches(key.as_secret()).expect("a check"));
    }
}

#[test]
fn digests_keep_to_their_limits() {
    let key = VolumeKey::generate(64).expect("a key");
    assert!(
        KeyDigest::compute(&key, Hash::Sha256, &[0; 32], 999).is_err(),
        "too few"
    );
    assert!(
        KeyDigest::compute(&key, Hash::Sha1, &[0; 32], 1000).is_err(),
        "SHA-1 is old"
    );
    let caps = KdfCaps {
        max_iterations: 5000,
        ..KdfCaps::default()
    };
    let from = |iterations, len| {
        KeyDigest::from_parts(
            Hash::Sha512,
            vec![0; 32],
            iterations,
            vec![0; len],
            None,
            &caps,
        )
    };
    from(5000, 64).expect("as long as its hash");
    from(1, 20).expect("as converted from LUKS1");
    assert!(matches!(
        from(5001, 64),
        Err(CryptoError::CostTooHigh { .. })
    ));
    assert!(matches!(from(0, 64), Err(CryptoError::CostTooLow { .. })));
    for len in [0, 1, 19, 63, 65] {
        assert!(
            matches!(from(1000, len), Err(CryptoError::Length { .. })),
            "{len}"
        );
    }
}

#[test]
fn a_digest_of_twenty_bytes_is_a_prefix_of_the_whole() {
    let bytes: Vec<u8> = (0..32).collect();
    let digest = digest_of(&bytes);
    let short = KeyDigest::from_parts(
        Hash::Sha256,
        digest.salt().to_vec(),
        1,
        digest.digest()[..20].to_vec(),
        Some(32),
        &KdfCaps::default(),
    )
    .expect("a digest");
    assert!(short.matches(&secret(&bytes)).expect("a check"));
}

#[test]
fn generated_keys_differ_and_have_the_length_asked_for() {
    let keys: Vec<VolumeKey> = (0..8)
        .map(|_| VolumeKey::generate(64).expect("a key"))
        .collect();
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(key.len(), 64);
        for other in &keys[..i] {
            assert!(!key.as_secret().ct_eq(other.as_secret()));
        }
    }
    assert!(VolumeKey::generate(0).is_err());
    let copy = keys[0].duplicate().expect("a copy");
    assert!(copy.as_secret().ct_eq(keys[0].as_secret()));
}

#[test]
fn secrets_are_taken_shortened_and_compared() {
    let mut source = *b"correct horse";
    let mut taken = SecretBytes::take_from(&mut source).expect("locked memory");
    assert_eq!(source, [0; 13], "the source is wiped");
    assert_eq!(taken.expose(), b"correct horse");
    assert!(taken.ct_eq(&secret(b"correct horse")));
    assert!(!taken.ct_eq(&secret(b"correct horsE")) && !taken.ct_eq(&secret(b"correct")));
    taken.truncate(7);
    assert_eq!((taken.expose(), taken.len()), (&b"correct"[..], 7));
    let none = SecretBytes::zeroed(0).expect("no bytes are allowed");
    assert!(none.is_empty() && none.expose().is_empty());
    let failed: Result<SecretBytes, CryptoError> = SecretBytes::init_with(4, |bytes| {
        bytes.fill(1);
        Err(CryptoError::WeakKey)
    });
    assert!(failed.is_err());
}

#[test]
fn hash_names_are_exact() {
    for hash in Hash::ALL {
        assert_eq!(Hash::from_name(hash.name()).expect("a name"), hash);
        assert_eq!(hash.allowed_for_new(), hash != Hash::Sha1);
    }
    for name in [
        "SHA256",
        "sha-256",
        "md5",
        "whirlpool",
        "sha3-256",
        "",
        "sha256 ",
    ] {
        assert!(Hash::from_name(name).is_err(), "{name:?}");
    }
}
