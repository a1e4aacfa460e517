//! What several tests need: keys and ciphers with known bytes.

use luksmith_crypto::{Hash, KdfCaps, KeyDigest, SecretBytes, VolumeKey};

/// A secret with these bytes.
pub(crate) fn secret(bytes: &[u8]) -> SecretBytes {
    SecretBytes::take_from(&mut bytes.to_vec()).expect("locked memory")
}

/// A digest of any bytes, made without this crate.
pub(crate) fn digest_of(key: &[u8]) -> KeyDigest {
    let mut digest = vec![0; 32];
    let sha256 = openssl::hash::MessageDigest::sha256();
    openssl::pkcs5::pbkdf2_hmac(key, b"salt", 1, sha256, &mut digest).expect("OpenSSL derives");
    let caps = KdfCaps::default();
    KeyDigest::from_parts(
        Hash::Sha256,
        b"salt".to_vec(),
        1,
        digest,
        Some(key.len()),
        &caps,
    )
    .expect("a digest")
}

/// A volume key with these bytes.
pub(crate) fn volume_key(bytes: &[u8]) -> VolumeKey {
    VolumeKey::verified(secret(bytes), &digest_of(bytes)).expect("the key of its digest")
}
