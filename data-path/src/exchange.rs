//! How plaintext enters and leaves. The only thing that differs between front ends:
//! `pread`/`pwrite` on the character device for ublk, socket buffers for NBD.

use std::io;

/// Number of a request inside its queue; below the queue's depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u16);

impl Tag {
    /// The tag as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Moves the plaintext of requests between a front end and the lane's buffers.
///
/// Both calls move all bytes or fail; a failure ends the request with an I/O error.
/// They must not block for long and must not allocate.
pub trait Exchange {
    /// Fills `into` with what the client wants written, from byte `at` of request
    /// `tag`.
    ///
    /// # Errors
    /// Whatever kept the bytes from arriving; nothing is written to the backing then.
    fn copy_in(&mut self, tag: Tag, at: u32, into: &mut [u8]) -> io::Result<()>;

    /// Hands out decrypted bytes that belong to byte `at` of request `tag`.
    ///
    /// # Errors
    /// Whatever kept the bytes from being taken.
    fn copy_out(&mut self, tag: Tag, at: u32, from: &[u8]) -> io::Result<()>;
}
