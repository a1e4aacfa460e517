//! TPM structures as bytes: big-endian, sized, read to the last byte or refused.
//!
//! Whatever is read here was written by somebody else: by a TPM behind a bus that others may sit
//! on, or by whoever had the disk with the token in hand. So a `Reader` never allocates by a
//! length it has not seen the bytes of, and every structure ends with `Reader::end`.
//!
//! Why not the crate `tpm2-protocol`, which exists for this: its current version (1.2.3) needs a
//! newer compiler than the workspace promises, its buffers are `Copy`, fixed-size and kept inside
//! of their structures, so each move of a sensitive area leaves a copy on the stack that nobody
//! wipes, and its zero-copy casts bring unsafe code into what answers a hostile bus. The part of
//! the format that is needed here is smaller than what would have to be written around it.

mod public;

pub(crate) use public::NULL;
pub use public::{Attributes, EccPoint, KeyKind, Name, NvAttributes, NvPublic, Public, RsaKey};

use crate::error::TpmError;

/// Longest frame in either direction in bytes, the buffer of the kernel's driver.
pub const MAX_FRAME_BYTES: usize = 4096;

/// Bytes that are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}")]
pub struct WireError {
    /// The structure that could not be read.
    pub what: &'static str,
}

impl From<WireError> for TpmError {
    /// As in an answer of the TPM; readers of tokens say [`TpmError::Damaged`] themselves.
    fn from(error: WireError) -> Self {
        Self::Garbage { what: error.what }
    }
}

/// Takes a structure apart from the front.
#[derive(Clone)]
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// `what` names the structure in errors.
    pub(crate) fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    pub(crate) fn fail(&self) -> WireError {
        WireError { what: self.what }
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(self.fail())?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(self.fail())?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// The contents of a TPM2B: two bytes of length, then that many.
    pub(crate) fn sized(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u16()?;
        self.bytes(len.into())
    }

    /// A TPM2B of at most `max` bytes.
    pub(crate) fn sized_max(&mut self, max: usize) -> Result<&'a [u8], WireError> {
        let bytes = self.sized()?;
        if bytes.len() > max {
            return Err(self.fail());
        }
        Ok(bytes)
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Refuses what is left over.
    pub(crate) fn end(self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.fail())
        }
    }
}

/// Puts a structure together. Never holds a secret that is not encrypted: those are built in
/// [`SecretBytes`](luksmith_crypto::SecretBytes).
#[derive(Default, Clone)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A TPM2B.
    ///
    /// # Panics
    /// If it is longer than a length field can say, which callers have checked.
    pub(crate) fn sized(self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).expect("callers bound what they send");
        self.u16(len).bytes(bytes)
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_bytes_is_refused_and_so_is_what_is_left_over() {
        let mut reader = Reader::new("thing", &[0, 3, 1, 2]);
        assert_eq!(reader.sized(), Err(WireError { what: "thing" }));
        let mut reader = Reader::new("thing", &[0, 1, 7, 9]);
        assert_eq!(reader.sized(), Ok(&[7][..]));
        assert_eq!(reader.end(), Err(WireError { what: "thing" }));
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = Writer::new().u8(1).u16(2).u32(3).sized(b"abc").done();
        let mut reader = Reader::new("thing", &bytes);
        assert_eq!(
            (reader.u8(), reader.u16(), reader.u32(), reader.sized()),
            (Ok(1), Ok(2), Ok(3), Ok(&b"abc"[..]))
        );
        assert_eq!(reader.end(), Ok(()));
    }
}
