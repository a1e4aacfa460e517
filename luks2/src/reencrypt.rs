//! What a re-encryption in progress leaves in the metadata: the slot that steers it.
//!
//! Such headers are read, checked and shown. Nothing here continues or ends one.

use crate::area::Area;

/// A keyslot of type `reencrypt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReencryptSlot {
    /// What is being done.
    pub mode: ReencryptMode,
    /// From which end.
    pub direction: Direction,
    /// Where protection data lies.
    pub area: Area,
    /// How a crash is survived.
    pub resilience: Resilience,
}

/// What is being done to the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReencryptMode {
    /// Another key or cipher.
    Reencrypt,
    /// Plain data becomes encrypted.
    Encrypt,
    /// Encrypted data becomes plain.
    Decrypt,
}

/// From which end of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ascending.
    Forward,
    /// Descending.
    Backward,
}

/// How the piece in work is protected against a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resilience {
    /// Not at all.
    None,
    /// Hashes of the old ciphertext.
    Checksum(Checksum),
    /// A copy of the old ciphertext.
    Journal,
    /// Data moves, the old copy stays readable.
    Datashift {
        /// Bytes by which data moves.
        shift_size: u64,
    },
    /// Both.
    DatashiftJournal {
        /// Bytes by which data moves.
        shift_size: u64,
    },
    /// Both.
    DatashiftChecksum {
        /// Hash and block.
        checksum: Checksum,
        /// Bytes by which data moves.
        shift_size: u64,
    },
    /// A kind that this program does not know.
    Other(String),
}

/// Parameters of the hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checksum {
    /// Hash name as written.
    pub hash: String,
    /// Bytes of a block; a power of two, at least 512.
    pub sector_size: u32,
}
