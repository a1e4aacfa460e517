//! Which of the two copies is in force, and what is wrong with the other.
//!
//! Rules, as the reference has them:
//! 1. the primary is read at 0; the secondary at the size that the primary states;
//! 2. without a good primary the secondary is looked for at all nine sizes, ascending, and the first good one is taken;
//! 3. a copy is good when its magic, version, size, offset, checksum, JSON and every rule of the metadata are right;
//! 4. both good: the higher sequence number wins. Equal numbers with different content should not be; then the primary
//!    wins, as it is the copy that is written first, and the conflict is reported ([`RepairReason::Conflict`]);
//! 5. both copies and the keyslots area must fit the device.
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
    /// Reading failed.
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
/// See [`ResolveError`]. A failing read of one copy is an error, not a bad copy: a device that answers sometimes must not
/// lead to a repair.
pub fn resolve(
    read: &mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
    device_len: u64,
) -> Result<Resolved, ResolveError> {
    let mut reader = Reader { read, device_len };
    let primary = reader.copy(HeaderCopy::Primary, 0)?;
    let secondary = match &primary {
        Ok((header, _)) => reader.copy(HeaderCopy::Secondary, header.size.bytes())?,
        Err(_) => reader.probe()?,
    };
    let state = |found: &Found| match found {
        Ok((header, salt)) => CopyState::Good {
            seqid: header.seqid,
            salt: *salt,
        },
        Err(error) => CopyState::Bad(error.clone()),
    };
    let (primary_state, secondary_state) = (state(&primary), state(&secondary));
    let (header, in_force, repair) = choose(primary, secondary)?;
    let need = header.metadata.total_bytes();
    if need > device_len {
        return Err(ResolveError::DeviceTooSmall {
            need,
            have: device_len,
        });
    }
    Ok(Resolved {
        header,
        in_force,
        repair,
        primary: primary_state,
        secondary: secondary_state,
    })
}

type Found = Result<(Header, [u8; SALT_BYTES]), FormatError>;

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
        (Ok((first, _)), Err(error)) => Ok((
            first,
            Primary,
            repair(Secondary, RepairReason::Damaged(error)),
        )),
        (Err(error), Ok((second, _))) => Ok((
            second,
            Secondary,
            repair(Primary, RepairReason::Damaged(error)),
        )),
        (Err(FormatError::Version(1)), Err(FormatError::NoMagic)) => Err(ResolveError::Luks1),
        (Err(FormatError::NoMagic), Err(FormatError::NoMagic)) => Err(ResolveError::NotLuks2),
        (Err(primary), Err(secondary)) => Err(ResolveError::BothBad { primary, secondary }),
    }
}

struct Reader<'a> {
    read: &'a mut dyn FnMut(u64, usize) -> io::Result<Vec<u8>>,
    device_len: u64,
}

impl Reader<'_> {
    fn bytes(
        &mut self,
        offset: u64,
        len: usize,
    ) -> Result<Result<Vec<u8>, FormatError>, ResolveError> {
        let room = self.device_len.saturating_sub(offset);
        if room < len as u64 {
            let have = usize::try_from(room).unwrap_or(usize::MAX);
            return Ok(Err(FormatError::TooShort {
                what: "header device",
                have,
                need: len,
            }));
        }
        let bytes = (self.read)(offset, len).map_err(|source| ResolveError::Read {
            offset,
            len,
            source,
        })?;
        if bytes.len() != len {
            let source = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(ResolveError::Read {
                offset,
                len,
                source,
            });
        }
        Ok(Ok(bytes))
    }

    /// One copy at one place. Reads the JSON area only behind a binary header that is right.
    fn copy(&mut self, copy: HeaderCopy, offset: u64) -> Result<Found, ResolveError> {
        let binary = match self.bytes(offset, BINARY_BYTES)? {
            Ok(bytes) => bytes,
            Err(_) => return Ok(Err(FormatError::NoMagic)),
        };
        let fields = match BinaryHeader::decode(&binary, copy, offset) {
            Ok(fields) => fields,
            Err(error) => return Ok(Err(error)),
        };
        // At most 4 MiB, so this fits any usize that Rust's standard library knows.
        let Ok(len) = usize::try_from(fields.size.bytes()) else {
            return Ok(Err(FormatError::HeaderSize(fields.size.bytes())));
        };
        match self.bytes(offset, len)? {
            Ok(bytes) => Ok(Header::decode(&bytes, copy, offset)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// The first good secondary of all nine places; else the most telling failure.
    fn probe(&mut self) -> Result<Found, ResolveError> {
        let mut worst = FormatError::NoMagic;
        for size in HeaderSize::ALL {
            match self.copy(HeaderCopy::Secondary, size.bytes())? {
                Ok(found) => return Ok(Ok(found)),
                Err(FormatError::NoMagic) => {}
                Err(error) => {
                    if worst == FormatError::NoMagic {
                        worst = error;
                    }
                }
            }
        }
        Ok(Err(worst))
    }
}
