//! What the rest of the crate asks of a disk. The simulator and [`FileDevice`] implement the same
//! two traits, so every crash test runs the production code.
//!
//! [`BlockDevice`] moves bytes. [`MetadataDevice`] adds what only header work needs: the lock that
//! keeps other programs out, and random bytes for salts and wipes. The data path of a served volume
//! has its own asynchronous input and output and uses neither.
//!
//! [`FileDevice`]: crate::FileDevice

use std::io;

use crate::lock::{LockError, LockMode, Wait};
use crate::mutant::Switches;

/// Bytes at offsets, with volatile writes and a flush that makes them durable.
///
/// What a caller may rely on, and what the simulator takes away as soon as somebody relies on
/// more:
/// * `Ok` from a write says that a later read sees the bytes. It does not say that they survive a
///   power cut, nor in what order writes reach the medium.
/// * `Ok` from [`flush`](Self::flush) says that every write that returned before it is durable.
/// * An error from a write or a flush leaves the range, or all unflushed writes, in an unknown
///   state. A later successful flush does not repair an earlier failed one.
pub trait BlockDevice {
    /// Size in bytes.
    fn len(&self) -> u64;

    /// Whether the device has no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Logical block size in bytes: the smallest unit that the device reads and writes.
    fn logical_block(&self) -> u32;

    /// Fills `into` from `offset` (bytes).
    ///
    /// # Errors
    /// Any failure of the device, and a range that ends behind the device
    /// ([`io::ErrorKind::UnexpectedEof`]). After an error the contents of `into` mean nothing.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;

    /// Writes all of `from` at `offset` (bytes).
    ///
    /// # Errors
    /// Any failure of the device, including a range that ends behind it
    /// ([`io::ErrorKind::UnexpectedEof`]; nothing is written then).
    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()>;

    /// Makes every write that has returned durable.
    ///
    /// # Errors
    /// Any failure; what was unflushed is then in an unknown state for good.
    fn flush(&self) -> io::Result<()>;
}

/// A block device that can hold a LUKS2 header.
pub trait MetadataDevice: BlockDevice {
    /// Keeps others out of the header for as long as it lives.
    type Held;

    /// Takes the metadata lock of this device.
    ///
    /// # Errors
    /// [`LockError::Busy`] when another program holds it longer than `wait` allows; the others
    /// when the lock itself cannot be made.
    fn lock(&self, mode: LockMode, wait: Wait) -> Result<Self::Held, LockError>;

    /// Whether [`lock`](Self::lock) really excludes others. Without locks nothing is repaired
    /// automatically.
    fn locks(&self) -> bool {
        true
    }

    /// Whether the device was opened for reading only.
    fn read_only(&self) -> bool;

    /// Fills `into` with random bytes of cryptographic quality (salts, wipes).
    ///
    /// # Errors
    /// A failing source of randomness; there is no weaker fall-back.
    fn random(&self, into: &mut [u8]) -> io::Result<()>;

    /// Which protection of the header store a test has removed. A real device has all of them.
    #[doc(hidden)]
    fn switches(&self) -> Switches {
        Switches::default()
    }
}

/// The range check that every implementation makes before it touches anything.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the range overflows or ends behind `device_len`.
pub(crate) fn check_range(offset: u64, len: usize, device_len: u64) -> io::Result<()> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= device_len => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{len} bytes at offset {offset} end behind the device ({device_len} bytes)"),
        )),
    }
}

impl<D: BlockDevice + ?Sized> BlockDevice for &D {
    fn len(&self) -> u64 {
        (**self).len()
    }
    fn logical_block(&self) -> u32 {
        (**self).logical_block()
    }
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, into)
    }
    fn write_at(&self, offset: u64, from: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, from)
    }
    fn flush(&self) -> io::Result<()> {
        (**self).flush()
    }
}

impl<D: MetadataDevice + ?Sized> MetadataDevice for &D {
    type Held = D::Held;
    fn lock(&self, mode: LockMode, wait: Wait) -> Result<Self::Held, LockError> {
        (**self).lock(mode, wait)
    }
    fn locks(&self) -> bool {
        (**self).locks()
    }
    fn read_only(&self) -> bool {
        (**self).read_only()
    }
    fn random(&self, into: &mut [u8]) -> io::Result<()> {
        (**self).random(into)
    }
    fn switches(&self) -> Switches {
        (**self).switches()
    }
}
