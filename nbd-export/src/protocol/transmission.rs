//! Requests and replies of the transmission phase.

use luksmith_data_path::{Errno, Limits, Refusal, Request};

use super::{ProtocolError, take_u16, take_u32, take_u64};

/// Bytes of a request header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply's header.
pub const SIMPLE_REPLY_BYTES: usize = 16;
/// Bytes of a structured chunk's header.
pub const CHUNK_BYTES: usize = 20;
/// Bytes of a chunk with data, without the data: header and offset.
pub const DATA_CHUNK_BYTES: usize = CHUNK_BYTES + 8;
/// Bytes of the chunk that tells which part of a read failed.
pub const ERROR_CHUNK_BYTES: usize = CHUNK_BYTES + 14;

/// Longest payload of a write, and longest read, in bytes: what clients may send that
/// know nothing of block sizes.
pub const MAX_PAYLOAD: u32 = 32 << 20;

/// A client's number for a request; returned as it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cookie(pub u64);

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// To be returned with the reply.
    pub cookie: Cookie,
    /// What is to be done, or the error it is to be answered with.
    pub action: Result<Action, WireError>,
    /// Bytes that follow the header and are to be read, whatever the action.
    pub payload: u32,
    /// It is a read, whose errors too have a form of their own when structured replies
    /// were agreed.
    pub is_read: bool,
    /// First byte that the client named, checked or not.
    pub start: u64,
}

/// A request that may be carried out. Ranges lie inside the export and are aligned;
/// reads and writes may be longer than one [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read `len` bytes from `start`.
    Read {
        /// First byte.
        start: u64,
        /// Length in bytes; never 0.
        len: u32,
    },
    /// Write the payload to `start`.
    Write {
        /// First byte.
        start: u64,
        /// Length in bytes; never 0.
        len: u32,
        /// Durable before the reply.
        fua: bool,
    },
    /// Make all answered writes durable.
    Flush,
    /// Forget a range.
    Trim {
        /// The checked range.
        request: Request,
        /// A flush is to follow before the reply.
        fua: bool,
    },
    /// Nothing to be done: an empty request.
    Nothing,
    /// The client leaves; there is no reply.
    Disconnect,
}

/// An error number of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireError(pub u32);

impl WireError {
    /// Not permitted.
    pub const PERM: Self = Self(1);
    /// Input/output error.
    pub const IO: Self = Self(5);
    /// Invalid argument.
    pub const INVAL: Self = Self(22);
    /// No space left; also for writes past the end.
    pub const NOSPC: Self = Self(28);
    /// Not supported.
    pub const NOTSUP: Self = Self(95);
}

impl From<Errno> for WireError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PERM => Self::PERM,
            Errno::INVAL => Self::INVAL,
            Errno::NOSPC => Self::NOSPC,
            Errno::OPNOTSUPP => Self::NOTSUP,
            _ => Self::IO,
        }
    }
}

impl Command {
    /// Reads a request header.
    ///
    /// # Errors
    /// [`ProtocolError`] when the stream can no longer be followed; everything else is
    /// an error reply in [`Command::action`].
    pub fn parse(header: &[u8; REQUEST_BYTES], limits: &Limits) -> Result<Self, ProtocolError> {
        let mut rest = &header[..];
        let fields = (|| {
            Some((
                take_u32(&mut rest)?,
                take_u16(&mut rest)?,
                take_u16(&mut rest)?,
                take_u64(&mut rest)?,
                take_u64(&mut rest)?,
                take_u32(&mut rest)?,
            ))
        })();
        let Some((REQUEST_MAGIC, flags, kind, cookie, start, len)) = fields else {
            return Err(ProtocolError::Magic);
        };
        let payload = if kind == KIND_WRITE { len } else { 0 };
        if payload > MAX_PAYLOAD {
            return Err(ProtocolError::PayloadTooLong(payload));
        }
        let action = action(kind, flags, start, len, limits);
        Ok(Self {
            cookie: Cookie(cookie),
            action,
            payload,
            is_read: kind == KIND_READ,
            start,
        })
    }
}

fn action(
    kind: u16,
    flags: u16,
    start: u64,
    len: u32,
    limits: &Limits,
) -> Result<Action, WireError> {
    if flags & !FLAG_FUA != 0 {
        return Err(WireError::INVAL);
    }
    let fua = flags & FLAG_FUA != 0;
    // Reads and writes are cut into requests later; the bound here is the wire's.
    let whole = Limits {
        max_io: MAX_PAYLOAD,
        ..*limits
    };
    match kind {
        KIND_READ if len == 0 => Ok(Action::Nothing),
        KIND_READ => match whole.read(start, u64::from(len)) {
            Ok(_) => Ok(Action::Read { start, len }),
            Err(refusal) => Err(refusal.errno().into()),
        },
        KIND_WRITE if limits.read_only => Err(WireError::PERM),
        KIND_WRITE if len == 0 => Ok(Action::Nothing),
        KIND_WRITE => match whole.write(start, u64::from(len), fua) {
            Ok(_) => Ok(Action::Write { start, len, fua }),
            // the protocol wants this number for a write that does not fit
            Err(Refusal::OutOfRange) => Err(WireError::NOSPC),
            Err(refusal) => Err(refusal.errno().into()),
        },
        KIND_DISCONNECT => Ok(Action::Disconnect),
        KIND_FLUSH if start != 0 || len != 0 => Err(WireError::INVAL),
        KIND_FLUSH => Ok(Action::Flush),
        KIND_TRIM => match limits.discard(start, u64::from(len)) {
            Ok(request) => Ok(Action::Trim { request, fua }),
            Err(Refusal::OutOfRange) => Err(WireError::NOSPC),
            Err(refusal) => Err(refusal.errno().into()),
        },
        // cache, write-zeroes, block status, resize: not offered
        _ => Err(WireError::NOTSUP),
    }
}

/// The header of a simple reply.
#[must_use]
pub fn simple_reply(cookie: Cookie, error: Option<WireError>) -> [u8; SIMPLE_REPLY_BYTES] {
    let mut bytes = [0; SIMPLE_REPLY_BYTES];
    bytes[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes[4..8].copy_from_slice(&error.map_or(0, |WireError(number)| number).to_be_bytes());
    bytes[8..].copy_from_slice(&cookie.0.to_be_bytes());
    bytes
}

/// The front of a chunk with `len` bytes of data that were read from `start`.
#[must_use]
pub fn data_chunk(cookie: Cookie, start: u64, len: u32, last: bool) -> [u8; DATA_CHUNK_BYTES] {
    let mut bytes = [0; DATA_CHUNK_BYTES];
    // pieces are far shorter than what would overflow here
    bytes[..CHUNK_BYTES].copy_from_slice(&chunk(cookie, CHUNK_OFFSET_DATA, 8 + len, last));
    bytes[CHUNK_BYTES..].copy_from_slice(&start.to_be_bytes());
    bytes
}

/// The chunk that says that what begins at `start` could not be read.
#[must_use]
pub fn error_chunk(
    cookie: Cookie,
    start: u64,
    WireError(error): WireError,
    last: bool,
) -> [u8; ERROR_CHUNK_BYTES] {
    let mut bytes = [0; ERROR_CHUNK_BYTES];
    bytes[..CHUNK_BYTES].copy_from_slice(&chunk(cookie, CHUNK_ERROR_OFFSET, 14, last));
    bytes[CHUNK_BYTES..CHUNK_BYTES + 4].copy_from_slice(&error.to_be_bytes());
    // two zero bytes: no text
    bytes[CHUNK_BYTES + 6..].copy_from_slice(&start.to_be_bytes());
    bytes
}

/// The chunk that ends a reply without saying more; for a read that failed as a whole
/// and for one whose last piece came earlier.
#[must_use]
pub fn end_chunk(cookie: Cookie) -> [u8; CHUNK_BYTES] {
    chunk(cookie, CHUNK_NONE, 0, true)
}

fn chunk(cookie: Cookie, kind: u16, len: u32, last: bool) -> [u8; CHUNK_BYTES] {
    let mut bytes = [0; CHUNK_BYTES];
    bytes[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
    bytes[4..6].copy_from_slice(&u16::from(last).to_be_bytes());
    bytes[6..8].copy_from_slice(&kind.to_be_bytes());
    bytes[8..16].copy_from_slice(&cookie.0.to_be_bytes());
    bytes[16..].copy_from_slice(&len.to_be_bytes());
    bytes
}

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const CHUNK_MAGIC: u32 = 0x668e_33ef;

const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_ERROR_OFFSET: u16 = (1 << 15) | 2;

const KIND_READ: u16 = 0;
const KIND_WRITE: u16 = 1;
const KIND_DISCONNECT: u16 = 2;
const KIND_FLUSH: u16 = 3;
const KIND_TRIM: u16 = 4;

const FLAG_FUA: u16 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        len: 64 << 20,
        block: 4096,
        max_io: 256 << 10,
        read_only: false,
        discard: true,
    };

    fn header(flags: u16, kind: u16, start: u64, len: u32) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes[4..6].copy_from_slice(&flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&0xc00c1eu64.to_be_bytes());
        bytes[16..24].copy_from_slice(&start.to_be_bytes());
        bytes[24..].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    fn parse(flags: u16, kind: u16, start: u64, len: u32, limits: &Limits) -> Command {
        Command::parse(&header(flags, kind, start, len), limits).expect("the stream is in order")
    }

    #[test]
    fn each_command_is_understood_and_each_bound_has_its_error() {
        let read_only = Limits {
            read_only: true,
            ..LIMITS
        };
        let no_trim = Limits {
            discard: false,
            ..LIMITS
        };
        type Case<'a> = (u16, u16, u64, u32, &'a Limits, Result<Action, WireError>);
        let cases: &[Case<'_>] = &[
            (
                0,
                KIND_READ,
                4096,
                8192,
                &LIMITS,
                Ok(Action::Read {
                    start: 4096,
                    len: 8192,
                }),
            ),
            // FUA on a read means nothing and must not hurt
            (
                1,
                KIND_READ,
                0,
                4096,
                &LIMITS,
                Ok(Action::Read {
                    start: 0,
                    len: 4096,
                }),
            ),
            (
                0,
                KIND_READ,
                0,
                32 << 20,
                &LIMITS,
                Ok(Action::Read {
                    start: 0,
                    len: 32 << 20,
                }),
            ),
            (
                0,
                KIND_READ,
                0,
                (32 << 20) + 4096,
                &LIMITS,
                Err(WireError::INVAL),
            ),
            (0, KIND_READ, 0, 512, &LIMITS, Err(WireError::INVAL)),
            (0, KIND_READ, 64 << 20, 4096, &LIMITS, Err(WireError::INVAL)),
            (0, KIND_READ, u64::MAX, 4096, &LIMITS, Err(WireError::INVAL)),
            (0, KIND_READ, 0, 0, &LIMITS, Ok(Action::Nothing)),
            (4, KIND_READ, 0, 4096, &LIMITS, Err(WireError::INVAL)),
            (
                1,
                KIND_WRITE,
                0,
                4096,
                &LIMITS,
                Ok(Action::Write {
                    start: 0,
                    len: 4096,
                    fua: true,
                }),
            ),
            (
                0,
                KIND_WRITE,
                64 << 20,
                4096,
                &LIMITS,
                Err(WireError::NOSPC),
            ),
            (0, KIND_WRITE, 0, 4096, &read_only, Err(WireError::PERM)),
            (0, KIND_FLUSH, 0, 0, &LIMITS, Ok(Action::Flush)),
            (0, KIND_FLUSH, 0, 1, &LIMITS, Err(WireError::INVAL)),
            (0, KIND_TRIM, 0, 4096, &no_trim, Err(WireError::NOTSUP)),
            (0, KIND_TRIM, 0, 4096, &read_only, Err(WireError::PERM)),
            (0, 6, 0, 4096, &LIMITS, Err(WireError::NOTSUP)),
            (0, 7, 0, 4096, &LIMITS, Err(WireError::NOTSUP)),
            (0, 0xffff, 0, 0, &LIMITS, Err(WireError::NOTSUP)),
            (0, KIND_DISCONNECT, 0, 0, &LIMITS, Ok(Action::Disconnect)),
        ];
        for (flags, kind, start, len, limits, expected) in cases {
            let command = parse(*flags, *kind, *start, *len, limits);
            assert_eq!(command.action, *expected, "{kind} {start} {len}");
            assert_eq!(command.cookie, Cookie(0xc00c1e));
            // a refused write still has its payload behind it
            assert_eq!(command.payload, if *kind == KIND_WRITE { *len } else { 0 });
        }
        assert!(matches!(
            parse(1, KIND_TRIM, 0, 1 << 25, &LIMITS).action,
            Ok(Action::Trim { fua: true, .. })
        ));
    }

    #[test]
    fn a_stream_that_cannot_be_followed_is_ended() {
        let mut wrong = header(0, KIND_READ, 0, 4096);
        wrong[0] ^= 1;
        assert_eq!(Command::parse(&wrong, &LIMITS), Err(ProtocolError::Magic));
        let long = header(0, KIND_WRITE, 0, MAX_PAYLOAD + 1);
        assert_eq!(
            Command::parse(&long, &LIMITS),
            Err(ProtocolError::PayloadTooLong(MAX_PAYLOAD + 1))
        );
    }

    #[test]
    fn replies_have_the_layout_of_the_protocol() {
        let cookie = Cookie(0x0102_0304_0506_0708);
        assert_eq!(
            simple_reply(cookie, Some(WireError::IO)),
            [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        let data = data_chunk(cookie, 0x1000, 512, true);
        assert_eq!(data[..8], [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1]);
        assert_eq!(data[16..20], 520u32.to_be_bytes());
        assert_eq!(data[20..], 0x1000u64.to_be_bytes());
        let error = error_chunk(cookie, 7, WireError::IO, false);
        assert_eq!(error[4..8], [0, 0, 0x80, 2]);
        assert_eq!(
            error[16..],
            [0, 0, 0, 14, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]
        );
        assert_eq!(end_chunk(cookie)[4..8], [0, 1, 0, 0]);
    }
}
