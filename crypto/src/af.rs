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
