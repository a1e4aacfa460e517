//! One request under way: where it stands and what it holds.

use std::time::Instant;

use luksmith_crypto::{Blank, Cipher, IoBuf};
use luksmith_volume::{Extent, Guard, SegmentMap};

use crate::errno::Errno;
use crate::peers::{Moment, Teller};
use crate::request::Request;

#[derive(Debug)]
pub(super) struct Task {
    pub(super) stage: Stage,
    pub(super) request: Request,
    pub(super) guard: Option<Guard<SegmentMap>>,
    pub(super) buffer: Buffer,
    /// Bytes of the request that are done with.
    pub(super) moved: u32,
    /// The piece being moved: the rest of the request up to the next segment border.
    pub(super) piece: Piece,
    pub(super) tries: u16,
    /// When the operation was sent that can be told of lost data, or its success was read.
    pub(super) moment: Moment,
    pub(super) began: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Piece {
    pub(super) len: u32,
    pub(super) backing_offset: u64,
    pub(super) done: u32,
    /// How the discard of this piece was sent.
    pub(super) by_block_command: bool,
}

pub(super) enum Buffer {
    None,
    Blank(IoBuf<Blank>),
    Cipher(IoBuf<Cipher>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// The tag is free.
    Idle,
    /// Wants through the gate, then a slot.
    Enter,
    /// Waits for a thaw.
    AtGate,
    /// Through the gate; waits for a slot, or takes one.
    WantsSlot,
    /// Has what it needs; begins its next piece.
    NextPiece,
    /// The operation of the piece (or the flush) is to be sent.
    Send,
    /// The kernel has it.
    InKernel,
    /// The kernel has the pause before another try.
    Paused,
    /// The result is there.
    Arrived(i32),
    /// Has succeeded, unless an operation that was out beside it is told of lost data.
    Withheld,
    /// Nothing can be told any more of what was out beside it.
    Believed,
    /// A flush that waits for a round.
    InRound,
    /// A flush whose round has ended.
    Answered(Result<(), Errno>),
}

impl Task {
    pub(super) fn len(&self) -> u32 {
        match self.request {
            Request::Read(range) | Request::Write { range, .. } | Request::Discard(range) => {
                range.len()
            }
            Request::Flush => 0,
        }
    }

    /// Whether, and as what, the operations of this request can be told of lost data, its
    /// own or that of others.
    pub(super) const fn teller(&self) -> Option<Teller> {
        match self.request {
            Request::Flush => Some(Teller::Sync),
            Request::Write { fua: true, .. } => Some(Teller::DurableWrite),
            Request::Write { fua: false, .. } | Request::Read(_) | Request::Discard(_) => None,
        }
    }

    /// The rest of the request up to the next segment border.
    pub(super) fn extent(&self) -> Extent<'_> {
        let range = match self.request {
            Request::Read(range) | Request::Write { range, .. } | Request::Discard(range) => range,
            Request::Flush => unreachable!("a flush has no extent"),
        };
        let guard = self.guard.as_ref().expect("inside the gate");
        let rest = range.len() - self.moved;
        let extents = guard
            .map()
            .extents(range.start() + u64::from(self.moved), u64::from(rest));
        extents
            .expect("a request lies inside the volume")
            .next()
            .expect("something is left of the request")
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Blank(_) => "blank",
            Self::Cipher(_) => "cipher",
        })
    }
}
