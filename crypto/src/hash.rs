//! The hash functions a LUKS2 header may name.

use pbkdf2::pbkdf2_hmac;
use sha1::Sha1;
use sha2::{Sha224, Sha256, Sha384, Sha512};

use crate::CryptoError;

/// A hash function, by the name it has in a header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Hash {
    /// SHA-1: opens old headers, is never chosen for new ones.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// All hashes, weakest first.
    pub const ALL: [Self; 5] = [
        Self::Sha1,
        Self::Sha224,
        Self::Sha256,
        Self::Sha384,
        Self::Sha512,
    ];

    /// The hash of that name ("sha256"). Case matters, as it does to the reference's parser
    /// of headers.
    ///
    /// # Errors
    /// [`CryptoError::Unsupported`] with the name.
    pub fn from_name(name: &str) -> Result<Self, CryptoError> {
        Self::ALL
            .into_iter()
            .find(|hash| hash.name() == name)
            .ok_or_else(|| CryptoError::Unsupported {
                what: format!("hash {name:?}"),
            })
    }

    /// The name in a header.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// Length of the hash in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no hash is empty")]
    #[must_use]
    pub fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// Whether new slots and digests may use it.
    #[must_use]
    pub fn allowed_for_new(self) -> bool {
        self != Self::Sha1
    }

    /// Hash of `prefix || data`, cut to the length of `out` (the AF splitter's step).
    pub(crate) fn of_prefixed(self, prefix: [u8; 4], data: &[u8], out: &mut [u8]) {
        fn run<H: sha2::Digest>(prefix: [u8; 4], data: &[u8], out: &mut [u8]) {
            let full = H::new().chain_update(prefix).chain_update(data).finalize();
            out.copy_from_slice(&full[..out.len()]);
        }
        match self {
            Self::Sha1 => run::<Sha1>(prefix, data, out),
            Self::Sha224 => run::<Sha224>(prefix, data, out),
            Self::Sha256 => run::<Sha256>(prefix, data, out),
            Self::Sha384 => run::<Sha384>(prefix, data, out),
            Self::Sha512 => run::<Sha512>(prefix, data, out),
        }
    }

    /// PBKDF2-HMAC with this hash (RFC 8018). `iterations` must not be zero.
    pub(crate) fn pbkdf2(self, password: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        assert!(iterations > 0, "callers check the iteration count");
        match self {
            Self::Sha1 => pbkdf2_hmac::<Sha1>(password, salt, iterations, out),
            Self::Sha224 => pbkdf2_hmac::<Sha224>(password, salt, iterations, out),
            Self::Sha256 => pbkdf2_hmac::<Sha256>(password, salt, iterations, out),
            Self::Sha384 => pbkdf2_hmac::<Sha384>(password, salt, iterations, out),
            Self::Sha512 => pbkdf2_hmac::<Sha512>(password, salt, iterations, out),
        }
        crate::lock::wipe_stack();
    }
}
