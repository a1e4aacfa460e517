//! What all queues of one open volume share: the map and its gate, the backing, the
//! limits, and what has gone wrong so far.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use luksmith_volume::OpenVolume;

use crate::backing::{Backing, BackingAccess, BackingKind};
use crate::counters::{CountersSnapshot, QueueCounters};
use crate::peers::Peers;
use crate::request::Limits;

/// Longest read or write by default, in bytes.
pub const DEFAULT_MAX_IO: u32 = 256 << 10;

/// Bounds of [`EngineOptions::max_io`], in bytes.
pub const MAX_IO_RANGE: std::ops::RangeInclusive<u32> = (4 << 10)..=(1 << 20);

/// How a volume is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineOptions {
    /// Writes and discards are refused.
    pub read_only: bool,
    /// Discards reach the backing. Off by default: they show which blocks are in use.
    pub allow_discards: bool,
    /// Longest read or write in bytes; a power of two within [`MAX_IO_RANGE`].
    pub max_io: u32,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            read_only: false,
            allow_discards: false,
            max_io: DEFAULT_MAX_IO,
        }
    }
}

/// Why a volume cannot be served from this backing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The volume reaches past the end of the backing.
    #[error("the volume needs {needed} bytes of backing, but there are {there}")]
    BackingTooSmall {
        /// First byte after the volume's last extent.
        needed: u64,
        /// Length of the backing.
        there: u64,
    },
    /// The volume begins or ends at an offset that the backing cannot address.
    #[error("data offset {offset} is not a multiple of the backing's block size {align}")]
    OffsetUnaligned {
        /// Where an extent of the volume begins or ends on the backing, in bytes.
        offset: u64,
        /// What the backing wants.
        align: u32,
    },
    /// The volume's length is no multiple of the block size that it would have.
    #[error("size {len} is not a multiple of the block size {block}")]
    SizeUnaligned {
        /// Length of the volume in bytes.
        len: u64,
        /// Block size that sector size and backing together force.
        block: u32,
    },
    /// A volume without a single block.
    #[error("the volume has no room for data")]
    Empty,
    /// [`EngineOptions::max_io`] out of bounds.
    #[error("largest request {max_io} is not a power of two from 4 KiB to 1 MiB")]
    MaxIo {
        /// What was asked for.
        max_io: u32,
    },
    /// Writes are wanted on a backing that was opened for reading.
    #[error("the backing was opened read-only")]
    BackingReadOnly,
}

/// Geometry that a front end announces; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Unit of every request: the larger of encryption sector and backing block.
    pub logical_block: u32,
    /// Unit that is written without read-modify-write; a power of two, at least `logical_block`.
    pub physical_block: u32,
    /// Preferred smallest request; a power of two, at least `physical_block`.
    pub io_min: u32,
    /// Preferred request; a power of two, or 0.
    pub io_opt: u32,
    /// Unit of discard: the larger of the backing's and `logical_block`.
    pub discard_granularity: u32,
    /// Seeks cost time.
    pub rotational: bool,
}

/// An open volume on its backing, ready to be served by any number of lanes.
#[derive(Debug)]
pub struct Engine {
    volume: Arc<OpenVolume>,
    backing: Backing,
    limits: Limits,
    geometry: Geometry,
    flush_failed: AtomicBool,
    discard_by: AtomicU8,
    queues: Mutex<Vec<Arc<QueueCounters>>>,
    peers: Arc<Peers>,
}

/// Ways to discard on the backing, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum DiscardBy {
    /// The ring's block-discard command (kernel 6.12 and newer, block devices).
    BlockCommand = 0,
    /// `fallocate` with a hole: the way for files, and the fallback for devices, where
    /// the kernel unmaps only if the device can, and never writes zeroes itself.
    PunchHole = 1,
}

impl Engine {
    /// Checks that the volume fits the backing and derives limits and geometry.
    ///
    /// # Errors
    /// An [`EngineError`] naming the first thing that does not fit.
    pub fn new(
        volume: Arc<OpenVolume>,
        backing: Backing,
        options: EngineOptions,
    ) -> Result<Arc<Self>, EngineError> {
        if !MAX_IO_RANGE.contains(&options.max_io) || !options.max_io.is_power_of_two() {
            return Err(EngineError::MaxIo {
                max_io: options.max_io,
            });
        }
        if !options.read_only && backing.access() == BackingAccess::ReadOnly {
            return Err(EngineError::BackingReadOnly);
        }
        let below = *backing.geometry();
        let sector = volume.sector_size();
        let block = sector.max(below.offset_align);
        let len = volume.len();
        if len == 0 {
            return Err(EngineError::Empty);
        }
        if !len.is_multiple_of(u64::from(block)) {
            return Err(EngineError::SizeUnaligned { len, block });
        }
        check_places(&volume, &backing)?;
        let physical = power_of_two_or(below.physical_block, block).max(block);
        let geometry = Geometry {
            logical_block: block,
            physical_block: physical,
            io_min: power_of_two_or(below.io_min, physical).max(physical),
            io_opt: power_of_two_or(below.io_opt, 0),
            discard_granularity: power_of_two_or(below.discard_granularity, block).max(block),
            rotational: below.rotational,
        };
        let limits = Limits {
            len,
            block,
            max_io: options.max_io.max(block),
            read_only: options.read_only,
            discard: options.allow_discards,
        };
        let discard_by = match backing.kind() {
            BackingKind::BlockDevice => DiscardBy::BlockCommand,
            BackingKind::RegularFile => DiscardBy::PunchHole,
        };
        // After a thaw every lane looks at the requests that wait at the gate.
        let peers = Arc::new(Peers::default());
        let rung = Arc::downgrade(&peers);
        volume.gate().on_thaw(move || {
            if let Some(peers) = rung.upgrade() {
                peers.wake_all();
            }
        });
        Ok(Arc::new(Self {
            volume,
            backing,
            limits,
            geometry,
            flush_failed: AtomicBool::new(false),
            discard_by: AtomicU8::new(discard_by as u8),
            queues: Mutex::new(Vec::new()),
            peers,
        }))
    }

    /// The bounds every request must keep.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What a front end announces.
    #[must_use]
    pub const fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The volume being served.
    #[must_use]
    pub const fn volume(&self) -> &Arc<OpenVolume> {
        &self.volume
    }

    /// The ciphertext's place.
    #[must_use]
    pub const fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Whether a flush has failed, or a durable write that may have been told of what
    /// others lost. From then on no flush and no durable write succeeds: what the backing
    /// lost cannot be known, and a later success of `fdatasync` would be a lie about
    /// data that it has already given up.
    #[must_use]
    pub fn flush_failed(&self) -> bool {
        self.flush_failed.load(Ordering::SeqCst)
    }

    /// The counters of all lanes together.
    #[must_use]
    pub fn counters(&self) -> CountersSnapshot {
        let mut sum = CountersSnapshot::default();
        for queue in self
            .queues
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            sum.merge(&queue.snapshot());
        }
        sum
    }

    pub(crate) fn new_queue(&self) -> Arc<QueueCounters> {
        let counters = Arc::new(QueueCounters::default());
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.push(Arc::clone(&counters));
        counters
    }

    /// Makes everything that was answered durable, outside of any queue: for the end
    /// of a service.
    ///
    /// # Errors
    /// The backing's failure, now or of any flush before (it is latched).
    pub fn sync(&self) -> std::io::Result<()> {
        if self.flush_failed() {
            return Err(std::io::Error::other(
                "an earlier flush of the backing failed",
            ));
        }
        if self.backing.access() == BackingAccess::ReadOnly {
            return Ok(());
        }
        self.backing
            .sync()
            .inspect_err(|_| self.latch_flush_failure())
    }

    pub(crate) const fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    pub(crate) fn latch_flush_failure(&self) {
        self.flush_failed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn discard_by(&self) -> DiscardBy {
        if self.discard_by.load(Ordering::Relaxed) == DiscardBy::BlockCommand as u8 {
            DiscardBy::BlockCommand
        } else {
            DiscardBy::PunchHole
        }
    }

    pub(crate) fn block_command_is_unknown(&self) {
        self.discard_by
            .store(DiscardBy::PunchHole as u8, Ordering::Relaxed);
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.backing.as_raw_fd()
    }
}

/// Every extent of the volume lies inside the backing, where it can be addressed.
fn check_places(volume: &OpenVolume, backing: &Backing) -> Result<(), EngineError> {
    let align = backing.geometry().offset_align;
    let guard = volume.lane().enter(0..volume.len());
    let extents = guard.map().extents(0, volume.len());
    for extent in extents.expect("a volume contains itself") {
        let offset = extent.backing_offset;
        // Both ends: a border inside the volume cuts requests where it lies.
        for edge in [offset, offset.saturating_add(extent.len)] {
            if !edge.is_multiple_of(u64::from(align)) {
                return Err(EngineError::OffsetUnaligned {
                    offset: edge,
                    align,
                });
            }
        }
        let needed = offset.saturating_add(extent.len);
        if needed > backing.len() {
            return Err(EngineError::BackingTooSmall {
                needed,
                there: backing.len(),
            });
        }
    }
    Ok(())
}

fn power_of_two_or(value: u32, otherwise: u32) -> u32 {
    if value.is_power_of_two() {
        value
    } else {
        otherwise
    }
}
