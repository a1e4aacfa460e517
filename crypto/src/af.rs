//! The anti-forensic splitter: spreads a key over many stripes, all of which are needed to
//! get it back, so that wiping any part of a slot area destroys the key.
//!
//! Format: LUKS1, kept by LUKS2 as AF type `luks1`. With `d` starting as zeroes, each stripe
//! but the last is XORed into `d`, which is then diffused; the last stripe XOR `d` is the key.

use crate::{CryptoError, Hash, SecretBytes, lock, random, selftest};

/// The number of stripes that LUKS2 uses.
pub const STRIPES: u32 = 4000;

/// Splits `key` into `stripes` stripes with fresh randomness.
///
/// # Errors
/// For fewer than two stripes, an empty key, a size beyond memory, a hash that only opens old
/// headers, and when random bytes or memory cannot be had.
pub fn split(key: &SecretBytes, stripes: u32, hash: Hash) -> Result<SecretBytes, CryptoError> {
    selftest::power_on()?;
    if !hash.allowed_for_new() {
        return Err(CryptoError::Unsupported {
            what: format!("hash {} in a new slot", hash.name()),
        });
    }
    split_with(key, stripes, hash, random::fill)
}

/// [`split`] with the source of the first stripes as an argument.
pub(crate) fn split_with(
    key: &SecretBytes,
    stripes: u32,
    hash: Hash,
    fill: impl FnOnce(&mut [u8]) -> Result<(), CryptoError>,
) -> Result<SecretBytes, CryptoError> {
    let len = material_len(key.len(), stripes)?;
    let mut material = SecretBytes::zeroed(len)?;
    let (random, last) = material.expose_mut().split_at_mut(len - key.len());
    fill(random)?;
    let state = fold(random, key.len(), hash)?;
    for ((out, mixed), byte) in last.iter_mut().zip(state.expose()).zip(key.expose()) {
        *out = mixed ^ byte;
    }
    Ok(material)
}

/// Puts a key of `key_len` bytes together from its stripes. Bytes of `material` beyond them
/// (the rest of the last sector) do not count.
///
/// # Errors
/// For fewer than two stripes, `key_len` zero, material that is too short, and when memory
/// cannot be had. Wrong material is not noticed: the result is then not the key, which the
/// digest tells.
pub fn merge(
    material: &SecretBytes,
    key_len: usize,
    stripes: u32,
    hash: Hash,
) -> Result<SecretBytes, CryptoError> {
    selftest::power_on()?;
    merge_untested(material, key_len, stripes, hash)
}

/// [`merge`] for the self-test itself.
pub(crate) fn merge_untested(
    material: &SecretBytes,
    key_len: usize,
    stripes: u32,
    hash: Hash,
) -> Result<SecretBytes, CryptoError> {
    let len = material_len(key_len, stripes)?;
    let Some(material) = material.expose().get(..len) else {
        return Err(CryptoError::Length {
            what: "split key material in bytes",
            is: material.len() as u64,
        });
    };
    let (random, last) = material.split_at(len - key_len);
    let mut key = fold(random, key_len, hash)?;
    for (byte, stripe) in key.expose_mut().iter_mut().zip(last) {
        *byte ^= stripe;
    }
    Ok(key)
}

/// XORs and diffuses every stripe into a state of `key_len` bytes.
fn fold(stripes: &[u8], key_len: usize, hash: Hash) -> Result<SecretBytes, CryptoError> {
    let mut state = SecretBytes::zeroed(key_len)?;
    let mut next = SecretBytes::zeroed(key_len)?;
    for stripe in stripes.chunks_exact(key_len) {
        for (byte, other) in state.expose_mut().iter_mut().zip(stripe) {
            *byte ^= other;
        }
        diffuse(state.expose(), next.expose_mut(), hash);
        std::mem::swap(&mut state, &mut next);
    }
    lock::wipe_stack();
    Ok(state)
}

/// Each hash-sized block becomes the hash of its number and itself; a short last block stays
/// short.
pub(crate) fn diffuse(data: &[u8], out: &mut [u8], hash: Hash) {
    let blocks = data.chunks(hash.len()).zip(out.chunks_mut(hash.len()));
    for (number, (block, out)) in (0u32..).zip(blocks) {
        hash.of_prefixed(number.to_be_bytes(), block, out);
    }
}

fn material_len(key_len: usize, stripes: u32) -> Result<usize, CryptoError> {
    if key_len == 0 {
        return Err(CryptoError::Length {
            what: "key in bytes",
            is: 0,
        });
    }
    if stripes < 2 {
        return Err(CryptoError::Length {
            what: "number of stripes",
            is: u64::from(stripes),
        });
    }
    usize::try_from(stripes)
        .ok()
        .and_then(|stripes| stripes.checked_mul(key_len))
        .ok_or(CryptoError::Length {
            what: "number of stripes",
            is: u64::from(stripes),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(bytes: &[u8]) -> SecretBytes {
        SecretBytes::take_from(&mut bytes.to_vec()).expect("locked memory")
    }

    fn counting(len: u8) -> SecretBytes {
        secret(&(0..len).collect::<Vec<u8>>())
    }

    #[test]
    fn diffusion_gives_the_known_answers() {
        let cases: [(&[u8], &str); 2] = [
            (
                &[0x11; 64],
                "96274dcb97b7b27a7287f1149f0e99e90a4289c4f5d539acbae4cc404ae44fbd\
                 fee345c9e944a2097067b4a311f024d6fa765073fe0bc0051b67b3cdfabd393c",
            ),
            // The last block is short.
            (
                &[0x22; 40],
                "4cd0c917a55d35b7679365c1c9523bbf6a88ad8807f68971bfce5f015d235be03f5e1623bb0223b0",
            ),
        ];
        for (data, expected) in cases {
            let mut seen = vec![0; data.len()];
            diffuse(data, &mut seen, Hash::Sha256);
            assert_eq!(hex::encode(seen), expected);
        }
    }

    #[test]
    fn two_stripes_give_the_known_answer() {
        let split = split_with(&counting(64), 2, Hash::Sha256, |random| {
            random.fill(0x11);
            Ok(())
        })
        .expect("a split");
        assert_eq!(
            hex::encode(&split.expose()[64..]),
            "96264fc893b2b47d7a8efb1f930397e61a539bd7e1c02fbba2fdd65b56f951a2\
             dec267eacd61842e584e9e883ddd0af9ca476240ca3ef632235e89f6c6800703"
        );
    }

    #[test]
    fn merge_undoes_split_for_each_hash_and_odd_key_lengths() {
        for hash in Hash::ALL.into_iter().filter(|hash| hash.allowed_for_new()) {
            for len in [1, 16, 31, 32, 33, 64, 96] {
                let key = counting(len);
                let split = split(&key, 7, hash).expect("a split");
                assert_eq!(split.len(), usize::from(len) * 7);
                let merged = merge(&split, key.len(), 7, hash).expect("a merge");
                assert!(merged.ct_eq(&key), "{} {len}", hash.name());
            }
        }
    }

    #[test]
    fn one_changed_bit_in_any_stripe_destroys_the_whole_key() {
        let key = counting(64);
        let mut split = split(&key, 5, Hash::Sha256).expect("a split");
        for stripe in 0..4 {
            split.expose_mut()[stripe * 64 + 3] ^= 1;
            let merged = merge(&split, 64, 5, Hash::Sha256).expect("a merge");
            split.expose_mut()[stripe * 64 + 3] ^= 1;
            let equal = merged
                .expose()
                .iter()
                .zip(key.expose())
                .filter(|(a, b)| a == b)
                .count();
            // Each hash block diffuses within itself and the next stripe only within blocks,
            // so the changed block of 32 bytes is lost.
            assert!(
                equal < 64 - 24,
                "{equal} bytes survived a change in stripe {stripe}"
            );
        }
    }

    #[test]
    fn material_may_be_longer_than_the_stripes_but_not_shorter() {
        let key = counting(33);
        let split = split(&key, 3, Hash::Sha256).expect("a split");
        let mut padded = split.expose().to_vec();
        padded.resize(512, 0xee);
        let merged = merge(&secret(&padded), 33, 3, Hash::Sha256).expect("a merge");
        assert!(merged.ct_eq(&key));
        assert!(merge(&secret(&split.expose()[1..]), 33, 3, Hash::Sha256).is_err());
    }

    #[test]
    fn absurd_parameters_are_errors() {
        let key = counting(32);
        assert!(
            split(&key, 1, Hash::Sha256).is_err(),
            "one stripe splits nothing"
        );
        assert!(split(&key, 0, Hash::Sha256).is_err());
        assert!(split(&secret(&[]), 4000, Hash::Sha256).is_err());
        assert!(
            split(&key, 4000, Hash::Sha1).is_err(),
            "SHA-1 only opens old headers"
        );
        assert!(merge(&key, 0, 4000, Hash::Sha256).is_err());
        assert!(merge(&key, usize::MAX, u32::MAX, Hash::Sha256).is_err());
    }
}
