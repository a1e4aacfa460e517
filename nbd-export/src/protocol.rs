//! The NBD protocol as values: bytes in, meaning out, and back. No socket, no thread.
//!
//! Source of the format: the protocol document of the NBD project (fixed newstyle
//! negotiation, simple and structured replies). All numbers are big-endian.

pub mod handshake;
pub mod transmission;

/// What the server offers; the same for every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// Name that clients ask for. The empty name always means this export too.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Trim is offered.
    pub trim: bool,
    /// Seeks cost time.
    pub rotational: bool,
    /// Requests are multiples of this many bytes.
    pub block_min: u32,
    /// Requests of this many bytes serve best.
    pub block_preferred: u32,
    /// Longest request in bytes.
    pub block_max: u32,
}

impl Export {
    /// The flags of the transmission phase.
    #[must_use]
    pub const fn flags(&self) -> u16 {
        // Flush and FUA are offered on a read-only export too: they are harmless, and a
        // client that sends them anyway should not fail. Several connections see each
        // other's writes and flushes: all of them go to one open file.
        let mut flags = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA | FLAG_CAN_MULTI_CONN;
        if self.read_only {
            flags |= FLAG_READ_ONLY;
        }
        if self.rotational {
            flags |= FLAG_ROTATIONAL;
        }
        if self.trim && !self.read_only {
            flags |= FLAG_SEND_TRIM;
        }
        flags
    }

    fn answers_to(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}

const FLAG_HAS_FLAGS: u16 = 1;
const FLAG_READ_ONLY: u16 = 1 << 1;
const FLAG_SEND_FLUSH: u16 = 1 << 2;
const FLAG_SEND_FUA: u16 = 1 << 3;
const FLAG_ROTATIONAL: u16 = 1 << 4;
const FLAG_SEND_TRIM: u16 = 1 << 5;
const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;

/// The peer does not speak the protocol; the connection can only be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A fixed number at the start of a message is wrong.
    #[error("the peer sent a message with a wrong magic number")]
    Magic,
    /// Flags in the client's greeting that this server does not know.
    #[error("the client wants flags that are not known: {0:#x}")]
    ClientFlags(u32),
    /// A client without the fixed negotiation may send one option only.
    #[error("the client sent option {0}, which needs the fixed negotiation")]
    NotFixed(u32),
    /// An option is longer than any that makes sense.
    #[error("the client sent an option of {0} bytes")]
    OptionTooLong(u32),
    /// More options than any client needs.
    #[error("the client does not come to an end with its options")]
    TooManyOptions,
    /// An export of another name was asked for, in the old way that has no error reply.
    #[error("the client asked for an export that is not there")]
    UnknownExport,
    /// A write carries more data than the protocol allows.
    #[error("the client sent a write of {0} bytes")]
    PayloadTooLong(u32),
}

/// Reads a big-endian number from the front of `bytes`, if there are enough.
pub(crate) fn take_u16(bytes: &mut &[u8]) -> Option<u16> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u16::from_be_bytes(*number))
}

/// As [`take_u16`].
pub(crate) fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

/// As [`take_u16`].
pub(crate) fn take_u64(bytes: &mut &[u8]) -> Option<u64> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u64::from_be_bytes(*number))
}
