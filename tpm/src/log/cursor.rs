//! Little-endian structures read from the front, with the place of what cannot be read.

use super::LogError;

/// Takes a structure apart; the mirror of `wire`'s reader, whose numbers are big-endian.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, at: 0 }
    }

    /// An error at the present place.
    pub(super) fn fail(&self, what: &'static str) -> LogError {
        LogError::Malformed { what, at: self.at }
    }

    pub(super) fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], LogError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.fail(what))?;
        self.rest = rest;
        self.at += len;
        Ok(taken)
    }

    /// As many bytes as a length field said, which may be more than there are.
    pub(super) fn long(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], LogError> {
        let len = usize::try_from(len).map_err(|_| self.fail(what))?;
        self.bytes(len, what)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], LogError> {
        let taken = self.bytes(N, what)?;
        Ok(taken.try_into().expect("as many as were taken"))
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, LogError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, LogError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, LogError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, LogError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// How many bytes were taken.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Everything that is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses what is left over.
    pub(super) fn end(self, what: &'static str) -> Result<(), LogError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.fail(what))
        }
    }
}
