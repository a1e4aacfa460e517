//! The kernel's ublk structures, as libublk declares them, behind types that say what we use.

use libublk::sys;

/// What the driver can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Features(pub(crate) u64);

impl Features {
    /// Data moves by read and write calls on the char device (Linux 6.5). Needed.
    pub(crate) const USER_COPY: Self = Self(sys::UBLK_F_USER_COPY as u64);
    /// A dead server can be replaced (6.1). Needed.
    pub(crate) const USER_RECOVERY: Self = Self(sys::UBLK_F_USER_RECOVERY as u64);
    /// What the dead server had in hand is sent again (6.1). Needed.
    pub(crate) const USER_RECOVERY_REISSUE: Self = Self(sys::UBLK_F_USER_RECOVERY_REISSUE as u64);
    /// Each tag has a thread of its own to wait for (6.16). With it came the release of the char device as the place where
    /// a dead server's traces are removed, so the driver can be handed over at any moment.
    pub(crate) const PER_IO_DAEMON: Self = Self(sys::UBLK_F_PER_IO_DAEMON as u64);
    /// Commands are numbered as ioctls are (6.4).
    pub(crate) const CMD_IOCTL_ENCODE: Self = Self(sys::UBLK_F_CMD_IOCTL_ENCODE as u64);
    /// A stop command that refuses while the device is open (7.0). Used where present.
    pub(crate) const SAFE_STOP_DEV: Self = Self(sys::UBLK_F_SAFE_STOP_DEV as u64);

    /// Whether all bits of `other` are there.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What a device of ours is created with.
    pub(crate) fn of_our_devices() -> Self {
        Self(
            Self::USER_COPY.0
                | Self::USER_RECOVERY.0
                | Self::USER_RECOVERY_REISSUE.0
                | Self::CMD_IOCTL_ENCODE.0,
        )
    }

    /// The first needed feature that is missing, in words.
    pub(crate) fn missing(self) -> Option<&'static str> {
        [
            (Self::USER_RECOVERY, "recovery of a dead server (Linux 6.1)"),
            (
                Self::USER_RECOVERY_REISSUE,
                "re-issue on recovery (Linux 6.1)",
            ),
            (Self::USER_COPY, "user copy (Linux 6.5)"),
        ]
        .into_iter()
        .find_map(|(feature, name)| (!self.has(feature)).then_some(name))
    }
}

/// State of a device in the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DeviceState {
    Dead,
    Live,
    Quiesced,
    Other(u16),
}

/// What a device is created with and what the driver says about it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeviceInfo(pub(crate) sys::ublksrv_ctrl_dev_info);

impl DeviceInfo {
    /// A device that does not exist yet; the kernel chooses its number.
    pub(crate) fn new(queues: u16, depth: u16, max_io_bytes: u32, pid: i32, mark: u64) -> Self {
        Self(sys::ublksrv_ctrl_dev_info {
            nr_hw_queues: queues,
            queue_depth: depth,
            max_io_buf_bytes: max_io_bytes,
            dev_id: u32::MAX,
            ublksrv_pid: pid,
            flags: Features::of_our_devices().0,
            ublksrv_flags: mark,
            ..Default::default()
        })
    }

    pub(crate) fn dev_id(&self) -> u32 {
        self.0.dev_id
    }

    pub(crate) fn queues(&self) -> u16 {
        self.0.nr_hw_queues
    }

    pub(crate) fn depth(&self) -> u16 {
        self.0.queue_depth
    }

    pub(crate) fn max_io_bytes(&self) -> u32 {
        self.0.max_io_buf_bytes
    }

    /// The number that we put on the device when we made it; the kernel only keeps it.
    pub(crate) fn mark(&self) -> u64 {
        self.0.ublksrv_flags
    }

    pub(crate) fn features(&self) -> Features {
        Features(self.0.flags)
    }

    pub(crate) fn state(&self) -> DeviceState {
        match u32::from(self.0.state) {
            sys::UBLK_S_DEV_DEAD => DeviceState::Dead,
            sys::UBLK_S_DEV_LIVE => DeviceState::Live,
            sys::UBLK_S_DEV_QUIESCED => DeviceState::Quiesced,
            _ => DeviceState::Other(self.0.state),
        }
    }
}

/// Geometry and limits of a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Geometry {
    pub(crate) size_bytes: u64,
    pub(crate) logical_block: u32,
    pub(crate) physical_block: u32,
    pub(crate) io_min: u32,
    pub(crate) io_opt: u32,
    pub(crate) rotational: bool,
    pub(crate) read_only: bool,
    pub(crate) max_io_bytes: u32,
    /// Smallest unit of a discard in bytes, when discards are passed on.
    pub(crate) discard_granularity: Option<u32>,
}

/// [`Geometry`] as the driver takes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Params(pub(crate) sys::ublk_params);

/// The largest discard that is passed on as one request.
const MAX_DISCARD_SECTORS: u32 = (1 << 30) >> 9;

impl Params {
    /// What a device of this geometry is started with.
    ///
    /// The cache is always volatile and FUA offered, because only flushes make the
    /// backing safe. Zeroes are never written by a short command: a zero of the device is an
    /// encrypted sector of the backing, so the kernel sends zeroes as data.
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let shift = |bytes: u32| bytes.next_power_of_two().trailing_zeros() as u8;
        let logical = geometry.logical_block.max(512);
        let physical = geometry.physical_block.max(logical);
        let mut attrs = sys::UBLK_ATTR_VOLATILE_CACHE | sys::UBLK_ATTR_FUA;
        if geometry.read_only {
            attrs |= sys::UBLK_ATTR_READ_ONLY;
        }
        if geometry.rotational {
            attrs |= sys::UBLK_ATTR_ROTATIONAL;
        }
        let mut params = sys::ublk_params {
            len: size_of::<sys::ublk_params>() as u32,
            types: sys::UBLK_PARAM_TYPE_BASIC,
            basic: sys::ublk_param_basic {
                attrs,
                logical_bs_shift: shift(logical),
                physical_bs_shift: shift(physical),
                io_min_shift: shift(geometry.io_min.max(physical)),
                // Powers of two are all the driver takes: an optimal size that is none
                // (a RAID stripe of three disks) is left unsaid rather than rounded.
                io_opt_shift: match geometry.io_opt {
                    bytes if bytes.is_power_of_two() && bytes >= physical => shift(bytes),
                    _ => shift(geometry.io_min.max(physical)),
                },
                max_sectors: geometry.max_io_bytes >> 9,
                dev_sectors: geometry.size_bytes >> 9,
                ..Default::default()
            },
            ..Default::default()
        };
        if let Some(granularity) = geometry.discard_granularity {
            params.types |= sys::UBLK_PARAM_TYPE_DISCARD;
            params.discard = sys::ublk_param_discard {
                discard_granularity: granularity.max(logical),
                max_discard_sectors: MAX_DISCARD_SECTORS,
                max_discard_segments: 1,
                max_write_zeroes_sectors: 0,
                ..Default::default()
            };
        }
        Self(params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry() -> Geometry {
        Geometry {
            size_bytes: 1 << 30,
            logical_block: 512,
            physical_block: 4096,
            io_min: 4096,
            io_opt: 0,
            rotational: false,
            read_only: false,
            max_io_bytes: 128 << 10,
            discard_granularity: None,
        }
    }

    #[test]
    fn the_cache_is_volatile_and_zeroes_are_never_a_command() {
        for discard in [None, Some(4096)] {
            let params = Params::new(&Geometry {
                discard_granularity: discard,
                ..geometry()
            })
            .0;
            let attrs = params.basic.attrs;
            assert_ne!(attrs & sys::UBLK_ATTR_VOLATILE_CACHE, 0);
            assert_ne!(attrs & sys::UBLK_ATTR_FUA, 0);
            assert_eq!(params.discard.max_write_zeroes_sectors, 0);
        }
    }

    #[test]
    fn discard_is_offered_only_when_asked_for() {
        assert_eq!(
            Params::new(&geometry()).0.types & sys::UBLK_PARAM_TYPE_DISCARD,
            0
        );
        let with = Params::new(&Geometry {
            discard_granularity: Some(512),
            ..geometry()
        })
        .0;
        assert_ne!(with.types & sys::UBLK_PARAM_TYPE_DISCARD, 0);
        assert_eq!(with.discard.max_discard_segments, 1);
        assert_eq!(with.discard.discard_granularity, 512);
    }

    #[test]
    fn an_odd_optimal_size_is_left_unsaid() {
        let odd = Params::new(&Geometry {
            io_opt: 3 * 65536,
            ..geometry()
        })
        .0;
        assert_eq!(odd.basic.io_opt_shift, 12);
        let even = Params::new(&Geometry {
            io_opt: 65536,
            ..geometry()
        })
        .0;
        assert_eq!(even.basic.io_opt_shift, 16);
        assert_eq!(
            (even.basic.logical_bs_shift, even.basic.physical_bs_shift),
            (9, 12)
        );
    }

    #[test]
    fn missing_features_are_named() {
        assert_eq!(Features(0x1fe).missing(), None);
        assert_eq!(Features(0x7e).missing(), Some("user copy (Linux 6.5)"));
        assert!(Features(0x1f_ffff).has(Features::SAFE_STOP_DEV));
    }
}
