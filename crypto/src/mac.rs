//! A key for message authentication that comes from the volume key and gives nothing of it away.

use hmac::digest::KeyInit;
use hmac::{Hmac, Mac};
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

use crate::{CryptoError, Hash, SecretBytes, VolumeKey, lock, selftest};

/// Bytes of a tag.
pub const TAG_BYTES: usize = 32;

/// Authenticates messages with HMAC-SHA-256, for one purpose.
pub struct MacKey(SecretBytes);

impl MacKey {
    /// The key for a purpose: HKDF-Expand with SHA-256 (RFC 5869, 2.3) to 32 bytes, the volume key as the pseudorandom key and
    /// the purpose as info. One HMAC therefore: of the purpose and a byte 1, under the volume key.
    ///
    /// # Errors
    /// When memory cannot be had, and for a failed self-test.
    pub fn derive(key: &VolumeKey, purpose: &str) -> Result<Self, CryptoError> {
        selftest::power_on()?;
        SecretBytes::init_with(TAG_BYTES, |derived| {
            let info = [purpose.as_bytes(), &[1]];
            hmac(Hash::Sha256, key.expose(), &info, derived);
            Ok(())
        })
        .map(Self)
    }

    /// The tag of a message.
    #[must_use]
    pub fn tag(&self, message: &[u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        hmac(Hash::Sha256, self.0.expose(), &[message], &mut tag);
        tag
    }

    /// Whether a tag, or as much as there is of it, is that of the message, in constant time. An empty one never is.
    #[must_use]
    pub fn accepts(&self, message: &[u8], tag: &[u8]) -> bool {
        let right = self.tag(message);
        match right.get(..tag.len()) {
            Some(right) if !tag.is_empty() => right.ct_eq(tag).into(),
            _ => false,
        }
    }
}

/// HMAC (RFC 2104) over the parts, one after the other. Nothing of the key stays on the stack: HMAC leaves it there,
/// XORed with a constant, and a process may fork next.
///
/// # Panics
/// If `out` is not as long as the hash.
pub fn hmac(hash: Hash, key: &[u8], parts: &[&[u8]], out: &mut [u8]) {
    match hash {
        Hash::Sha1 => compute::<Hmac<Sha1>>(key, parts, out),
        Hash::Sha224 => compute::<Hmac<Sha224>>(key, parts, out),
        Hash::Sha256 => compute::<Hmac<Sha256>>(key, parts, out),
        Hash::Sha384 => compute::<Hmac<Sha384>>(key, parts, out),
        Hash::Sha512 => compute::<Hmac<Sha512>>(key, parts, out),
    }
    lock::wipe_stack();
}

/// Its own stack frame, which is wiped when it was left.
#[inline(never)]
fn compute<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]], out: &mut [u8]) {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    out.copy_from_slice(&mac.finalize().into_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(purpose: &str) -> MacKey {
        let mut bytes: Vec<u8> = (0..64).collect();
        let key = VolumeKey::adopt(SecretBytes::take_from(&mut bytes).unwrap()).unwrap();
        MacKey::derive(&key, purpose).unwrap()
    }

    /// By `printf 'a purpose\001' | openssl dgst -sha256 -mac hmac -macopt hexkey:…`, and with what that gives as the
    /// key once more, of "message".
    #[test]
    fn a_tag_is_what_openssl_says() {
        let tag = key("a purpose").tag(b"message");
        assert_eq!(
            hex::encode(tag),
            "1f91207f7678f9942cade296c4104cbb43a4873bc5a95e72ca0ffd8a51ccc322"
        );
        assert_ne!(tag, key("another").tag(b"message"));
    }

    #[test]
    fn only_the_right_tag_is_accepted() {
        let key = key("a purpose");
        let mut tag = key.tag(b"message");
        assert!(key.accepts(b"message", &tag));
        assert!(key.accepts(b"message", &tag[..8]));
        assert!(!key.accepts(b"Message", &tag));
        assert!(!key.accepts(b"message", &[]));
        tag[7] ^= 1;
        assert!(!key.accepts(b"message", &tag[..8]));
        let mut longer = key.tag(b"message").to_vec();
        longer.push(0);
        assert!(!key.accepts(b"message", &longer));
    }
}
