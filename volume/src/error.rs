//! What can go wrong with a header on a device.

use std::io;
use std::path::PathBuf;

use luksmith_luks2::{FormatError, HeaderCopy, ResolveError, SeqId};

use crate::lock::LockError;
use crate::probe::Signature;

/// Why the header store could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The metadata lock could not be had.
    #[error("the header cannot be locked")]
    Lock(#[from] LockError),
    /// There is no usable header.
    #[error("no usable header")]
    Resolve(#[from] ResolveError),
    /// The change cannot be made of this header.
    #[error("the header cannot be changed like this")]
    Format(#[from] FormatError),
    /// Somebody else changed the header since it was read.
    #[error("the header was changed by somebody else (number {found} instead of {expected})",
        found = .found.0, expected = .expected.0)]
    Concurrent {
        /// The sequence number that the change starts from.
        expected: SeqId,
        /// The one on the device; equal if the content differs all the same.
        found: SeqId,
    },
    /// An earlier write or flush failed; what the device holds is not known.
    #[error("an earlier write failed, so the state of the device is unknown")]
    Latched,
    /// The device was opened for reading only.
    #[error("the device is open for reading only")]
    ReadOnly,
    /// The device failed.
    #[error("cannot {action}")]
    Device {
        /// What was being done, e.g. `write the primary header`.
        action: &'static str,
        /// Whether anything had been written before.
        written: bool,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The device acknowledged a write and a flush and then returned other bytes.
    #[error("the device does not hold what was written to it ({what})")]
    ReadBack {
        /// What was written.
        what: &'static str,
    },
    /// A range that is not inside the keyslots area.
    #[error("{len} bytes at {offset} are not inside the keyslots area")]
    OutsideKeyslots {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// The primary header is gone and something else is on the device: nothing is written until
    /// somebody asks for a repair in so many words.
    #[error("the primary header is gone and the device holds {}", names(.0))]
    Foreign(Vec<Signature>),
    /// One copy of the header cannot be read: nothing is written until somebody asks for a repair.
    #[error("the {} header cannot be read: {why}", .copy.name())]
    Unreadable {
        /// Which copy.
        copy: HeaderCopy,
        /// What the device answered.
        why: String,
    },
    /// Both copies are good and bear the same number, but differ: no orderly writer leaves this.
    /// The primary is taken; nothing is written until somebody asks for a repair.
    #[error("the two copies of the header have the same number and differ")]
    Conflict,
    /// The backup file could not be made or read.
    #[error("cannot {action} the backup {}", path.display())]
    Backup {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The backup holds no usable header.
    #[error("{} is not a usable header backup", path.display())]
    BadBackup {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ResolveError,
    },
    /// The backup must not, or should not without a word, go onto this device. Nothing was written.
    #[error("the backup was not restored: {}", objections(.0))]
    RestoreRefused(Vec<RestoreObjection>),
}

impl StoreError {
    /// Whether something may have been written to the device.
    pub fn disk_was_written(&self) -> bool {
        match self {
            Self::Device { written, .. } => *written,
            Self::ReadBack { .. } => true,
            _ => false,
        }
    }

    pub(crate) fn device(action: &'static str, written: bool, source: io::Error) -> Self {
        Self::Device {
            action,
            written,
            source,
        }
    }
}

/// What speaks against restoring a backup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreObjection {
    /// The device has no LUKS2 header now. May be overruled.
    #[error("the device has no LUKS2 header")]
    NoHeader,
    /// The device's header has another UUID: it is another volume, or was formatted since. May be
    /// overruled.
    #[error("the UUID of the device is {present}, that of the backup {backup}")]
    OtherUuid {
        /// On the device.
        present: String,
        /// In the file.
        backup: String,
    },
    /// Data begins elsewhere, or header and slots have another size. May be overruled.
    #[error(
        "the layout differs (data at {present_data}, header of {present_total} bytes on the device; \
         data at {backup_data}, header of {backup_total} bytes in the backup)"
    )]
    OtherLayout {
        /// First byte of the data according to the device.
        present_data: u64,
        /// Bytes of header and keyslots on the device.
        present_total: u64,
        /// First byte of the data according to the backup.
        backup_data: u64,
        /// Bytes of header and keyslots in the backup.
        backup_total: u64,
    },
    /// A re-encryption is going on, on the device or in the backup: the backup knows nothing of how
    /// far it is. Final.
    #[error("a re-encryption is not finished ({0})")]
    Reencryption(&'static str),
    /// A requirement that this program does not know. Final.
    #[error("the header in the {0} has requirements that are not known")]
    Requirements(&'static str),
    /// The backup is larger than the device. Final.
    #[error("the backup needs {need} bytes, the device has {have}")]
    TooSmall {
        /// Bytes of the backup.
        need: u64,
        /// Bytes of the device.
        have: u64,
    },
}

impl RestoreObjection {
    /// Whether a person may decide otherwise.
    pub fn may_be_overruled(&self) -> bool {
        matches!(
            self,
            Self::NoHeader | Self::OtherUuid { .. } | Self::OtherLayout { .. }
        )
    }
}

fn names(signatures: &[Signature]) -> String {
    let mut names: Vec<_> = signatures.iter().map(|s| s.name).collect();
    names.dedup();
    names.join(", ")
}

fn objections(objections: &[RestoreObjection]) -> String {
    let texts: Vec<_> = objections.iter().map(ToString::to_string).collect();
    texts.join("; ")
}
