//! A kernel descriptor becomes a [`Request`], or is refused.  Step 1 of the read path.

use libublk::sys;
use luksmith_data_path::{Errno, Limits, Request};

/// What the kernel wrote about one tag: op, flags, where and how much. Read once, so that a
/// later change by nobody can matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) op_flags: u32,
    pub(crate) nr_sectors: u32,
    pub(crate) start_sector: u64,
}

/// Says what is asked for, or with which error the tag must be answered: every operation we do
/// not know is "not supported", every range outside the volume is invalid.
pub(crate) fn parse(limits: &Limits, descriptor: Descriptor) -> Result<Request, Errno> {
    // What a flush has there is not a place: the kernel leaves the sector at its highest value.
    let start = descriptor.start_sector.saturating_mul(512);
    let len = u64::from(descriptor.nr_sectors) * 512;
    match descriptor.op_flags & 0xff {
        sys::UBLK_IO_OP_READ => limits.read(start, len),
        sys::UBLK_IO_OP_WRITE => {
            limits.write(start, len, descriptor.op_flags & sys::UBLK_IO_F_FUA != 0)
        }
        sys::UBLK_IO_OP_FLUSH => Ok(limits.flush()),
        sys::UBLK_IO_OP_DISCARD => limits.discard(start, len),
        _ => return Err(Errno::OPNOTSUPP),
    }
    .map_err(luksmith_data_path::Refusal::errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        len: 1 << 20,
        block: 4096,
        max_io: 128 << 10,
        read_only: false,
        discard: false,
    };

    fn descriptor(op_flags: u32, start_sector: u64, nr_sectors: u32) -> Descriptor {
        Descriptor {
            op_flags,
            nr_sectors,
            start_sector,
        }
    }

    #[test]
    fn reads_writes_and_flushes_are_understood() {
        let read = parse(&LIMITS, descriptor(sys::UBLK_IO_OP_READ, 8, 16)).unwrap();
        assert!(
            matches!(read, Request::Read(range) if range.start() == 4096 && range.len() == 8192)
        );
        let fua = sys::UBLK_IO_OP_WRITE | sys::UBLK_IO_F_FUA | sys::UBLK_IO_F_META;
        let write = parse(&LIMITS, descriptor(fua, 0, 8)).unwrap();
        assert!(matches!(write, Request::Write { fua: true, .. }));
        let write = parse(&LIMITS, descriptor(sys::UBLK_IO_OP_WRITE, 0, 8)).unwrap();
        assert!(matches!(write, Request::Write { fua: false, .. }));
        let flush = parse(&LIMITS, descriptor(sys::UBLK_IO_OP_FLUSH, 0, 0)).unwrap();
        assert!(matches!(flush, Request::Flush));
    }

    /// Every fsync on the device failed with "invalid argument" while this was refused.
    #[test]
    fn a_flush_has_no_place_and_is_still_a_flush() {
        let flush = descriptor(sys::UBLK_IO_OP_FLUSH, u64::MAX, 0);
        assert!(matches!(parse(&LIMITS, flush), Ok(Request::Flush)));
    }

    #[test]
    fn zeroes_zones_and_unknown_operations_are_not_supported() {
        for op in [
            sys::UBLK_IO_OP_WRITE_ZEROES,
            sys::UBLK_IO_OP_WRITE_SAME,
            sys::UBLK_IO_OP_ZONE_RESET,
            sys::UBLK_IO_OP_REPORT_ZONES,
            99,
            255,
        ] {
            assert_eq!(
                parse(&LIMITS, descriptor(op, 0, 8)).unwrap_err(),
                Errno::OPNOTSUPP,
                "{op}"
            );
        }
    }

    #[test]
    fn discard_is_not_supported_unless_allowed() {
        let discard = descriptor(sys::UBLK_IO_OP_DISCARD, 0, 8);
        assert_eq!(parse(&LIMITS, discard).unwrap_err(), Errno::OPNOTSUPP);
        assert!(
            parse(
                &Limits {
                    discard: true,
                    ..LIMITS
                },
                discard
            )
            .is_ok()
        );
    }

    #[test]
    fn ranges_outside_the_volume_never_reach_it() {
        for (start, len) in [
            (2048, 8),
            (2040, 16),
            (u64::MAX, 8),
            (u64::MAX / 512, 8),
            (0, 0),
            (1, 8),
        ] {
            assert!(parse(&LIMITS, descriptor(sys::UBLK_IO_OP_READ, start, len)).is_err());
        }
    }
}
