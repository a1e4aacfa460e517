//! The commands of one connection that are under way, and how they are answered. The
//! front end's side of the read path: [`Exchange`] for plaintext, [`Replies::finish`]
//! for results.
//!
//! A command is cut into pieces of at most the lane's largest request; each piece is a
//! tag. Replies are admitted before they are needed: [`Replies::has_room_for`] counts
//! what the commands under way may still say, so that [`Exchange::copy_out`] always
//! finds room and never waits for the client.

use std::io;

use luksmith_data_path::{Errno, Exchange, Tag};

use crate::buffers::{Claim, Incoming, Outgoing};
use crate::protocol::transmission::{
    CHUNK_BYTES, Cookie, DATA_CHUNK_BYTES, ERROR_CHUNK_BYTES, SIMPLE_REPLY_BYTES, WireError,
    data_chunk, end_chunk, error_chunk, simple_reply,
};

/// Index of a command under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommandId(u16);

/// What a command is, as far as its reply needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read {
        start: u64,
        len: u32,
    },
    /// Write, flush or trim; `then_flush` if a flush is to follow the pieces.
    Other {
        then_flush: bool,
    },
}

struct Underway {
    cookie: Cookie,
    kind: Kind,
    /// Pieces begun and not finished.
    pieces: u32,
    /// No further pieces will come.
    all_begun: bool,
    error: Option<WireError>,
    /// Room for a simple reply that comes in parts.
    claim: Option<Claim>,
    /// The last chunk has been sent.
    ended: bool,
    cost: usize,
}

#[derive(Clone, Copy)]
struct Piece {
    of: CommandId,
    start: u64,
    len: u32,
    cost: usize,
}

/// What [`Replies::finish`] wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// The tag is free.
    Free,
    /// Begin a flush with this tag; it belongs to the same command.
    Flush,
}

/// See the module.
pub(crate) struct Replies {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
    structured: bool,
    commands: Box<[Option<Underway>]>,
    free: Vec<CommandId>,
    pieces: Box<[Option<Piece>]>,
    /// The write whose data lies at the front of `incoming`.
    arriving: Option<Tag>,
    /// Room that commands and pieces under way may still need.
    reserved: usize,
}

impl Replies {
    /// For `depth` tags.
    pub(crate) fn new(incoming: Incoming, outgoing: Outgoing, depth: u16) -> Self {
        Self {
            incoming,
            outgoing,
            structured: false,
            commands: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().map(CommandId).collect(),
            pieces: (0..depth).map(|_| None).collect(),
            arriving: None,
            reserved: 0,
        }
    }

    /// The kind of replies that was agreed on.
    pub(crate) fn agree(&mut self, structured: bool) {
        self.structured = structured;
    }

    /// Whether a command of this kind can be taken now; `None` if it never can.
    pub(crate) fn has_room_for(&self, kind: Kind) -> Option<bool> {
        let cost = self.cost_of(kind);
        if cost > self.outgoing.capacity() {
            return None;
        }
        Some(!self.free.is_empty() && self.outgoing.fits(self.reserved + cost))
    }

    /// Whether a piece of a read can be begun now.
    pub(crate) fn has_room_for_piece(&self, len: u32) -> bool {
        self.outgoing
            .fits(self.reserved + self.cost_of_read_piece(len))
    }

    /// Whether a reply without data fits.
    pub(crate) fn has_room_for_answer(&self) -> bool {
        self.outgoing.fits(self.reserved + LONGEST_ANSWER)
    }

    /// Answers a command that needs no work.
    pub(crate) fn answer(
        &mut self,
        cookie: Cookie,
        read_from: Option<u64>,
        error: Option<WireError>,
    ) {
        match (self.structured, read_from, error) {
            (true, Some(start), Some(error)) => {
                self.outgoing.push(&error_chunk(cookie, start, error, true));
            }
            (true, Some(_), None) => self.outgoing.push(&end_chunk(cookie)),
            (_, _, error) => self.outgoing.push(&simple_reply(cookie, error)),
        }
    }

    /// Takes a command. [`Replies::has_room_for`] said that it fits.
    pub(crate) fn take(&mut self, cookie: Cookie, kind: Kind) -> CommandId {
        let cost = self.cost_of(kind);
        let id = self.free.pop().expect("room was asked for");
        self.reserved += cost;
        self.commands[usize::from(id.0)] = Some(Underway {
            cookie,
            kind,
            pieces: 0,
            all_begun: false,
            error: None,
            claim: None,
            ended: false,
            cost,
        });
        id
    }

    /// A piece of the command is begun under `tag`; it covers `len` bytes from `start`.
    pub(crate) fn begin_piece(&mut self, id: CommandId, tag: Tag, start: u64, len: u32) {
        let cost = match self.command(id).kind {
            Kind::Read { .. } => self.cost_of_read_piece(len),
            Kind::Other { .. } => 0,
        };
        self.reserved += cost;
        self.command_mut(id).pieces += 1;
        self.pieces[tag.index()] = Some(Piece {
            of: id,
            start,
            len,
            cost,
        });
    }

    /// The data of this piece of a write lies at the front of `incoming`.
    pub(crate) fn arrives(&mut self, tag: Tag) {
        debug_assert!(self.arriving.is_none());
        self.arriving = Some(tag);
    }

    /// Whether the front of `incoming` belongs to a write that has not taken it yet.
    pub(crate) fn is_arriving(&self) -> bool {
        self.arriving.is_some()
    }

    /// No further piece of the command will come.
    pub(crate) fn all_begun(&mut self, id: CommandId) {
        self.command_mut(id).all_begun = true;
        self.answer_if_done(id);
    }

    /// A piece has its result.
    pub(crate) fn finish(&mut self, tag: Tag, result: Result<u32, Errno>) -> After {
        let piece = self.pieces[tag.index()].take().expect("the tag was begun");
        if self.arriving == Some(tag) {
            // it failed before it took its data, which nobody wants any more
            self.arriving = None;
            self.incoming.consume(piece.len as usize);
        }
        self.reserved -= piece.cost;
        let structured = self.structured;
        let command = self.command_mut(piece.of);
        command.pieces -= 1;
        if let Err(errno) = result {
            let error = WireError::from(errno);
            command.error.get_or_insert(error);
            if let (Kind::Read { .. }, true) = (command.kind, structured) {
                let chunk = error_chunk(command.cookie, piece.start, error, false);
                self.outgoing.push(&chunk);
            }
        } else if let Kind::Other { then_flush: true } = command.kind {
            command.kind = Kind::Other { then_flush: false };
            self.begin_piece(piece.of, tag, 0, 0);
            return After::Flush;
        }
        self.answer_if_done(piece.of);
        After::Free
    }

    fn answer_if_done(&mut self, id: CommandId) {
        let structured = self.structured;
        let place = &mut self.commands[usize::from(id.0)];
        let Some(command) = place.take_if(|command| command.all_begun && command.pieces == 0)
        else {
            return;
        };
        self.free.push(id);
        self.reserved -= command.cost;
        let Underway { cookie, error, .. } = command;
        match (command.kind, command.claim) {
            (Kind::Read { .. }, _) if structured => {
                if !command.ended {
                    self.outgoing.push(&end_chunk(cookie));
                }
            }
            (Kind::Read { len, .. }, Some(claim)) => {
                self.outgoing.fill(claim, 0, &simple_reply(cookie, error));
                // after an error there is no data
                let data = if error.is_none() { len as usize } else { 0 };
                self.outgoing.ready(claim, SIMPLE_REPLY_BYTES + data);
            }
            // a read in one piece has been answered with its data
            (Kind::Read { .. }, None) if error.is_none() => {}
            (Kind::Read { .. } | Kind::Other { .. }, _) => {
                self.outgoing.push(&simple_reply(cookie, error));
            }
        }
    }

    fn cost_of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Read { len, .. } if !self.structured => SIMPLE_REPLY_BYTES + len as usize,
            Kind::Read { .. } | Kind::Other { .. } => LONGEST_ANSWER,
        }
    }

    fn cost_of_read_piece(&self, len: u32) -> usize {
        if self.structured {
            len as usize + CHUNKS_PER_PIECE * DATA_CHUNK_BYTES + ERROR_CHUNK_BYTES
        } else {
            0
        }
    }

    fn command(&self, id: CommandId) -> &Underway {
        self.commands[usize::from(id.0)]
            .as_ref()
            .expect("the command is under way")
    }

    fn command_mut(&mut self, id: CommandId) -> &mut Underway {
        self.commands[usize::from(id.0)]
            .as_mut()
            .expect("the command is under way")
    }
}

impl Exchange for Replies {
    fn copy_in(&mut self, tag: Tag, at: u32, into: &mut [u8]) -> io::Result<()> {
        debug_assert_eq!(self.arriving, Some(tag));
        let whole = self.pieces[tag.index()].map_or(0, |piece| piece.len as usize);
        let (from, to) = (at as usize, at as usize + into.len());
        into.copy_from_slice(&self.incoming.unused()[from..to]);
        // A piece that crosses a segment border takes its data in parts.
        if to == whole {
            self.incoming.consume(whole);
            self.arriving = None;
        }
        Ok(())
    }

    fn copy_out(&mut self, tag: Tag, at: u32, from: &[u8]) -> io::Result<()> {
        let piece = self.pieces[tag.index()].expect("the tag was begun");
        let command = self.commands[usize::from(piece.of.0)]
            .as_mut()
            .expect("the command is under way");
        let Kind::Read { start, len } = command.kind else {
            unreachable!("only reads give data out")
        };
        let here = piece.start + u64::from(at);
        let count = from.len() as u32;
        if self.structured {
            // More parts than were counted on: cannot happen with the maps there are.
            if !self.outgoing.fits(DATA_CHUNK_BYTES + from.len()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let last = command.all_begun
                && command.pieces == 1
                && command.error.is_none()
                && at + count == piece.len;
            command.ended = last;
            self.outgoing
                .push(&data_chunk(command.cookie, here, count, last));
            self.outgoing.push(from);
        } else if count == len {
            self.outgoing.push(&simple_reply(command.cookie, None));
            self.outgoing.push(from);
        } else {
            let outgoing = &mut self.outgoing;
            let claim = *command
                .claim
                .get_or_insert_with(|| outgoing.claim(SIMPLE_REPLY_BYTES + len as usize));
            // bounded by the command's length
            let offset = (here - start) as usize;
            outgoing.fill(claim, SIMPLE_REPLY_BYTES + offset, from);
        }
        Ok(())
    }
}

/// Longest reply without data.
const LONGEST_ANSWER: usize = ERROR_CHUNK_BYTES;
/// Parts of a piece, each with a chunk of its own: one more than segment borders in it.
const CHUNKS_PER_PIECE: usize = 4;

const _: () = assert!(LONGEST_ANSWER >= CHUNK_BYTES && LONGEST_ANSWER >= SIMPLE_REPLY_BYTES);
