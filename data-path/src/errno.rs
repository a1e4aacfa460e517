//! The one place where failures become error numbers. Every front end answers with
//! an [`Errno`], and no other value can be built.
//!
//! A block layer above us treats some numbers as "try again later" (`EAGAIN`,
//! `ENOMEM`, `EBUSY`): a device that answers with them makes it spin or drop the
//! data. [`Errno`] therefore has no such value; what is worth another try is tried
//! again inside the lane.

use nix::libc;

/// A positive error number that is safe to hand upwards.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Input/output error: whatever has no better name.
    pub const IO: Self = Self(libc::EIO);
    /// No room below us (thin device, sparse file).
    pub const NOSPC: Self = Self(libc::ENOSPC);
    /// The operation is not offered.
    pub const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// The device below did not answer in time.
    pub const TIMEDOUT: Self = Self(libc::ETIMEDOUT);
    /// Medium error: the sector cannot be read.
    pub const NODATA: Self = Self(libc::ENODATA);
    /// The device's own data protection failed.
    pub const ILSEQ: Self = Self(libc::EILSEQ);
    /// The device below is gone.
    pub const NODEV: Self = Self(libc::ENODEV);
    /// The request breaks a bound.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// Not permitted: a write to a read-only volume.
    pub const PERM: Self = Self(libc::EPERM);

    /// Maps an error number from below (positive) to the one that goes upwards.
    ///
    /// Numbers that mean "again", and any that are not known here, become
    /// [`Errno::IO`]: callers retry before they ask for this mapping.
    #[must_use]
    pub const fn upward(raw: i32) -> Self {
        match raw {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => Self::NOSPC,
            libc::EOPNOTSUPP | libc::ENOSYS => Self::OPNOTSUPP,
            libc::ETIMEDOUT => Self::TIMEDOUT,
            libc::ENODATA => Self::NODATA,
            libc::EILSEQ => Self::ILSEQ,
            libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM => Self::NODEV,
            // EINVAL from below is our own mistake (an alignment), never the
            // client's: its request was checked. It must not read as "your fault".
            _ => Self::IO,
        }
    }

    /// The number as `errno` has it: positive.
    #[must_use]
    pub const fn raw(self) -> i32 {
        self.0
    }

    /// The number as the kernel's completion interfaces have it: negative.
    #[must_use]
    pub const fn negative(self) -> i32 {
        -self.0
    }
}

impl std::fmt::Debug for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", nix::errno::Errno::from_raw(self.0))
    }
}

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(nix::errno::Errno::from_raw(self.0).desc())
    }
}

/// Whether a failed operation below is worth another try without telling anyone.
#[must_use]
pub(crate) const fn is_transient(raw: i32) -> bool {
    matches!(
        raw,
        libc::EAGAIN | libc::EINTR | libc::ENOMEM | libc::EBUSY | libc::ENOBUFS
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_from_below_becomes_one_that_means_try_again() {
        for raw in 0..4096 {
            let up = Errno::upward(raw);
            assert!(!is_transient(up.raw()), "{raw} became {up:?}");
            assert!(up.raw() > 0);
            assert_eq!(up.negative(), -up.raw());
        }
    }

    #[test]
    fn an_alignment_mistake_of_ours_is_not_blamed_on_the_client() {
        assert_eq!(Errno::upward(libc::EINVAL), Errno::IO);
    }
}
