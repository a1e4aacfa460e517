//! The negotiation: from the greeting to the transmission phase, or to the end.

use super::{Export, ProtocolError, take_u16, take_u32, take_u64};

/// The negotiation with one client. Bytes of the client go in through
/// [`Handshake::advance`], the server's are appended to `out`.
#[derive(Debug)]
pub struct Handshake<'a> {
    export: &'a Export,
    state: State,
    structured: bool,
    no_zeroes: bool,
    fixed: bool,
    options: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    ClientFlags,
    Options,
}

/// Where the negotiation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More bytes of the client are needed.
    NeedMore,
    /// The transmission phase begins with the next byte.
    Transmission {
        /// Reads are answered with structured replies.
        structured: bool,
    },
    /// The client said goodbye: send what is in `out`, then close.
    Close,
}

impl<'a> Handshake<'a> {
    /// Begins; the greeting goes to `out`.
    pub fn new(export: &'a Export, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&NBD_MAGIC.to_be_bytes());
        out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        out.extend_from_slice(&(GREETING_FIXED_NEWSTYLE | GREETING_NO_ZEROES).to_be_bytes());
        Self {
            export,
            state: State::ClientFlags,
            structured: false,
            no_zeroes: false,
            fixed: false,
            options: 0,
        }
    }

    /// Takes one message from the front of `input`, if it is complete. Returns how many
    /// bytes were used; to be called again with the rest while it uses some.
    ///
    /// # Errors
    /// [`ProtocolError`]: send what is in `out`, then close.
    pub fn advance(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Progress), ProtocolError> {
        match self.state {
            State::ClientFlags => self.client_flags(input),
            State::Options => self.option(input, out),
        }
    }

    fn client_flags(&mut self, mut input: &[u8]) -> Result<(usize, Progress), ProtocolError> {
        let Some(flags) = take_u32(&mut input) else {
            return Ok((0, Progress::NeedMore));
        };
        if flags & !(CLIENT_FIXED_NEWSTYLE | CLIENT_NO_ZEROES) != 0 {
            return Err(ProtocolError::ClientFlags(flags));
        }
        self.fixed = flags & CLIENT_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & CLIENT_NO_ZEROES != 0;
        self.state = State::Options;
        Ok((4, Progress::NeedMore))
    }

    fn option(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(usize, Progress), ProtocolError> {
        let mut rest = input;
        let (Some(magic), Some(option), Some(len)) = (
            take_u64(&mut rest),
            take_u32(&mut rest),
            take_u32(&mut rest),
        ) else {
            return Ok((0, Progress::NeedMore));
        };
        if magic != OPTION_MAGIC {
            return Err(ProtocolError::Magic);
        }
        if len > MAX_OPTION_BYTES {
            reply(out, option, REPLY_ERR_TOO_BIG, &[]);
            return Err(ProtocolError::OptionTooLong(len));
        }
        let Some(data) = rest.get(..len as usize) else {
            return Ok((0, Progress::NeedMore));
        };
        self.options += 1;
        if self.options > MAX_OPTIONS {
            return Err(ProtocolError::TooManyOptions);
        }
        // Only the old export-name option exists without "fixed": its answer has no
        // option header, and there are no error replies.
        if !self.fixed && option != OPTION_EXPORT_NAME {
            return Err(ProtocolError::NotFixed(option));
        }
        let used = OPTION_HEADER_BYTES + data.len();
        Ok((used, self.carry_out(option, data, out)?))
    }

    fn carry_out(
        &mut self,
        option: u32,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Progress, ProtocolError> {
        match option {
            OPTION_EXPORT_NAME => {
                if !self.export.answers_to(data) {
                    return Err(ProtocolError::UnknownExport);
                }
                out.extend_from_slice(&self.export.size.to_be_bytes());
                out.extend_from_slice(&self.export.flags().to_be_bytes());
                if !self.no_zeroes {
                    out.extend_from_slice(&[0; 124]);
                }
                return Ok(Progress::Transmission {
                    structured: self.structured,
                });
            }
            OPTION_ABORT => {
                reply(out, option, REPLY_ACK, &[]);
                return Ok(Progress::Close);
            }
            OPTION_LIST if !data.is_empty() => reply(out, option, REPLY_ERR_INVALID, &[]),
            OPTION_LIST => {
                let name = self.export.name.as_bytes();
                let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                entry.extend_from_slice(name);
                reply(out, option, REPLY_SERVER, &entry);
                reply(out, option, REPLY_ACK, &[]);
            }
            OPTION_INFO | OPTION_GO => match parse_info(data) {
                None => reply(out, option, REPLY_ERR_INVALID, &[]),
                Some((name, _)) if !self.export.answers_to(name) => {
                    reply(out, option, REPLY_ERR_UNKNOWN, &[]);
                }
                Some((_, wanted)) => {
                    self.describe(option, &wanted, out);
                    if option == OPTION_GO {
                        return Ok(Progress::Transmission {
                            structured: self.structured,
                        });
                    }
                }
            },
            OPTION_STRUCTURED_REPLY if !data.is_empty() => {
                reply(out, option, REPLY_ERR_INVALID, &[]);
            }
            OPTION_STRUCTURED_REPLY => {
                self.structured = true;
                reply(out, option, REPLY_ACK, &[]);
            }
            _ => reply(out, option, REPLY_ERR_UNSUP, &[]),
        }
        Ok(Progress::NeedMore)
    }

    fn describe(&self, option: u32, wanted: &[u16], out: &mut Vec<u8>) {
        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
        info.extend_from_slice(&self.export.size.to_be_bytes());
        info.extend_from_slice(&self.export.flags().to_be_bytes());
        reply(out, option, REPLY_INFO, &info);
        // Told to everyone: requests that break them are refused.
        let mut sizes = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [
            self.export.block_min,
            self.export.block_preferred,
            self.export.block_max,
        ] {
            sizes.extend_from_slice(&size.to_be_bytes());
        }
        reply(out, option, REPLY_INFO, &sizes);
        if wanted.contains(&INFO_NAME) {
            let mut name = INFO_NAME.to_be_bytes().to_vec();
            name.extend_from_slice(self.export.name.as_bytes());
            reply(out, option, REPLY_INFO, &name);
        }
        reply(out, option, REPLY_ACK, &[]);
    }
}

/// Name and wanted information of an info or go option; `None` if it is malformed.
fn parse_info(mut data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let name_len = take_u32(&mut data)? as usize;
    let (name, mut data) = data.split_at_checked(name_len)?;
    let count = usize::from(take_u16(&mut data)?);
    if data.len() != count * 2 {
        return None;
    }
    let wanted = std::iter::from_fn(|| take_u16(&mut data)).collect();
    Some((name, wanted))
}

fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    // our own replies are at most a name long
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// "NBDMAGIC"
const NBD_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT"
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const OPTION_HEADER_BYTES: usize = 16;

const GREETING_FIXED_NEWSTYLE: u16 = 1;
const GREETING_NO_ZEROES: u16 = 1 << 1;
const CLIENT_FIXED_NEWSTYLE: u32 = 1;
const CLIENT_NO_ZEROES: u32 = 1 << 1;

const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_LIST: u32 = 3;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const OPTION_STRUCTURED_REPLY: u32 = 8;

const REPLY_ACK: u32 = 1;
const REPLY_SERVER: u32 = 2;
const REPLY_INFO: u32 = 3;
const REPLY_ERR_UNSUP: u32 = (1 << 31) | 1;
const REPLY_ERR_INVALID: u32 = (1 << 31) | 3;
const REPLY_ERR_UNKNOWN: u32 = (1 << 31) | 6;
const REPLY_ERR_TOO_BIG: u32 = (1 << 31) | 9;

const INFO_EXPORT: u16 = 0;
const INFO_NAME: u16 = 1;
const INFO_BLOCK_SIZE: u16 = 3;

/// Longest option data that is read: a name of 4096 bytes (the protocol's bound for
/// names) and room for every information there is.
pub const MAX_OPTION_BYTES: u32 = 8192;
/// Options of one client; real ones send fewer than ten.
pub const MAX_OPTIONS: u32 = 256;

/// Longest message of a client in this phase, header included.
pub const MAX_MESSAGE_BYTES: usize = OPTION_HEADER_BYTES + MAX_OPTION_BYTES as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn export() -> Export {
        Export {
            name: "vol".into(),
            size: 1 << 30,
            read_only: false,
            trim: true,
            rotational: false,
            block_min: 512,
            block_preferred: 4096,
            block_max: 1 << 20,
        }
    }

    fn option(kind: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn info(name: &str, wanted: &[u16]) -> Vec<u8> {
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend(name.bytes());
        data.extend((wanted.len() as u16).to_be_bytes());
        data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
        data
    }

    /// Feeds everything, byte for byte if told so, and returns what came out.
    fn talk(
        export: &Export,
        input: &[u8],
        by_bytes: bool,
    ) -> (Vec<u8>, Result<Progress, ProtocolError>) {
        let mut out = Vec::new();
        let mut shake = Handshake::new(export, &mut out);
        let greeting = out.len();
        let (mut from, mut to) = (0, if by_bytes { 0 } else { input.len() });
        loop {
            match shake.advance(&input[from..to], &mut out) {
                Ok((0, Progress::NeedMore)) if to == input.len() => {
                    return (out.split_off(greeting), Ok(Progress::NeedMore));
                }
                Ok((0, Progress::NeedMore)) => to += 1,
                Ok((used, Progress::NeedMore)) => from += used,
                Ok((_, done)) => return (out.split_off(greeting), Ok(done)),
                Err(error) => return (out.split_off(greeting), Err(error)),
            }
        }
    }

    fn fixed(options: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = 3u32.to_be_bytes().to_vec();
        bytes.extend(options.concat());
        bytes
    }

    fn kinds_of(mut out: &[u8]) -> Vec<u32> {
        let mut kinds = Vec::new();
        while !out.is_empty() {
            assert_eq!(take_u64(&mut out), Some(REPLY_MAGIC));
            take_u32(&mut out).expect("option");
            kinds.push(take_u32(&mut out).expect("kind"));
            let len = take_u32(&mut out).expect("length") as usize;
            out = &out[len..];
        }
        kinds
    }

    #[test]
    fn go_with_structured_replies_tells_size_flags_and_block_sizes() {
        let input = fixed(&[
            option(OPTION_STRUCTURED_REPLY, &[]),
            option(OPTION_GO, &info("vol", &[INFO_NAME, INFO_BLOCK_SIZE])),
        ]);
        for by_bytes in [false, true] {
            let (out, end) = talk(&export(), &input, by_bytes);
            assert_eq!(end, Ok(Progress::Transmission { structured: true }));
            assert_eq!(
                kinds_of(&out),
                [REPLY_ACK, REPLY_INFO, REPLY_INFO, REPLY_INFO, REPLY_ACK]
            );
            let size = (1u64 << 30).to_be_bytes();
            assert!(out.windows(8).any(|window| window == size));
        }
    }

    #[test]
    fn the_old_way_of_naming_an_export_works_and_fails_without_a_reply() {
        let (out, end) = talk(
            &export(),
            &fixed(&[option(OPTION_EXPORT_NAME, b"vol")]),
            false,
        );
        assert_eq!(end, Ok(Progress::Transmission { structured: false }));
        assert_eq!(out.len(), 10, "no zeroes were asked for");
        let mut with_zeroes = 1u32.to_be_bytes().to_vec();
        with_zeroes.extend(option(OPTION_EXPORT_NAME, b""));
        assert_eq!(talk(&export(), &with_zeroes, false).0.len(), 134);
        let (out, end) = talk(
            &export(),
            &fixed(&[option(OPTION_EXPORT_NAME, b"other")]),
            false,
        );
        assert_eq!((out.len(), end), (0, Err(ProtocolError::UnknownExport)));
    }

    #[test]
    fn what_is_not_offered_is_refused_and_the_client_may_go_on() {
        let input = fixed(&[
            option(5, &[]),
            option(10, b"whatever"),
            option(11, &[]),
            option(OPTION_INFO, &info("nobody", &[])),
            option(OPTION_INFO, b"\0\0\0\x09x"),
            option(OPTION_LIST, b"x"),
            option(OPTION_STRUCTURED_REPLY, b"x"),
            option(OPTION_LIST, &[]),
            option(OPTION_ABORT, &[]),
        ]);
        let (out, end) = talk(&export(), &input, true);
        assert_eq!(end, Ok(Progress::Close));
        assert_eq!(
            kinds_of(&out),
            [
                REPLY_ERR_UNSUP,
                REPLY_ERR_UNSUP,
                REPLY_ERR_UNSUP,
                REPLY_ERR_UNKNOWN,
                REPLY_ERR_INVALID,
                REPLY_ERR_INVALID,
                REPLY_ERR_INVALID,
                REPLY_SERVER,
                REPLY_ACK,
                REPLY_ACK
            ]
        );
    }

    #[test]
    fn nonsense_ends_the_connection() {
        let export = export();
        let unknown_flags = 0x8000_0001u32.to_be_bytes();
        assert_eq!(
            talk(&export, &unknown_flags, false).1,
            Err(ProtocolError::ClientFlags(0x8000_0001))
        );
        assert_eq!(
            talk(&export, &fixed(&[vec![0; 16]]), false).1,
            Err(ProtocolError::Magic)
        );
        let mut long = option(OPTION_GO, &[]);
        long[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(
            talk(&export, &fixed(&[long]), false).1,
            Err(ProtocolError::OptionTooLong(u32::MAX))
        );
        let many = vec![option(OPTION_LIST, &[]); MAX_OPTIONS as usize + 1];
        assert_eq!(
            talk(&export, &fixed(&many), false).1,
            Err(ProtocolError::TooManyOptions)
        );
        let not_fixed = [0u32.to_be_bytes().to_vec(), option(OPTION_LIST, &[])].concat();
        assert_eq!(
            talk(&export, &not_fixed, false).1,
            Err(ProtocolError::NotFixed(OPTION_LIST))
        );
    }

    #[test]
    fn a_read_only_export_says_so_and_offers_no_trim() {
        let writable = export();
        let read_only = Export {
            read_only: true,
            ..export()
        };
        assert_eq!(writable.flags(), 0b1_0010_1101);
        assert_eq!(read_only.flags(), 0b1_0000_1111);
    }
}
