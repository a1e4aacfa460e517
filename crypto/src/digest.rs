//! The volume-key digest: the only check that a key from a slot is the right one.

use subtle::ConstantTimeEq;

use crate::{CryptoError, Hash, KdfCaps, SecretBytes, VolumeKey, kdf, selftest};

/// PBKDF2 of a volume key, as a LUKS2 header stores it. Holds nothing secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyDigest {
    hash: Hash,
    salt: Vec<u8>,
    iterations: u32,
    digest: Vec<u8>,
    key_len: Option<usize>,
}

impl KeyDigest {
    /// Fewest iterations of a new digest.
    pub const MIN_ITERATIONS: u32 = 1000;

    /// The digest that a header states. `key_len` is the length in bytes that the key must
    /// have, where the caller knows it (from the segment's cipher): HMAC cannot tell a short
    /// key from the same key with zeroes behind it.
    ///
    /// # Errors
    /// For no iterations or more than `caps` allow, and a digest that is neither as long as
    /// its hash nor 20 bytes (as headers converted from LUKS1 have it).
    pub fn from_parts(
        hash: Hash,
        salt: Vec<u8>,
        iterations: u32,
        digest: Vec<u8>,
        key_len: Option<usize>,
        caps: &KdfCaps,
    ) -> Result<Self, CryptoError> {
        kdf::at_least("PBKDF2 iterations", u64::from(iterations), 1)?;
        kdf::at_most(
            "PBKDF2 iterations",
            u64::from(iterations),
            u64::from(caps.max_iterations),
        )?;
        if digest.len() != hash.len() && digest.len() != 20 {
            return Err(CryptoError::Length {
                what: "key digest in bytes",
                is: digest.len() as u64,
            });
        }
        Ok(Self {
            hash,
            salt,
            iterations,
            digest,
            key_len,
        })
    }

    /// The digest of `key`, for a new header.
    ///
    /// # Errors
    /// For a hash that only opens old headers, fewer than [`KeyDigest::MIN_ITERATIONS`], and a
    /// failed self-test.
    pub fn compute(
        key: &VolumeKey,
        hash: Hash,
        salt: &[u8],
        iterations: u32,
    ) -> Result<Self, CryptoError> {
        selftest::power_on()?;
        if !hash.allowed_for_new() {
            return Err(CryptoError::Unsupported {
                what: format!("hash {} in a new digest", hash.name()),
            });
        }
        kdf::at_least(
            "PBKDF2 iterations",
            u64::from(iterations),
            u64::from(Self::MIN_ITERATIONS),
        )?;
        let mut digest = vec![0; hash.len()];
        hash.pbkdf2(key.expose(), salt, iterations, &mut digest);
        Ok(Self {
            hash,
            salt: salt.to_vec(),
            iterations,
            digest,
            key_len: Some(key.len()),
        })
    }

    /// Whether `candidate` is the key of this digest. The comparison takes the same time
    /// wherever the first difference lies.
    ///
    /// # Errors
    /// A failed self-test.
    pub fn matches(&self, candidate: &SecretBytes) -> Result<bool, CryptoError> {
        selftest::power_on()?;
        if self.key_len.is_some_and(|len| len != candidate.len()) {
            return Ok(false);
        }
        let mut computed = vec![0; self.digest.len()];
        self.hash.pbkdf2(
            candidate.expose(),
            &self.salt,
            self.iterations,
            &mut computed,
        );
        Ok(computed.ct_eq(&self.digest).into())
    }

    /// The hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The salt.
    #[must_use]
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// PBKDF2 iterations.
    #[must_use]
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The digest itself.
    #[must_use]
    pub fn digest(&self) -> &[u8] {
        &self.digest
    }

    /// The length in bytes that a key must have, where it is known.
    #[must_use]
    pub fn key_len(&self) -> Option<usize> {
        self.key_len
    }
}
