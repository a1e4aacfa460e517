//! How large a lane is: number of tags, number and size of slots.

use luksmith_crypto::CryptoError;

/// Slots of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotClass {
    /// How many.
    pub count: u16,
    /// Size of each in bytes: a multiple of 4096.
    pub bytes: u32,
}

/// Size of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneConfig {
    /// Number of tags: requests that may be under way at a time.
    pub depth: u16,
    /// Slots for requests up to this size; `count` 0 for none.
    pub small: SlotClass,
    /// Slots for all others; as large as the largest request.
    pub large: SlotClass,
}

impl LaneConfig {
    /// A small slot for every tag up to 128, and large ones for 4 MiB in flight (at
    /// least two): 6 MiB of locked memory at depth 128 and requests up to 256 KiB.
    #[must_use]
    pub fn for_depth(depth: u16, max_io: u32) -> Self {
        let large = (LARGE_BYTES_IN_FLIGHT / max_io.max(1)).clamp(2, u32::from(depth).max(2));
        Self {
            depth,
            small: SlotClass {
                count: depth.min(128),
                bytes: SMALL_SLOT.min(max_io),
            },
            large: SlotClass {
                count: large.try_into().unwrap_or(u16::MAX),
                bytes: max_io,
            },
        }
    }

    /// Locked memory that the slots take, in bytes.
    #[must_use]
    pub fn locked_bytes(&self) -> u64 {
        [self.small, self.large]
            .iter()
            .map(|class| u64::from(class.count) * u64::from(class.bytes))
            .sum()
    }
}

const SMALL_SLOT: u32 = 16 << 10;
const LARGE_BYTES_IN_FLIGHT: u32 = 4 << 20;

/// Why a lane could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LaneError {
    /// The slots could not be had or locked.
    #[error("no locked memory for the buffers of a queue")]
    Memory(#[source] CryptoError),
    /// The system has no descriptor left for the bell that wakes a queue.
    #[error("no event to wake a queue with")]
    Bell(#[source] std::io::Error),
    /// The configuration makes no sense.
    #[error(
        "a queue of {depth} requests with large slots of {large} bytes cannot serve requests of {max_io} bytes"
    )]
    Config {
        /// Number of tags.
        depth: u16,
        /// Size of the large slots.
        large: u32,
        /// Longest request of the engine.
        max_io: u32,
    },
}
