//! RSA-OAEP of a secret for a key of 2048 bits (RFC 8017, 7.1.1, with SHA-256), for storage keys
//! of TPMs that have no P-256 or were set up before it was usual.

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U64, U2048};
use luksmith_crypto::SecretBytes;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::derive::DIGEST_BYTES;
use super::salt::SharedSecret;
use crate::error::TpmError;
use crate::wire::RsaKey;

/// Bytes of the modulus.
const BYTES: usize = 256;
/// The exponent that every TPM uses by itself.
const EXPONENT: u32 = 65537;

/// Makes a secret and encrypts it to `key`.
pub(super) fn share(key: &RsaKey, label: &str) -> Result<SharedSecret, TpmError> {
    let modulus = modulus(key)?;
    let secret = SecretBytes::random(DIGEST_BYTES)?;
    let padded = pad(&secret, label)?;
    let message = Zeroizing::new(U2048::from_be_slice(padded.expose()));
    let params = FixedMontyParams::new_vartime(modulus);
    let message = Zeroizing::new(FixedMontyForm::new(&message, &params));
    // The exponent is public, the message is not: constant time in the message.
    let power = message.pow_bounded_exp(&U64::from(EXPONENT), EXPONENT.ilog2() + 1);
    let encrypted = power.retrieve().to_be_bytes().as_ref().to_vec();
    Ok(SharedSecret { secret, encrypted })
}

fn modulus(key: &RsaKey) -> Result<Odd<U2048>, TpmError> {
    let unsupported = || TpmError::Unsupported {
        what: "an RSA key of another size than 2048 bits or another exponent than 65537".to_owned(),
    };
    let usual = key.bits == 2048 && matches!(key.exponent, 0 | EXPONENT);
    if !usual || key.modulus.len() != BYTES || key.modulus[0] < 0x80 {
        return Err(unsupported());
    }
    Odd::new(U2048::from_be_slice(&key.modulus))
        .into_option()
        .ok_or_else(unsupported)
}

/// The padded message: zero, masked seed, masked (hash of the label, zeros, one, secret).
fn pad(secret: &SecretBytes, label: &str) -> Result<SecretBytes, TpmError> {
    let seed = SecretBytes::random(DIGEST_BYTES)?;
    // A TPM's labels end with a zero byte, which counts.
    let label = Sha256::new()
        .chain_update(label.as_bytes())
        .chain_update([0])
        .finalize();
    SecretBytes::init_with(BYTES, |out| {
        let (masked_seed, block) = out[1..].split_at_mut(DIGEST_BYTES);
        block[..DIGEST_BYTES].copy_from_slice(&label);
        let start = block.len() - secret.len();
        block[start - 1] = 1;
        block[start..].copy_from_slice(secret.expose());
        mask(block, seed.expose());
        masked_seed.copy_from_slice(seed.expose());
        mask(masked_seed, block);
        Ok(())
    })
}

/// Masks `bytes` by MGF1 with SHA-256 of `seed`.
fn mask(bytes: &mut [u8], seed: &[u8]) {
    for (chunk, counter) in bytes.chunks_mut(DIGEST_BYTES).zip(0_u32..) {
        let hash: [u8; DIGEST_BYTES] = Sha256::new()
            .chain_update(seed)
            .chain_update(counter.to_be_bytes())
            .finalize()
            .into();
        let hash = Zeroizing::new(hash);
        for (byte, mask) in chunk.iter_mut().zip(hash.iter()) {
            *byte ^= mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::encrypt::Decrypter;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::{Padding, Rsa};

    #[test]
    fn what_is_padded_here_is_decrypted_elsewhere() {
        let private = Rsa::generate(2048).unwrap();
        let key = RsaKey {
            bits: 2048,
            exponent: 0,
            modulus: private.n().to_vec(),
        };
        let private = PKey::from_rsa(private).unwrap();
        let shared = share(&key, "SECRET").unwrap();
        let mut judge = Decrypter::new(&private).unwrap();
        judge.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
        judge.set_rsa_oaep_md(MessageDigest::sha256()).unwrap();
        judge.set_rsa_mgf1_md(MessageDigest::sha256()).unwrap();
        judge.set_rsa_oaep_label(b"SECRET\0").unwrap();
        let mut plain = vec![0; judge.decrypt_len(&shared.encrypted).unwrap()];
        let len = judge.decrypt(&shared.encrypted, &mut plain).unwrap();
        assert_eq!(&plain[..len], shared.secret.expose());
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let good = RsaKey {
            bits: 2048,
            exponent: 65537,
            modulus: vec![0xFF; 256],
        };
        assert!(share(&good, "SECRET").is_ok());
        for bad in [
            RsaKey {
                bits: 1024,
                ..good.clone()
            },
            RsaKey {
                exponent: 1,
                ..good.clone()
            },
            RsaKey {
                modulus: vec![0xFF; 128],
                ..good.clone()
            },
            RsaKey {
                modulus: vec![0xFE; 256],
                ..good.clone()
            },
            RsaKey {
                modulus: vec![0x7F; 256],
                ..good
            },
        ] {
            let told = share(&bad, "SECRET");
            assert!(matches!(told, Err(TpmError::Unsupported { .. })));
        }
    }
}
