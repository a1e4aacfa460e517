//! What can go wrong, sorted by whose fault it is.
//!
//! Names out of a header are printed escaped: whoever wrote the header also wrote them, and a
//! terminal obeys more than letters.

use std::fmt;

use luksmith_crypto::CryptoError;
use luksmith_luks2::FormatError;

use crate::unlock::{Attempt, Outcome, ReadError};

/// Why one keyslot did not give its key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// The header has no slot of this number.
    #[error("keyslot {0} is not in use")]
    NoSuchSlot(u8),
    /// The slot holds no key: it is the work area of a reencryption.
    #[error("keyslot {0} holds no key, it belongs to a reencryption")]
    NotAKey(u8),
    /// The slot holds a key, but not that of the data.
    #[error("keyslot {0} is not bound to the data (unbound key)")]
    Unbound(u8),
    /// The passphrase does not open this slot.
    #[error("wrong passphrase")]
    WrongSecret,
    /// The key area, or a data segment, names a cipher that does not encrypt.
    #[error("{place} uses {cipher:?}, which does not protect anything")]
    WeakCipher {
        /// "keyslot 3" or "segment 0".
        place: String,
        /// The name in the header.
        cipher: String,
    },
    /// The slot says that its key has a length that the cipher of the data does not take.
    #[error("keyslot {slot} holds a key of {found} bytes, which does not fit the data")]
    KeyLength {
        /// Number of the slot.
        slot: u8,
        /// Bytes that `key_size` of the slot says.
        found: usize,
    },
    /// The header demands something unknown, so none of its slots is tried.
    #[error("the header has an unknown requirement: {0:?}")]
    Requirement(String),
    /// The bytes of the key area that the caller read are too few.
    #[error("key area of slot {slot} is cut short: {found} of {expected} bytes")]
    AreaShort {
        /// Number of the slot.
        slot: u8,
        /// Bytes at hand.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The key area could not be read.
    #[error("cannot read the key area of slot {slot}")]
    Read {
        /// Number of the slot.
        slot: u8,
        /// What the device said.
        #[source]
        source: ReadError,
    },
    /// The header asks for a cost above the caps, memory is short, or an algorithm is unknown.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// The one line that sums up all tries; [`UnlockError::attempts`] has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnlockErrorKind {
    /// Slots or tokens were tried, none fits this secret.
    WrongSecret,
    /// The slot or token that was named does not exist.
    NoSuchSlot,
    /// There is nothing that could be tried (no slot, all `ignore`, no token).
    NothingToTry,
    /// At least one way was closed by missing memory or a cost above the caps, none opened.
    OutOfMemory,
    /// At least one key area could not be read, none opened.
    Device,
    /// A null or ECB cipher stands in the header.
    WeakCipher,
    /// Every way needs something that is not supported here.
    Unsupported,
    /// The header demands something unknown; nothing was tried.
    Requirement,
    /// A token needs a PIN and none was given.
    PinNeeded,
    /// The volume key that was given is not the one of this volume.
    WrongVolumeKey,
}

/// No key: why, and what was tried.
#[derive(Debug)]
pub struct UnlockError {
    /// The sum of it.
    pub kind: UnlockErrorKind,
    /// Each try in the order made, with its outcome.
    pub attempts: Vec<Attempt>,
    /// What the kind alone does not tell: the name of a requirement, the number of a slot.
    pub detail: Option<String>,
}

impl UnlockError {
    pub(crate) fn new(kind: UnlockErrorKind) -> Self {
        Self {
            kind,
            attempts: Vec::new(),
            detail: None,
        }
    }

    pub(crate) fn with_detail(kind: UnlockErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            attempts: Vec::new(),
            detail: Some(detail.into()),
        }
    }

    /// Sums up tries of which none opened. Memory and device faults outrank a wrong secret: they
    /// mean that the right passphrase may have been given.
    pub(crate) fn from_attempts(attempts: Vec<Attempt>) -> Self {
        let kind = attempts
            .iter()
            .filter_map(|attempt| match &attempt.outcome {
                Outcome::Opened => None,
                Outcome::Slot(error) => Some(kind_of(error)),
                Outcome::Token(error) => Some(error.kind()),
            })
            .max_by_key(|kind| rank(*kind))
            .unwrap_or(UnlockErrorKind::NothingToTry);
        Self {
            kind,
            attempts,
            detail: None,
        }
    }
}

impl fmt::Display for UnlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            UnlockErrorKind::WrongSecret => "no keyslot opens with this passphrase",
            UnlockErrorKind::NoSuchSlot => "there is no such keyslot or token",
            UnlockErrorKind::NothingToTry => "there is no keyslot or token to try",
            UnlockErrorKind::OutOfMemory => {
                "a keyslot needs more memory or time than is allowed here"
            }
            UnlockErrorKind::Device => "a key area could not be read",
            UnlockErrorKind::WeakCipher => "the header names a cipher that protects nothing",
            UnlockErrorKind::Unsupported => "no keyslot or token of a supported kind",
            UnlockErrorKind::Requirement => "the header has an unknown requirement",
            UnlockErrorKind::PinNeeded => "the token needs a PIN",
            UnlockErrorKind::WrongVolumeKey => "this is not the volume key of this volume",
        })?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for UnlockError {}

fn kind_of(error: &SlotError) -> UnlockErrorKind {
    match error {
        SlotError::WrongSecret => UnlockErrorKind::WrongSecret,
        SlotError::NoSuchSlot(_) => UnlockErrorKind::NoSuchSlot,
        SlotError::NotAKey(_) | SlotError::Unbound(_) => UnlockErrorKind::NothingToTry,
        SlotError::WeakCipher { .. } => UnlockErrorKind::WeakCipher,
        SlotError::AreaShort { .. } | SlotError::Read { .. } => UnlockErrorKind::Device,
        SlotError::KeyLength { .. } => UnlockErrorKind::Unsupported,
        SlotError::Requirement(_) => UnlockErrorKind::Requirement,
        SlotError::Crypto(error) => match error {
            CryptoError::OutOfMemory { .. }
            | CryptoError::LockedMemory { .. }
            | CryptoError::CostTooHigh { .. } => UnlockErrorKind::OutOfMemory,
            _ => UnlockErrorKind::Unsupported,
        },
    }
}

fn rank(kind: UnlockErrorKind) -> u8 {
    match kind {
        UnlockErrorKind::OutOfMemory => 7,
        UnlockErrorKind::Device => 6,
        UnlockErrorKind::WeakCipher => 5,
        UnlockErrorKind::WrongSecret | UnlockErrorKind::WrongVolumeKey => 4,
        UnlockErrorKind::PinNeeded => 3,
        UnlockErrorKind::Unsupported | UnlockErrorKind::Requirement => 2,
        UnlockErrorKind::NoSuchSlot => 1,
        UnlockErrorKind::NothingToTry => 0,
    }
}

/// Why a change was not planned. Nothing was written: planning writes nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The slot number is not 0..=31.
    #[error("keyslot number {0} is out of range (0..31)")]
    SlotRange(u8),
    /// The slot that was asked for is in use.
    #[error("keyslot {0} is already in use")]
    SlotInUse(u8),
    /// The slot that was named is not in use.
    #[error("keyslot {0} is not in use")]
    NoSuchSlot(u8),
    /// The slot holds no key: it is the work area of a reencryption, or of an unknown kind.
    #[error("keyslot {0} holds no key")]
    NotAKey(u8),
    /// Without this slot nothing opens the data any more.
    #[error("keyslot {0} is the last one that opens the data")]
    LastSlot(u8),
    /// The volume key at hand belongs to no digest of this header.
    #[error("the key at hand is not a key of this volume")]
    ForeignKey,
    /// The slot belongs to a reencryption, or one is under way.
    #[error("a reencryption is under way: keys cannot be changed now")]
    Reencrypting,
    /// The header demands something unknown, so it is not changed.
    #[error("the header has an unknown requirement: {0:?}")]
    Requirement(String),
    /// A null or ECB cipher for a new volume or slot.
    #[error("cipher {0:?} does not protect anything")]
    WeakCipher(String),
    /// A setting that has no meaning, or not this value.
    #[error("{option}: {why}")]
    Option {
        /// Name as the command line has it, without dashes.
        option: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The device is too small for header and data.
    #[error("the device has {have} bytes, {need} are needed for the header")]
    DeviceTooSmall {
        /// Bytes of the device.
        have: u64,
        /// Bytes needed.
        need: u64,
    },
    /// New key material, decrypted again, did not give the key. Nothing of it is used.
    #[error("the new key material did not stand its test: memory or processor may be faulty")]
    ProofFailed,
    /// Keys, costs, randomness.
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// No free number or no room for another slot, metadata that do not fit, another rule of the
    /// format that the result would break.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl PlanError {
    pub(crate) fn option(option: &'static str, why: impl Into<String>) -> Self {
        Self::Option {
            option,
            why: why.into(),
        }
    }
}
