//! I/O buffers whose type says what is in them.
//!
//! An [`IoBuf<Plain>`] becomes an [`IoBuf<Cipher>`] only through the cipher; only the latter
//! gives its bytes to a device. All buffers are slots of an [`Arena`]: one locked mapping made
//! before the first request, so that the I/O path never allocates and never faults.

// UNSAFETY: a buffer hands out a slice of its slot, which the arena's owner counts cannot show
// to the compiler.
#![expect(
    unsafe_code,
    reason = "exclusive slots of one mapping become slices here"
)]

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    CryptoError,
    lock::{Backing, LockedPages},
};

/// The buffer holds data that must not reach a disk.
pub struct Plain(());
/// The buffer holds ciphertext.
pub struct Cipher(());
/// The contents of the buffer do not count.
pub struct Blank(());

/// Alignment of every slot in bytes, enough for direct I/O on all devices.
pub const SLOT_ALIGN: usize = 4096;

/// One locked, no-dump, faulted-in mapping that is cut into equal slots. Wiped on drop, which
/// happens when the arena and all its buffers are gone.
pub struct Arena {
    inner: Arc<Inner>,
}

struct Inner {
    pages: LockedPages,
    slot_bytes: usize,
    slots: usize,
    /// One bit per slot, set while nobody has it.
    free: Box<[AtomicU64]>,
}

impl Arena {
    /// Maps and locks `slots` slots of `slot_bytes` bytes.
    ///
    /// # Errors
    /// When memory cannot be had or locked ([`CryptoError::LockedMemory`] names the limit);
    /// for no slots, and for slots that are not a positive multiple of [`SLOT_ALIGN`].
    pub fn new(slots: usize, slot_bytes: usize) -> Result<Self, CryptoError> {
        if slots == 0 {
            return Err(CryptoError::Length {
                what: "number of buffers",
                is: 0,
            });
        }
        if slot_bytes == 0 || !slot_bytes.is_multiple_of(SLOT_ALIGN) {
            return Err(CryptoError::Length {
                what: "buffer size in bytes",
                is: slot_bytes as u64,
            });
        }
        let bytes = slots
            .checked_mul(slot_bytes)
            .ok_or(CryptoError::OutOfMemory { bytes: u64::MAX })?;
        let pages = LockedPages::new(bytes, Backing::Locked)?;
        let free = (0..slots.div_ceil(64))
            .map(|word| {
                let here = (slots - word * 64).min(64);
                AtomicU64::new(u64::MAX >> (64 - here))
            })
            .collect();
        Ok(Self {
            inner: Arc::new(Inner {
                pages,
                slot_bytes,
                slots,
                free,
            }),
        })
    }

    /// A free slot, if there is one. Neither locks nor allocates.
    #[must_use]
    pub fn take(&self) -> Option<IoBuf<Blank>> {
        for (word, bits) in self.inner.free.iter().enumerate() {
            let mut seen = bits.load(Ordering::Relaxed);
            while seen != 0 {
                let bit = seen.trailing_zeros();
                let without = seen & !(1 << bit);
                // Acquire: what the last owner wrote is there before we write.
                match bits.compare_exchange_weak(
                    seen,
                    without,
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        let index = word * 64 + bit as usize;
                        return Some(IoBuf::new(Arc::clone(&self.inner), index));
                    }
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.inner.slots
    }

    /// Size of a slot in bytes.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.inner.slot_bytes
    }

    /// First byte of the mapping, for registration with a ring. Slot `i` begins at
    /// `i * slot_bytes`. The mapping lives until the arena and all its buffers are dropped.
    #[must_use]
    pub fn base_ptr(&self) -> *mut u8 {
        self.inner.pages.base().as_ptr()
    }

    /// Length of the mapping in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no arena is empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.pages.len()
    }
}

/// The one handle of a slot. Dropping it gives the slot back, with whatever is in it.
///
/// Whoever lends the pointer of a buffer to the kernel keeps the buffer until the completion
/// is seen.
pub struct IoBuf<State> {
    slot: Slot,
    len: usize,
    state: PhantomData<State>,
}

struct Slot {
    arena: Arc<Inner>,
    index: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Release: what we wrote is there before the next owner writes.
        let before =
            self.arena.free[self.index / 64].fetch_or(1 << (self.index % 64), Ordering::Release);
        debug_assert_eq!(before >> (self.index % 64) & 1, 0, "a slot has one owner");
    }
}

impl Slot {
    fn ptr(&self) -> *mut u8 {
        // SAFETY: `index` is below `slots`, so the slot lies inside the mapping.
        unsafe {
            self.arena
                .pages
                .base()
                .as_ptr()
                .add(self.index * self.arena.slot_bytes)
        }
    }

    fn bytes(&self, len: usize) -> &[u8] {
        assert!(len <= self.arena.slot_bytes, "a buffer ends with its slot");
        // SAFETY: the bytes lie inside the mapping, which `arena` keeps; they are initialised
        // (zero at birth); this is the only handle of the slot (its bit is clear in `free`),
        // and it is borrowed.
        unsafe { std::slice::from_raw_parts(self.ptr(), len) }
    }

    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= self.arena.slot_bytes, "a buffer ends with its slot");
        // SAFETY: as for `bytes`, and the handle is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.ptr(), len) }
    }
}

impl IoBuf<Blank> {
    fn new(arena: Arc<Inner>, index: usize) -> Self {
        Self {
            slot: Slot { arena, index },
            len: 0,
            state: PhantomData,
        }
    }

    /// Lets `fill` write `len` bytes of plaintext. On an error the buffer comes back blank.
    ///
    /// # Errors
    /// That of `fill`.
    ///
    /// # Panics
    /// If `len` is longer than the slot.
    pub fn fill_plain<E>(
        mut self,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<IoBuf<Plain>, (Self, E)> {
        match fill(self.slot.bytes_mut(len)) {
            Ok(()) => {
                self.len = len;
                Ok(self.into_state())
            }
            Err(e) => Err((self, e)),
        }
    }

    /// States that a device read has put `len` bytes of ciphertext here.
    ///
    /// # Panics
    /// If `len` is longer than the slot.
    #[must_use]
    pub fn assume_cipher(mut self, len: usize) -> IoBuf<Cipher> {
        assert!(len <= self.capacity(), "a buffer ends with its slot");
        self.len = len;
        self.into_state()
    }

    /// Lets `read` put `len` bytes of ciphertext here (reads without a ring).
    ///
    /// # Errors
    /// That of `read`.
    ///
    /// # Panics
    /// If `len` is longer than the slot.
    pub fn read_cipher<E>(
        mut self,
        len: usize,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<IoBuf<Cipher>, (Self, E)> {
        match read(self.slot.bytes_mut(len)) {
            Ok(()) => Ok(self.assume_cipher(len)),
            Err(e) => Err((self, e)),
        }
    }

    /// The whole slot, for a device that writes ciphertext into memory by itself.
    #[must_use]
    pub fn device_bytes(&mut self) -> &mut [u8] {
        self.slot.bytes_mut(self.slot.arena.slot_bytes)
    }

    /// Where a device read may put bytes: [`IoBuf::capacity`] of them.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.slot.ptr()
    }
}

impl IoBuf<Plain> {
    /// The plaintext.
    #[must_use]
    pub fn as_plain(&self) -> &[u8] {
        self.slot.bytes(self.len)
    }
}

impl IoBuf<Plain> {
    /// Lets bytes go to the device as they are: for linear segments, which are not encrypted.
    #[must_use]
    pub fn into_linear(self) -> IoBuf<Cipher> {
        self.into_state()
    }
}

impl IoBuf<Cipher> {
    /// Takes bytes of the device as they are: for linear segments, which are not encrypted.
    #[must_use]
    pub fn into_linear(self) -> IoBuf<Plain> {
        self.into_state()
    }

    /// The ciphertext.
    #[must_use]
    pub fn as_cipher(&self) -> &[u8] {
        self.slot.bytes(self.len)
    }

    /// Where a device write takes the bytes from.
    #[must_use]
    pub fn as_ptr(&self) -> *const u8 {
        self.slot.ptr()
    }
}

impl<State> IoBuf<State> {
    /// Length of the contents in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no contents.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size of the slot in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slot.arena.slot_bytes
    }

    /// Number of the slot in its arena.
    #[must_use]
    pub fn index(&self) -> usize {
        self.slot.index
    }

    /// Forgets the contents and keeps the slot.
    #[must_use]
    pub fn recycle(mut self) -> IoBuf<Blank> {
        self.len = 0;
        self.into_state()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        self.slot.bytes_mut(len)
    }

    /// Changes what the type says; only for those who have just made it true.
    pub(crate) fn into_state<To>(self) -> IoBuf<To> {
        IoBuf {
            slot: self.slot,
            len: self.len,
            state: PhantomData,
        }
    }
}
