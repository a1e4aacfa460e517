//! What a front end may ask for, checked once. Step 1 of the read path:
//! descriptor or wire command → [`Limits::read`] → [`Request`], or a [`Refusal`].
//!
//! A [`Request`] value cannot be out of range, unaligned, empty or too long: the
//! code behind it does not check again.

use crate::errno::Errno;

/// The bounds a request must keep; made by [`Engine::limits`](crate::Engine::limits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the volume in bytes; a multiple of `block`.
    pub len: u64,
    /// Every start and length is a multiple of this many bytes (a power of two).
    pub block: u32,
    /// Longest read or write in bytes; a multiple of `block`.
    pub max_io: u32,
    /// Writes and discards are refused.
    pub read_only: bool,
    /// Discards are carried out; refused otherwise.
    pub discard: bool,
}

/// A byte range inside the volume: not empty, aligned, in bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    start: u64,
    len: u32,
}

impl ByteRange {
    /// First byte, counted from the start of the volume.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes; never 0.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(&self) -> u32 {
        self.len
    }
}

/// One request, valid by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the range.
    Read(ByteRange),
    /// Write the range; with `fua` it is durable when it is answered.
    Write {
        /// Where.
        range: ByteRange,
        /// Durable before the answer, without a flush of anything else.
        fua: bool,
    },
    /// Make every write that was answered before durable.
    Flush,
    /// Forget the content of the range; what a later read returns is not defined.
    Discard(ByteRange),
}

/// Why a request was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The range reaches past the end of the volume (or past 2^64).
    #[error("the range lies outside the volume")]
    OutOfRange,
    /// Start or length is not a multiple of the block size.
    #[error("start or length is not a multiple of the block size")]
    Unaligned,
    /// Longer than the largest request.
    #[error("the request is longer than the limit")]
    TooLong,
    /// A length of zero.
    #[error("the length is zero")]
    Empty,
    /// A write or discard on a read-only volume.
    #[error("the volume is read-only")]
    ReadOnly,
    /// Discard was not allowed when the volume was opened.
    #[error("discard is not allowed on this volume")]
    DiscardOff,
    /// An operation nobody offered (write-zeroes, zone commands, ...).
    #[error("the operation is not supported")]
    Unsupported,
}

impl Refusal {
    /// The error number that goes upwards.
    #[must_use]
    pub const fn errno(self) -> Errno {
        match self {
            Self::OutOfRange | Self::Unaligned | Self::TooLong | Self::Empty => Errno::INVAL,
            Self::ReadOnly => Errno::PERM,
            Self::DiscardOff | Self::Unsupported => Errno::OPNOTSUPP,
        }
    }
}

impl Limits {
    /// A read of `len` bytes from byte `start`.
    ///
    /// # Errors
    /// A [`Refusal`] when the range breaks a bound.
    pub fn read(&self, start: u64, len: u64) -> Result<Request, Refusal> {
        Ok(Request::Read(self.range(
            start,
            len,
            u64::from(self.max_io),
        )?))
    }

    /// A write of `len` bytes from byte `start`.
    ///
    /// # Errors
    /// A [`Refusal`] when the range breaks a bound or the volume is read-only.
    pub fn write(&self, start: u64, len: u64, fua: bool) -> Result<Request, Refusal> {
        if self.read_only {
            return Err(Refusal::ReadOnly);
        }
        Ok(Request::Write {
            range: self.range(start, len, u64::from(self.max_io))?,
            fua,
        })
    }

    /// A discard. It moves no data, so only [`MAX_DISCARD_BYTES`] bounds its length.
    ///
    /// # Errors
    /// A [`Refusal`] when the range breaks a bound, or discard is not allowed here.
    pub fn discard(&self, start: u64, len: u64) -> Result<Request, Refusal> {
        if self.read_only {
            return Err(Refusal::ReadOnly);
        }
        if !self.discard {
            return Err(Refusal::DiscardOff);
        }
        Ok(Request::Discard(self.range(
            start,
            len,
            u64::from(MAX_DISCARD_BYTES),
        )?))
    }

    /// A flush; always valid.
    #[must_use]
    pub const fn flush(&self) -> Request {
        Request::Flush
    }

    fn range(&self, start: u64, len: u64, max: u64) -> Result<ByteRange, Refusal> {
        if len == 0 {
            return Err(Refusal::Empty);
        }
        let end = start.checked_add(len).ok_or(Refusal::OutOfRange)?;
        if end > self.len {
            return Err(Refusal::OutOfRange);
        }
        let block = u64::from(self.block);
        if !start.is_multiple_of(block) || !len.is_multiple_of(block) {
            return Err(Refusal::Unaligned);
        }
        if len > max {
            return Err(Refusal::TooLong);
        }
        Ok(ByteRange {
            start,
            len: u32::try_from(len).map_err(|_| Refusal::TooLong)?,
        })
    }
}

/// Longest discard in bytes: the largest multiple of 4096 that a `u32` holds.
pub const MAX_DISCARD_BYTES: u32 = u32::MAX - 4095;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        len: 1 << 20,
        block: 4096,
        max_io: 256 << 10,
        read_only: false,
        discard: true,
    };

    #[test]
    fn each_broken_bound_has_its_own_refusal() {
        assert_eq!(LIMITS.read(0, 0), Err(Refusal::Empty));
        assert_eq!(LIMITS.read(1 << 20, 4096), Err(Refusal::OutOfRange));
        assert_eq!(LIMITS.read(u64::MAX - 4095, 8192), Err(Refusal::OutOfRange));
        assert_eq!(LIMITS.read(512, 4096), Err(Refusal::Unaligned));
        assert_eq!(LIMITS.read(0, 512), Err(Refusal::Unaligned));
        assert_eq!(LIMITS.read(0, (256 << 10) + 4096), Err(Refusal::TooLong));
        let read_only = Limits {
            read_only: true,
            ..LIMITS
        };
        assert_eq!(read_only.write(0, 4096, false), Err(Refusal::ReadOnly));
        assert_eq!(read_only.discard(0, 4096), Err(Refusal::ReadOnly));
        let no_discard = Limits {
            discard: false,
            ..LIMITS
        };
        assert_eq!(no_discard.discard(0, 4096), Err(Refusal::DiscardOff));
    }

    #[test]
    fn the_last_block_can_be_reached_and_the_one_after_cannot() {
        assert!(LIMITS.read((1 << 20) - 4096, 4096).is_ok());
        assert_eq!(
            LIMITS.read((1 << 20) - 4096, 8192),
            Err(Refusal::OutOfRange)
        );
    }

    #[test]
    fn a_discard_may_be_longer_than_a_write() {
        assert!(LIMITS.discard(0, 1 << 20).is_ok());
        assert_eq!(LIMITS.write(0, 1 << 20, false), Err(Refusal::TooLong));
    }

    proptest! {
        #[test]
        fn an_accepted_range_keeps_every_bound(start: u64, len: u64, block in 9u32..13, blocks in 0u64..1 << 52) {
            let block = 1u32 << block;
            let limits = Limits { len: blocks * u64::from(block), block, max_io: 1 << 20, read_only: false, discard: true };
            // values near the interesting edges as well as anywhere
            for start in [start, start % (limits.len + 8192), limits.len.wrapping_sub(start % 16384)] {
                for len in [len, len % (2 << 20), u64::from(block)] {
                    if let Ok(Request::Read(range)) = limits.read(start, len) {
                        prop_assert!(range.len() > 0);
                        prop_assert!(u128::from(range.start()) + u128::from(range.len()) <= u128::from(limits.len));
                        prop_assert!(range.len() <= limits.max_io);
                        prop_assert_eq!(range.start() % u64::from(block), 0);
                        prop_assert_eq!(range.len() % block, 0);
                    }
                }
            }
        }
    }
}
