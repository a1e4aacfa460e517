//! What a fuzzer and the seeded test beside it run: any bytes of a client, and what must
//! be true of the answers.

use luksmith_data_path::Limits;
use luksmith_nbd_export::protocol::handshake::{Handshake, MAX_MESSAGE_BYTES, Progress};
use luksmith_nbd_export::protocol::transmission::{Action, Command, MAX_PAYLOAD, REQUEST_BYTES};
use luksmith_nbd_export::protocol::{Export, ProtocolError};

/// The whole stream of a client: negotiation, then requests.
pub(crate) fn conversation(data: &[u8]) {
    // the first bytes choose the export and how the stream is cut up
    let Some((choice, stream)) = data.split_first_chunk::<4>() else {
        return;
    };
    let limits = limits(choice[0]);
    let export = Export {
        name: if choice[1] & 1 == 0 {
            String::new()
        } else {
            "vol".into()
        },
        size: limits.len,
        read_only: limits.read_only,
        trim: limits.discard,
        rotational: choice[1] & 2 != 0,
        block_min: limits.block,
        block_preferred: 4096,
        block_max: 1 << 20,
    };
    let whole = negotiate(&export, stream, stream.len());
    // however the socket cuts the stream, the conversation is the same
    for step in [1, 1 + usize::from(choice[2])] {
        assert_eq!(
            negotiate(&export, stream, step),
            whole,
            "cut every {step} bytes"
        );
    }
    if let (used, Ok(Progress::Transmission { .. }), _) = whole {
        requests(&stream[used..], &limits);
    }
}

/// Bytes used, how it ended, and what was answered.
type Negotiated = (usize, Result<Progress, ProtocolError>, Vec<u8>);

fn negotiate(export: &Export, stream: &[u8], step: usize) -> Negotiated {
    let mut out = Vec::new();
    let mut shake = Handshake::new(export, &mut out);
    let (mut from, mut to) = (0, step.min(stream.len()));
    loop {
        let waiting = &stream[from..to];
        match shake.advance(waiting, &mut out) {
            Ok((0, Progress::NeedMore)) => {
                assert!(
                    waiting.len() < MAX_MESSAGE_BYTES,
                    "a whole message is always used"
                );
                if to == stream.len() {
                    return (from, Ok(Progress::NeedMore), out);
                }
                to = (to + step).min(stream.len());
            }
            Ok((used, Progress::NeedMore)) => {
                assert!(used <= waiting.len());
                from += used;
            }
            Ok((used, end)) => return (from + used, Ok(end), out),
            Err(error) => return (from, Err(error), out),
        }
        // the answers to one option are at most a few hundred bytes and its name
        assert!(
            out.len() <= 64 + (from / 16 + 2) * 512,
            "answers out of proportion"
        );
    }
}

/// A stream of requests, with the data of writes between them.
pub(crate) fn requests(mut stream: &[u8], limits: &Limits) {
    while let Some((header, rest)) = stream.split_first_chunk::<REQUEST_BYTES>() {
        let Ok(command) = Command::parse(header, limits) else {
            return;
        };
        assert!(command.payload <= MAX_PAYLOAD);
        assert_eq!(
            command.cookie.0.to_be_bytes(),
            header[8..16],
            "the cookie comes back"
        );
        let inside = |start: u64, len: u32| {
            assert!(len > 0 && start.checked_add(u64::from(len)) <= Some(limits.len));
            assert!(start.checked_add(u64::from(len)).is_some());
            assert_eq!(start % u64::from(limits.block), 0);
            assert_eq!(len % limits.block, 0);
        };
        match command.action {
            Ok(Action::Read { start, len }) => {
                inside(start, len);
                assert!(len <= MAX_PAYLOAD && command.is_read);
            }
            Ok(Action::Write { start, len, .. }) => {
                inside(start, len);
                assert!(
                    !limits.read_only,
                    "nothing is written to a read-only export"
                );
                assert_eq!(len, command.payload);
            }
            Ok(Action::Trim { .. }) => assert!(limits.discard && !limits.read_only),
            Ok(Action::Disconnect) => return,
            Ok(Action::Flush | Action::Nothing) => {}
            Err(error) => assert_ne!(error.0, 0, "an error has a number"),
        }
        stream = rest.get(command.payload as usize..).unwrap_or(&[]);
    }
}

fn limits(choice: u8) -> Limits {
    let block = 512 << (choice & 3);
    Limits {
        len: [u64::from(block), 1 << 20, 1 << 40, u64::MAX / 4096 * 4096]
            [usize::from(choice >> 2 & 3)],
        block,
        max_io: 256 << 10,
        read_only: choice & 0x10 != 0,
        discard: choice & 0x20 != 0,
    }
}
