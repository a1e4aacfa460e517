//! Keys of sessions: the TPM's own derivations, its HMAC and its AES-CFB.
//!
//! TPM 2.0 Library, Part 1, "Cryptographic Support" (KDFa, KDFe) and "Session-Based Encryption".

use aes::Aes128;
use cipher::{BlockCipherEncrypt as _, KeyInit as _};
use luksmith_crypto::{CryptoError, Hash, SecretBytes};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Bytes of a SHA-256 digest.
pub(crate) const DIGEST_BYTES: usize = 32;
/// Bytes of a block, a key and a start value of AES-128.
const BLOCK_BYTES: usize = 16;

/// HMAC-SHA256 over the parts.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
    let mut tag = [0; DIGEST_BYTES];
    luksmith_crypto::hmac(Hash::Sha256, key, parts, &mut tag);
    tag
}

/// KDFa with HMAC-SHA256: `len` bytes from a key, a label and two contexts.
pub(crate) fn kdf_a(
    key: &[u8],
    label: &str,
    context_u: &[u8],
    context_v: &[u8],
    len: usize,
) -> Result<SecretBytes, CryptoError> {
    let bits = bits_of(len);
    fill(len, |counter| {
        hmac(
            key,
            &[
                &counter,
                label.as_bytes(),
                &[0],
                context_u,
                context_v,
                &bits,
            ],
        )
    })
}

/// KDFe with SHA-256: `len` bytes from a shared point.
pub(crate) fn kdf_e(
    shared_x: &[u8],
    label: &str,
    party_u: &[u8],
    party_v: &[u8],
    len: usize,
) -> Result<SecretBytes, CryptoError> {
    fill(len, |counter| {
        Sha256::new()
            .chain_update(counter)
            .chain_update(shared_x)
            .chain_update(label.as_bytes())
            .chain_update([0])
            .chain_update(party_u)
            .chain_update(party_v)
            .finalize()
            .into()
    })
}

fn bits_of(len: usize) -> [u8; 4] {
    u32::try_from(len * 8)
        .expect("derived keys are short")
        .to_be_bytes()
}

/// Fills `len` bytes with blocks, counted from 1.
fn fill(
    len: usize,
    mut block: impl FnMut([u8; 4]) -> [u8; DIGEST_BYTES],
) -> Result<SecretBytes, CryptoError> {
    SecretBytes::init_with(len, |out| {
        for (chunk, counter) in out.chunks_mut(DIGEST_BYTES).zip(1_u32..) {
            let bytes = Zeroizing::new(block(counter.to_be_bytes()));
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
        Ok(())
    })
}

/// Key and start value of one parameter.
pub(crate) struct ParameterKey(SecretBytes);

impl ParameterKey {
    /// For a parameter in the direction of the newer nonce.
    pub(crate) fn derive(
        session_value: &SecretBytes,
        nonce_newer: &[u8],
        nonce_older: &[u8],
    ) -> Result<Self, CryptoError> {
        kdf_a(
            session_value.expose(),
            "CFB",
            nonce_newer,
            nonce_older,
            2 * BLOCK_BYTES,
        )
        .map(Self)
    }

    /// A key of 16 bytes with a start value of zero, as the protection of an object has it.
    pub(crate) fn of_object(key: &SecretBytes) -> Result<Self, CryptoError> {
        SecretBytes::init_with(2 * BLOCK_BYTES, |both| {
            both[..BLOCK_BYTES].copy_from_slice(key.expose());
            Ok(())
        })
        .map(Self)
    }

    /// Encrypts in place (CFB with whole blocks).
    pub(crate) fn encrypt(&self, bytes: &mut [u8]) {
        self.run(bytes, |register, chunk| {
            for (byte, mask) in chunk.iter_mut().zip(register.iter_mut()) {
                *byte ^= *mask;
                *mask = *byte;
            }
        });
    }

    /// Decrypts in place.
    pub(crate) fn decrypt(&self, bytes: &mut [u8]) {
        self.run(bytes, |register, chunk| {
            for (byte, mask) in chunk.iter_mut().zip(register.iter_mut()) {
                let ciphertext = *byte;
                *byte ^= *mask;
                *mask = ciphertext;
            }
        });
    }

    /// `step` gets the mask and leaves the ciphertext in its place.
    fn run(&self, bytes: &mut [u8], step: impl Fn(&mut [u8; BLOCK_BYTES], &mut [u8])) {
        let (key, start) = self.0.expose().split_at(BLOCK_BYTES);
        let aes = Aes128::new_from_slice(key).expect("the key has the length of a key");
        let mut register = Zeroizing::new([0; BLOCK_BYTES]);
        register.copy_from_slice(start);
        for chunk in bytes.chunks_mut(BLOCK_BYTES) {
            let mut block = (*register).into();
            aes.encrypt_block(&mut block);
            *register = block.into();
            step(&mut register, chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST SP 800-38A, F.3.13: CFB128-AES128.
    #[test]
    fn cfb_is_that_of_the_standard() {
        let hex = |text: &str| hex::decode(text).unwrap();
        let mut both = hex("2b7e151628aed2a6abf7158809cf4f3c000102030405060708090a0b0c0d0e0f");
        let key = ParameterKey(SecretBytes::take_from(&mut both).unwrap());
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let mut bytes = plain.clone();
        key.encrypt(&mut bytes);
        assert_eq!(
            bytes,
            hex("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b")
        );
        key.decrypt(&mut bytes);
        assert_eq!(bytes, plain);
        bytes.truncate(21);
        key.encrypt(&mut bytes);
        assert_eq!(
            bytes,
            hex("3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0"),
            "a last part of a block"
        );
    }
}
