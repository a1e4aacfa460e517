//! Key bytes: where they live, how they are made, and the one word that lets them out.
//!
//! A [`SecretBytes`] is born in its final place, moved, never cloned, printed, compared with
//! `==` or serialised, and wiped when it is dropped. `expose` is the only way to its bytes and
//! can be searched for. Last step of the unlock path: a candidate from a slot becomes a
//! [`VolumeKey`] only through [`VolumeKey::verified`].

use std::os::fd::{BorrowedFd, OwnedFd};

use subtle::ConstantTimeEq;

use crate::{
    CryptoError, VerifyError,
    digest::KeyDigest,
    lock::{Backing, LockedPages, SecretFile, SharedMap, wipe},
    random,
};

/// Secret bytes in locked memory that is left out of core dumps, does not reach forked
/// children, and is wiped on drop.
///
/// There is no `Debug`, `Display`, `Clone`, `PartialEq` or serialisation.
pub struct SecretBytes {
    pages: LockedPages,
    len: usize,
}

impl SecretBytes {
    /// `len` zero bytes. Zero bytes are allowed to be none (an empty passphrase).
    ///
    /// # Errors
    /// When memory cannot be had or locked.
    pub fn zeroed(len: usize) -> Result<Self, CryptoError> {
        Ok(Self {
            pages: LockedPages::new(len, Backing::Secret)?,
            len,
        })
    }

    /// `len` random bytes from the kernel.
    ///
    /// # Errors
    /// When memory cannot be had or locked, or the random generator fails.
    pub fn random(len: usize) -> Result<Self, CryptoError> {
        Self::init_with(len, random::fill)
    }

    /// Lets `init` fill `len` zeroed bytes in their final place.
    ///
    /// # Errors
    /// Those of [`SecretBytes::zeroed`] and those of `init`; what was written is wiped then.
    pub fn init_with<E: From<CryptoError>>(
        len: usize,
        init: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut secret = Self::zeroed(len)?;
        init(secret.expose_mut())?;
        Ok(secret)
    }

    /// Copies `source` into locked memory and wipes it, also when there is no memory.
    ///
    /// # Errors
    /// When memory cannot be had or locked.
    pub fn take_from(source: &mut [u8]) -> Result<Self, CryptoError> {
        let taken = Self::zeroed(source.len()).map(|mut secret| {
            secret.expose_mut().copy_from_slice(source);
            secret
        });
        wipe(source);
        taken
    }

    /// Length in bytes. (The length of a secret is not treated as secret.)
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The secret bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.pages.as_slice()[..self.len]
    }

    /// The secret bytes, to be changed in place.
    #[must_use]
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.pages.as_mut_slice()[..self.len]
    }

    /// Whether both hold the same bytes, in time that depends on the lengths only.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.expose().ct_eq(other.expose()).into()
    }

    /// Shortens to `len` bytes and wipes the rest.
    ///
    /// # Panics
    /// If `len` is longer than the secret.
    pub fn truncate(&mut self, len: usize) {
        assert!(len <= self.len, "a secret can only become shorter");
        wipe(&mut self.expose_mut()[len..]);
        self.len = len;
    }

    fn duplicate(&self) -> Result<Self, CryptoError> {
        Self::init_with(self.len, |bytes| {
            bytes.copy_from_slice(self.expose());
            Ok::<(), CryptoError>(())
        })
    }
}

/// What a person or a token gives to open a slot: raw bytes, no text rules.
pub struct Passphrase(SecretBytes);

impl Passphrase {
    /// Takes the bytes as they are.
    #[must_use]
    pub fn new(bytes: SecretBytes) -> Self {
        Self(bytes)
    }

    /// The passphrase.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both are the same (for "type it again"), in constant time.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0)
    }
}

/// A volume key: freshly generated, or verified against its digest. Its XTS halves differ.
pub struct VolumeKey(SecretBytes);

impl VolumeKey {
    /// A new random key of `len` bytes.
    ///
    /// # Errors
    /// When memory or random bytes cannot be had, for a length of zero, and with
    /// [`CryptoError::WeakKey`] should both XTS halves come out equal.
    pub fn generate(len: usize) -> Result<Self, CryptoError> {
        if len == 0 {
            return Err(CryptoError::Length {
                what: "volume key in bytes",
                is: 0,
            });
        }
        Self::checked(SecretBytes::random(len)?)
    }

    /// Accepts `candidate` if it matches `digest` (constant-time; length too, where the digest
    /// knows it) and is no weak XTS key. A refused candidate is wiped.
    ///
    /// # Errors
    /// [`VerifyError::DoesNotMatch`] for the wrong key; [`CryptoError::WeakKey`] for a key that
    /// matches but must not be used.
    pub fn verified(candidate: SecretBytes, digest: &KeyDigest) -> Result<Self, VerifyError> {
        if !digest.matches(&candidate)? {
            return Err(VerifyError::DoesNotMatch);
        }
        Ok(Self::checked(candidate)?)
    }

    /// Takes a key that its owner hands over where there is no digest yet: at format, or for an
    /// unbound slot (`--volume-key-file`). To open a volume, [`VolumeKey::verified`] is the way.
    ///
    /// # Errors
    /// For a length of zero, and [`CryptoError::WeakKey`] for equal XTS halves.
    pub fn adopt(key: SecretBytes) -> Result<Self, CryptoError> {
        if key.is_empty() {
            return Err(CryptoError::Length {
                what: "volume key in bytes",
                is: 0,
            });
        }
        Self::checked(key)
    }

    /// Every way to a `VolumeKey` goes through here.
    fn checked(key: SecretBytes) -> Result<Self, CryptoError> {
        if matches!(key.len(), 32 | 64) {
            refuse_equal_halves(key.expose())?;
        }
        Ok(Self(key))
    }

    /// The key.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no volume key is empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The key as plain secret bytes, for what is made from keys but is no volume key.
    #[must_use]
    pub fn as_secret(&self) -> &SecretBytes {
        &self.0
    }

    /// A second copy in locked memory, for the rare case that two owners must live apart.
    ///
    /// # Errors
    /// When memory cannot be had or locked.
    pub fn duplicate(&self) -> Result<Self, CryptoError> {
        Ok(Self(self.0.duplicate()?))
    }
}

/// Refuses a key whose halves are equal: XTS under it leaks (FIPS 140-3 IG C.I).
pub(crate) fn refuse_equal_halves(key: &[u8]) -> Result<(), CryptoError> {
    let (data, tweak) = key.split_at(key.len() / 2);
    if data.ct_eq(tweak).into() {
        Err(CryptoError::WeakKey)
    } else {
        Ok(())
    }
}

/// A volume key in a memory file, the one form that survives a fork.
///
/// The file is of `memfd_secret` where the kernel has it: reachable only through the
/// descriptor, never swapped, wiped by the kernel when the last descriptor is closed.
/// Elsewhere it is a `memfd` of fixed size; then [`KeyHandover::hold`] keeps it locked in the
/// process that keeps it, and [`KeyHandover::wipe`] must be called at the end.
///
/// Dropping only closes the descriptor, since other processes may live by the same file.
pub struct KeyHandover {
    file: SecretFile,
    held: Option<SharedMap>,
}

impl KeyHandover {
    /// Copies `key` into a new memory file, locked in this process until it is dropped.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub fn from_key(key: &VolumeKey) -> Result<Self, CryptoError> {
        let file = SecretFile::new(key.expose())?;
        let held = Some(file.hold()?);
        Ok(Self { file, held })
    }

    /// Takes over a descriptor that another process got from [`KeyHandover::as_fd`].
    ///
    /// # Errors
    /// When it is no memory file with a key in it.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, CryptoError> {
        let file = SecretFile::from_fd(fd)?;
        let held = Some(file.hold()?);
        Ok(Self { file, held })
    }

    /// Locks the memory in this process; to be called once after a fork by the child that
    /// keeps the key, because locks are not inherited.
    ///
    /// # Errors
    /// When it cannot be mapped or locked.
    pub fn hold(&mut self) -> Result<(), CryptoError> {
        self.held = Some(self.file.hold()?);
        Ok(())
    }

    /// The memory file (close-on-exec), to be sent over a socket or passed on.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.fd()
    }

    /// The key, in this process's own locked memory.
    ///
    /// # Errors
    /// When memory cannot be had, or the file was wiped: a wiped key has equal XTS halves and
    /// is refused as [`CryptoError::WeakKey`].
    pub fn open(&self) -> Result<VolumeKey, CryptoError> {
        let mut key = SecretBytes::zeroed(self.file.len())?;
        self.file
            .with_mapping(|there| key.expose_mut().copy_from_slice(there))?;
        VolumeKey::checked(key)
    }

    /// Overwrites the key, for every process that shares the file.
    ///
    /// # Errors
    /// When it cannot be mapped.
    pub fn wipe(&self) -> Result<(), CryptoError> {
        self.file.with_mapping(wipe)
    }
}
