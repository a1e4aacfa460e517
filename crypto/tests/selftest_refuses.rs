//! A failed self-test stops everything. One test only: its process cannot be used for more.

use luksmith_crypto::{
    Argon2Variant, CipherSpec, CryptoError, Hash, Kdf, KdfCaps, KeyDigest, Passphrase, SecretBytes,
    SectorCipher, SectorSize, VolumeKey, af, selftest,
};

#[test]
fn after_a_failed_self_test_nothing_works_any_more() {
    selftest::flip_a_bit_in("AES-256-XTS decryption");
    let refused = |outcome: Result<(), CryptoError>| {
        assert!(
            matches!(
                outcome,
                Err(CryptoError::SelfTest {
                    what: "AES-256-XTS decryption"
                })
            ),
            "{outcome:?}"
        );
    };
    let key = VolumeKey::generate(64).expect("a random key");
    let secret = SecretBytes::random(64).expect("random bytes");
    let passphrase = Passphrase::new(SecretBytes::random(8).expect("random bytes"));
    // The second round proves that the failure stays although the fault is gone.
    for _ in 0..2 {
        refused(selftest::power_on());
        refused(SectorCipher::for_area(CipherSpec::AesXtsPlain64, &secret).map(drop));
        refused(SectorCipher::new(CipherSpec::AesXtsPlain64, &key, SectorSize::S4096).map(drop));
        for kdf in [
            Kdf::Pbkdf2 {
                hash: Hash::Sha256,
                iterations: 1000,
            },
            Kdf::Argon2 {
                variant: Argon2Variant::Id,
                time: 1,
                memory_kib: 32,
                lanes: 1,
            },
        ] {
            refused(
                kdf.derive(&passphrase, &[0; 32], 64, &KdfCaps::default())
                    .map(drop),
            );
        }
        refused(KeyDigest::compute(&key, Hash::Sha256, &[0; 32], 1000).map(drop));
        refused(af::split(&secret, 4000, Hash::Sha256).map(drop));
        refused(af::merge(&secret, 32, 2, Hash::Sha256).map(drop));
        selftest::flip_a_bit_in("no test of this name");
    }
}
