//! What can go wrong while handling keys and ciphers.

use std::io;

use thiserror::Error;

/// An error of this crate. No variant ever carries secret bytes.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// The kernel gave no memory.
    #[error("cannot allocate {bytes} bytes")]
    OutOfMemory {
        /// How many bytes were wanted.
        bytes: u64,
    },
    /// Memory could not be locked, so a secret would have been written to swap.
    #[error(
        "cannot lock {bytes} bytes of memory against swapping (limit of this process: {})",
        Limit(.limit)
    )]
    LockedMemory {
        /// How many bytes were to be locked by this one call.
        bytes: u64,
        /// The soft `RLIMIT_MEMLOCK` in bytes; `None` if it is unlimited or unknown.
        limit: Option<u64>,
        /// What the kernel said.
        source: io::Error,
    },
    /// A memory file or its mapping could not be made or used.
    #[error("cannot {what}")]
    MemoryFile {
        /// The step that failed.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's random generator failed; nothing weaker is used instead.
    #[error("the kernel gave no random bytes: {0}")]
    Random(String),
    /// A power-on self-test failed; no cipher or key derivation works in this process any more.
    #[error("self-test failed: {what}")]
    SelfTest {
        /// The test that failed first.
        what: &'static str,
    },
    /// A cipher, hash or derivation that is not offered.
    #[error("unsupported {what}")]
    Unsupported {
        /// Kind and name, for example "cipher serpent-xts-plain64".
        what: String,
    },
    /// Both halves of an XTS key are equal, which XTS forbids.
    #[error("weak key: both halves of the XTS key are equal")]
    WeakKey,
    /// A cost parameter lies above the cap, so using it could exhaust the machine.
    #[error("{what} of {asked} is above the limit of {limit}")]
    CostTooHigh {
        /// Which cost, with its unit.
        what: &'static str,
        /// The value asked for.
        asked: u64,
        /// The highest accepted value.
        limit: u64,
    },
    /// A cost parameter lies below what the algorithm or the format allows.
    #[error("{what} of {asked} is below the minimum of {least}")]
    CostTooLow {
        /// Which cost, with its unit.
        what: &'static str,
        /// The value asked for.
        asked: u64,
        /// The lowest accepted value.
        least: u64,
    },
    /// A length or count does not fit.
    #[error("{what} cannot be {is}")]
    Length {
        /// What has the length, with its unit.
        what: &'static str,
        /// The value that does not fit.
        is: u64,
    },
}

/// Why a candidate did not become a [`crate::VolumeKey`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The candidate does not match the digest: wrong passphrase or damaged slot.
    #[error("the key does not match its digest")]
    DoesNotMatch,
    /// The check itself could not be done, or the key must not be used.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

struct Limit<'a>(&'a Option<u64>);

impl std::fmt::Display for Limit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(bytes) => write!(f, "{bytes} bytes"),
            None => f.write_str("none"),
        }
    }
}
