//! Cipher names of a header that protect nothing, whatever their spelling.
//!
//! The names come from an untrusted header, so the test errs to the strict side: a name is weak
//! when any of its parts is the null cipher or the mode ECB, also inside the kernel's own
//! notation (`capi:ecb(cipher_null)`).

use luksmith_luks2::{Metadata, SegmentKind};

/// True if `name` is empty, a null cipher, or any cipher in ECB mode.
pub(crate) fn is_weak(name: &str) -> bool {
    name.is_empty()
        || name
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .any(|part| {
                ["cipher_null", "null", "ecb", "none"]
                    .iter()
                    .any(|weak| part.eq_ignore_ascii_case(weak))
            })
}

/// The first data segment that protects nothing: its number and the cipher's name in the header,
/// or "linear" for one that is not encrypted at all.
///
/// While a reencryption is under way, plain segments have their place; in a header at rest they
/// are the null cipher's trick by another name.
pub(crate) fn weak_segment(metadata: &Metadata) -> Option<(u8, String)> {
    metadata.segments().iter().find_map(|(number, segment)| {
        let name = match segment.crypt() {
            Some(crypt) if is_weak(&crypt.encryption) => crypt.encryption.clone(),
            None if segment.kind == SegmentKind::Linear && !metadata.reencryption_in_progress() => {
                "linear".to_owned()
            }
            _ => return None,
        };
        Some((*number, name))
    })
}

#[cfg(test)]
mod tests {
    use super::is_weak;

    #[test]
    fn null_and_ecb_are_weak_in_every_spelling() {
        for name in [
            "cipher_null-ecb",
            "cipher_null",
            "CIPHER_NULL-cbc-plain",
            "null",
            "aes-ecb",
            "AES-ECB",
            "capi:ecb(cipher_null)-plain64",
            "capi:ecb(aes)-plain64",
            "",
        ] {
            assert!(is_weak(name), "{name}");
        }
    }

    #[test]
    fn real_ciphers_are_not_weak() {
        for name in [
            "aes-xts-plain64",
            "aes-cbc-essiv:sha256",
            "capi:xts(aes)-plain64",
            "twofish-xts-plain64",
        ] {
            assert!(!is_weak(name), "{name}");
        }
    }
}
