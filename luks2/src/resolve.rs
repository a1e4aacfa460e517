//! Which of the two copies is in force, and what is wrong with the other.
//!
//! Rules, as the reference has them:
//! 1. the primary is read at 0; the secondary at the size that the primary states;
//! 2. without a good primary the secondary is looked for at all nine sizes, ascending, and the first good one is taken;
//! 3. a copy is good when its magic, version, size, offset, checksum, JSON and every rule of the metadata are right;
//! 4. both good: the higher sequence number wins. Equal numbers with different content should not be; then the primary
//!    wins, as it is the copy that is written first, and the conflict is reported ([`RepairReason::Conflict`]);
//! 5. a copy that cannot be read ([`CopyState::Unreadable`]) is not in force, but not known to be bad either: the other
//!    one serves if it is good. Only an explicit repair should rewrite it, as the device may just be flaky;
//! 6. both copies and the keyslots area must fit the device.
//!
//! Nothing is written here. [`Resolved::repair`] says which copy is to be rewritten from the one in force. Whoever does
//! that must first look for a foreign signature when the primary is the bad one ([`RepairReason::is_primary_gone`]), so
//! that a half-overwritten disk is not "repaired" over somebody's new file system.

use std::io;

use crate::binary::{BINARY_BYTES, BinaryHeader, HeaderCopy, HeaderSize, SALT_BYTES, SeqId};
use crate::error::FormatError;
use crate::header::Header;

/// A header that is in force, and the state of both copies.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// What is valid now.
    pub header: Header,
    /// From which copy it was taken.
    pub in_force: HeaderCopy,
    /// What is to be rewritten, if anything.
    pub repair: Option<Repair>,
    /// What was found at the place of the primary.
    pub primary: CopyState,
    /// What was found at the place of the secondary.
    pub secondary: CopyState,
}

/// One copy as found.
#[derive(Debug, Clone, PartialEq)]
pub enum CopyState {
    /// Checksum and all rules are right.
    Good {
        /// Its sequence number.
        seqid: SeqId,
        /// Its salt, which normal updates keep.
        salt: [u8; SALT_BYTES],
    },
    /// Not usable, and why.
    Bad(FormatError),
    /// The device did not give it, and what it said instead.
    Unreadable(String),
}

/// A copy that should be rewritten from the one in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Repair {
    /// Which.
    pub copy: HeaderCopy,
    /// Why.
    pub reason: RepairReason,
}

/// Why a copy should be rewritten.
#[derive(Debug, Clone, PartialEq)]
pub enum RepairReason {
    /// It is not usable.
    Damaged(FormatError),
    /// It is good, but older: a commit ended between the copies.
    Stale {
        /// Its sequence number.
        seqid: SeqId,
    },
    /// The device does not give it. It may be good, and newer: not to be rewritten but by an explicit repair.
    Unreadable(String),
    /// Same sequence number, other content. No orderly writer leaves this; say it loudly.
    Conflict,
}

impl RepairReason {
    /// True when the copy has no LUKS2 magic at all, so that something else may have been put on the device.
    #[must_use]
    pub fn is_primary_gone(&self) -> bool {
        matches!(self, Self::Damaged(FormatError::NoMagic))
    }
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No magic anywhere: this is no LUKS2 device.
    #[error("not a LUKS2 device")]
    NotLuks2,
    /// LUKS, but version 1.
    #[error("a LUKS1 device, only LUKS2 is known")]
    Luks1,
    /// There is a LUKS2 magic, but no usable copy.
    #[error("no usable header copy; primary: {primary}; secondary: {secondary}")]
    BothBad {
        /// What is wrong with the primary.
        primary: FormatError,
        /// What is wrong with the secondary.
        secondary: FormatError,
    },
    /// The header states more than the device has.
    #[error("header and keyslots take {need} bytes, the device has {have}")]
    DeviceTooSmall {
        /// Bytes that the header states.
        need: u64,
        /// Bytes of the device.
        have: u64,
    },
    /// Reading failed, and no copy that could be read is usable.
    #[error("reading {len} bytes at {offset}")]
    Read {
        /// Where.
        offset: u64,
        /// How many bytes.
        len: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads both copies through `read(offset, len)`, which must return exactly `len` bytes, and says which is in force.
/// `device_len` is the length of the header device; nothing is read beyond it.
///
/// # Errors
/// See [`ResolveError`].
pub fn resolve(
    read: &mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
    device_len: u64,
) -> Result<Resolved, ResolveError> {
    let mut reader = Reader { read, device_len };
    let primary = reader.copy(HeaderCopy::Primary, 0);
    let secondary = match &primary {
        Ok((header, _)) => reader.copy(HeaderCopy::Secondary, header.size.bytes()),
        Err(_) => reader.probe(),
    };
    let states = [CopyState::of(&primary), CopyState::of(&secondary)];
    let (header, in_force, repair) = choose(primary, secondary)?;
    let need = header.metadata.total_bytes();
    if need > device_len {
        return Err(ResolveError::DeviceTooSmall {
            need,
            have: device_len,
        });
    }
    let [primary, secondary] = states;
    Ok(Resolved {
        header,
        in_force,
        repair,
        primary,
        secondary,
    })
}

type Found = Result<(Header, [u8; SALT_BYTES]), NoCopy>;

/// Why there is no copy at a place.
enum NoCopy {
    Bad(FormatError),
    Unreadable {
        offset: u64,
        len: usize,
        source: io::Error,
    },
}

impl From<FormatError> for NoCopy {
    fn from(error: FormatError) -> Self {
        Self::Bad(error)
    }
}

impl NoCopy {
    fn reason(self) -> RepairReason {
        match self {
            Self::Bad(error) => RepairReason::Damaged(error),
            Self::Unreadable { source, .. } => RepairReason::Unreadable(source.to_string()),
        }
    }
}

impl CopyState {
    fn of(found: &Found) -> Self {
        match found {
            Ok((header, salt)) => Self::Good {
                seqid: header.seqid,
                salt: *salt,
            },
            Err(NoCopy::Bad(error)) => Self::Bad(error.clone()),
            Err(NoCopy::Unreadable { source, .. }) => Self::Unreadable(source.to_string()),
        }
    }
}

fn choose(
    primary: Found,
    secondary: Found,
) -> Result<(Header, HeaderCopy, Option<Repair>), ResolveError> {
    use HeaderCopy::{Primary, Secondary};
    let repair = |copy, reason| Some(Repair { copy, reason });
    match (primary, secondary) {
        (Ok((first, _)), Ok((second, _))) => {
            if first.seqid < second.seqid {
                let seqid = first.seqid;
                Ok((
                    second,
                    Secondary,
                    repair(Primary, RepairReason::Stale { seqid }),
                ))
            } else if first.seqid > second.seqid {
                let seqid = second.seqid;
                Ok((
                    first,
                    Primary,
                    repair(Secondary, RepairReason::Stale { seqid }),
                ))
            } else if first == second {
                Ok((first, Primary, None))
            } else {
                Ok((first, Primary, repair(Secondary, RepairReason::Conflict)))
            }
        }
        (Ok((first, _)), Err(no_copy)) => Ok((first, Primary, repair(Secondary, no_copy.reason()))),
        (Err(no_copy), Ok((second, _))) => {
            Ok((second, Secondary, repair(Primary, no_copy.reason())))
        }
        (Err(primary), Err(secondary)) => Err(neither(primary, secondary)),
    }
}

fn neither(primary: NoCopy, secondary: NoCopy) -> ResolveError {
    match (primary, secondary) {
        // What could not be read may have been a header; nothing else can be said.
        (
            NoCopy::Unreadable {
                offset,
                len,
                source,
            },
            _,
        )
        | (
            _,
            NoCopy::Unreadable {
                offset,
                len,
                source,
            },
        ) => ResolveError::Read {
            offset,
            len,
            source,
        },
        (NoCopy::Bad(FormatError::Version(1)), NoCopy::Bad(FormatError::NoMagic)) => {
            ResolveError::Luks1
        }
        (NoCopy::Bad(FormatError::NoMagic), NoCopy::Bad(FormatError::NoMagic)) => {
            ResolveError::NotLuks2
        }
        (NoCopy::Bad(primary), NoCopy::Bad(secondary)) => {
            ResolveError::BothBad { primary, secondary }
        }
    }
}

struct Reader<'a> {
    read: &'a mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
    device_len: u64,
}

impl Reader<'_> {
    fn bytes(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, NoCopy> {
        let room = self.device_len.saturating_sub(offset);
        if room < len as u64 {
            let have = usize::try_from(room).unwrap_or(usize::MAX);
            return Err(FormatError::TooShort {
                what: "header device",
                have,
                need: len,
            }
            .into());
        }
        let unreadable = |source| NoCopy::Unreadable {
            offset,
            len,
            source,
        };
        let bytes = (self.read)(offset, len).map_err(unreadable)?;
        if bytes.len() == len {
            Ok(bytes)
        } else {
            Err(unreadable(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    /// One copy at one place. Reads the JSON area only behind a binary header that is right.
    fn copy(&mut self, copy: HeaderCopy, offset: u64) -> Found {
        let binary = match self.bytes(offset, BINARY_BYTES) {
            // A device that ends before the place has nothing there.
            Err(NoCopy::Bad(_)) => return Err(FormatError::NoMagic.into()),
            other => other?,
        };
        let fields = BinaryHeader::decode(&binary, copy, offset)?;
        // At most 4 MiB, so this fits any usize that Rust's standard library knows.
        let len = usize::try_from(fields.size.bytes())
            .map_err(|_| FormatError::HeaderSize(fields.size.bytes()))?;
        let bytes = self.bytes(offset, len)?;
        Ok(Header::decode(&bytes, copy, offset)?)
    }

    /// The first good secondary of all nine places; else the most telling failure.
    fn probe(&mut self) -> Found {
        let mut failure = NoCopy::Bad(FormatError::NoMagic);
        for size in HeaderSize::ALL {
            match self.copy(HeaderCopy::Secondary, size.bytes()) {
                Ok(found) => return Ok(found),
                Err(NoCopy::Bad(FormatError::NoMagic)) => {}
                Err(other) => {
                    if matches!(failure, NoCopy::Bad(FormatError::NoMagic)) {
                        failure = other;
                    }
                }
            }
        }
        Err(failure)
    }
}
