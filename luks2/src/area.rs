//! The keyslots area: who lies where in it, and where there is room.
//!
//! Like the reference: first gap that fits, start and length multiples of 4096.

use crate::error::FormatError;
use crate::metadata::Metadata;

/// Areas start and end on multiples of this many bytes.
pub const ALIGNMENT: u64 = 4096;
/// The largest keyslots area, in bytes.
pub const MAX_KEYSLOTS_BYTES: u64 = 128 * 1024 * 1024;

/// A range of bytes on the header device, inside the keyslots area.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Area {
    /// First byte, counted from the start of the header device.
    pub offset: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Area {
    /// First byte behind it. `None` if there is no such number.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.offset.checked_add(self.size)
    }

    /// The part of it that lies in `whole`, if any.
    #[must_use]
    pub fn clipped_to(&self, whole: &Self) -> Option<Self> {
        let from = self.offset.max(whole.offset);
        let to = self
            .offset
            .saturating_add(self.size)
            .min(whole.offset.saturating_add(whole.size));
        (from < to).then(|| Self {
            offset: from,
            size: to - from,
        })
    }

    /// True when the two have a byte in common. An area that ends beyond 2^64 counts as reaching to the very end.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.size > 0
            && other.size > 0
            && self.offset < other.offset.saturating_add(other.size)
            && other.offset < self.offset.saturating_add(self.size)
    }
}

/// Bytes that the area of a key of `key_size` bytes takes: 4000 stripes, rounded up to [`ALIGNMENT`].
///
/// # Errors
/// [`FormatError::NoRoom`] when that is more than any keyslots area holds.
pub fn size_for_key(key_size: u32) -> Result<u64, FormatError> {
    let need =
        (u64::from(key_size) * u64::from(crate::metadata::AF_STRIPES)).next_multiple_of(ALIGNMENT);
    if need > MAX_KEYSLOTS_BYTES {
        Err(FormatError::NoRoom { need })
    } else {
        Ok(need)
    }
}

/// The gaps of the keyslots area: what no keyslot names and no wipe is owed for, ascending, cut to [`ALIGNMENT`].
#[must_use]
pub fn gaps(metadata: &Metadata) -> Vec<Area> {
    let whole = metadata.keyslots_area();
    let mut taken: Vec<Area> = metadata
        .keyslots()
        .values()
        .map(|slot| slot.area())
        .collect();
    taken.extend(metadata.owed_wipes());
    free_of(whole, taken)
        .into_iter()
        .filter_map(|gap| {
            let from = gap.offset.checked_next_multiple_of(ALIGNMENT)?;
            let to = gap.end()? / ALIGNMENT * ALIGNMENT;
            (from < to).then(|| Area {
                offset: from,
                size: to - from,
            })
        })
        .collect()
}

/// The gaps of `whole` that none of `taken` touches, ascending, to the byte.
pub(crate) fn free_of(whole: Area, mut taken: Vec<Area>) -> Vec<Area> {
    taken.sort_unstable();
    let whole_end = whole.offset.saturating_add(whole.size);
    let mut gaps = Vec::new();
    let mut at = whole.offset;
    let mut gap = |from: u64, to: u64| {
        if from < to {
            gaps.push(Area {
                offset: from,
                size: to - from,
            });
        }
    };
    for area in taken {
        if area.offset > at {
            gap(at, area.offset.min(whole_end));
        }
        at = at.max(area.offset.saturating_add(area.size));
        if at >= whole_end {
            return gaps;
        }
    }
    gap(at, whole_end);
    gaps
}

/// First gap with room for `size` bytes (rounded up to [`ALIGNMENT`]).
///
/// # Errors
/// [`FormatError::NoRoom`] if there is none, or `size` is 0.
pub fn find_room(metadata: &Metadata, size: u64) -> Result<Area, FormatError> {
    if size == 0 || size > MAX_KEYSLOTS_BYTES {
        return Err(FormatError::NoRoom { need: size });
    }
    let need = size.next_multiple_of(ALIGNMENT);
    gaps(metadata)
        .into_iter()
        .find(|gap| gap.size >= need)
        .map(|gap| Area {
            offset: gap.offset,
            size: need,
        })
        .ok_or(FormatError::NoRoom { need })
}
