//! Which key covers which byte, and where it lies. Step 3 of the read path.
//!
//! A volume is the concatenation of the header's regular segments. [`SegmentMap::extents`] cuts a
//! request at segment borders; each [`Extent`] says where its bytes lie on the backing device, which
//! cipher they are under, and the tweak of its first sector.

use std::fmt;
use std::sync::Arc;

use luksmith_crypto::{IvSector, SectorCipher};

/// The layout of an open volume, with its ciphers.
pub struct SegmentMap {
    /// In logical order, without gaps, none empty.
    parts: Vec<Part>,
    len: u64,
}

/// One segment of an open volume.
pub(crate) struct Part {
    pub(crate) len: u64,
    pub(crate) backing_offset: u64,
    /// Tweak of the first sector, in units of 512 bytes.
    pub(crate) iv_tweak: u64,
    /// `None` for plain data.
    pub(crate) cipher: Option<Arc<SectorCipher>>,
}

/// A run of bytes that lie together on the backing device, under one key.
#[derive(Clone, Copy)]
pub struct Extent<'a> {
    /// Where it lies, in bytes from the start of the data device.
    pub backing_offset: u64,
    /// Length in bytes; never 0.
    pub len: u64,
    /// Tweak of the first sector.
    pub iv: IvSector,
    /// The cipher; `None` for plain data (a linear segment).
    pub cipher: Option<&'a SectorCipher>,
}

impl fmt::Debug for Extent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extent")
            .field("backing_offset", &self.backing_offset)
            .field("len", &self.len)
            .field("iv", &self.iv.0)
            .field("encrypted", &self.cipher.is_some())
            .finish()
    }
}

/// A range that is not inside the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at {start} are not inside the volume of {volume_len} bytes")]
pub struct OutOfRange {
    /// First byte of the range.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Length of the volume in bytes.
    pub volume_len: u64,
}

impl SegmentMap {
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        debug_assert!(parts.iter().all(|part| part.len > 0));
        let len = parts.iter().map(|part| part.len).sum();
        Self { parts, len }
    }

    /// Length of the volume in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the volume has no bytes; never true of one that was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts `len` bytes from `start` (bytes of the volume) into extents: one, or one more for each
    /// segment border inside. Allocates nothing.
    ///
    /// # Errors
    /// [`OutOfRange`] for a range that is not inside the volume, also when it overflows.
    pub fn extents(&self, start: u64, len: u64) -> Result<Extents<'_>, OutOfRange> {
        match start.checked_add(len) {
            Some(end) if end <= self.len => Ok(Extents {
                parts: self.parts.iter(),
                skip: start,
                left: len,
            }),
            _ => Err(OutOfRange {
                start,
                len,
                volume_len: self.len,
            }),
        }
    }
}

impl fmt::Debug for SegmentMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentMap")
            .field("len", &self.len)
            .field("segments", &self.parts.len())
            .finish_non_exhaustive()
    }
}

/// The extents of one request, in order.
#[derive(Clone)]
pub struct Extents<'a> {
    parts: std::slice::Iter<'a, Part>,
    /// Bytes to the start of the rest of the request, from the start of the next part.
    skip: u64,
    left: u64,
}

impl<'a> Iterator for Extents<'a> {
    type Item = Extent<'a>;

    fn next(&mut self) -> Option<Extent<'a>> {
        while self.left > 0 {
            let part = self.parts.next()?;
            if self.skip >= part.len {
                self.skip -= part.len;
                continue;
            }
            let inside = self.skip;
            let len = self.left.min(part.len - inside);
            self.skip = 0;
            self.left -= len;
            return Some(Extent {
                backing_offset: part.backing_offset + inside,
                len,
                // Always in units of 512 bytes, whatever the sector size: the format's rule.
                iv: IvSector(part.iv_tweak.wrapping_add(inside / IV_UNIT)),
                cipher: part.cipher.as_deref(),
            });
        }
        None
    }
}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}

/// Bytes per tweak number.
const IV_UNIT: u64 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn part(len: u64, backing_offset: u64, iv_tweak: u64) -> Part {
        Part {
            len,
            backing_offset,
            iv_tweak,
            cipher: None,
        }
    }

    fn cut(map: &SegmentMap, start: u64, len: u64) -> Vec<(u64, u64, u64)> {
        map.extents(start, len)
            .unwrap()
            .map(|e| (e.backing_offset, e.len, e.iv.0))
            .collect()
    }

    #[test]
    fn iv_counts_512_byte_units_from_the_start_of_the_segment() {
        let map = SegmentMap::new(vec![part(1 << 20, 16 << 20, 100)]);
        assert_eq!(cut(&map, 0, 4096), [(16 << 20, 4096, 100)]);
        assert_eq!(cut(&map, 8192, 512), [((16 << 20) + 8192, 512, 116)]);
    }

    #[test]
    fn a_request_across_a_border_is_cut_there() {
        let map = SegmentMap::new(vec![
            part(8192, 4096, 0),
            part(4096, 1 << 20, 16),
            part(8192, 32768, 24),
        ]);
        assert_eq!(map.len(), 20480);
        assert_eq!(
            cut(&map, 4096, 12288),
            [(8192, 4096, 8), (1 << 20, 4096, 16), (32768, 4096, 24)]
        );
        assert_eq!(cut(&map, 8192, 4096), [(1 << 20, 4096, 16)]);
        assert_eq!(cut(&map, 20480, 0), []);
    }

    #[test]
    fn a_range_outside_or_overflowing_is_refused() {
        let map = SegmentMap::new(vec![part(8192, 0, 0)]);
        for (start, len) in [(8192, 1), (0, 8193), (u64::MAX, 2), (1, u64::MAX)] {
            assert_eq!(
                map.extents(start, len).unwrap_err(),
                OutOfRange {
                    start,
                    len,
                    volume_len: 8192
                }
            );
        }
    }

    #[test]
    fn extents_of_any_request_tile_it() {
        use proptest::prelude::*;
        proptest!(|(lens in prop::collection::vec(1u64..64, 1..6), at in 0u64..1000, n in 0u64..1000)| {
            let parts: Vec<_> = lens.iter().enumerate()
                .map(|(i, len)| part(len * 512, (i as u64) << 32, (i as u64) << 20)).collect();
            let map = SegmentMap::new(parts);
            let (start, len) = (at * 512 % map.len(), n * 512);
            let len = len.min(map.len() - start);
            let mut next = start;
            for e in map.extents(start, len).unwrap() {
                let segment = (e.backing_offset >> 32) as usize;
                let inside = e.backing_offset & 0xffff_ffff;
                let base: u64 = lens[..segment].iter().map(|l| l * 512).sum();
                prop_assert_eq!(base + inside, next);
                prop_assert_eq!(e.iv.0, ((segment as u64) << 20) + inside / 512);
                prop_assert!(e.len > 0 && inside + e.len <= lens[segment] * 512);
                next += e.len;
            }
            prop_assert_eq!(next, start + len);
        });
    }
}
